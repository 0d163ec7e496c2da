"""Pretrained weights: torchvision's ImageNet files, timm's, or a local file -> parameters of a backbone and its head.

Files are read with `weights_only=True`: loading never runs code that a file carries.
"""

import re
import socket
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
import torch.hub
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from mura.errors import MuraError
from mura.processes import call_with_deadline

BATCHES_SEEN = "num_batches_tracked"  # a counter beside batch normalisation's statistics; not every file has it
OTHER_WORDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
ANSWER_SECONDS = 5.0  # to wait for a connection before there is said to be no network
STALLED_SECONDS = 30.0  # without a byte before a download is given up
WRAPPER_PREFIXES = ("module.", "network.", "net.", "model.")  # of keys, from DataParallel and Lightning modules
AUXILIARY_PREFIXES = ("AuxLogits.", "aux1.", "aux2.")  # GoogLeNet's and Inception's extra classifiers: not built here
# torchvision's DenseNet files are older than its DenseNet code: norm.1.weight in the file is norm1.weight now
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\..+)$")


def imagenet_file(name: str, entry: WeightsEnum) -> Path:
    """Return the file of torchvision's weights `entry` in torch's cache folder; download it if it is not there yet.

    Raises MuraError when it can't be downloaded; that takes seconds, not minutes.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    if file.exists():
        return file
    expected = re.search(r"-([a-f0-9]+)\.", file.name)  # the start of the file's SHA-256
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _require_answer(entry.url)
        with _socket_timeout(STALLED_SECONDS):
            torch.hub.download_url_to_file(entry.url, str(file), expected and expected.group(1))
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: another hash than expected
        raise MuraError(
            f"the ImageNet weights of {name} are not on this machine and could not be downloaded ({error}): "
            f"run once with a network (the file then lies in {file.parent}), or fetch {entry.url} elsewhere "
            f"and give model.weights=/path/to/{file.name}, or set model.weights=null to train from scratch"
        ) from None
    return file


def timm_file(name: str, repository: str, filename: str) -> Path:
    """Return the file of timm's weights in the hub's cache folder; download it if it is not there yet.

    Raises MuraError when it can't be downloaded; that takes seconds, not minutes.
    """
    from huggingface_hub import constants, hf_hub_download

    try:
        try:
            return Path(hf_hub_download(repository, filename, local_files_only=True))
        except FileNotFoundError:
            if constants.HF_HUB_OFFLINE:
                raise OSError("HF_HUB_OFFLINE is set") from None
        _require_answer(constants.ENDPOINT)
        return Path(hf_hub_download(repository, filename))
    except (OSError, HTTPException) as error:
        raise MuraError(
            f"the weights of {name} are not on this machine and could not be downloaded ({error}): run once with a "
            f"network, or fetch {filename} of {repository} elsewhere and give model.weights=/path/to/{filename}, or "
            "set model.weights=null to train from scratch"
        ) from None


def _require_answer(url: str) -> None:
    """Raise OSError unless the host answers soon, through the proxy if there is one."""

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
        except HTTPError as error:
            error.close()  # an answer: whether the file can be had, the download will show

    call_with_deadline(ask, 2 * ANSWER_SECONDS)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_state(file: Path) -> "OrderedDict[str, Tensor]":
    """Return the state dict in `file`, bare or under `state_dict` as Lightning has it, without wrappers' prefixes.

    Raises MuraError when there is no such file, when it holds no state dict, and when it carries code.
    """
    if not file.is_file():
        raise MuraError(f"model.weights: {file} is neither imagenet nor null nor a file")
    content = (
        read_safetensors(file, "model.weights") if file.suffix == ".safetensors" else read_file(file, "model.weights")
    )
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not is_state(content):
        raise MuraError(f"model.weights: {file} holds no state dict, that is names with a tensor each")
    state = entries_below(content, "")
    for prefix in WRAPPER_PREFIXES:
        if any(key.startswith(prefix) for key in state):
            state = entries_below(state, prefix)
    return state


def is_state(content: Any) -> bool:
    """Return whether this is a state dict: names with a tensor each."""
    if not isinstance(content, Mapping):
        return False
    return all(isinstance(name, str) and isinstance(each, Tensor) for name, each in content.items())


def read_safetensors(file: Path, key: str) -> Any:
    """Return the tensors of a safetensors file by name. Raises MuraError, with `key` at its start, when it has none."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_tensors
    except ImportError:
        raise MuraError(f"{key}: {file} needs safetensors: pip install -e '.[timm]'") from None
    try:
        return load_tensors(file)
    except (SafetensorError, OSError) as error:
        raise MuraError(f"{key}: {file} is no safetensors file, or a damaged one ({error})") from None


def read_file(file: Path, key: str) -> Any:
    """Return what `torch.load` reads from `file`, tensors and plain values only.

    Raises MuraError, with `key` at its start, when there is no such file, when it is damaged, and when it carries code.
    """
    if not file.is_file():
        raise MuraError(f"{key}: there is no file {file}")
    if unpacks_to_more(file):
        raise MuraError(f"{key}: {file} is compressed, which no PyTorch checkpoint is; it was not unpacked")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on bytes that are no checkpoint
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is None:
            raise MuraError(f"{key}: {file} is no PyTorch checkpoint, or a damaged one") from None
        raise MuraError(
            f"{key}: {file} carries code ({foreign.group(1)}) and was refused without running it; if you "
            "trust the file, save only model.state_dict() from the program that wrote it"
        ) from None


