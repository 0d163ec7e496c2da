"""The path of a GPU, held on any machine: by a stated capability or a pretended device.

None of this has a GPU. `make gpu-check` runs what needs one.
"""

import faulthandler
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gpu_check
import numpy as np
import pytest
import torch
from command import REPOSITORY
from lightning import Trainer
from run_folders import write_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hydra_plugins import mura_launcher
from mura.comparison.collect import collect, recipe_notes
from mura.data.datamodule import MuraDataModule
from mura.errors import ConfigError, MuraError
from mura.inference.loading import TorchModel, device_to_ask
from mura.launch import placement
from mura.launch.jobs import Job, run_jobs
from mura.launch.slurm.srun import check_tasks
from mura.launch.slurm.task import run_environment
from mura.machine import Gpus, choose_device, choose_precision, device_name, is_out_of_memory, usable_gpus
from mura.models.backbones import AveragePool, averaged, build_network
from mura.models.classifier import AbnormalityClassifier, TrainedViews
from mura.training.shutdown import memory_sentence
from mura.training.speed import peak_memory_bytes
from mura.training.stall import StallWatch


def batch_of(views: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (views, 1, 32, 32), dtype=torch.uint8, generator=generator),
        "label": torch.arange(views).remainder(2).float(),
        "row": torch.arange(views),
        "extremity": torch.arange(views).remainder(7),
        "share": 1.0,
    }


# --- what a step asks of the device -----------------------------------------------------------------------


@pytest.mark.parametrize(("logits", "right"), [([0.2, 0.3], 2), ([0.6, 0.9], 2), ([-0.2, 0.7], 1), ([0.0, -3.0], 0)])
def test_a_logit_above_zero_is_called_abnormal_whatever_the_other_logits_are(logits: list[float], right: int) -> None:
    trained = TrainedViews()
    trained.add(torch.tensor(0.5), torch.tensor(logits), torch.ones(2))
    assert [float(each) for each in trained.of_all_processes()] == [2, 1.0, right]


def test_the_training_loss_of_an_epoch_weighs_each_batch_by_its_views() -> None:
    trained = TrainedViews()
    trained.add(torch.tensor(1.0), torch.ones(3), torch.ones(3))
    trained.add(torch.tensor(2.0), torch.ones(1), torch.zeros(1))
    views, loss, correct = trained.of_all_processes()
    assert (loss / views, correct / views) == (1.25, 0.75)


class WaitsForTheDevice(TorchDispatchMode):
    """Counts what would make a CUDA device and the program wait for each other: values read, and tensors moved."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if any(word in name for word in ("_local_scalar_dense", "is_nonzero", "aten.nonzero", "lift_fresh")):
            self.seen[name] += 1
        if "_to_copy" in name and (kwargs or {}).get("device") is not None:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def test_a_training_step_on_a_gpu_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AbnormalityClassifier(
        name="cnn2", head="cnn2", image_size=32, loss={"balance": True}, class_weights=[[0.4, 0.6]] * 7
    )
    monkeypatch.setattr(AbnormalityClassifier, "device", property(lambda _: torch.device("cuda")))
    monkeypatch.setattr(AbnormalityClassifier, "global_step", property(lambda _: 1))  # 0 looks at the loss
    with WaitsForTheDevice() as watch:
        model.training_step(batch_of(4), 0).backward()
    assert watch.seen == Counter()


def test_the_class_weights_move_with_the_model_and_stand_in_no_checkpoint() -> None:
    model = AbnormalityClassifier(name="cnn2", head="cnn2", loss={"balance": True}, class_weights=[[0.4, 0.6]] * 7)
    weights: Tensor | None = model.to("meta").class_weights
    assert weights is not None
    assert weights.device.type == "meta"
    assert "class_weights" not in model.state_dict()


# --- which device, in which precision ---------------------------------------------------------------------

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12060). Please update your GPU driver"


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what states the cards of this machine: their compute capabilities, and which of them fail on first use."""

    def state(*capabilities: tuple[int, int], failing: Sequence[int] = (), visible: str | None = None) -> None:
        def compute_on(number: int) -> None:
            if number in failing:
                raise RuntimeError(TOO_OLD)

        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: capabilities[number])
        monkeypatch.setattr("mura.machine.compute_on", compute_on)
        for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return state


T4, A100, P100, PASCAL = (7, 5), (8, 0), (6, 0), (6, 1)


