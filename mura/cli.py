"""The `mura` command: synthetic or own data, a look into a MURA folder, predictions, finished runs compared.

And the next study planned.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mura.errors import ConfigError, InterruptedRunError, MuraError, escape_on_stdout, say
from mura.processes import quick_imports, run_command
from mura.progress import console_on, progress_bar

if TYPE_CHECKING:
    from mura.inference.predict import Answer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="One model for all seven upper-limb extremities, or one for each? Training: `mura train --help`.",
)


STDOUT = Path("-")
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
"""The settings of a command whose arguments another one understands."""


@app.command()
def synth(
    directory: Annotated[Path | None, typer.Argument(help="Where MURA-v1.1 is written; must not hold one yet.")] = None,
    patients: Annotated[int, typer.Option(help="Distinct patients, training and test together.")] = 600,
    size: Annotated[int, typer.Option(help="Longest side of a picture in pixels; MURA's is 512.")] = 512,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels on every machine.")] = 0,
    world: Annotated[
        str, typer.Option(help="shared, common, conflicting, separate or null: which answer is true of the data.")
    ] = "shared",
    valid_fraction: Annotated[
        float | None, typer.Option(help="Share of the patients in valid/; MURA's by default.")
    ] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="As many patients of each extremity.")] = False,
    full: Annotated[bool, typer.Option("--full", help="MURA's own counts: 40,005 views.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core by default.")] = None,
    preview: Annotated[Path | None, typer.Option(help="Write only a contact sheet to this PNG file.")] = None,
) -> None:
    """Write synthetic radiographs in MURA's layout (they show nobody, and prove nothing about patients)."""
    from mura.synthetic.dataset import write_dataset
    from mura.synthetic.sheet import write_preview

    if preview is not None:
        print(write_preview(preview, seed=seed))
        return
    if directory is None:
        raise MuraError("name the folder to write to: mura synth DIR (or --preview FILE.png).")
    with progress_bar("writing") as progress:
        written = write_dataset(
            directory, patients=patients, size=size, seed=seed, world=world, full=full, workers=workers,
            valid_fraction=valid_fraction, balanced=balanced, progress=progress,
        )  # fmt: skip
    print(written)


