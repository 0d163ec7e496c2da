"""One run, trained and tested: `train.py::train` is its table of contents.

`callbacks` is the list of what happens in an epoch, `prediction` and `results` are what comes after the last one, and
`shutdown` ends the run, however it ends.
"""
