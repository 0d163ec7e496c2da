"""The way from a MURA folder to batches. It knows nothing of models.

Public are, in the order of the flow: `index.read_index` (a table of views), `split.assign_folds`, `images.decode` and
`fit` (pixels; behind them are `formats`, `dicom` and `levels`), `cache.open_cache`, `datamodule.MuraDataModule` (its
loaders give `batches.Views`), and beside the flow `faults.check_folder` (what is wrong with a copy) and
`cache.fingerprint_of` (a name for its content).
"""
