"""Results at a URL, against an S3-compatible server on loopback: files, their manifests, damage, the lock, errors. No Ray."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_store import BUCKET, change, cut, filesystem, flip, names, s3_server
from small_study import small_study

from thrifty import checkpoint, copies, results, storage, storage_lock
from thrifty.config import results_folder, results_url
from thrifty.copies import Copy, attach, brought, driving, here, reading, refreshed
from thrifty.errors import ThriftyError
from thrifty.results import Trial, append_jsonl, check_run, open_run, read_json, read_jsonl, remove, write_json, write_text
from thrifty.storage import Storage, clean_url, is_url, working_copy

Damage = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as variables:
        yield variables


@pytest.fixture(autouse=True)
def _no_copies() -> Iterator[None]:
    yield
    copies._copies.clear()


@pytest.fixture
def url(server: dict[str, str], request: pytest.FixtureRequest) -> str:
    """A place of its own for each test."""
    return f"{BUCKET}/{abs(hash(request.node.name))}/run"


@pytest.fixture
def machines(tmp_path: Path) -> Callable[[str], Path]:
    """The working copy of a machine, by its name."""
    return lambda name: tmp_path / name / "run"


@pytest.mark.usefixtures("server")
def test_what_one_machine_writes_another_finds_and_what_it_removes_is_gone(url: str, machines: Callable[[str], Path]) -> None:
    first, second = machines("first"), machines("second")
    attach(first, url)
    write_json(first / "run.yaml", {"name": "x"})
    write_text(first / "select" / "why.md", "because")
    append_jsonl(first / "select" / "evaluations.jsonl", [{"a": 1}])
    append_jsonl(first / "select" / "evaluations.jsonl", [{"a": 2}])
    write_text(first / "env.json", "gone soon")
    remove(first / "env.json")
    (first / "data").mkdir()
    (first / "data" / "images.bin").write_bytes(b"stays here")
    Copy(second, url).sync()
    found = {path.relative_to(second).as_posix() for path in second.rglob("*") if path.is_file()}
    assert found == {"run.yaml", "select/why.md", "select/evaluations.jsonl"}
    assert read_jsonl(second / "select" / "evaluations.jsonl") == [{"a": 1}, {"a": 2}]
    assert names(url) == found | {".files.json", "select/.files.json"}
    age = Storage(url).age_seconds("run.yaml")
    assert age is not None and age < 300 and Storage(url).age_seconds("nothing") is None
    rows = json.loads(filesystem().cat_file(f"{url}/.files.json"))
    assert rows["schema"] == 1 and rows["files"]["run.yaml"][0]["bytes"] == (first / "run.yaml").stat().st_size


@pytest.mark.usefixtures("server")
def test_a_stale_working_copy_becomes_that_of_the_store_and_keeps_only_its_data(
    url: str, machines: Callable[[str], Path]
) -> None:
    stale, other = machines("stale"), machines("other")
    attach(stale, url)
    own = ("data/index.json", "evaluate/transfer_data/index.json")
    for name in ("run.yaml", "search/a/checkpoint.pt", "search/a/epochs.jsonl", *own):
        if name in own:
            (stale / name).parent.mkdir(parents=True)
            (stale / name).write_text("{}")
        else:
            write_text(stale / name, "old")
    copies._copies.clear()
    attach(other, url).sync()
    write_text(other / "run.yaml", "new")
    remove(other / "search/a/checkpoint.pt")
    write_text(other / "search/a/result.json", "{}")
    (stale / "search/a/unpublished.json").write_text("{}")
    attach(stale, url).sync()
    found = {path.relative_to(stale).as_posix(): path.read_text() for path in stale.rglob("*") if path.is_file()}
    ours = {"run.yaml": "new", "search/a/epochs.jsonl": "old", "search/a/result.json": "{}"}
    assert found == {**ours, **dict.fromkeys(own, "{}")}


def test_a_run_that_was_removed_from_the_store_begins_anew_on_a_machine_that_had_it(
    tmp_path: Path, machines: Callable[[str], Path]
) -> None:
    store = tmp_path / "store"
    url, root = f"file://{store}/run", machines("here")
    with driving(root, url):
        open_run(root, small_study())
        for name in ("driver.lock", "search/.tune/a/raised", "data/index.json", "evaluate/transfer_data/index.json", ".x.part"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("x")
        another = pytest.raises(ThriftyError, match=rf"^{url} holds another study: seeds")
        with another:
            check_run(root, small_study(seeds=[7]))
    with reading(root, url) as begun:
        assert begun
    shutil.rmtree(store)
    with reading(root, url) as begun:
        assert not begun and (root / "run.yaml").is_file(), "what a reader finds here is of the run before"
    (root / "genotype_3000.json").write_text("put there for the new run")
    with driving(root, url):
        assert [path.name for path in root.iterdir()] == ["genotype_3000.json"]
        open_run(root, small_study(seeds=[7]))
        write_text(root / "other.txt", "x")
        (root / "run.yaml").unlink()
        with pytest.raises(ThriftyError, match=rf"^{url} is not empty and holds no run.yaml"):
            check_run(root, small_study())


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("damage", [cut, flip, lambda data: b""], ids=["cut", "flipped", "empty"])
def test_a_file_that_is_not_whole_is_not_seen(
    url: str, machines: Callable[[str], Path], damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    attach(machines("first"), url)
    write_text(machines("first") / "run.yaml", "whole")
    write_text(machines("first") / "search" / "a" / "result.json", json.dumps({"dice": 0.5}))
    change(f"{url}/search/a/result.json", damage)
    second = machines("second")
    Copy(second, url).sync()
    assert (second / "run.yaml").is_file() and not (second / "search" / "a").exists()
    assert f"{url}/search/a/result.json is not what was written there (cut or changed)" in capsys.readouterr().err


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("lost", [False, True], ids=["cut", "lost"])
def test_a_working_copy_that_is_whole_mends_the_store(url: str, machines: Callable[[str], Path], lost: bool) -> None:
    """As after a kill between the manifest and its object."""
    attach(machines("first"), url)
    write_text(machines("first") / "search" / "a" / "result.json", "whole")
    if lost:
        filesystem().rm_file(f"{url}/search/a/result.json")
    else:
        change(f"{url}/search/a/result.json", cut)
    Copy(machines("first"), url).sync()
    assert (machines("first") / "search" / "a" / "result.json").read_text() == "whole"
    assert filesystem().cat_file(f"{url}/search/a/result.json") == b"whole"


@pytest.mark.usefixtures("server")
def test_an_object_that_no_manifest_lists_is_not_seen(url: str, machines: Callable[[str], Path]) -> None:
    filesystem().pipe_file(f"{url}/search/a/result.json", b"{}")
    Copy(machines("any"), url).sync()
    assert not machines("any").exists() or not list(machines("any").rglob("*.json"))


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("calls", range(4))
def test_a_writer_killed_at_any_request_leaves_the_old_file_or_the_new_one(
    url: str, machines: Callable[[str], Path], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint takes four requests: the manifest read, then written, a copy, the object."""
    trial = Trial(machines("first") / "search" / "a")
    attach(machines("first"), url)
    checkpoint.save(trial, checkpoint.encode({"epoch": 0}), 0)
    checkpoint.save(trial, checkpoint.encode({"epoch": 1}), 1)
    copies._copies.clear()
    copy = attach(machines("first"), url)
    count = iter(range(10))

    def dies(action: Callable[[], object], *more: object) -> object:
        if next(count) == calls:
            raise KeyboardInterrupt
        return action()

    monkeypatch.setattr(storage, "patiently", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(trial, checkpoint.encode({"epoch": 2}), 2)
    monkeypatch.undo()
    assert copy is copies.copy_of(trial.folder)
    other = Trial(machines("second") / "search" / "a")
    attach(machines("second"), url).sync()
    assert checkpoint.newest(other) == ({"epoch": 1}, [])
    checkpoint.save(other, checkpoint.encode({"epoch": 2}), 2)
    checkpoint.save(other, checkpoint.encode({"epoch": 3}), 3)
    last = Trial(machines("third") / "search" / "a")
    attach(machines("third"), url).sync()
    assert checkpoint.newest(last) == ({"epoch": 3}, [])
    last.checkpoint.unlink()
    assert checkpoint.newest(last) == ({"epoch": 2}, [])


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    url: str, machines: Callable[[str], Path], damage: Damage
) -> None:
    trial = Trial(machines("first") / "search" / "a")
    attach(machines("first"), url)
    for epoch in range(3):
        checkpoint.save(trial, checkpoint.encode({"epoch": epoch}), epoch)
    change(f"{url}/search/a/checkpoint.pt", damage)
    other = Trial(machines("second") / "search" / "a")
    attach(machines("second"), url).sync()
    content, warnings = checkpoint.newest(other)
    assert content == {"epoch": 1} and len(warnings) == 1 and warnings[0].startswith("checkpoint.pt is damaged")
    checkpoint.save(other, checkpoint.encode({"epoch": 2}), 2)
    assert checkpoint.newest(other) == ({"epoch": 2}, [])
    other.drop_checkpoints()
    assert names(url) == set(), "a finished trial leaves no checkpoint objects"
    filesystem().pipe_file(f"{url}/search/a/checkpoint.pt", b"left by a writer that was killed")
    filesystem().pipe_file(f"{url}/search/a/notes.txt", b"of a user")
    with driving(machines("third"), url):
        assert names(url) == {"search/a/notes.txt", "driver.lock"}


