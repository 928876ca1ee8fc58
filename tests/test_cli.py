"""The program as a user meets it: exit codes, single lines of error, nothing half-written, quick help."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import thrifty
from thrifty import cli
from thrifty import results as results_module
from thrifty.errors import ThriftyError
from thrifty.results import read_jsonl, write_file, write_text

Call = Callable[..., tuple[int, str, str]]
STUDY = {
    "name": "mini",
    "space": "tiny",
    "budgets": 6000,
    "seeds": 1,
    "data": {"patch": 32, "phantoms": {"cases": 16, "patients": 8, "size": 32, "classes": 2}},
    "search": {"epochs": 40, "steps": 4, "batch": 2, "warmup": 1},
}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """`call(arguments...)` is (exit code, stdout, stderr) of the program."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def study(tmp_path: Path, results: Path) -> str:
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return str(path)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable], None]:
    """`stage(function)` makes every stage that function of (study, run)."""

    def put(function: Callable) -> None:
        monkeypatch.setitem(sys.modules, "a_stage", types.SimpleNamespace(run_stage=function))  # pyrefly: ignore
        monkeypatch.setattr(cli, "STAGES", dict.fromkeys(cli.STAGES, "a_stage"))

    return put


def one_line_error(code: int, err: str) -> str:
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_version_and_help(call: Call) -> None:
    assert call("--version") == (0, f"thrifty {thrifty.__version__}\n", "")
    code, out, _ = call("--help")
    assert code == 0
    stages = ("run", "search", "select", "retrain", "evaluate", "report")
    for verb in (*stages, "check", "submit", "predict", "export", "data", "ls", "show", "cp", "doctor"):
        assert f"  {verb} " in out


def test_importing_the_program_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'optuna', 'monai', 'kornia', 'matplotlib', 'sklearn', 'skimage', 'scipy', 'nibabel', 'numpy'}"
    code = f"import sys, thrifty.cli; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_python_m_is_the_same_program() -> None:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        ran = subprocess.run([sys.executable, "-m", "thrifty", "--help"], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - start)
    assert ran.stdout.startswith("Usage: thrifty") and best < 1.0


