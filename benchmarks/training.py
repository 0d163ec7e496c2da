"""Training and evaluation: ours against the common template and against a bare loop."""

from pathlib import Path

import torch
from lightning import LightningModule

from benchmarks.data import noise, radiographs
from benchmarks.measure import Plan, Row, median_of, ratios
from benchmarks.ours import Stopwatch, composed, inference_rates, training_rates
from benchmarks.peers import (
    BareLoop,
    PictureFolder,
    TemplateModule,
    template_loader,
    template_trainer,
)
from mura.data.index import find_root, read_index
from mura.machine import choose_precision, cpu_computes_bfloat16
from mura.models.backbones import build_network

BATCH = 32
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


def against_both(plan: Plan, model: str, side: int, steps: int, warm: int, bare_wanted: float) -> list[Row]:
    """Ours and the bare loop step by step in turns; then the template; where the CPU has bfloat16, it in that too."""
    cfg = composed(*settings(plan, model, side))
    precision = choose_precision("auto", "cpu").value
    has_bf16 = cpu_computes_bfloat16()
    rates_by_peer: dict[str, list[float]] = {"ours": [], "bare": [], "template": []}
    if has_bf16:
        rates_by_peer["template in bfloat16"] = []
    for _ in range(plan.rounds):
        bare = BareLoop(network(model), side, CHANNELS[model], BATCH, precision)
        ours, theirs = training_rates(cfg, steps, warm, bare.train)
        rates_by_peer["ours"].append(ours)
        rates_by_peer["bare"].append(theirs)
        rates_by_peer["template"].append(template_rate(plan, model, side, steps, warm, "32-true"))
        if has_bf16:
            rates_by_peer["template in bfloat16"].append(template_rate(plan, model, side, steps, warm, "bf16-mixed"))
    name = f"training {model} at {side}, batch {BATCH}, {precision}"
    detail = ", ".join(f"{who} {median_of(values, 'pictures/s')}" for who, values in rates_by_peer.items())
    large = side == 224  # what is asked of the template is asked of these
    wanted = {"bare": bare_wanted, "template": (2.4 if has_bf16 else 1.2) if large else None}
    wanted["template in bfloat16"] = 1.35 if large else None
    against = {"bare": "a bare loop, same precision and layout", "template": "the common template, float32"}
    return [
        Row(name, against.get(peer, f"the {peer}"), ratios(rates_by_peer["ours"], rates), wanted[peer], detail=detail)
        for peer, rates in rates_by_peer.items()
        if peer != "ours"
    ]


def cnn(plan: Plan) -> list[Row]:
    return against_both(plan, "cnn4", 64, 40 if plan.quick else 80, 5, 0.85)


def resnet(plan: Plan) -> list[Row]:
    return against_both(plan, "resnet18", 224, 2 if plan.quick else 6, 1, 0.97)


def densenet(plan: Plan) -> list[Row]:
    return against_both(plan, "densenet121", 224, 2 if plan.quick else 3, 1, 0.97)


def evaluation(plan: Plan) -> list[Row]:
    cfg = composed(*settings(plan, "resnet18", 224), f"data.root={noise(plan.folder, 4000)}")
    precision = choose_precision("auto", "cpu").value
    steps, warm = (3, 1) if plan.quick else (8, 1)
    ours, bare = [], []
    for _ in range(plan.rounds):
        loop = BareLoop(network("resnet18"), 224, 3, BATCH, precision, evaluates=True)
        for rates, rate in zip((ours, bare), inference_rates(cfg, steps, warm, loop.evaluate), strict=True):
            rates.append(rate)
    detail = f"ours {median_of(ours, 'pictures/s')}, bare {median_of(bare, 'pictures/s')}"
    return [Row("evaluation resnet18 at 224", "a bare inference loop", ratios(ours, bare), 0.97, detail=detail)]
