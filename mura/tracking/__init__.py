"""Runs in Weights & Biases, which never asks, never hangs and never costs a run.

`wandb_run` opens a W&B run without torch; `logger` is a training run's, for Lightning.
"""
