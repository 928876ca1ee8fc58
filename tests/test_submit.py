"""`thrifty submit`: what is sent, what is refused, and whose exit code it ends with. The server is a stand-in here; a real
cluster is in tests/test_submit_long.py."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml
from small_study import BUDGET, DATA

from thrifty import cli, submit
from thrifty.config import results_folder
from thrifty.errors import ThriftyError
from thrifty.submit import EXCLUDES, address_of, client_of, job_of, upload_lines, upload_of

REPOSITORY = Path(__file__).resolve().parent.parent
STUDY = {"name": "small", "space": "tiny", "budgets": [BUDGET], "data": DATA}
JUNK = ("data/case/image.png", "results/run/checkpoint.pt", ".venv/lib/big.so", ".git/objects/ab", "secret/key.txt")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a study, a module that is called like what is left out, and much that no job needs."""
    for variable in ("THRIFTY_DATA", "THRIFTY_RESULTS", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    root = tmp_path / "work"
    for name in (*JUNK, "own/data/module.py", "tune_runs/small.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 1000)
    (root / "tune_runs" / "small.yaml").write_text(yaml.safe_dump(STUDY))
    (root / ".gitignore").write_text("secret/\n")
    monkeypatch.chdir(root)
    return root


def test_what_is_sent_is_what_ray_packs(folder: Path, tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), tmp_path / "a.zip", True, excludes=[".git", ".venv", "venv", "__pycache__", *EXCLUDES])
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        sizes = {Path(item.filename): item.file_size for item in packed.infolist()}
    assert upload_of(folder).files == sizes
    assert sorted(map(str, sizes)) == [".gitignore", "own/data/module.py", "tune_runs/small.yaml"]


def test_folders_of_data_and_results_of_other_names_are_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("my images [1]", "!runs", "my images 1"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    monkeypatch.setenv("THRIFTY_DATA", "my images [1]")
    monkeypatch.setenv("THRIFTY_RESULTS", str(folder / "!runs"))
    top = {path.parts[0] for path in upload_of(folder).files}
    assert top == {".gitignore", "own", "tune_runs", "my images 1"}
    monkeypatch.setenv("THRIFTY_DATA", str(folder))
    assert Path("tune_runs/small.yaml") in upload_of(folder).files, "the working folder itself is sent all the same"


def test_the_upload_of_this_repository_is_small_and_whole() -> None:
    """Its .rayignore is for `ray job submit --working-dir .`, so it must do without EXCLUDES."""
    sent = upload_of(REPOSITORY, [])
    assert {Path("thrifty/data/prepare.py"), Path("tune_runs/demo.yaml"), Path("search_spaces/tiny.yaml")} <= sent.files.keys()
    assert {path.parts[0] for path in sent.files}.isdisjoint({"data", "results", ".venv", ".git", "tests"})
    assert sent.fits and sent.size_bytes < 5 * 2**20


def test_check_says_the_size_and_what_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum((folder / name).stat().st_size for name in (".gitignore", "own/data/module.py", "tune_runs/small.yaml"))
    monkeypatch.setattr(submit, "LIMIT_BYTES", size)
    one, two = upload_lines(folder)
    assert one.startswith(f"upload: 0.0 MiB in 3 files of {folder}, ")
    assert "`ray job submit --working-dir .` would send too much (" in two and "results (0.0 MiB)" in two and ".rayignore" in two
    (folder / ".rayignore").write_text("/data\n/results\n")
    monkeypatch.setattr(submit, "LIMIT_BYTES", size + 15)
    assert len(list(upload_lines(folder))) == 1
    monkeypatch.setattr(submit, "LIMIT_BYTES", size + 14)
    assert "too large to submit (own (0.0 MiB), tune_runs" in list(upload_lines(folder))[1]
    monkeypatch.setattr(submit, "MANY_FILES", 2)
    assert "more than 2 files" in next(iter(upload_lines(folder)))


def test_a_job_names_the_study_its_changes_and_the_clusters_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRIFTY_DATA", "/here")
    monkeypatch.setenv("SECRET", "s3cr3t")
    job = job_of("tune_runs/small.yaml", ["seeds=[0, 1]"], data="/mnt/data")
    assert job.entrypoint == "python -m thrifty run tune_runs/small.yaml 'seeds=[0, 1]'"
    assert job.runtime_env["env_vars"] == {"THRIFTY_DATA": "/mnt/data"} and job.runtime_env["working_dir"] == str(folder)
    assert set(EXCLUDES) <= set(job.runtime_env["excludes"]) and "s3cr3t" not in str(job)
    assert job.metadata == {"thrifty_study": "small"}
    assert job_of(str(folder / "tune_runs" / "small.yaml")).entrypoint.endswith("run tune_runs/small.yaml")
    assert job_of("demo", results="/r").entrypoint == "python -m thrifty run demo"


def test_jobs_that_could_not_run_are_refused_here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside.yaml"
    outside.write_text(yaml.safe_dump(STUDY))
    (folder / "secret" / "s.yaml").write_text(yaml.safe_dump(STUDY))
    for arguments, words in [
        ((outside,), "lies outside the working folder"),
        (("secret/s.yaml",), "would not be sent: .gitignore or .rayignore names it"),
        (("tune_runs/small.yaml", ["space=secret/own.yaml"]), "secret/own.yaml would not be sent"),
        (("tune_runs/small.yaml", ["seed=1"]), "did you mean 'seeds'?"),
        (("demmo",), "there is no study 'demmo'"),
        (("demo", [], "s3://me:pw@host/data"), "THRIFTY_DATA has a user name or password"),
    ]:
        with pytest.raises(ThriftyError) as caught:
            job_of(str(arguments[0]), *arguments[1:])
        assert words in str(caught.value) and "pw" not in str(caught.value)
    monkeypatch.setattr(submit, "LIMIT_BYTES", 1000)
    with pytest.raises(ThriftyError, match=r"the upload is too large: .* the largest are own \(0.0 MiB\), tune_runs"):
        job_of("demo")


def test_the_address_is_as_given_or_by_rays_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    assert address_of(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert address_of(None) == "http://127.0.0.1:8265", "that is no job server"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265/")
    assert address_of(None) == "http://head:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://head")
    assert address_of(None) == "https://head" and address_of("http://other:1") == "http://other:1"
    for bad in ("ray://head:10001", "head:8265", "http://", "http://head:port", "http://head:0"):
        with pytest.raises(ThriftyError, match="is no address of a job server"):
            address_of(bad)


def test_no_server_and_no_client_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ThriftyError, match=r"^no job server answers at http://127.0.0.1:1 \(.*refused.*\); give --address"):
        client_of("http://127.0.0.1:1")
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    monkeypatch.setitem(sys.modules, "aiohttp", None)  # pyrefly: ignore
    with pytest.raises(ThriftyError, match=r"pip install 'thrifty\[cluster\]'"):
        client_of(f"http://127.0.0.1:{server.server_port}")
    server.server_close()


class Server(BaseHTTPRequestHandler):
    """A job server that answers every request alike, after its version."""

    status: ClassVar[int] = 200
    seen: ClassVar[list[str]] = []

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append(f"{self.command} {self.path}")
        fine = self.path == "/api/version" and self.status != 401
        body = json.dumps({"version": "4", "ray_version": "2.60.0"} if fine else {}).encode()
        self.send_response(200 if fine else self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *arguments: object) -> None: ...


@pytest.mark.parametrize(
    ("status", "words"), [(413, "too large for the job server"), (500, "refused"), (401, "wants a token: .*RAY_AUTH_MODE=token")]
)
def test_what_the_server_refuses_is_one_line(
    folder: Path, status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setattr(Server, "status", status)
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ThriftyError, match=words) as caught:
            submit.submit(job_of("tune_runs/small.yaml"), f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "\n" not in str(caught.value) and capsys.readouterr().out == ""


class Client:
    """A job server's client whose job prints a line and ends as it is told to."""

    def __init__(self, status: str, code: int | None, broken: BaseException | None = None) -> None:
        self.status, self.code, self.broken, self.asked = status, code, broken, 0

    def submit_job(self, **job: Any) -> str:
        self.job = job
        return "raysubmit_1"

    async def tail_job_logs(self, number: str) -> AsyncIterator[str]:
        yield "search (1 of 5)\nread s3://me:pw@host\n"
        if self.broken:
            raise self.broken

    def get_job_info(self, number: str) -> SimpleNamespace:
        from ray.job_submission import JobStatus

        self.asked += 1
        status = JobStatus(self.status) if self.asked > 1 else JobStatus.RUNNING
        return SimpleNamespace(status=status, driver_exit_code=self.code, message="no such package\n(pip)")


class Young(Client):
    """Of a cluster that has just started: the first `times` jobs are refused."""

    def __init__(self, times: int, words: str) -> None:
        super().__init__("SUCCEEDED", 0)
        self.times, self.words = times, words

    def submit_job(self, **job: Any) -> str:
        self.times -= 1
        if self.times >= 0:
            raise RuntimeError(f"Request failed with status code 500: {self.words}.")
        return super().submit_job(**job)


Ends = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ends(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ends:
    """`ends(client, options...)` is (exit code, stdout, stderr) of `thrifty submit`."""

    def call(client: Client, *options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(submit, "client_of", lambda place: client)
        monkeypatch.setattr(submit, "POLL_SECONDS", 0.0)
        with pytest.raises(SystemExit) as ended:
            cli.main(["submit", "tune_runs/small.yaml", *options])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.mark.parametrize(
    ("status", "code", "end"), [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 1, 1), ("FAILED", -9, 137)]
)
def test_the_exit_code_is_that_of_the_study(ends: Ends, status: str, code: int, end: int) -> None:
    found, out, err = ends(Client(status, code))
    assert found == end and "search (1 of 5)\nread s3://***@host\n" in out
    assert f"job raysubmit_1: exit code {code}" in (err if code else out)


def test_jobs_that_were_stopped_or_never_began_say_so(ends: Ends) -> None:
    code, _, err = ends(Client("STOPPED", None))
    assert code == 2 and err == "error: the job raysubmit_1 was stopped; what had finished is kept, submit again to go on\n"
    code, _, err = ends(Client("FAILED", None))
    assert code == 2 and err == "error: the job raysubmit_1 ended before thrifty could: no such package (pip)\n"


def test_a_log_that_breaks_off_is_no_end_and_an_interrupt_leaves_the_job(ends: Ends) -> None:
    code, _, err = ends(Client("FAILED", 2, RuntimeError("closed unexpectedly")))
    assert code == 2 and err.startswith("the log of raysubmit_1 broke off (closed unexpectedly); waiting for its end\n")
    code, _, err = ends(Client("RUNNING", None, KeyboardInterrupt()))
    assert code == 2 and "no longer followed, the job raysubmit_1 goes on: `ray job logs raysubmit_1`" in err


def test_a_job_that_is_not_followed_is_only_sent(ends: Ends) -> None:
    client = Client("RUNNING", None)
    code, out, err = ends(client, "seeds=1", "--no-follow", "--results", "/mnt/r")
    assert (code, err, client.asked) == (0, "", 0) and out.startswith("job raysubmit_1 at http://127.0.0.1:8265 (")
    assert client.job["runtime_env"]["env_vars"] == {"THRIFTY_RESULTS": "/mnt/r"} and client.job["entrypoint"].endswith(
        " seeds=1"
    )


def test_results_of_a_job_do_not_lie_in_the_copy_that_ray_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THRIFTY_RESULTS", raising=False)
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", "/home/me")
    assert results_folder("a") == Path("/home/me/thrifty_results/a")
    monkeypatch.chdir(tmp_path)
    assert results_folder("a") == tmp_path / "results" / "a"


def test_a_cluster_that_takes_no_jobs_yet_is_asked_again(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.0)
    assert ends(Young(2, "No available agent to submit job, please try again later"))[0] == 0
    code, _, err = ends(Young(1, "no space left"))
    assert code == 2 and "no space left" in err
    monkeypatch.setattr(submit, "AGENT_SECONDS", -1.0)
    code, _, err = ends(Young(1, "No available agent to submit job, please try again later"))
    assert code == 2 and "no available agent" in err and "--dashboard-agent-listen-port" in err
