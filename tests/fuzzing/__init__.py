"""Mutated inputs of every kind: what is done with each is a result that is right, or one sentence.

`cases` draws, tries and shrinks; each other module is one kind of input. `tests/fuzz.py` runs them by the thousand, and
`tests/test_fuzzing.py` a fixed hundred of each.
"""
