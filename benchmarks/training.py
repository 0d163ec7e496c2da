"""Training and evaluation: ours against the common template and against a bare loop."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from lightning import LightningModule
from omegaconf import DictConfig

from benchmarks.data import noise, radiographs
from benchmarks.measure import Plan, Row, median_of, ratios, undisturbed_rounds
from benchmarks.ours import OURS, Stopwatch, composed, inference_rates, training_rates
from benchmarks.peers import (
    BareProcess,
    PictureFolder,
    TemplateModule,
    template_loader,
    template_trainer,
)
from mura.data.index import find_root, read_index
from mura.machine import choose_precision, cpu_computes_bfloat16
from mura.models.backbones import build_network

BATCH = 32
WARM = 3
"""Steps that don't count: oneDNN's second step of a DenseNet takes twice as long as the later ones."""

BARE, BARE_KEPT = "a bare loop", "a bare loop with our allocator settings"
TEMPLATE, TEMPLATE_BF16 = "the common template, float32", "the common template, bfloat16"
CHANNELS = {"resnet18": 3, "densenet121": 3, "cnn4": 1}


def pictures(plan: Plan, model: str) -> Path:
    """Radiographs of MURA's size; for the small network, which takes hundreds of steps in the time, many small ones."""
    return noise(plan.folder, 4000) if model == "cnn4" else radiographs(plan.folder, 80 if plan.quick else 200, 512)


def settings(plan: Plan, model: str, side: int) -> list[str]:
    root = pictures(plan, model)
    return [
        f"model={model}", "model.weights=null", f"data.image_size={side}", f"data.batch_size={BATCH}", "trainer=cpu",
        "optimizer=sgd_resnet",  # the peers'
        f"data.root={root}", f"data.cache_dir={plan.folder / 'cache'}",
    ]  # fmt: skip


def network(model: str) -> torch.nn.Module:
    """The same network for all."""
    head = {"resnet18": "kumar_resnet", "densenet121": "kumar_densenet", "cnn4": "cnn4"}[model]
    return build_network(model, head=head, weights=None)


def template_rate(plan: Plan, model: str, side: int, steps: int, warm: int, precision: str) -> float:
    root = find_root(pictures(plan, model))
    index = read_index(root)
    shared = network(model)
    data = PictureFolder(root, index[index["split"] == "train"], side, CHANNELS[model])
    watch = Stopwatch(warm)
    module: LightningModule = TemplateModule(shared.to(memory_format=torch.contiguous_format), lr=1e-3)
    trainer = template_trainer(precision, callbacks=[watch], limit_train_batches=warm + steps)
    trainer.fit(module, template_loader(data, BATCH))
    return watch.rate


def bare_loops(model: str, side: int, precision: str, evaluates: bool = False) -> dict[str, BareProcess]:
    """Return the bare loop with the allocator as PyTorch finds it, and with ours."""
    build = partial(network, model)
    return {
        name: BareProcess(build, side, CHANNELS[model], BATCH, precision, evaluates, keeps_memory)
        for name, keeps_memory in ((BARE, False), (BARE_KEPT, True))
    }


def rounds(plan: Plan, model: str) -> int:
    """Return how many rounds a network gets: one of a large one takes minutes, and has 15 steps of each loop in it."""
    return min(plan.rounds, {"densenet121": 1, "resnet18": 2}.get(model, plan.rounds))


def against_both(plan: Plan, model: str, side: int, steps: int, wanted: dict[str, float]) -> list[Row]:
    """Ours and both bare loops step by step in turns; then the template, where the CPU has bfloat16 in it too."""
    cfg = composed(*settings(plan, model, side))
    precision = choose_precision("auto", "cpu").value
    templates = {TEMPLATE: "32-true"} | ({TEMPLATE_BF16: "bf16-mixed"} if cpu_computes_bfloat16() else {})

    def measure() -> dict[str, float]:
        with ExitStack() as ended:
            bare = bare_loops(model, side, precision)
            steps_of = {name: ended.enter_context(loop).step for name, loop in bare.items()}
            rates = training_rates(cfg, steps, WARM, steps_of)
        count = max(2, steps // 3)
        return rates | {name: template_rate(plan, model, side, count, 1, each) for name, each in templates.items()}

    rates, dropped = undisturbed_rounds(rounds(plan, model), measure)
    return rows_of(f"training {model} at {side}, batch {BATCH}, {precision}", rates, dropped, wanted)


def rows_of(what: str, rates: dict[str, list[float]], dropped: int, wanted: dict[str, float]) -> list[Row]:
    """Return a row against each peer; `rates` are pictures a second, one a round."""
    detail = ", ".join(f"{who} {median_of(values, 'pictures/s')}" for who, values in rates.items())
    detail += f"; {dropped} disturbed round(s) dropped" if dropped else ""
    peers = [name for name in rates if name != OURS]
    return [Row(what, peer, ratios(rates[OURS], rates[peer]), wanted.get(peer), detail=detail) for peer in peers]


def cnn(plan: Plan) -> list[Row]:
    return against_both(plan, "cnn4", 64, 40 if plan.quick else 80, {BARE: 1.0, BARE_KEPT: 0.85})


def resnet(plan: Plan) -> list[Row]:
    template = {TEMPLATE: 2.4, TEMPLATE_BF16: 1.35} if cpu_computes_bfloat16() else {TEMPLATE: 1.2}
    return against_both(plan, "resnet18", 224, 2 if plan.quick else 15, {BARE: 1.1, BARE_KEPT: 0.97, **template})


def densenet(plan: Plan) -> list[Row]:
    template = {TEMPLATE: 2.4, TEMPLATE_BF16: 1.35} if cpu_computes_bfloat16() else {TEMPLATE: 1.2}
    return against_both(plan, "densenet121", 224, 2 if plan.quick else 15, {BARE: 1.0, BARE_KEPT: 0.97, **template})


def evaluation(plan: Plan) -> list[Row]:
    """Compare predictions, which are made in float32, with both bare loops."""
    rows = []
    for model, wanted in (("resnet18", 1.25), ("densenet121", 1.15)):
        cfg = composed(*settings(plan, model, 224), f"data.root={noise(plan.folder, 4000)}")

        def measure(model: str = model, cfg: DictConfig = cfg) -> dict[str, float]:
            with ExitStack() as ended:
                bare = bare_loops(model, 224, "32-true", evaluates=True)
                steps_of = {name: ended.enter_context(loop).step for name, loop in bare.items()}
                return inference_rates(cfg, 3 if plan.quick else 15, WARM, steps_of)

        rates, dropped = undisturbed_rounds(rounds(plan, model), measure)
        rows += rows_of(f"evaluation {model} at 224, float32", rates, dropped, {BARE: wanted, BARE_KEPT: 0.97})
    return rows