def test_run_calls_every_stage_in_order_with_one_study(call: Call, study: str, results: Path, stage: Callable) -> None:
    seen = []
    stage(lambda read, run: seen.append((read.search.epochs, run.root)))
    code, out, err = call("run", study, "search.epochs=7")
    assert (code, err) == (0, "") and seen == [(7, results / "mini")] * 5
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["search", "select", "retrain", "evaluate", "report"]
    assert yaml.safe_load((results / "mini" / "run.yaml").read_text())["search"]["epochs"] == 7
    assert (results / "mini" / "env.json").is_file()
    for verb in cli.STAGES:
        assert call(verb, study, "search.epochs=7")[0] == 0
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "no/such.yaml"], "no such file: no/such.yaml"),
        (["search", "demmo"], "there is no study 'demmo'"),
        (["check", "no/such.yaml"], "no such file"),
        (["show", "tinny"], "did you mean 'tiny'?"),
        (["show", "absent.json"], "absent.json"),
        (["show", "tiny", "--svg", "a.svg"], "--svg draws a genotype file"),
        (["cp", "tinny"], "did you mean 'tiny'?"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(call: Call, results: Path, arguments: list[str], words: str) -> None:
    code, out, err = call(*arguments)
    assert words in one_line_error(code, err) and out == "" and not results.exists()


@pytest.mark.parametrize("arguments", [["nonsense"], ["run"], ["show", "tiny", "--size", "0"], ["run", "a.yaml", "--fast"]])
def test_usage_errors_exit_2(call: Call, arguments: list[str]) -> None:
    code, _, err = call(*arguments)
    assert code == 2 and "Traceback" not in err and err


def test_all_mistakes_of_a_study_are_told_at_once_and_nothing_is_written(call: Call, study: str, results: Path) -> None:
    code, _, err = call("run", study, "serch.epochs=1", "retrain.epoch=2", "seeds=few", "nothing")
    assert "'nothing' is no override" in one_line_error(code, err)
    code, _, err = call("run", study, "serch.epochs=1", "retrain.epoch=2", "seeds=few")
    text = one_line_error(code, err)
    assert "did you mean 'search'?" in text and "did you mean 'epochs'?" in text and "'few'" in text
    assert not results.exists()


def test_mistakes_of_a_space_are_told_before_anything_is_written(call: Call, study: str, results: Path, tmp_path: Path) -> None:
    code, _, err = call("run", study, "space=tinny")
    assert "there is no space 'tinny'; did you mean 'tiny'?" in one_line_error(code, err)
    own = tmp_path / "own.yaml"
    values = yaml.safe_load((Path(cli.__file__).parent.parent / "search_spaces" / "tiny.yaml").read_text())
    own.write_text(yaml.safe_dump({**values, "nods": 2, "ops": {**values["ops"], "up": ["nonsense"]}}))
    code, _, err = call("run", study, f"space={own}")
    text = one_line_error(code, err)
    assert "'nods'" in text and "did you mean 'nodes'?" in text and str(own) in text
    assert not results.exists()


def test_bad_data_leave_nothing_and_the_corrected_study_is_accepted(
    call: Call, study: str, results: Path, stage: Callable
) -> None:
    stage(lambda read, run: None)
    code, _, err = call("run", study, "data.source=nowhere")
    assert "nowhere" in one_line_error(code, err) and not results.exists()
    assert call("run", study)[0] == 0 and (results / "mini" / "splits.json").is_file()


def test_a_budget_too_small_leaves_nothing_of_its_own(call: Call, study: str, results: Path, stage: Callable) -> None:
    stage(lambda read, run: None)
    (results / "other").mkdir(parents=True)
    code, _, err = call("search", study, "budgets=50")
    text = one_line_error(code, err)
    assert "below the smallest network" in text and "too small for a scaled U-Net" in text
    assert list(results.iterdir()) == [results / "other"]
    genotype = results / "mini" / "genotype_50.json"
    genotype.parent.mkdir()
    genotype.write_text("{}")
    one_line_error(*call("retrain", study, "budgets=50")[::2])
    assert list(genotype.parent.iterdir()) == [genotype], "what the user put there stays"
    assert call("search", study)[0] == 0


def test_a_run_that_has_begun_is_kept_whatever_is_asked_of_it(call: Call, study: str, results: Path, stage: Callable) -> None:
    stage(lambda read, run: None)
    assert call("search", study)[0] == 0
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    one_line_error(*call("search", study, "resources.device=cuda", "resources.gpus_per_trial=0")[::2])
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}


def test_a_failure_or_an_interrupt_after_the_start_keeps_the_run(call: Call, study: str, results: Path, stage: Callable) -> None:
    for end in (ThriftyError("2 of 3 trials failed"), KeyboardInterrupt()):

        def stop(read: object, run: object, end: BaseException = end) -> None:
            raise end

        stage(stop)
        one_line_error(*call("search", study)[::2])
        assert (results / "mini" / "run.yaml").is_file() and (results / "mini" / "data").is_dir()


@pytest.mark.parametrize("verb", ["select", "retrain", "evaluate", "report"])
def test_a_later_stage_alone_makes_no_run_folder(call: Call, study: str, results: Path, verb: str) -> None:
    code, _, err = call(verb, study)
    assert "there is no run folder" in one_line_error(code, err) and not results.exists()


