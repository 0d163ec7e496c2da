"""What a run imports: once, in the server that many runs are forked from."""

# ruff: noqa: F401
from contextlib import suppress

from mura.processes import quick_imports

with quick_imports():
    import hydra
    import lightning
    import torch
    import torchvision
    import wandb

    import mura.config.hydra_hooks
    import mura.training.results

    with suppress(ImportError):  # W&B, as a run starts
        import opentelemetry.exporter.otlp.proto.http.metric_exporter
        import requests
        import wandb.sdk.launch
