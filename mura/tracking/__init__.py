"""Runs in Weights & Biases and in MLflow, which never ask, never hang and never cost a run.

`wandb_run` opens a W&B run without torch; `logger` is a training run's, for Lightning; `mlflow_run` has that of MLflow.
"""