@pytest.mark.usefixtures("server")
def test_weights_are_fetched_where_they_are_needed_and_refused_where_they_are_damaged(
    url: str, machines: Callable[[str], Path]
) -> None:
    attach(machines("first"), url)
    write_text(machines("first") / "retrain" / "x" / "weights.safetensors", "numbers")
    second = machines("second") / "retrain" / "x" / "weights.safetensors"
    attach(machines("second"), url)
    refreshed(machines("second"))
    assert not second.exists()
    assert here(second).read_text() == "numbers"
    change(f"{url}/retrain/x/weights.safetensors", flip)
    third = attach(machines("third"), url).root / "retrain" / "x" / "weights.safetensors"
    assert not here(third).exists()
    assert here(machines("third").parent / "elsewhere") == machines("third").parent / "elsewhere"


DRIVER = """
import sys
from pathlib import Path
from thrifty.copies import driving
from thrifty.results import write_text
with driving(Path(sys.argv[1]), sys.argv[2]):
    write_text(Path(sys.argv[1]) / "run.yaml", "x")
    print("held", flush=True)
    sys.stdin.readline()
"""


def start_driver(folder: Path, url: str) -> subprocess.Popen[str]:
    """A driver in a process of its own."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", DRIVER, str(folder), url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.usefixtures("server")
def test_a_second_driver_is_refused_by_name_and_a_dead_one_is_replaced(url: str, machines: Callable[[str], Path]) -> None:
    process = start_driver(machines("first"), url)
    refused = pytest.raises(ThriftyError, match=rf"^{url} is in use by process {process.pid} on \S+: wait until")
    with refused, driving(machines("second"), url):
        pass
    assert not machines("second").exists()
    process.kill()
    process.communicate()
    with driving(machines("second"), url):
        assert (machines("second") / "run.yaml").read_text() == "x"
        assert json.loads(filesystem().cat_file(f"{url}/driver.lock"))["process"] == os.getpid()
    assert "driver.lock" not in names(url)


@pytest.mark.usefixtures("server")
def test_a_driver_of_another_machine_is_watched_and_its_beat_decides(
    url: str, machines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage_lock, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(storage_lock, "WATCH_SECONDS", 0.5)
    lock = {"process": 7, "host": "elsewhere", "machine": "other", "token": "abc", "beat": 0}
    filesystem().pipe_file(f"{url}/driver.lock", json.dumps(lock).encode())
    ended = threading.Event()

    def beat() -> None:
        system, number = filesystem(), 0
        while not ended.wait(0.1):
            number += 1
            system.pipe_file(f"{url}/driver.lock", json.dumps(lock | {"beat": number}).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ThriftyError, match="in use by process 7 on elsewhere"), driving(machines("here"), url):
            pass
    finally:
        ended.set()
        thread.join()
    with driving(machines("here"), url):
        assert json.loads(filesystem().cat_file(f"{url}/driver.lock"))["process"] == os.getpid()
    assert "waiting up to 0.5 seconds to see whether it lives" in capsys.readouterr().err


def test_a_driver_that_takes_over_a_dead_one_first_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two watch the same dead driver, and the other one is faster."""
    lock, body = Storage(f"file://{tmp_path}/store/run"), storage_lock.Lock(f"file://{tmp_path}/store/run")._body()
    lock.write("driver.lock", b'{"process": 7, "host": "elsewhere", "machine": "other", "token": "abc", "beat": 0}')

    def watch(self: storage_lock.Lock, holder: dict[str, object]) -> bool:
        lives = holder["process"] != 7
        lock.write("driver.lock", body)
        return lives

    monkeypatch.setattr(storage_lock.Lock, "_lives", watch)
    with pytest.raises(ThriftyError, match=f"in use by process {os.getpid()} on"), driving(tmp_path / "run", lock.url):
        pass
    assert lock.read("driver.lock") == body


