"""Shared by all tests: quiet surroundings before ray is imported, one local Ray for the session, real data where it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.update(MPLBACKEND="Agg", OMP_NUM_THREADS="1")
os.environ.pop("RAY_ADDRESS", None)  # thrifty.trials_connect sets the rest of what Ray reads when it is imported

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, all that need Ray run in one of them, since it is started once, and the others by
    module, since what a module's tests share is made once. The former take longest and come first."""
    for item in items:
        if "ray_local" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(REPOSITORY).as_posix()))
    items.sort(key=lambda item: "ray_local" not in getattr(item, "fixturenames", ()))


def pytest_collection_finish(session: pytest.Session) -> None:
    if getattr(session.config.option, "loadgroup", False) and not any("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("this pytest and pytest-xdist ignore groups of tests; install what constraints.txt says")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums depend on the number of threads, and two cores are shared by many."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of this machine with 2 CPUs, on loopback. Modules of the tests are found by its workers."""
    from thrifty.trials_connect import LOCAL, LOGS, ray  # this ray has been imported in the right surroundings

    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    with tempfile.TemporaryDirectory(prefix="t_", dir="/tmp", ignore_cleanup_errors=True) as folder:
        workers = {"env_vars": {"PYTHONPATH": paths, "THRIFTY_CACHE": f"{folder}/cache"}}
        ray.init("local", num_cpus=2, num_gpus=0, runtime_env=workers, _temp_dir=folder, **LOGS, **LOCAL)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data(name)` is the folder of a real data set, below THRIFTY_DATA or ../shared/data; the test skips without it."""

    def find(name: str) -> Path:
        places = [Path(os.environ["THRIFTY_DATA"])] if "THRIFTY_DATA" in os.environ else []
        for place in [*places, SHARED_DATA]:
            if (place / name).is_dir():
                return place / name
        pytest.skip(f"the data set {name} is not on this machine (set THRIFTY_DATA to the folder that holds it)")

    return find


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """THRIFTY_RESULTS for the length of a test."""
    folder = tmp_path / "results"
    monkeypatch.setenv("THRIFTY_RESULTS", str(folder))
    return folder