def unpacks_to_more(file: Path) -> bool:
    """Return whether a zip file says that it holds more than its own bytes: PyTorch stores its parts as they are."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):  # no zip file: for its reader to say
        return False
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    return not stored or sum(part.file_size for part in parts) > file.stat().st_size


def entries_below(state: Mapping[str, Tensor], prefix: str) -> "OrderedDict[str, Tensor]":
    """Return the entries below `prefix`, without it; likewise the modules' versions that torch keeps."""
    inner = OrderedDict((key.removeprefix(prefix), each) for key, each in state.items() if key.startswith(prefix))
    versions = getattr(state, "_metadata", {})
    root = prefix.removesuffix(".")
    versions = versions if isinstance(versions, Mapping) else {}
    kept = {key.removeprefix(prefix): each for key, each in versions.items() if str(key).startswith(prefix)}
    inner._metadata = kept | ({"": versions[root]} if root in versions else {})  # type: ignore[attr-defined]
    return inner


def load_file(file: Path, backbone: nn.Module, head: nn.Module, classifier: str | tuple[str, ...] | None) -> str:
    """Fill the backbone from `file`, and the head when the file has one that fits; return what was filled, in words.

    The file is a state dict of the whole model (its layers `classifier` are ignored), of the backbone alone, under its
    own names or others (`rename_by_order`), or a checkpoint of this project.
    Raises MuraError when it does not fit the backbone.
    """
    state = read_state(file)
    try:
        return _fill_from(file, state, backbone, head, classifier)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:  # of tensors or versions of a strange kind
        raise MuraError(f"model.weights: {file} does not fit the model: {' '.join(str(error).split())[:200]}") from None


def _fill_from(
    file: Path,
    state: "OrderedDict[str, Tensor]",
    backbone: nn.Module,
    head: nn.Module,
    classifier: str | tuple[str, ...] | None,
) -> str:
    inner = entries_below(state, "backbone.")
    if not inner:
        layers = (classifier,) if isinstance(classifier, str) else classifier or ()
        ignored = (*AUXILIARY_PREFIXES, *(f"{layer}." for layer in layers))
        for key in [key for key in state if key.startswith(ignored)]:
            del state[key]
        return f"backbone from {file}{load_backbone(file, state, backbone)}"
    remark = load_backbone(file, inner, backbone)
    given, wanted = entries_below(state, "head."), head.state_dict()
    if {key: each.shape for key, each in given.items()} != {key: each.shape for key, each in wanted.items()}:
        return f"backbone from {file}{remark}, another head"
    head.load_state_dict(given)
    return f"backbone and head from {file}"


def load_backbone(file: Path, state: "OrderedDict[str, Tensor]", backbone: nn.Module) -> str:
    """Fill every parameter and buffer of the backbone from `state`; return a remark if names played no part.

    Raises MuraError for a tensor more or fewer.
    """
    wanted = backbone.state_dict()
    if not set(wanted) & set(state) and (renamed := rename_by_order(state, wanted)):
        backbone.load_state_dict(renamed, strict=False)  # BATCHES_SEEN may be missing, and matters to no result
        return ", by order and shape: its names are others"
    for key in list(state):
        if old := OLD_DENSENET.match(key):
            state["".join(old.groups())] = state.pop(key)
    misshapen = [key for key, each in state.items() if key in wanted and each.shape != wanted[key].shape]
    shapes = {key: f"{key} {list(state.pop(key).shape)} for {list(wanted[key].shape)}" for key in misshapen}
    keys = backbone.load_state_dict(state, strict=False)
    missing = [key for key in keys.missing_keys if key not in shapes]
    if faults := [*shapes.values(), *missing, *keys.unexpected_keys]:
        raise MuraError(
            f"model.weights: {file} is of another architecture: of {len(wanted)} tensors {len(missing)} are "
            f"missing, {len(shapes)} of another shape, {len(keys.unexpected_keys)} unexpected; the first: {faults[0]}"
        )
    return ""


def rename_by_order(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the tensors of `state` under the names of `wanted`, one by one in their order.

    RadImageNet's files, for example, hold torchvision's networks as numbered layers. Every tensor must have the shape
    and the kind (weight, bias, mean, variance) of the one in its place; a last linear layer may be left over.
    None when that does not hold.
    """
    given, own = ([(key, each) for key, each in both.items() if BATCHES_SEEN not in key] for both in (state, wanted))
    rest = [each.dim() for _, each in given[len(own) :]]
    same = all(
        theirs.shape == mine.shape and _kind(key) == _kind(name)
        for (key, theirs), (name, mine) in zip(given, own, strict=False)
    )
    if not same or len(given) < len(own) or rest not in ([], [2, 1]):
        return None
    return {name: tensor for (name, _), (_, tensor) in zip(own, given, strict=False)}


def _kind(key: str) -> str:
    """Return the last part of a tensor's name, in PyTorch's word for it."""
    last = key.rsplit(".", 1)[-1]
    return OTHER_WORDS.get(last, last)
