"""A trained model asked about pictures, and handed on: `load_model` in `models`, `export` in `export`."""
