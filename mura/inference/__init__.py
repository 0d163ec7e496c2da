"""A trained model asked about pictures: `load_model` in `loading`, `predict_pictures` in `predict`."""
