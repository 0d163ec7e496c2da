"""A page to try a trained model in a browser, served to this machine alone (`mura app`, extra `app`).

- server: serve, from the model to Ctrl-C
- guard: who may ask, and what a browser may do with the answer
- uploads: the pictures that a browser sends, counted
- answers: what the model says of them
- page: the two pages, and what leads to them
"""