@app.command("import")
def import_(
    directory: Annotated[Path, typer.Argument(help="The folder that the paths in the table begin in.")],
    out: Annotated[Path, typer.Argument(help="Where MURA-v1.1 is written; must not hold another one.")],
    table: Annotated[Path, typer.Option(help="CSV file: path, patient, study, extremity, label; split if you like.")],
    valid_fraction: Annotated[
        float | None, typer.Option(help="Share of the patients in valid/, without a column split; 0.1 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the patients' new numbers, and of who is in valid/.")] = 0,
    mapping: Annotated[
        Path | None, typer.Option(help="Write old and new names to this CSV file, else nowhere.")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out pictures that can't be decoded, and name their lines.")
    ] = False,
) -> None:
    """Write your own pictures (PNG, JPEG, TIFF, BMP, DICOM) in MURA's layout, with patients numbered anew.

    Nothing of the table or of a DICOM header is written or printed. Started again, it goes on where it was stopped.
    """
    from mura.data.importing import import_pictures

    try:
        written = import_pictures(
            directory, out, table, valid_fraction=valid_fraction, seed=seed, mapping=mapping,
            skip_unreadable=skip_unreadable,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise InterruptedRunError("stopped; the same command goes on where it was.", 130) from None
    print(written)


@app.command()
def check(
    root: Annotated[Path, typer.Argument(help="A MURA-v1.1 folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what is in a MURA folder and list every problem; exit code 1 when there is one."""
    from mura.data.faults import check_folder, render

    report = check_folder(root)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        console_on(sys.stdout).print(render(report))
    raise typer.Exit(1 if report.problems else 0)


MODEL = Annotated[
    Path, typer.Argument(help="A run folder, a checkpoint, a file of `mura export`, or a study with --arm.")
]
PICTURES_HELP = typer.Argument(help="Picture files, or folders: those of one folder are a study; - reads a list.")
ARM = Annotated[str | None, typer.Option(help="Of a study: whose runs are asked, each picture its extremity's.")]
BACKBONE = Annotated[str | None, typer.Option("--model", help="Of a study with several: whose runs are asked.")]
EXTREMITY = Annotated[str | None, typer.Option(help="What they show, where their path does not say it as MURA's does.")]
ANONYMOUS = Annotated[bool, typer.Option("--anonymous", help="Number studies and pictures, write no names.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def predict(
    model: MODEL,
    pictures: Annotated[list[Path], PICTURES_HELP],
    arm: ARM = None,
    backbone: BACKBONE = None,
    extremity: EXTREMITY = None,
    file: Annotated[
        Path | None, typer.Option("--csv", "--out", help="Write the table to this CSV file; - prints it.")
    ] = None,
    as_json: JSON = False,
    anonymous: ANONYMOUS = False,
    threshold: Annotated[
        float | None, typer.Option(help="A study is abnormal when its probability is above this; 0.5 by default.")
    ] = None,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Divide the logits by the temperature that validation gave.")
    ] = False,
    operating_point: Annotated[
        str | None,
        typer.Option(help="accuracy or specificity: shift the logits by a threshold that validation gave."),
    ] = None,
) -> None:
    """How probably pictures are abnormal, one by one and by study. For research: not a medical device.

    A table on a terminal, CSV into a pipe. Exit code 1 when a picture could not be read.
    """
    with quick_imports():
        from mura.inference import predict
        from mura.inference.models import load_model
        from mura.inference.operating import adjust, check_threshold
    from mura.files import refuse_unwritable
    from mura.machine import keep_freed_memory

    keep_freed_memory()
    above = check_threshold(threshold, operating_point)
    if file == STDOUT and as_json:
        raise ConfigError("--csv - and --json would both print; take one, or name a file.")
    if file not in (None, STDOUT):
        refuse_unwritable(file, "--csv")  # before the hours of work that would be lost
    places = all_places(pictures)
    asked = adjust(load_model(model, arm, backbone), temperature, operating_point)
    with progress_bar("predicting") as progress:
        answer = predict.predict_pictures(asked, places, extremity, progress, anonymous, above)
    show_answer(answer, predict.as_json(asked, answer, above) if as_json else None, file, anonymous)
    raise typer.Exit(1 if answer.faults else 0)


@app.command()
def explain(
    model: MODEL,
    pictures: Annotated[list[Path] | None, PICTURES_HELP] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the overlays, empty or not there; by default `explained`.")
    ] = None,
    arm: ARM = None,
    backbone: BACKBONE = None,
    extremity: EXTREMITY = None,
    as_json: JSON = False,
    anonymous: ANONYMOUS = False,
    test: Annotated[
        bool, typer.Option("--test", help="Explain a run, or all of a study, on their own test views, for the report.")
    ] = False,
    root: Annotated[Path | None, typer.Option(help="With --test: where the data lie now, if they were moved.")] = None,
) -> None:
    """Draw where a model looks: Grad-CAM over each picture, a contact sheet for each study. Not a medical device.

    The table is that of `mura predict`, with the overlay's file and the box around the hottest place. With --test it is
    how often the model looks where the findings are, if the data say so (boxes.csv), and each run gets a heat.npz.
    """
    if test:
        given = {"PICTURES": pictures, "--out": out, "--arm": arm, "--model": backbone, "--extremity": extremity}
        refuse_given(given | {"--anonymous": anonymous or None}, "--test explains a run's own test views")
        explain_test_views(model, root, as_json)
        return
    refuse_given({"--root": root}, "without --test, the pictures are named themselves")
    if not pictures:
        raise MuraError("name the pictures to explain, or --test for the run's own test views.")
    with quick_imports():
        from mura.inference import explain
        from mura.inference.models import load_model
    from mura.machine import keep_freed_memory

    keep_freed_memory()
    folder = Path("explained") if out is None else out
    places = all_places(pictures)
    asked = explain.explainable(load_model(model, arm, backbone))
    with progress_bar("explaining") as progress:
        answer = explain.explain_pictures(asked, places, folder, extremity, progress, anonymous)
    show_answer(answer, explain.as_json(asked, answer) if as_json else None, None, anonymous)
    logging.info("written: %s", folder)
    raise typer.Exit(1 if answer.faults else 0)


def refuse_given(options: dict[str, object], reason: str) -> None:
    """Raise MuraError for the first of these options that was given."""
    for option, value in options.items():
        if value is not None and value != []:
            raise MuraError(f"{option}: {reason}; leave it out.")


def explain_test_views(place: Path, root: Path | None, as_json: bool) -> None:
    """Have every finished run at or below `place` explain itself; print the figures as a table or JSON."""
    with quick_imports():
        from mura.inference.own_views import explain_again, figures_table
    from mura.runs.folder import finished_runs

    figures = {}
    for run in finished_runs(place):
        name = os.path.relpath(run.path, place.resolve().parent)
        with run.locked(), progress_bar(name) as progress:
            figures[name] = explain_again(run, root, progress)
        logging.info("written: %s", run.heat)
    if as_json:
        print(json.dumps(figures, indent=2, allow_nan=False))
    else:
        console_on(sys.stdout, width=120).print(figures_table(figures))


@app.command()
def export(
    model: MODEL,
    out: Annotated[Path, typer.Argument(help="The file to write; it ends in .onnx or .safetensors.")],
    arm: ARM = None,
    backbone: BACKBONE = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="onnx or safetensors; by default what OUT ends in.")
    ] = None,
) -> None:
    """Write a trained model as one ONNX file, or its weights as safetensors, and check it against the checkpoints.

    The ONNX file takes 8-bit squares and answers with probabilities; `mura predict` asks it without PyTorch.
    """
    from mura.inference.exported import check_format

    check_format(out, file_format)
    with quick_imports():
        from mura.inference.export import export as write
        from mura.inference.loading import load_model

    print(f"{out}: {write(load_model(model, arm, backbone), out)}")


@app.command()
def card(
    place: Annotated[Path, typer.Argument(help="A finished run, or a folder with finished runs.")],
    out: Annotated[Path | None, typer.Option(help="The file to write, such as README.md; else it is printed.")] = None,
) -> None:
    """Describe a run or a study as a model card: what it is for, how it did, and what is not known.

    Markdown, with the front matter that model hubs read. Everything in it stands in the run folders.
    """
    from mura.files import refuse_unwritable, write_text
    from mura.report.card import model_card

    if out in (None, STDOUT):
        print(model_card(place), end="")
        return
    refuse_unwritable(out, "--out")
    write_text(out, model_card(place))


@app.command("app")
def app_(
    model: MODEL,
    arm: ARM = None,
    backbone: BACKBONE = None,
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; by default a free one.")] = 0,
) -> None:
    """Try a model on a page in the browser: drop pictures, see its answers and where it looks. Not a medical device.

    The page is for this machine alone, and keeps nothing of what it is shown. Ctrl-C ends it.
    """
    from mura.app.server import serve

    serve(model, arm, backbone, port)


def all_places(pictures: list[Path]) -> list[Path]:
    """Return the places named on the command line, and in its place those that standard input names for -."""
    from mura.inference.places import read_list

    return [place for each in pictures for place in (read_list(sys.stdin.buffer) if str(each) == "-" else [each])]


def show_answer(answer: "Answer", content: dict[str, Any] | None, file: Path | None, anonymous: bool) -> None:
    """Say what could not be read, print `content` as JSON if there is any, and write the table to `file`.

    Without either, the table is printed.
    """
    from mura.files import write_text
    from mura.inference.predict import print_studies
    from mura.runs.tables import csv_text

    for fault in answer.faults:
        say(fault)
    if content is not None:
        print(json.dumps(content, indent=2, allow_nan=False))
    if file not in (None, STDOUT):
        try:
            write_text(file, csv_text(answer.table))
        except OSError as error:
            if content is None:
                print(csv_text(answer.table), end="")
            raise MuraError(f"--csv {file}: can't be written ({error.strerror}); the table was printed.") from error
    elif content is not None:
        return
    elif file is None and sys.stdout.isatty():
        print_studies(answer.table, console_on(sys.stdout), anonymous)
    else:
        print(csv_text(answer.table), end="")


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(help="Folders with finished runs, of one study or several.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; the first folder by default.")] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Accuracy within which arms are equivalent, as 0.03; by default the study's own."),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(help="The only model that the others are compared with; by default the study's own, or any two."),
    ] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Leave out runs that can't be read, and name them.")
    ] = False,
) -> None:
    """Compare the finished runs below the folders: verdicts, tables, and a report to read in a browser."""
    from mura.report.write import console_table, write_report

    study = write_report(directories, out or directories[0], margin=margin, primary=primary, skip_damaged=skip_damaged)
    console_on(sys.stdout, width=120).print(console_table(study))


@app.command()
def plan(
    study: Annotated[Path, typer.Argument(help="The folder of a pilot: finished runs of two seeds an arm or more.")],
    target: Annotated[
        float | None, typer.Option(help="The difference in points of study accuracy that must be shown, such as 4.")
    ] = None,
) -> None:
    """Say what difference other numbers of seeds would show, from a pilot study's runs, and what they would cost."""
    from mura.comparison.planning import check_target, plan_study
    from mura.report.plan import plan_table

    check_target(target)
    console_on(sys.stdout).print(plan_table(plan_study(study), target))


@app.command(context_settings=PASSED_ON)
def train(context: typer.Context) -> None:
    """Train and test one run, or several with -m: the same as train.py of a clone."""
    run_command("train", context.args)


@app.command(context_settings=PASSED_ON)
def sweep(context: typer.Context) -> None:
    """Train and compare a whole study: the same as sweep.py of a clone."""
    run_command("sweep", context.args)


def main() -> None:
    """The console script: an error of the user's is one sentence on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    escape_on_stdout()
    try:
        app()
    except MuraError as error:
        say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
