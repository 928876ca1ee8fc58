"""A real S3-compatible server on loopback, in this process, and what tests do to its objects behind thrifty's back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

BUCKET = "s3://bucket"
ACCESS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """The variables that lead to it; it has one empty bucket, BUCKET."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.moto_server.threaded_moto_server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # what servers of a process hold outlives them
        variables = ACCESS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            filesystem().mkdir("bucket")
            yield variables
            forget_connections()
    finally:
        server.stop()


def filesystem():
    """Of the test itself."""
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)


def forget_connections() -> None:
    """Instances know the address of the server that was there when they were made."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def names(url: str) -> set[str]:
    root = url.removeprefix("s3://")
    return {name.removeprefix(root + "/") for name in filesystem().find(root)}


def change(url: str, how) -> None:
    """Replaces an object by `how(content)`."""
    system = filesystem()
    system.pipe_file(url, how(system.cat_file(url)))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