def test_a_card_that_fails_on_first_use_is_not_taken_and_the_reason_is_said(cards: Callable[..., None]) -> None:
    cards(T4, failing=[0])
    device = choose_device("auto", 1)
    assert device.value == "cpu"
    assert device.reason == "GPU 0 can't be used: The NVIDIA driver on your system is too old (found version 12060)"
    with pytest.raises(ConfigError, match=r"accelerator=gpu trainer.devices=1: GPU 0 can't be used: The NVIDIA driver"):
        choose_device("gpu", 1)


def test_each_process_of_a_run_tries_its_own_card(cards: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    cards(T4, T4, failing=[1])
    assert choose_device("gpu", 2).value == "gpu"
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="GPU 1 can't be used"):
        choose_device("gpu", 2)


def test_a_real_card_that_is_not_there_fails_the_trial() -> None:
    usable, fault = usable_gpus([99])
    assert usable == []
    assert fault.startswith("GPU 99 can't be used: ")


@pytest.mark.parametrize("visible", ["0", "GPU-8932f937", "MIG-b5e0c2c4", "5"])
def test_a_run_pinned_to_a_card_that_is_not_there_is_refused(visible: str, cards: Callable[..., None]) -> None:
    cards(visible=visible)
    with pytest.raises(ConfigError, match=f"CUDA_VISIBLE_DEVICES={visible}: there is no such GPU here"):
        choose_device("auto", 1)
    assert choose_device("cpu", 1).value == "cpu"


def test_a_run_pinned_to_a_card_that_can_not_be_used_is_refused(cards: Callable[..., None]) -> None:
    cards(T4, failing=[0], visible="0")
    with pytest.raises(ConfigError, match="GPU 0 can't be used"):
        choose_device("auto", 1)


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_a_run_that_is_given_no_card_trains_on_the_cpu(visible: str, cards: Callable[..., None]) -> None:
    cards(visible=visible)
    assert choose_device("auto", 1) == ("cpu", "no GPU here")


def test_more_cards_than_there_are_is_refused_by_auto_too(cards: Callable[..., None]) -> None:
    cards(T4)
    with pytest.raises(ConfigError, match=r"accelerator=auto trainer.devices=2: this machine has 1 CUDA GPU\(s\)"):
        choose_device("auto", 2)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([A100], "bf16-mixed"), ([T4], "16-mixed"), ([P100], "32-true"), ([PASCAL], "32-true"), ([A100, T4], "16-mixed")],
)
def test_the_precision_is_what_the_oldest_card_is_fast_in(
    capabilities: list[tuple[int, int]], expected: str, cards: Callable[..., None]
) -> None:
    cards(*capabilities)
    chosen = choose_precision("auto", "gpu", len(capabilities))
    assert chosen.value == expected
    assert "compute capability {}.{}".format(*min(capabilities)) in chosen.reason


