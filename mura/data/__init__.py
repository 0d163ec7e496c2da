"""From a MURA folder to batches. It knows nothing of models."""
