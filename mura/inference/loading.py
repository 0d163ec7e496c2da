"""Trained models from their checkpoints, with PyTorch: what `predict` asks about pictures."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mura.data.images import PAD, cache_size_for
from mura.errors import MuraError
from mura.extremities import EXTREMITIES, INDEX_OF
from mura.files import kind_of_file, read_file
from mura.inference.explain import ExplainedModel
from mura.inference.exported import SAFETENSORS, read_about
from mura.inference.gradcam import heat_maps
from mura.inference.models import refuse_choice
from mura.inference.operating import fits_of
from mura.machine import in_float32, is_out_of_memory, usable_gpus
from mura.metrics import OVERALL
from mura.models.checkpoint import CHECKPOINT_RULES, NETWORK_RULES, fill, load_checkpoint, weights_sha256
from mura.models.classifier import AbnormalityClassifier
from mura.models.weights import read_safetensors
from mura.runs.fitted import Fits
from mura.runs.folder import RunFolder, finished_runs
from mura.runs.records import fault_in, read_metrics, why_unreadable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TorchModel(ExplainedModel):
    """One or several checkpoints, ready to predict: their probabilities are averaged (Rajpurkar et al. 2017)."""

    source: Path
    checkpoints: list[Path]
    members: list[AbnormalityClassifier]
    cache_size: int
    extremities: list[str]
    fit: str
    about: dict[str, Any] | None = None
    """What an export says of itself; a run's folder says it."""

    @property
    def folder(self) -> RunFolder:
        """The run folder that its checkpoints lie in, if they still lie in one."""
        return RunFolder(self.checkpoints[0].parent.parent)

    @property
    def needs_extremity(self) -> bool:
        return bool(self.members[0].hparams["separate_heads"])

    def fitted(self) -> Fits:
        if self.about is not None:
            fits: Fits = self.about["fitted"]
            return fits
        is_the_runs = self.source.is_dir() or [self.source] == _checkpoints_in(self.folder)
        return fits_of({OVERALL: [self.folder.path]}) if is_the_runs else {}

    def is_synthetic(self) -> bool | None:
        if self.about is not None:
            said: bool | None = self.about["synthetic"]
            return said
        return any_synthetic([self.folder])

    def probabilities(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        """Return the probability of "abnormal", float64 [B]. Raises MuraError when a checkpoint answers NaN."""
        return in_halves(self._probabilities, images_BSS, extremities)

    @torch.inference_mode()
    def _probabilities(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        batch = self._batch(images_BSS, extremities)
        with in_float32(self.members[0].device):
            logits = [member(*batch) for member in self.members]
        for checkpoint, logits_B in zip(self.checkpoints, logits, strict=True):
            if logits_B.isnan().any():
                raise MuraError(f"{checkpoint}: this model answers NaN, so nothing is predicted; take another.")
        return torch.stack([each.cpu().double().sigmoid() for each in logits]).mean(0).numpy()

    def heat_maps(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        """Return the mean of the checkpoints' heat, float32 [B, G, G]. Raises MuraError where they have none."""
        return in_halves(self._heat_maps, images_BSS, extremities)

    def _heat_maps(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        batch = self._batch(images_BSS, extremities)
        return scaled(np.mean([scaled(heat_maps(member, *batch).cpu().numpy()) for member in self.members], axis=0))

    def _batch(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [B, 1, S, S] and extremities, int64 [B], on the members' device."""
        device = self.members[0].device
        extremity_B = torch.tensor([INDEX_OF.get(name or "", 0) for name in extremities], device=device)
        return torch.from_numpy(images_BSS)[:, None].to(device), extremity_B


def in_halves(
    ask: Callable[[np.ndarray, Sequence[str | None]], np.ndarray],
    images_BSS: np.ndarray,
    extremities: Sequence[str | None],
) -> np.ndarray:
    """Return `ask(images_BSS, extremities)`; a batch that takes too much memory is tried again in halves.

    Raises MuraError when these do too.
    """
    half = (len(images_BSS) + 1) // 2
    for parts in ([slice(None)], [slice(half), slice(half, None)]):
        try:
            return np.concatenate([ask(images_BSS[part], extremities[part]) for part in parts])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # after the except block, which holds the tensors
        if len(images_BSS) == 1:
            break
    raise MuraError(
        f"out of memory: {half} pictures at a time are too many for this device; end what else uses its memory, or "
        "set CUDA_VISIBLE_DEVICES= (to nothing) to predict on the CPU."
    )


def any_synthetic(runs: Sequence[RunFolder]) -> bool | None:
    """Return whether a finished one of the runs learnt from drawings of this program; None where none says."""
    said = {read_metrics(run.metrics)["synthetic"] for run in set(runs) if run.finished} - {None}
    return any(said) if said else None


def scaled(heat_BGG: np.ndarray) -> np.ndarray:
    """Return heat maps whose hottest cell is 1; one that is all zero stays so."""
    highest_B11 = heat_BGG.max(axis=(1, 2), keepdims=True)
    return np.divide(heat_BGG, highest_B11, out=np.zeros_like(heat_BGG), where=highest_B11 > 0)


Ask = Callable[[TorchModel, np.ndarray, Sequence[str | None]], np.ndarray]


@dataclass(frozen=True)
class ArmModel(ExplainedModel):
    """An arm of a study: each picture is asked of its extremity's runs, whose probabilities are averaged.

    `runs` are one a seed, by extremity; a pooled arm has the same for all.
    """

    source: Path
    runs: dict[str, list[TorchModel]]
    extremities: list[str]
    cache_size: int
    fit: str

    @property
    def needs_extremity(self) -> bool:
        return not self.is_pooled or self.runs[self.extremities[0]][0].needs_extremity

    @property
    def is_pooled(self) -> bool:
        """Whether the same runs answer for all extremities."""
        return all(runs == self.runs[self.extremities[0]] for runs in self.runs.values())

    def fitted(self) -> Fits:
        runs = {OVERALL: self.runs[self.extremities[0]]} if self.is_pooled else self.runs
        # a run says nothing of the thresholds of an extremity that it did not validate on
        known = {name: of for name, of in runs.items() if name == OVERALL or all(name in r.extremities for r in of)}
        return fits_of({name: [run.source for run in of_name] for name, of_name in known.items()})

    def is_synthetic(self) -> bool | None:
        return any_synthetic([run.folder for runs in self.runs.values() for run in runs])

    def probabilities(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        """Return the mean over the runs, float64 [B]. Raises MuraError when one answers NaN."""
        return self._asked(TorchModel.probabilities, images_BSS, extremities)

    def heat_maps(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        """Return the mean of the runs' heat, float32 [B, G, G]."""
        return scaled(self._asked(TorchModel.heat_maps, images_BSS, extremities))

    def _asked(self, ask: Ask, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        """Return what `ask` returns of each picture's runs, averaged over them, in the order of the pictures."""
        # an extremity that a pooled arm does not know, or is not told, is asked of its only runs
        names = [name if name in self.runs else self.extremities[0] for name in extremities]
        answers: dict[int, np.ndarray] = {}
        for name in set(names):
            rows = [row for row, other in enumerate(names) if other == name]
            of_rows = [extremities[row] for row in rows]
            mean = np.mean([ask(run, images_BSS[rows], of_rows) for run in self.runs[name]], axis=0)
            answers.update(zip(rows, mean, strict=True))
        return np.stack([answers[row] for row in range(len(names))])


def load_model(path: str | Path, arm: str | None = None, backbone: str | None = None) -> TorchModel | ArmModel:
    """Return the model of a checkpoint, of a run folder, or of an arm of a study.

    A run folder gives its best checkpoint, or all of its ensemble; a study (any folder with finished runs below it)
    the runs of `arm` and `backbone`, which need not be named where there is but one.
    Raises MuraError when there is no such model, or it is damaged.
    """
    place = Path(path)
    if not place.is_dir() or RunFolder(place).is_there:
        refuse_choice(place, arm, backbone)
        return load_run(place)
    return load_arm(place, arm, backbone)


def load_arm(study: Path, arm: str | None, backbone: str | None) -> ArmModel:
    """Return the model of a study's arm, for `load_model`."""
    chosen = runs_of_arm(study, arm, backbone)
    device = device_to_ask()
    models = {run.path: load_run(run.path, device) for run in chosen}
    first, *others = models.values()
    for other in others:
        if (other.cache_size, other.fit) != (first.cache_size, first.fit):
            raise MuraError(f"{first.source} and {other.source} take pictures of different sizes; name one run.")
    by_extremity: dict[str, list[TorchModel]] = {}
    asked: dict[tuple[str, int], Path] = {}
    for run, about in chosen.items():
        for name in about["test_extremities"] or about["extremities"] or models[run.path].extremities:
            twin = asked.setdefault((name, about["seed"]), run.path)
            if twin != run.path:
                raise MuraError(
                    f"{twin} and {run.path} both answer for {name}, seed {about['seed']}; name one of them."
                )
            by_extremity.setdefault(name, []).append(models[run.path])
    seeds = ", ".join(map(str, sorted({about["seed"] for about in chosen.values()})))
    about = next(iter(chosen.values()))
    log.info("%s: %s, %s, %d runs, seeds %s", study, about["model"], about["arm"], len(chosen), seeds)
    extremities = [name for name in EXTREMITIES if name in by_extremity]
    return ArmModel(study, by_extremity, extremities, first.cache_size, first.fit)


def runs_of_arm(study: Path, arm: str | None, backbone: str | None) -> dict[RunFolder, dict[str, Any]]:
    """Return the finished runs below a folder that are of one arm and one backbone, with their metrics.json.

    Raises MuraError when there is none, or what is not named could be several.
    """
    chosen = {run: read_metrics(run.metrics) for run in finished_runs(study)}
    wanted = {"model": ("--model", backbone), "arm": ("--arm", arm)}
    for key, (option, name) in sorted(wanted.items(), key=lambda item: item[1][1] is None):  # what is named comes first
        there = sorted({about[key] for about in chosen.values()})
        if name is None and len(there) > 1:
            raise MuraError(f"{study} has runs of several {key}s: give {option}, one of {', '.join(there)}.")
        if name is not None and name not in there:
            raise MuraError(f"{option} {name}: {study} has no such finished run; there is {', '.join(there)}.")
        chosen = {run: about for run, about in chosen.items() if about[key] == (name or there[0])}
    return chosen


def load_run(path: Path, device: str | None = None) -> TorchModel:
    """Return the model of a checkpoint or a safetensors file, or of a run folder: its best checkpoint, or its ensemble.

    `device` is where it is asked, if that has been looked at already. Raises MuraError when there is none, or it is
    damaged.
    """
    if path.suffix == SAFETENSORS and not path.is_dir():
        return load_shared(path)
    checkpoints = checkpoints_of(path)
    contents = [load_checkpoint(file) for file in checkpoints]
    device = device or device_to_ask()
    members = [
        build_saved(content, file).eval().to(device) for content, file in zip(contents, checkpoints, strict=True)
    ]
    # a model trained in a script of one's own, without the data module, says nothing of its pictures
    usual = {"cache_size": cache_size_for(members[0].image_size), "extremities": list(EXTREMITIES), "fit": PAD}
    noted = contents[0]["hyper_parameters"]["provenance"]
    trained = usual | {key: value for key, value in noted.items() if value is not None}
    return TorchModel(path, checkpoints, members, int(trained["cache_size"]), trained["extremities"], trained["fit"])


def load_shared(path: Path) -> TorchModel:
    """Return the model of a safetensors file that `mura export` wrote, with the JSON file beside it.

    Raises MuraError when one of them is not there, is damaged, or was not written here.
    """
    beside = path.with_suffix(".json")
    if not path.is_file():
        raise MuraError(f"{path} is no file.")
    try:
        text = read_file(beside).decode("utf-8")
    except (OSError, ValueError) as error:
        raise MuraError(f"{beside}, which says what {path.name} is, can't be read ({why_unreadable(error)}).") from None
    about = read_about(beside, text)
    state = read_safetensors(path, "model")
    if weights_sha256(state.items()) != about["weights_sha256"]:
        raise MuraError(f"{path} is damaged, or not the file that {beside.name} is about (another checksum).")
    return shared_model(about, state, path)


def shared_model(about: dict[str, Any], state: dict[str, torch.Tensor], path: Path) -> TorchModel:
    """Return the model of weights and of what their export says of them (ABOUT_RULES, and `network`)."""
    trained = {key: about[key] for key in ("extremities", "cache_size", "fit")}
    network = about.get("network")
    settings = network | {"provenance": trained} if isinstance(network, dict) else network
    content = {"epoch": 0, "state_dict": state, "hyper_parameters": settings}
    if fault := fault_in(content, CHECKPOINT_RULES):
        raise MuraError(f"{path.with_suffix('.json')} {fault.replace('hyper_parameters', 'network')}; export it again.")
    member = build_saved(content, path).eval().to(device_to_ask())
    return TorchModel(path, [path], [member], about["cache_size"], about["extremities"], about["fit"], about)


def device_to_ask() -> str:
    """Return the device that a model is asked on; log why it is the CPU if a GPU is there that can't be used."""
    usable, fault = usable_gpus(range(min(1, torch.cuda.device_count())))
    if fault:
        log.warning("%s; predicting on the CPU", fault)
    return "cuda" if usable else "cpu"


def build_saved(content: dict[str, Any], path: Path) -> AbnormalityClassifier:
    """Return the model of a checkpoint, built from NETWORK_RULES' settings alone: no other of its settings has a say.

    Raises MuraError, with the file, when there is no such network, or the weights don't fit it.
    """
    try:
        model = new_network(content["hyper_parameters"])
    except MuraError as error:
        raise MuraError(f"checkpoint: {path}: {error}") from None
    fill(model, content, path)
    return model


def new_network(saved: Mapping[str, Any]) -> AbnormalityClassifier:
    """Return a network of saved settings, untrained; only those of NETWORK_RULES are looked at."""
    return AbnormalityClassifier(**{key: saved[key] for key in NETWORK_RULES if key in saved})


def checkpoints_of(model: Path) -> list[Path]:
    """Return the checkpoints of a model: itself, or in a run folder the best one, or those of the ensemble."""
    if not model.is_dir():
        if model.exists() and not model.is_file():
            raise MuraError(f"{model} is {kind_of_file(model.stat())} and no checkpoint.")
        return [model]
    run = RunFolder(model)
    checkpoints = _checkpoints_in(run)
    if not checkpoints[0].is_file():
        raise MuraError(f"{model} holds no model: {run.best_checkpoint} is not there.")
    return checkpoints


def _checkpoints_in(run: RunFolder) -> list[Path]:
    return sorted(run.checkpoints.glob("top-*.ckpt")) or [run.best_checkpoint]
