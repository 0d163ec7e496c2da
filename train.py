"""Train and test one model.

python train.py model=resnet18 data=wrist data.root=DIR
python train.py -m data=elbow,finger,forearm,hand,humerus,shoulder,wrist,unified
python train.py resume=RUN_FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mura.config.command_line import hydra_arguments, resume_arguments
from mura.config.help import help_page
from mura.config.hydra_hooks import register_resolvers
from mura.config.other_launchers import run_job
from mura.config.parts import make, make_each, make_schedule
from mura.config.sentences import exit_with_sentence
from mura.config.start import refuse_another_experiment, removed_if_refused, write_settings
from mura.launch.slurm.srun import cluster_environment, task_arguments
from mura.processes import quick_imports
from mura.progress import on_a_terminal
from mura.runs.folder import RunFolder, resumable
from mura.signals import answering_signals


def train(cfg: DictConfig, run: RunFolder) -> dict[str, Any]:
    """Train and test one run, from the config to the run folder; return what stands in its metrics.json."""
    with quick_imports():  # torch comes in only here, after the config has been checked
        from lightning import seed_everything

        from mura.machine import choose_device, choose_precision, prepare_process
        from mura.training.callbacks import leave_out_empty_hooks, make_callbacks
        from mura.training.checkpoints import SafeCheckpointIO, checkpoint_to_resume
        from mura.training.console import announce, announce_weights, log_config
        from mura.training.history import require_batches
        from mura.training.prediction import chosen_checkpoints, predict_views, try_out
        from mura.training.results import describe_run, write_results
        from mura.training.shutdown import clean_end
        from mura.training.speed import make_profiler

    prepare_process()
    device = choose_device(cfg.trainer.accelerator, cfg.trainer.devices, cfg.trainer.sync_batchnorm)
    precision = choose_precision(cfg.trainer.precision, device.value, cfg.trainer.devices)
    announce(run.path, device, precision)

    seed_everything(cfg.seed, workers=True, verbose=False)
    callbacks = make_each(cfg.get("callbacks"), "callbacks")
    data, model = build(cfg)
    start_from = checkpoint_to_resume(run, model, data)
    announce_weights(model)
    bar = on_a_terminal() and cfg.trainer.get("enable_progress_bar", True)
    own = make_callbacks(run, cfg.monitor, cfg.mode, cfg.early_stopping.patience, cfg.ensemble, bar)
    trainer = make(
        cfg.trainer,
        "trainer",
        accelerator=device.value,
        precision=precision.value,
        logger=bool(cfg.trainer.get("fast_dev_run")) or make_each(cfg.get("logger"), "logger"),  # else it is dropped
        plugins=[SafeCheckpointIO(), *cluster_environment()],
        enable_progress_bar=bar,
        profiler=make_profiler(cfg.trainer.get("profiler"), run.path),
        callbacks=[*own, *callbacks],
    )
    leave_out_empty_hooks(trainer.callbacks)
    require_batches(trainer, data)
    write_settings(run, cfg)
    with clean_end(trainer, run):
        log_config(trainer, OmegaConf.to_container(cfg, resolve=True))
        trainer.fit(model, data, ckpt_path=start_from)
        if trainer.fast_dev_run:
            try_out(trainer, data)
            return {}
        predictions = predict_views(trainer, data, chosen_checkpoints(trainer, run))
        identity = {"name": cfg.name, "arm": cfg.arm, "seed": cfg.seed}
        metrics = describe_run(run, identity, trainer, data, predictions)
        if cfg.explain and trainer.is_global_zero:
            from mura.inference.own_views import explain_views

            metrics["explain"] = explain_views(run, predictions.of_role("test"), Path(data.root))
        write_results(run, trainer, predictions, metrics)
        return metrics


def build(cfg: DictConfig) -> tuple[Any, Any]:
    """Return the MuraDataModule and the AbnormalityClassifier of a config, ready to be trained."""
    from mura.inference.gradcam import refuse_unexplainable
    from mura.training.history import require_defined
    from mura.training.results import provenance

    if cfg.explain:
        refuse_unexplainable(cfg.model.name, cfg.model.library)  # now, and not after hours of training
    optimizer, scheduler = make_schedule(cfg.optimizer, cfg.scheduler)
    data = instantiate(cfg.data, test=cfg.test)
    data.setup()
    require_defined(cfg.monitor, data, cfg.trainer.get("overfit_batches") or cfg.trainer.limit_val_batches)
    model = instantiate(
        cfg.model,
        optimizer=optimizer,
        scheduler=scheduler,
        monitor=cfg.monitor,
        augmentation=dict(cfg.augmentation),
        class_weights=data.class_weights(),
        provenance=provenance(data, cfg.model.weights),
    )
    return data, model


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    return run_job(train_in_folder, cfg, Path(__file__).resolve())


def train_in_folder(cfg: DictConfig, run: RunFolder) -> None:
    """Train in the run's folder, locked meanwhile, from which the run can go on when it is interrupted."""
    with run.locked(), resumable(run), removed_if_refused(run):
        run.refuse_if_finished()
        refuse_another_experiment(run, cfg)
        train(cfg, run)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(help_page())
        sys.exit()
    register_resolvers()
    with answering_signals(), exit_with_sentence():
        sys.argv[1:] = task_arguments(hydra_arguments(resume_arguments(sys.argv[1:])))
        main()
