"""Shared by all tests: quiet surroundings before ray is imported, one local Ray for the session, real data where it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AIR_NEW_OUTPUT="0",
    RAY_CHDIR_TO_TRIAL_DIR="0",
    TUNE_GLOBAL_CHECKPOINT_S="1",
    TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
)
os.environ.pop("RAY_ADDRESS", None)

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums depend on the number of threads, and two cores are shared by many."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of this machine with 2 CPUs, on loopback. Modules of the tests are found by its workers."""
    import ray

    ray.init(
        "local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])}},
    )
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
