"""Speed on any CUDA machine: a share of the fastest loop there is, and how long Kumar et al.'s table takes.

Not yet run: no machine with a GPU was at hand. Refused without one.
"""

import sys
import time

import torch

from benchmarks.data import noise
from benchmarks.measure import Plan, Row, by_turns, median_of, ratios
from benchmarks.ours import composed, training_rate
from benchmarks.peers import bare_training
from benchmarks.training import BATCH, CHANNELS, network
from mura.machine import choose_precision

STEPS, WARM = 100, 20
MURA_TRAINING_VIEWS = 36_808
KUMAR = {"cnn4": 20, "cnn15": 20, "resnet18": 20, "resnet50": 20, "densenet121": 20}
"""The models of Kumar et al.'s table and the most epochs that each is trained."""


def needs_cuda() -> None:
    if not torch.cuda.is_available():
        sys.exit("python -m benchmarks --gpu: this machine has no CUDA GPU; without --gpu the others run.")


def settings(plan: Plan, model: str, resident: str) -> list[str]:
    return [
        f"model={model}", "model.weights=null", "data.image_size=224", f"data.batch_size={BATCH}", "trainer=auto",
        f"data.root={noise(plan.folder, 8000)}", f"data.cache_dir={plan.folder / 'cache'}", f"data.resident={resident}",
    ]  # fmt: skip


def training(plan: Plan) -> list[Row]:
    """Ours, plain and compiled, against a bare compiled loop on tensors in the GPU's memory."""
    needs_cuda()
    precision = choose_precision("auto", "gpu").value
    rows = []
    for model in ("resnet18", "densenet121"):
        plain, compiled = (composed(*settings(plan, model, "auto"), f"model.compile={c}") for c in ("false", "true"))

        def bare(model: str = model) -> float:
            loop = torch.compile(network(model))
            return bare_training(loop, 224, CHANNELS[model], BATCH, STEPS, WARM, precision, "cuda")  # type: ignore[arg-type]

        ours, ours_compiled, theirs = by_turns(
            plan.rounds,
            lambda cfg=plain: training_rate(cfg, STEPS, WARM),  # type: ignore[misc]
            lambda cfg=compiled: training_rate(cfg, STEPS, WARM),  # type: ignore[misc]
            bare,
        )
        detail = f"ours {median_of(ours, 'pictures/s', 0)}, compiled {median_of(ours_compiled, 'pictures/s', 0)}, bare "
        detail += median_of(theirs, "pictures/s", 0)
        rows += [
            Row(f"{model}, as it is, {precision}", "a bare compiled loop", ratios(ours, theirs), None, detail=detail),
            Row(
                f"{model}, {precision}, compiled",
                "a bare compiled loop",
                ratios(ours_compiled, theirs),
                0.95,
                detail=detail,
            ),
        ]
    return rows


def resident(plan: Plan) -> list[Row]:
    """The pictures in the GPU's memory against pinned copies from the host."""
    needs_cuda()
    kept, copied = (composed(*settings(plan, "resnet18", where)) for where in ("true", "false"))
    on_device, from_host = by_turns(
        plan.rounds, lambda: training_rate(kept, STEPS, WARM), lambda: training_rate(copied, STEPS, WARM)
    )
    detail = f"{median_of(on_device, 'pictures/s', 0)}, {median_of(from_host, 'pictures/s', 0)}"
    return [Row("pictures resident on the GPU", "copied from the host", ratios(on_device, from_host), 1, detail=detail)]


def kumar_table(plan: Plan) -> list[Row]:
    """The time of Kumar et al.'s table at most (all epochs, no early stop), calculated from the measured rates."""
    needs_cuda()
    hours = 0.0
    began = time.perf_counter()
    for model, epochs in KUMAR.items():
        rate = training_rate(composed(*settings(plan, model, "auto")), STEPS, WARM)
        hours += 2 * epochs * MURA_TRAINING_VIEWS / rate / 3600  # the unified model, and the seven together
    detail = f"{hours:.1f} h calculated from rates measured in {time.perf_counter() - began:.0f} s; validation left out"
    what = f"Kumar et al.'s whole table ({8 * len(KUMAR)} runs), hours at most"
    return [Row(what, "one hour", [hours], None, True, detail)]
