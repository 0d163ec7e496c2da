"""The study in W&B: its comparison as a run of its own, and, asked for, a saved view of the project's dashboard."""

import logging
from typing import Any

import pandas as pd

from mura.comparison.summary import Study
from mura.comparison.verdict import PRIMARY
from mura.errors import MuraError
from mura.report import figures
from mura.report.page import TEMPLATES, index_html
from mura.report.references import KUMAR_ROWS
from mura.tracking.wandb_run import choose_mode, never_fatal, open_run

JOB_TYPE = "comparison"
WORKSPACE_ORDER = ("val/study/all/accuracy", "val/image/all/accuracy")
"""What the view sorts its runs by, the best first: whoever tunes must not select on the test set."""
WORKSPACE_COLUMNS = (
    "test/image/{row}/accuracy",
    "test/study/{row}/accuracy",
    "test/study/{row}/kappa",
    "test/study/{row}/auroc",
)
WORKSPACE_CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_kappa", "val_auroc")

log = logging.getLogger(__name__)


def publish(study: Study, project: str, group: str, entity: str | None = None) -> None:
    """Log results, comparisons, forest plots and the whole report as the run `<group>-comparison` of the group.

    A failure of W&B is only reported: everything stands in the study's folder.
    """
    run = open_run(
        study.out, name=f"{group}-{JOB_TYPE}", project=project, entity=entity, group=group, job_type=JOB_TYPE,
        tags=[JOB_TYPE, *study.models],
    )  # fmt: skip
    if run is None:
        return
    with never_fatal("logging the comparison"):
        for key, value in make_summary(study).items():
            run.summary[key] = value
        run.log(make_media(study))
    with never_fatal("finishing"):
        run.finish()


def make_summary(study: Study) -> dict[str, Any]:
    """Return `<model>/<comparison>/<extremity>/<what>` for the verdict's level and metric."""
    summary: dict[str, Any] = {}
    for record in study.comparisons:
        if (record.level, record.metric) == PRIMARY:
            key = f"{record.model}/{record.comparison}/{record.extremity}"
            summary |= {
                f"{key}/{what}": getattr(record, what) for what in ("verdict", "difference", "low", "high", "p_holm")
            }
    return summary


def make_media(study: Study) -> dict[str, Any]:
    """Return tables, forest plots and the report itself, as W&B's media; no picture of real data leaves."""
    import wandb

    content: dict[str, Any] = {
        "results": wandb.Table(dataframe=study.results.astype({"value": float, "val_value": float})),
        "comparison": wandb.Table(dataframe=pd.DataFrame([record.to_dict() for record in study.comparisons])),
        "report": wandb.Html(index_html(study, with_pictures=study.synthetic), inject=False),
    }
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    for compared in study.pairs:
        pair = compared.pair
        plot = figures.forest(compared.records(*PRIMARY), pair.a, pair.b)
        content[f"forest/{pair.model}/{pair.name}"] = wandb.Html(f"<style>{style}</style>{plot}")
    return content


def save_workspace(project: str, group: str) -> str:
    """Save a view of the project for this group, and return its address.

    It has Kumar et al.'s table as columns, the curves, and test metrics as bars. MuraError without the extra
    `workspace`, or without a login.
    """
    require_workspaces()
    import wandb

    entity = str(wandb.Api().default_entity)
    try:
        return str(workspace(entity, project, group).save().url)
    except Exception as error:  # the library hands on whatever the server says
        raise MuraError(f"wandb.workspace=true: W&B did not take the view: {str(error).splitlines()[0]}.") from None


def require_workspaces() -> None:
    """Raise MuraError unless the optional library and a login are there; call it before hours of training."""
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise MuraError(
            "wandb.workspace=true needs the optional library wandb-workspaces: pip install 'mura[workspace]'."
        ) from None
    mode = choose_mode()
    if mode.value != "online":
        raise MuraError(
            f"wandb.workspace=true: a view is kept by the W&B server, and W&B is {mode.value} ({mode.reason}); "
            "log in with `wandb login`, or leave wandb.workspace out."
        )


def workspace(entity: str, project: str, group: str) -> Any:
    """Return the view before it is saved: runs of `group` by arm, the test results as pinned columns."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    def bars(level: str, metric: str) -> Any:
        keys: list[Any] = [f"test/{level}/{row if row != KUMAR_ROWS[-1] else 'all'}/{metric}" for row in KUMAR_ROWS]
        return panels.BarPlot(title=f"test, {level} {metric}", metrics=keys, orientation="v")

    tested = [key.format(row=row) for key in WORKSPACE_COLUMNS for row in ("all", *KUMAR_ROWS[:-1])]
    columns = [f"summary:{key}" for key in (*WORKSPACE_ORDER, *tested)]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{group}: one model or seven",
        sections=[
            ws.Section(
                name="Test, by extremity",
                panels=[bars("image", "accuracy"), bars("study", "accuracy"), bars("study", "kappa")],
                is_open=True,
            ),
            ws.Section(
                name="Curves",
                panels=[panels.LinePlot(title=key, x="epoch", y=[key]) for key in WORKSPACE_CURVES],
                is_open=True,
            ),
        ],
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group") == group, ws.Metric("JobType") == "train"],
            groupby=[ws.Config("arm"), ws.Config("model.name")],
            order=[ws.Ordering(ws.Summary(key), ascending=False) for key in WORKSPACE_ORDER],
            pinned_columns=["run:displayName", *columns],
        ),
        auto_generate_panels=False,
    )