@pytest.mark.usefixtures("server")
def test_a_driver_that_has_been_replaced_stops_before_it_writes(
    url: str, machines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_lock, "BEAT_SECONDS", 0.05)
    stopped = pytest.raises(ThriftyError, match=f"{url} has been taken over by process 7 on elsewhere; this driver stops")
    with stopped, driving(machines("here"), url):
        copy = copies.copy_of(machines("here"))
        assert copy is not None and copy.lock is not None
        first = json.loads(filesystem().cat_file(f"{url}/driver.lock"))["beat"]
        while json.loads(filesystem().cat_file(f"{url}/driver.lock"))["beat"] == first:
            time.sleep(0.02)
        copy.lock._end.set()  # no beat between the two lines, which would put the lock back
        copy.lock._thread.join()
        filesystem().pipe_file(f"{url}/driver.lock", b'{"process": 7, "host": "elsewhere", "token": "abc"}')
        copy.lock._end.clear()
        copy.lock._beat()
        write_text(machines("here") / "run.yaml", "x")
    assert names(url) == {"driver.lock"}, "neither its file nor the lock of the other is touched"


def test_of_several_that_create_one_object_one_wins(url: str) -> None:
    won: list[bool] = []
    threads = [threading.Thread(target=lambda k=k: won.append(Storage(url).create("lock", b"%d" % k))) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


# errors


def test_no_bucket_is_one_line(server: dict[str, str], tmp_path: Path) -> None:
    refused = pytest.raises(ThriftyError, match=r"^s3://nowhere/run: The specified bucket does not exist; make that bucket, or")
    with refused, driving(tmp_path / "run", "s3://nowhere/run"):
        pass
    assert not (tmp_path / "run").exists()


class Answer:
    """Stands for a file system: raises in turn what is in `errors`, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of `patiently`, instead of sleeping."""
    found: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", found.append)
    return found


def ask(answer: Answer, pauses: list[float], seconds: float = 300.0) -> str:
    return storage.patiently(answer, "s3://bucket/run", seconds, clock=lambda: sum(pauses))


def test_storage_that_is_away_is_asked_again_and_it_is_said_once(pauses: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    refused = botocore.EndpointConnectionError(endpoint_url="http://user:secret@host:1/x")
    assert ask(Answer(refused, TimeoutError("slow"), ConnectionResetError()), pauses) == "answer"
    assert pauses == [0.5, 1.0, 2.0]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "s3://bucket/run does not answer" in said and "for up to 5 minutes" in said
    assert "secret" not in said


def test_storage_that_stays_away_is_one_line_after_minutes(pauses: list[float]) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    errors = [botocore.EndpointConnectionError(endpoint_url="http://host:1/x") for _ in range(99)]
    with pytest.raises(ThriftyError, match=r"^s3://bucket/run: it has not answered for 5 minutes \(Could not connect") as caught:
        ask(Answer(*errors), pauses)
    assert 240 < sum(pauses) <= 300 and max(pauses) == 30.0 and "\n" not in str(caught.value)


def client_error(code: str, status: int) -> Exception:
    """As s3fs raises it."""
    botocore, translate = pytest.importorskip("botocore.exceptions"), pytest.importorskip("s3fs.errors").translate_boto_error
    body = {"Error": {"Code": code, "Message": f"the server says {code}"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate(botocore.ClientError(body, "PutObject"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (client_error("AccessDenied", 403), r"no permission \(the server says AccessDenied\); give these credentials the right"),
        (client_error("SignatureDoesNotMatch", 403), "no permission"),
        (client_error("XMinioStorageFull", 507), "is full .*: free some space, then run the same command"),
        (client_error("QuotaExceeded", 403), "is full"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "is full"),
        (client_error("InvalidRequest", 400), "the server says InvalidRequest; see docs/cluster.md"),
    ],
    ids=["denied", "signature", "full", "quota", "disk", "other"],
)
def test_what_does_not_pass_is_one_line_at_once(error: Exception, text: str, pauses: list[float]) -> None:
    with pytest.raises(ThriftyError, match=text) as caught:
        ask(Answer(error), pauses)
    assert pauses == [] and str(caught.value).startswith("s3://bucket/run") and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [client_error("SlowDown", 503), client_error("InternalError", 500), client_error("X", 429)])
def test_a_busy_server_is_asked_again(error: Exception, pauses: list[float]) -> None:
    assert ask(Answer(error), pauses) == "answer" and pauses == [0.5]


def test_missing_credentials_are_one_line(tmp_path: Path, pauses: list[float]) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    with pytest.raises(ThriftyError, match=r"no credentials \(Unable to locate credentials\); give them by variables"):
        ask(Answer(botocore.NoCredentialsError()), pauses)


# URLs


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("s3://user:secret@bucket/x", "user name or password"),
        ("s3://", "no URL|no place for results"),
        ("s3://bucket/x?endpoint_override=1", "AWS_ENDPOINT_URL"),
        ("s3://bucket/../x", "a part '.' or '..'"),
        ("quark://bucket/x", "Protocol not known"),
        ("gs://bucket/x", "gcsfs"),
    ],
)
def test_bad_urls_are_refused(place: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match=text) as caught:
        Storage(clean_url(place))
    assert "secret" not in str(caught.value)


def test_a_url_as_results_names_a_working_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THRIFTY_CACHE", str(tmp_path))
    monkeypatch.setenv("THRIFTY_RESULTS", "s3://bucket/prefix/")
    assert results_url("study") == "s3://bucket/prefix/study"
    assert results_folder("study") == working_copy("s3://bucket/prefix/study")
    assert results_folder("study").parent.parent == tmp_path and results_folder("study").name == "study"
    monkeypatch.setenv("THRIFTY_RESULTS", "s3://bucket/other")
    assert results_folder("study") != working_copy("s3://bucket/prefix/study")
    monkeypatch.setenv("THRIFTY_RESULTS", str(tmp_path / "results"))
    assert results_url("study") is None and results_folder("study") == tmp_path / "results" / "study"
    assert is_url(Path("s3://bucket/x")) and clean_url(Path("s3://bucket/x")) == "s3://bucket/x"


def test_memory_of_one_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match="memory of one process"), driving(tmp_path / "run", "memory://x/run"):
        pass


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_other_stores_do_as_well(kind: str, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/run" if kind == "memory" else f"file://{tmp_path}/store/run"
    attach(tmp_path / "one" / "run", url)
    write_json(tmp_path / "one" / "run" / "select" / "a.json", [1])
    Copy(tmp_path / "two" / "run", url).sync()
    assert read_json(tmp_path / "two" / "run" / "select" / "a.json") == [1]
    assert Storage(url).create("x", b"1") and not Storage(url).create("x", b"2")
    Storage(url).delete("x")
    assert Storage(url).read("x") is None and set(Storage(url).sizes()) == {"select/a.json", "select/.files.json"}


def test_a_folder_as_results_does_without_fsspec(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from thrifty.results import write_json; from thrifty.copies import driving, here\n"
        f"with driving(Path({str(tmp_path)!r}), None): write_json(here(Path({str(tmp_path)!r}) / 'a.json'), 1)\n"
        "print('fsspec' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.usefixtures("server")
def test_a_part_of_a_run_is_brought_by_its_url(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRIFTY_CACHE", str(tmp_path / "cache"))
    root = attach(tmp_path / "first", url).root
    for name in ("run.yaml", "retrain/a/seed_0/weights.safetensors", "retrain/b/seed_0/weights.safetensors"):
        write_text(root / name, name)
    write_text(root / "retrain/a/seed_0/checkpoint.pt", "x")
    found = brought(Path(f"{url}/retrain/a"))
    assert found == working_copy(url) / "retrain" / "a"
    assert {p.relative_to(working_copy(url)).as_posix() for p in working_copy(url).rglob("*") if p.is_file()} == {
        "run.yaml",
        "retrain/a/seed_0/weights.safetensors",
    }
    with pytest.raises(ThriftyError, match=r"lies in no run folder: there is no run\.yaml at or above it"):
        brought(url.rpartition("/")[0] + "/nothing")


def test_results_and_storage_agree_on_what_passes() -> None:
    assert {errno.EIO, errno.ETIMEDOUT, errno.ENETUNREACH} <= storage.TRANSIENT & results.TRANSIENT