def test_the_results_folder_of_another_study_is_refused(call: Call, study: str, results: Path, stage: Callable) -> None:
    stage(lambda read, run: None)
    assert call("search", study)[0] == 0
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    code, _, err = call("search", study, "search.epochs=3")
    assert "holds another study: search.epochs was 40, now 3" in one_line_error(code, err)
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert call("search", study, "resources.concurrent=1")[0] == 0, "where it runs may change"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full: free some space, then run the same command to go on"),
        (errno.EACCES, "no permission to write there: set THRIFTY_RESULTS"),
        (errno.EROFS, "read-only"),
    ],
)
def test_a_disk_that_refuses_is_one_line_and_leaves_nothing_half_written(
    call: Call, study: str, results: Path, stage: Callable, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    stage(lambda read, run: write_text(run.candidates, "a" * 100))
    assert call("search", study)[0] == 0
    candidates = results / "mini" / "candidates.jsonl"
    candidates.write_text("whole")
    monkeypatch.setattr(results_module.os, "fsync" if number == errno.ENOSPC else "replace", refuse)
    code, _, err = call("search", study)
    assert words in one_line_error(code, err) and str(results) in err
    assert candidates.read_text() == "whole" and not list(results.rglob("*.part"))


def test_no_permission_for_the_results_folder_is_one_line(
    call: Call, study: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *arguments: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    code, _, err = call("run", study)
    assert "no permission to write there: set THRIFTY_RESULTS" in one_line_error(code, err) and not results.exists()


def test_results_below_a_file_is_one_line(call: Call, study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRIFTY_RESULTS", study)
    code, _, err = call("run", study)
    assert "a file stands where a folder is needed" in one_line_error(code, err)


def test_a_real_full_disk_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    full = Path("/dev/full")
    with (
        pytest.raises(ThriftyError, match="the disk is full"),
        results_module.user_errors(full),
        full.open("wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_text(path, "old")

    def stop(file: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, stop)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A program started in the background ignores SIGINT, and its children with it: the tests too, where they are run so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_says_how_to_go_on(call: Call, study: str, stage: Callable) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        stage(lambda read, run, number=number: os.kill(os.getpid(), number))
        code, _, err = call("run", study)
        assert "run the same command to go on" in one_line_error(code, err)


def test_a_fault_of_the_program_keeps_its_traceback(study: str, stage: Callable) -> None:
    def broken(read: object, run: object) -> None:
        raise ZeroDivisionError("a bug")

    stage(broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", study])


def test_show_and_cp_and_ls(call: Call, tmp_path: Path) -> None:
    shown = call("show", "tiny")
    assert shown[0] == 0 and yaml.safe_load(shown[1])["name"] == "tiny"
    assert call("cp", "tiny", str(tmp_path))[0] == 0 and (tmp_path / "tiny.yaml").read_text() == shown[1]
    one_line_error(*call("cp", "tiny", str(tmp_path))[::2])
    assert "search_spaces (space):" in call("ls")[1]


@pytest.mark.faults
def test_ctrl_c_during_a_search_exits_2_and_the_search_can_go_on(study: str, results: Path) -> None:
    """As from a terminal: SIGINT to the whole process group, Ray's processes included."""
    command = [sys.executable, "-W", "error", "-m", "thrifty", "search", study]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    limit = time.monotonic() + 240
    while not any(len(read_jsonl(path)) >= 2 for path in results.glob("mini/search/*/epochs.jsonl")):
        assert started.poll() is None and time.monotonic() < limit, started.communicate()
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=120)
    text = one_line_error(started.returncode, err)
    assert "interrupted: 0 of 1 trials of search are done; run the same command to go on" in text
    assert "stopping; finished trials and the newest checkpoints are kept" in out
    (folder,) = results.glob("mini/search/*/")
    assert (folder / "checkpoint.pt").is_file() and not (folder / "result.json").exists()
    assert not list(folder.glob(".*.part"))
    before = read_jsonl(folder / "epochs.jsonl")
    assert 2 <= len(before) < 40
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (again.returncode, again.stderr) == (0, "")
    assert (folder / "result.json").is_file() and (results / "mini" / "candidates.jsonl").is_file()
    after = read_jsonl(folder / "epochs.jsonl")
    assert len(after) == 40 and after[: len(before)] == before, "with the seconds they took then: they were not done again"
