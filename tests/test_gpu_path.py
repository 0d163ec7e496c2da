"""The path of a GPU, held on any machine: by a stated capability, a pretended device, or two processes over gloo.

None of this has a GPU. `make gpu-check` runs what needs one.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mura.models.classifier import AbnormalityClassifier, TrainedViews


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
