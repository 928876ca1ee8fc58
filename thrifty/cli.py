"""The command line: verbs that call stages. What a verb does is in the module of its name, imported when it is called."""

from __future__ import annotations

import functools
import importlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import thrifty
from thrifty.errors import USER_ERROR, ThriftyError, mask, one_line

if TYPE_CHECKING:
    from thrifty.config import Study
    from thrifty.results import Run

STAGES = {
    "search": "thrifty.search.stage",
    "select": "thrifty.selection",
    "retrain": "thrifty.retrain",
    "evaluate": "thrifty.evaluate",
    "report": "thrifty.report",
}
PREPARING = ("search", "retrain")  # a run begins with one of these, the latter with genotypes given by hand
HELP = "Finds a very small segmentation network for your medical images, under a parameter budget."
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's YAML file, or a name from `thrifty ls`.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="As in search.epochs=40 or seeds=[0,1].")]

app = typer.Typer(help=HELP, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


def main(arguments: list[str] | None = None) -> None:
    """The program: exit code 0, 1 for a fault of thrifty (with traceback), 2 for one of its input (one line)."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(arguments, prog_name="thrifty")
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    """To be told to end is to be interrupted."""
    raise KeyboardInterrupt


def fail(text: str) -> typer.Exit:
    print(f"error: {one_line(text)}", file=sys.stderr, flush=True)
    return typer.Exit(USER_ERROR)


def guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb whose user's errors are one line on stderr and exit code 2."""

    @functools.wraps(verb)
    def run_verb(*args: Any, **kwargs: Any) -> None:
        from thrifty.results import user_errors

        try:
            with user_errors():
                verb(*args, **kwargs)
        except ThriftyError as error:
            raise fail(str(error)) from None
        except KeyboardInterrupt:
            raise fail("interrupted; what had finished is kept, run the same command to go on") from None

    return run_verb


def run_stages(study_name: str, overrides: list[str] | None, stages: list[str]) -> None:
    from thrifty.config import results_folder
    from thrifty.shelf import opened, resolve_study

    study = resolve_study(study_name, overrides or [])
    root = results_folder(study.name)
    if stages[0] != "search" and not root.exists():
        raise ThriftyError(f"there is no run folder {root} yet; `thrifty search` with the same study comes first")
    with opened(study) as run:
        print(mask(f"study {study.name} in {run.root}"), flush=True)
        if stages[0] in PREPARING:
            prepare_and_validate(study, run)
    for number, name in enumerate(stages, start=1):
        print(f"{name} ({number} of {len(stages)})", flush=True)
        importlib.import_module(STAGES[name]).run_stage(study, run)
    if run.report.is_file():
        print(f"report: {run.report}")


def prepare_and_validate(study: Study, run: Run) -> None:
    """
    Raises:
        ThriftyError: a mistake in the data, or one of the study that shows only with the data.
    """
    from thrifty.data.prepare import prepare
    from thrifty.preflight import validate
    from thrifty.space.schema import run_space

    validate(study, prepare(study, run), run_space(study, run))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"thrifty {thrifty.__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None: ...


@app.command()
@guarded
def run(study: StudyName, overrides: Overrides = None) -> None:
    """All stages of a study, one after the other; what is done already is skipped."""
    run_stages(study, overrides, list(STAGES))


@app.command()
@guarded
def search(study: StudyName, overrides: Overrides = None) -> None:
    """Stage 1: differentiable searches, seeds x budgets."""
    run_stages(study, overrides, ["search"])


@app.command()
@guarded
def select(study: StudyName, overrides: Overrides = None) -> None:
    """Stage 2: Optuna chooses one genotype for each budget from all searches together."""
    run_stages(study, overrides, ["select"])


@app.command()
@guarded
def retrain(study: StudyName, overrides: Overrides = None) -> None:
    """Stage 3: trains the chosen genotypes and what they are compared with, from scratch."""
    run_stages(study, overrides, ["retrain"])


@app.command()
@guarded
def evaluate(study: StudyName, overrides: Overrides = None) -> None:
    """Stage 4: measures the trained networks on the test cases."""
    run_stages(study, overrides, ["evaluate"])


@app.command()
@guarded
def report(study: StudyName, overrides: Overrides = None) -> None:
    """Stage 5: report.md with tables and pictures."""
    run_stages(study, overrides, ["report"])


@app.command()
@guarded
def check(
    study: StudyName,
    overrides: Overrides = None,
    timing: Annotated[bool, typer.Option(help="Time single steps to estimate the cost.")] = True,
) -> None:
    """Looks before anything is spent: data, space, budgets, trials, cost. Writes nothing."""
    from thrifty.check import check_study
    from thrifty.shelf import resolve_study

    check_study(resolve_study(study, overrides or []), timing)


@app.command()
@guarded
def ls() -> None:
    """Lists the shipped spaces and studies."""
    from thrifty.shelf import listing

    print(listing())


@app.command()
@guarded
def show(
    what: Annotated[str, typer.Argument(metavar="NAME|GENOTYPE.json", help="A shipped space or study, or a genotype file.")],
    svg: Annotated[Path | None, typer.Option(help="Also draw the genotype into this SVG file.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Side of the square image for which multiply-adds are counted.")] = 64,
    allow_code: Annotated[bool, typer.Option(help="Import ops of the form module:Class.")] = False,
) -> None:
    """Prints a shipped file; or the cells, path, parameters, multiply-adds and DOT text of a genotype."""
    from thrifty.shelf import show_genotype, text_of

    if Path(what).suffix == ".json":
        print(show_genotype(Path(what), svg, size, allow_code))
    elif svg is not None:
        raise ThriftyError(f"--svg draws a genotype file (.json), {what} is none")
    else:
        print(text_of(what), end="")


@app.command()
@guarded
def cp(
    name: Annotated[str, typer.Argument(help="A shipped space or study.")],
    target: Annotated[Path, typer.Argument(help="A new file, or a folder.")] = Path("."),
) -> None:
    """Copies a shipped space or study, to be changed."""
    from thrifty.shelf import copy

    print(copy(name, target))


@app.command()
@guarded
def doctor(ray: Annotated[bool, typer.Option("--ray", help="Also try whether Ray starts (some seconds).")] = False) -> None:
    """Says what this machine has."""
    from thrifty.doctor import examine

    for line in examine(ray):
        print(mask(line), flush=True)
