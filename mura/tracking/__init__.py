"""Runs in Weights & Biases, which never asks, never hangs and never costs a run."""
