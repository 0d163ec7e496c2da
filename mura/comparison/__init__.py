"""Finished runs in, verdicts out. It reads run folders and knows nothing of how they were made."""
