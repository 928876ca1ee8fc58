"""The connection to Ray: a cluster's address or a Ray of this machine.

The modules of `trials*` take ray from here, so that it is never imported in other surroundings than `thrifty.surroundings`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import thrifty.surroundings  # noqa: F401

# isort: split
import ray
from ray import tune

from thrifty.errors import ThriftyError, last_line, one_line

__all__ = ["LOCAL", "LOGS", "connect", "lost", "machines", "offer", "ray", "tune"]

LOGS: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
LOCAL: dict[str, Any] = {
    "include_dashboard": False,
    "object_store_memory": 100 * 2**20,  # trials share their data by memory map, so what passes through Ray is small
    "_node_ip_address": "127.0.0.1",
}
CONNECT_SECONDS = 10.0
STARTS = 2  # of a Ray of this machine: it gives itself 30 s, and a busy machine may need longer

_folders: list[Path] = []
"""Of the Rays that this process has started."""


def connect() -> None:
    """Connects to the cluster at RAY_ADDRESS, or starts Ray on this machine, on loopback. A connection there is kept.

    Raises:
        ThriftyError: the cluster does not answer, or Ray cannot start.
        KeyboardInterrupt: SIGINT or SIGTERM came meanwhile.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    local = address == "local"
    if not local:
        _check_address(address)
    sigterm = signal.getsignal(signal.SIGTERM)
    for left in reversed(range(STARTS if local else 1)):
        try:
            ray.init(address, **(LOGS | LOCAL | {"_temp_dir": str(_temporary_folder())} if local else LOGS))
            break
        except SystemExit:  # how Ray ends by SIGTERM while it starts: without a word, and with another exit code
            raise KeyboardInterrupt from None
        except Exception as error:  # Ray raises bare ones too, as for a start that takes too long
            if left == 0:
                what = "Ray cannot start on this machine" if local else f"no Ray cluster answers at RAY_ADDRESS={address}"
                raise ThriftyError(f"{what}: {last_line(error)}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, sigterm)  # ray puts one of its own there


def lost(seconds: float) -> bool:
    """Whether the Ray that was started on this machine is dead or dies within as many seconds; its files are removed then."""
    if not _folders or not ray.is_initialized():
        return False
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
        except OSError:
            for folder in _folders:
                shutil.rmtree(folder, ignore_errors=True)
            return True
        time.sleep(0.1)
    return False


def _check_address(address: str) -> None:
    """Ray itself would knock at a closed door for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # 'auto' and the like, which Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ThriftyError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({one_line(error)}); unset RAY_ADDRESS to run on this machine"
        ) from None


def machines() -> list[str]:
    """What each machine of the cluster offers."""
    return sorted(offer(node["Resources"]) for node in ray.nodes() if node["Alive"])


def offer(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def _temporary_folder() -> Path:
    """A short path (sockets allow 107 characters), removed when this process ends: Ray itself never removes its files."""
    folder = Path(tempfile.mkdtemp(prefix="thrifty_", dir=os.environ.get("RAY_TMPDIR", "/tmp")))
    _folders.append(folder)

    def clean() -> None:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clean)
    return folder
