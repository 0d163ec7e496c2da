"""A trained model asked about pictures: `load_predictor` and `predict_pictures` in `predict`."""
