"""A trained model asked about pictures: `load_model` and `predict_pictures` in `predict`."""