# --- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "FIND was unable to find an engine to execute this computation",
        "GET was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "HIP out of memory. Tried to allocate 20.00 MiB",
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_all_words_for_too_little_memory_are_known(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(ValueError(words))


def test_too_little_memory_beside_pictures_on_the_gpu_is_first_mended_by_moving_them() -> None:
    assert "data.resident=false leaves the GPU's memory to the network" in memory_sentence(32, 1, pictures_on_gpu=True)
    assert "resident" not in memory_sentence(32, 1, pictures_on_gpu=False)


def too_much(*_: object) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_pictures_that_do_not_fit_the_device_name_their_setting(
    mura_root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mura.data.datamodule.Resident", too_much)
    data = MuraDataModule(
        root=str(mura_root), extremities=["wrist"], cache_size=32, cache_dir=str(cache_dir), resident=True
    )
    data.setup()
    with pytest.raises(MuraError, match=r"data.resident=true: the pictures, 0.0 GB, don't fit .*data.resident=false"):
        data.train_dataloader()


class Small(TorchModel):
    """A model on a device that has memory for so many pictures."""

    room = 2

    def _probabilities(self, images_BSS: np.ndarray, extremities: Sequence[str | None]) -> np.ndarray:
        if len(images_BSS) > self.room:
            too_much()
        return images_BSS.mean(axis=(1, 2))


def test_a_prediction_that_takes_too_much_memory_halves_its_batch_once() -> None:
    predictor = Small(Path(), [], [], 32, ["wrist"], "pad")
    images = np.repeat(np.arange(5), 4).reshape(5, 2, 2)
    assert predictor.probabilities(images[:4], [None] * 4).tolist() == [0, 1, 2, 3]
    assert predictor.probabilities(images[:3], [None] * 3).tolist() == [0, 1, 2]
    with pytest.raises(MuraError, match=r"out of memory: 3 pictures at a time are too many .*CUDA_VISIBLE_DEVICES="):
        predictor.probabilities(images, [None] * 5)


def test_a_prediction_is_made_on_the_cpu_when_the_card_fails(
    cards: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    cards(T4, failing=[0])
    assert device_to_ask() == "cpu"
    assert "GPU 0 can't be used: The NVIDIA driver on your system is too old" in caplog.text
    assert "predicting on the CPU" in caplog.text
    cards(T4)
    assert device_to_ask() == "cuda"


# --- where runs go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "found", "expected"),
    [
        (None, [0, 1], ["0", "1"]),
        (None, [1], ["1"]),  # the first one fails
        ("3, 1", [0, 1], ["3", "1"]),
        ("0,-1,1", [0], ["0"]),  # what CUDA makes of it
        ("NoDevFiles", [], []),
        ("GPU-8932f937", [0], ["GPU-8932f937"]),
        ("MIG-a,MIG-b", [0], ["MIG-a", "MIG-b"]),
    ],
)
def test_runs_are_placed_on_the_cards_that_a_run_can_use(
    visible: str | None, found: list[int], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(placement, "SIGNS_OF_A_GPU", ["/"])
    monkeypatch.setattr(placement, "gpus_of_a_run", lambda: Gpus(found, ""))
    assert placement.visible_gpus() == expected


def test_cards_that_the_host_lists_and_no_run_can_use_are_not_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(placement, "SIGNS_OF_A_GPU", ["/"])
    monkeypatch.setattr(placement, "gpus_of_a_run", lambda: Gpus([], "GPU 0 can't be used: too old"))
    monkeypatch.setattr(placement, "cores", lambda: 1)
    assert placement.place_runs(None, "auto", 1, 8) == (1, [])
    assert "GPU 0 can't be used: too old" in caplog.text


def test_a_machine_without_a_sign_of_cuda_such_as_a_mac_counts_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "SIGNS_OF_A_GPU", ["/no such file"])
    monkeypatch.setattr(placement, "cores", lambda: 8)
    monkeypatch.setattr(placement, "memory", lambda: 64 * 2**30)
    assert placement.place_runs(None, "auto", 1, 8) == (2, [])  # as without a card


def test_a_multirun_places_its_runs_as_a_study_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    handed: dict[str, Any] = {}
    monkeypatch.setattr(mura_launcher, "run_jobs", lambda *_, **settings: handed.update(settings) or [])
    monkeypatch.setattr(placement, "visible_gpus", lambda: ["3", "1", "2"])
    for workers, accelerator, devices, expected in (
        (2, "auto", 1, [["3"], ["1"], ["2"]]), (2, "gpu", 2, [["3", "1"]]), (2, "cpu", 1, []), (1, "auto", 1, []),
    ):  # fmt: skip
        launcher = mura_launcher.ProcessLauncher(workers=workers)
        launcher.script = tmp_path
        launcher.trainers = {tmp_path: SimpleNamespace(accelerator=accelerator, devices=devices)}
        launcher._run([Job("one", [], tmp_path)])
        assert handed["gpus"] == expected


def test_a_run_inherits_nothing_that_would_make_it_part_of_another_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MURA_SEEN", "yes")
    for name in ("MASTER_PORT", "LOCAL_RANK", "WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "29500")
    assert "MASTER_PORT" not in run_environment(1)
    script = tmp_path / "script.py"
    script.write_text(
        "import os; print(sorted(n for n in os.environ if n in ('MASTER_PORT', 'LOCAL_RANK', 'MURA_SEEN')))"
    )
    job = Job("one", [], tmp_path)
    run_jobs(script, [job], lambda *_: None, captured=True)
    assert job.log.read_text() == "['MURA_SEEN']\n"


def test_the_example_for_slurm_and_the_refusals_end_the_tasks_of_a_run_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "--kill-on-bad-exit=1" in (REPOSITORY / "docs/slurm/multi_node.sbatch").read_text()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    for devices in (1, 2):
        with pytest.raises(ConfigError, match="--kill-on-bad-exit=1"):
            check_tasks(devices, 1)


# --- what can't be done there, and what is said of it -----------------------------------------------------


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_synchronised_batch_normalisation_is_refused_on_the_cpu(accelerator: str, cards: Callable[..., None]) -> None:
    cards()
    with pytest.raises(ConfigError, match=r"trainer.sync_batchnorm=true: PyTorch does it on GPUs only"):
        choose_device(accelerator, 2, sync_batchnorm=True)
    cards(T4, T4)
    assert choose_device("gpu", 2, sync_batchnorm=True).value == "gpu"


@pytest.mark.parametrize(("size", "sides"), [((14, 14), (4, 4)), ((16, 8), (4, 4)), ((7, 5), (7, 7)), ((3, 9), (2, 6))])
def test_pooling_by_matrices_equals_adaptive_pooling_with_its_gradient(
    size: tuple[int, int], sides: tuple[int, int]
) -> None:
    images = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 3, *sides, dtype=torch.float64)
    pooled = [averaged(images, sides), torch.nn.functional.adaptive_avg_pool2d(images, sides)]
    torch.testing.assert_close(*pooled)
    torch.testing.assert_close(*(torch.autograd.grad((each * weights).sum(), images)[0] for each in pooled))


class Operations(TorchDispatchMode):
    """Notes the operations that are carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["cnn2", "cnn4", "alexnet"])
def test_a_network_pools_deterministically_on_a_gpu_when_asked_to(name: str) -> None:
    network = build_network(name, head="linear", weights=None).to("meta")
    images = torch.empty(2, network.channels, 96, 96, device="meta")
    adaptive = "aten._adaptive_avg_pool2d.default"
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic)
            with Operations() as operations:
                network(images)
            assert (adaptive in operations.seen) != deterministic
    finally:
        torch.use_deterministic_algorithms(before)


def test_the_pooling_of_a_cpu_is_pytorchs_own_whatever_is_asked_for() -> None:
    pool = AveragePool(4)
    images = torch.rand(1, 2, 14, 14)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(True)
        assert torch.equal(pool(images), torch.nn.functional.adaptive_avg_pool2d(images, 4))
    finally:
        torch.use_deterministic_algorithms(before)


def test_the_peak_of_memory_is_that_of_the_device_that_the_run_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 if device.index == 1 else 0)
    assert peak_memory_bytes(torch.device("cpu")) > 2**20
    assert peak_memory_bytes(torch.device("cuda", 1)) == 7


def test_a_result_names_its_card(cards: Callable[..., None]) -> None:
    cards(T4)
    assert device_name(torch.device("cuda", 0)) == "card cuda:0"
    assert device_name(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize(
    ("key", "values"), [("device", ("Tesla T4", "NVIDIA A100")), ("precision", ("16-mixed", "bf16-mixed"))]
)
def test_a_comparison_says_when_its_runs_differ_in_card_or_precision(
    key: str, values: tuple[str, str], tmp_path: Path
) -> None:
    for number, value in enumerate(values):
        write_run(tmp_path / str(number), ["wrist"], seed=number, patients=4, **{key: value})
    runs, _ = collect([tmp_path])
    [note] = [note for note in recipe_notes(runs) if key in note]
    assert all(value in note for value in values)


@pytest.mark.parametrize(("compiled", "expected"), [(False, [300.0, 300.0]), (True, [1800.0, 300.0, 1800.0])])
def test_a_network_that_is_compiled_may_take_longer_for_its_first_batch(
    compiled: bool, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, file: waits.append(seconds))
    model: Any = SimpleNamespace(compiled=compiled)
    watch, trainer = StallWatch(), cast(Trainer, None)
    watch.setup(trainer, model, "fit")
    for _ in range(3):  # within 3 seconds the watch that is set will do
        watch.on_train_batch_end(trainer, model)
    watch.on_validation_start(trainer, model)
    assert waits == expected


# --- make gpu-check ---------------------------------------------------------------------------------------


def test_the_check_for_the_day_with_a_card_runs_to_its_end_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("sys.argv", ["gpu_check.py"])
    assert gpu_check.main() == 0
    said = capsys.readouterr().out
    steps = json.loads(said[said.index("\n{") :])["steps"]
    assert set(steps) == {*gpu_check.STEPS, "benchmarks --gpu"}
    assert {answer for answer, _ in steps.values()} == {"no GPU here: stated only"}


def test_a_step_of_the_check_that_does_not_hold_falls_short_with_the_reason(tmp_path: Path) -> None:
    place = gpu_check.Place(tmp_path, cards=1)
    assert gpu_check.carry_out(place, 1, lambda place: place.holds("two\nlines", lambda: False)) == (
        "fell short", "two lines",
    )  # fmt: skip
    assert gpu_check.carry_out(place, 1, lambda place: place.holds("it", lambda: True)) == ("held", "")
    assert gpu_check.carry_out(place, 2, lambda place: place.holds("it", lambda: False))[0].startswith(
        "needs two cards"
    )
    assert gpu_check.carry_out(place, 1, lambda place: 1 / 0)[0] == "fell short"
