"""The command line: verbs that call stages. What a verb does is in the module of its name, imported when it is called."""

from __future__ import annotations

import functools
import importlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import thrifty
from thrifty.ending import INTERRUPTED, leave, terminate
from thrifty.errors import SOME_FAILED, USER_ERROR, ThriftyError, mask, one_line

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

MaxFailures = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="Go on as long as no more trials than these have failed; 0 by default."),
]

app = typer.Typer(help=HELP, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)

data = typer.Typer(help="Data sets.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(data, name="data")


def main(arguments: list[str] | None = None) -> None:
    """The program: exit code 0, 1 for a fault of thrifty (with traceback), 2 for one of its input (one line)."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(arguments, prog_name="thrifty")
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else 1)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    """To be told to end is to be interrupted."""
    terminate()
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
            raise fail(INTERRUPTED) from None

    return run_verb


def run_stages(
    study_name: str, overrides: list[str] | None, stages: list[str], max_failures: int | None, start: Path | None = None
) -> Path:
    """Returns the run folder."""
    from thrifty.shelf import resolve_study

    return run_resolved(resolve_study(study_name, bearing(overrides, max_failures)), stages, start)


def bearing(overrides: list[str] | None, max_failures: int | None) -> list[str]:
    """The overrides, with --max-failures as the key that it stands for."""
    return [*(overrides or []), *([] if max_failures is None else [f"resources.max_failed_trials={max_failures}"])]


def run_resolved(study: Study, stages: list[str], start: Path | None = None) -> Path:
    """Runs stages of a study; `start` is what `retrain` fine-tunes. Returns the run folder."""
    from thrifty.config import results_folder, results_url
    from thrifty.copies import driving

    root, url = results_folder(study.name), results_url(study.name)
    with driving(root, url):
        _run_opened(study, root, url, stages, start)
    return root


def _run_opened(study: Study, root: Path, url: str | None, stages: list[str], start: Path | None) -> None:
    from thrifty.shelf import opened

    if stages[0] != "search" and start is None and (not root.exists() or (url is not None and not any(root.iterdir()))):
        raise ThriftyError(f"there is no run folder {url or root} yet; `thrifty search` with the same study comes first")
    with opened(study) as run:
        print(mask(f"study {study.name} in {run.root if url is None else f'{url}, working copy {run.root}'}"), flush=True)
        if stages[0] in PREPARING:
            prepare_and_validate(study, run)
        elif url is not None and run.splits.is_file():
            _decode_again(study, run, needed=stages != ["report"])
        if start is not None:
            from thrifty.start import keep_start

            keep_start(run, _local(start), study.allow_code)
    for number, name in enumerate(stages, start=1):
        print(f"{name} ({number} of {len(stages)})", flush=True)
        importlib.import_module(STAGES[name]).run_stage(study, run)
    if run.report.is_file():
        print(f"report: {run.report}")
    if run.page.is_file():
        print(f"page: {run.page}")


def _decode_again(study: Study, run: Run, needed: bool) -> None:
    """The decoded data set is in no store; a report alone does without it."""
    from thrifty.data.prepare import prepare

    try:
        prepare(study, run)
    except ThriftyError as error:
        if needed:
            raise
        print(f"note: no pictures of cases, since the data set is not on this machine: {error}", flush=True)


def _local(place: Path) -> Path:
    """`place`, or what has been fetched from there where it is the URL of a part of a run folder."""
    from thrifty.storage import is_url

    if not is_url(place):
        return place
    from thrifty.copies import brought

    return brought(place)


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
def run(study: StudyName, overrides: Overrides = None, max_failures: MaxFailures = None) -> None:
    """All stages of a study, one after the other; what is done already is skipped."""
    run_stages(study, overrides, list(STAGES), max_failures)


@app.command()
@guarded
def search(
    study: StudyName,
    overrides: Overrides = None,
    profile: Annotated[bool, typer.Option("--profile", help="Measure and show where the time of the searches goes.")] = False,
    max_failures: MaxFailures = None,
) -> None:
    """Stage 1: differentiable searches, seeds x budgets."""
    overrides = [*(overrides or []), *(["resources.profile=true"] if profile else [])]
    root = run_stages(study, overrides, ["search"], max_failures)
    if profile:
        from thrifty.results import Run
        from thrifty.search.profile import profile_table

        print(profile_table(Run(root)))


@app.command()
@guarded
def select(
    study: StudyName,
    overrides: Overrides = None,
    export_optuna: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Then copy Optuna's studies into a new journal file, or to a database URL."),
    ] = None,
    max_failures: MaxFailures = None,
) -> None:
    """Stage 2: Optuna chooses one genotype for each budget from all searches together."""
    run_stages(study, overrides, ["select"], max_failures)
    if export_optuna is not None:
        export_studies(study, overrides, export_optuna)


def export_studies(study_name: str, overrides: list[str] | None, target: str) -> None:
    from thrifty.config import results_folder, results_url
    from thrifty.copies import reading
    from thrifty.optuna_export import export
    from thrifty.results import Run
    from thrifty.shelf import resolve_study

    study = resolve_study(study_name, overrides or [])
    with reading(root := results_folder(study.name), results_url(study.name)):
        names = export(Run(root), study.name, target)
    print(f"Optuna's studies {', '.join(names)} are in the storage now; optuna-dashboard shows them")


@app.command()
@guarded
def retrain(
    study: StudyName,
    overrides: Overrides = None,
    start: Annotated[Path | None, typer.Option("--from", metavar="MODEL", help="Also fine-tune this trained network.")] = None,
    max_failures: MaxFailures = None,
) -> None:
    """Stage 3: trains the chosen genotypes and what they are compared with, from scratch."""
    run_stages(study, overrides, ["retrain"], max_failures, start)


@app.command()
@guarded
def evaluate(study: StudyName, overrides: Overrides = None, max_failures: MaxFailures = None) -> None:
    """Stage 4: measures the trained networks on the test cases."""
    run_stages(study, overrides, ["evaluate"], max_failures)


@app.command()
@guarded
def report(study: StudyName, overrides: Overrides = None) -> None:
    """Stage 5: report.md with tables and pictures, and all of it as one page, index.html."""
    run_stages(study, overrides, ["report"], None)


@app.command()
@guarded
def check(
    study: StudyName,
    overrides: Overrides = None,
    timing: Annotated[bool, typer.Option(help="Time single steps to estimate the cost.")] = True,
    earlier: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run folder or URL whose spread over seeds says how many seeds are needed."),
    ] = None,
) -> None:
    """Looks before anything is spent: data, space, budgets, trials, cost. Writes nothing."""
    from thrifty.check import check_study
    from thrifty.shelf import resolve_study

    check_study(resolve_study(study, overrides or []), timing, earlier)


@app.command()
@guarded
def submit(
    study: StudyName,
    overrides: Overrides = None,
    address: Annotated[str | None, typer.Option(metavar="URL", help="Of the job server, as in http://127.0.0.1:8265.")] = None,
    data: Annotated[str | None, typer.Option(metavar="FOLDER", help="THRIFTY_DATA as it is on the cluster.")] = None,
    results: Annotated[str | None, typer.Option(metavar="FOLDER", help="THRIFTY_RESULTS as it is on the cluster.")] = None,
    follow: Annotated[bool, typer.Option(help="Show the job's log, and end with the exit code of the study.")] = True,
    max_failures: MaxFailures = None,
) -> None:
    """Runs a study as a job of a Ray cluster. Sends this folder, without data and results."""
    from thrifty.submit import job_of
    from thrifty.submit import submit as send

    code = send(job_of(study, bearing(overrides, max_failures), data, results), address, follow)
    if code:
        raise typer.Exit(code)


@app.command()
@guarded
def status(
    what: Annotated[
        str | None, typer.Argument(metavar="RUN|STUDY|JOB", help="A run folder, its URL, or a study; with --address a job.")
    ] = None,
    address: Annotated[str | None, typer.Option(metavar="URL", help="Of a job server: the state of a job, or all jobs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """How far a run is: stages, trials, best Dice by budget, hours, time left. Also while it runs; writes nothing."""
    from thrifty.status import job_status, job_text, run_status, text_of

    if address is not None:
        job = job_status(address, what)
        found, lines = job, job_text(job)
    elif what is not None:
        progress = run_status(what)
        found, lines = progress.as_json(), text_of(progress)
    else:
        raise ThriftyError("give a run folder or a study, or the --address of a job server")
    print(json.dumps(found, indent=1) if as_json else "\n".join(lines), flush=True)


@app.command()
@guarded
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a trained network, or of several: an ensemble.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Pictures, NIfTI, DICOM; files and folders.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A folder, or for a single input a file.")],
    flips: Annotated[bool, typer.Option("--flips", help="Average over mirrored images (four times the work).")] = False,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write them.")] = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Also write the entropy, 0 (sure) to 1.")] = False,
    visible: Annotated[bool, typer.Option("--visible", help="PNG to look at instead of class ids.")] = False,
    format: Annotated[str, typer.Option(help="Of DICOM inputs: seg (DICOM-SEG) or png.")] = "seg",
    axis: Annotated[int | None, typer.Option(min=0, max=2, help="Cut volumes across this axis.")] = None,
    window: Annotated[str, typer.Option(help="Of DICOM inputs, as for `data import`: none, file, or 40,400.")] = "none",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also write what is there already.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    allow_code: Annotated[bool, typer.Option(help="Import ops of the form module:Class.")] = False,
) -> None:
    """Label maps of images, in their geometry. Exit code 3 if some inputs were bad and the others are done."""
    from thrifty.predict import predict_files

    model = _local(model)
    settings = {"flips": flips, "probabilities": probabilities, "uncertainty": uncertainty, "visible": visible}
    more = {"slice_axis": axis, "window": window, "overwrite": overwrite, "device": device, "allow_code": allow_code}
    found = predict_files(model, inputs, output, format=format, **settings, **more)
    kept = f", {len(found.kept)} kept that were there already" if found.kept else ""
    print(f"{len(found.written)} written{kept}, {len(found.failed)} failed: {output}")
    if found.failed:
        raise typer.Exit(SOME_FAILED if found.written or found.kept else USER_ERROR)


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
        what = str(_local(Path(what)))
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
def export(
    model: Annotated[Path, typer.Argument(help="The folder of a trained network: RUN/retrain/<network>/seed_<s>.")],
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    formats: Annotated[str | None, typer.Option(help="Of safetensors,network,pt2,onnx,int8,monai,card; all by default.")] = None,
    calibrate: Annotated[Path | None, typer.Option(help="Images for int8; by default the run's training cases.")] = None,
    probabilities: Annotated[bool, typer.Option(help="A second output of .pt2 and ONNX.")] = False,
    license: Annotated[str | None, typer.Option(help="For the model card, as in cc-by-4.0.")] = None,
    modality: Annotated[str | None, typer.Option(help="For the model card, as in 'brain MR, T1'.")] = None,
    cpu_watts: Annotated[float | None, typer.Option(min=0, help="Of a busy core, for the energy in the model card.")] = None,
    gpu_watts: Annotated[float | None, typer.Option(min=0, help="Of a busy GPU, for the energy in the model card.")] = None,
    allow_code: Annotated[bool, typer.Option(help="Import ops of the form module:Class.")] = False,
) -> None:
    """Stage 6: a trained network as plain torch, torch.export, ONNX, int8, MONAI bundle; with a model card."""
    from thrifty.export.card import Told
    from thrifty.export.stage import export_model

    model = _local(model)
    names = None if formats is None else [name.strip() for name in formats.split(",") if name.strip()]
    told = Told(license, modality, cpu_watts, gpu_watts)
    export_model(model, output, names, told, calibrate, probabilities, allow_code)


@app.command()
@guarded
def doctor(ray: Annotated[bool, typer.Option("--ray", help="Also try whether Ray starts (some seconds).")] = False) -> None:
    """Says what this machine has."""
    from thrifty.doctor import examine

    for line in examine(ray):
        print(mask(line), flush=True)


@data.command("import")
@guarded
def import_(
    source: Annotated[Path, typer.Argument(help="A folder (DICOM, or images and masks), COCO or label-me JSON, or a CSV list.")],
    target: Annotated[Path, typer.Argument(help="A new folder: the nnU-Net v2 layout, with report.md.")],
    source_kind: Annotated[str, typer.Option("--from", help="auto, dicom, folders, coco, labelme, csv.")] = "auto",
    images: Annotated[str, typer.Option(help="Folder of the images, relative to the source.")] = "",
    masks: Annotated[str, typer.Option(help="Folder of the masks, relative to the source.")] = "",
    mask_suffix: Annotated[str, typer.Option(help="Masks lie beside their images and end in this, as in _mask.")] = "",
    unmasked: Annotated[str, typer.Option(help="Images without mask: refuse, or take as empty.")] = "refuse",
    label: Annotated[
        list[str] | None, typer.Option(metavar="VALUE=NAME", help="A class: its value in the masks, its name.")
    ] = None,
    ignore: Annotated[int | None, typer.Option(min=1, help="Mask value of pixels that count for nothing.")] = None,
    overlaps: Annotated[str, typer.Option(help="Overlapping objects: the later wins, or regions (nnU-Net).")] = "later",
    window: Annotated[str, typer.Option(help="DICOM: none, file, or centre,width as in 40,400.")] = "none",
    slices: Annotated[bool, typer.Option("--slices", help="Write the slices of volumes as pictures.")] = False,
    segment_labels: Annotated[bool, typer.Option("--segment-labels", help="DICOM-SEG: name classes by its free text.")] = False,
    patient: Annotated[str, typer.Option(help="Regular expression with one group: the patient in an image's path.")] = "",
    names: Annotated[str, typer.Option(help="Of cases and patients: number, hash (patients; with --salt), or keep.")] = "number",
    salt: Annotated[Path | None, typer.Option(help="File of secret bytes for --names hash.")] = None,
    key: Annotated[Path | None, typer.Option(help="Write the way back from names to the source here. Keep it secret.")] = None,
) -> None:
    """Images and masks of many formats into the nnU-Net v2 layout. Exit code 3 where some were refused, 2 where all were."""
    from thrifty.data.importing.run import import_data, lines
    from thrifty.data.importing.verb import wishes_of

    wishes = wishes_of(
        source_kind=source_kind,
        images=images,
        masks=masks,
        mask_suffix=mask_suffix,
        unmasked=unmasked,
        labels=label or [],
        ignore=ignore,
        overlaps=overlaps,
        window=window,
        slices=slices,
        segment_labels=segment_labels,
        patient=patient,
        names=names,
        salt=salt,
    )
    outcome = import_data(source, target, wishes, key, warn=functools.partial(print, file=sys.stderr, flush=True))
    print("\n".join(lines(outcome, target)))
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
