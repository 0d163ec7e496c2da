"""One run, trained and tested: the callbacks, the checkpoints, the predictions, the results, and a clean end."""
