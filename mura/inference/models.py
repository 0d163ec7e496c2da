"""The model at a path, whatever wrote it."""

from pathlib import Path

from mura.errors import MuraError
from mura.inference.exported import ONNX, load_exported
from mura.inference.predict import Model


def load_model(path: str | Path, arm: str | None = None, backbone: str | None = None) -> Model:
    """Return the model at a path, to be asked about pictures.

    It may be a checkpoint, a run folder (its best checkpoint, or all of its ensemble), what `mura export` wrote, or a
    study. A study (any folder with finished runs below it) gives the runs of `arm` and `backbone`, which need not be
    named where there is but one. An ONNX file is asked without PyTorch.
    Raises MuraError when there is no such model, or it is damaged.
    """
    place = Path(path)
    if place.suffix != ONNX or place.is_dir():
        from mura.inference import loading  # with PyTorch

        return loading.load_model(place, arm, backbone)
    refuse_choice(place, arm, backbone)
    return load_exported(place)


def refuse_choice(place: Path, arm: str | None, backbone: str | None) -> None:
    """Raise MuraError when an arm or a backbone is named of what is one model by itself."""
    for option, given in (("--arm", arm), ("--model", backbone)):
        if given is not None:
            raise MuraError(f"{option} {given}: chooses among the runs of a study, and {place} is one model by itself.")
