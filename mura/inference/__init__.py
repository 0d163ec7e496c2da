"""A trained model asked about pictures."""
