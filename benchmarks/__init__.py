"""How fast the program is, each figure a ratio against a peer measured beside it: `python -m benchmarks`."""
