"""A supernet on disk: its weights as safetensors, what it was built with in the file's header."""

from __future__ import annotations

import json
from pathlib import Path

from thrifty.copies import here
from thrifty.errors import ThriftyError, one_line
from thrifty.nets.supernet import Supernet
from thrifty.results import write_file
from thrifty.space.schema import Space

SCHEMA = 1


def save_supernet(path: Path, supernet: Supernet, channels: int, classes: int) -> None:
    from safetensors.torch import save

    built = {
        "schema": SCHEMA,
        "width": supernet.width,
        "levels": supernet.levels,
        "channels": channels,
        "classes": classes,
        "partial": supernet.partial,
    }
    tensors = {name: value.contiguous() for name, value in supernet.state_dict().items()}
    write_file(path, lambda file: file.write(save(tensors, {"supernet": json.dumps(built)})))


def load_supernet(path: Path, space: Space) -> Supernet:
    """
    Raises:
        ThriftyError: no such file, not a supernet, or one of another space.
    """
    from safetensors import safe_open

    try:
        with safe_open(here(path), framework="pt") as file:
            built = json.loads(file.metadata()["supernet"])
            if (schema := built.pop("schema", SCHEMA)) != SCHEMA:
                raise ValueError(f"it has schema {schema}, this version reads {SCHEMA}")
            supernet = Supernet(space, **built)
            names = file.keys()
            supernet.load_state_dict({name: file.get_tensor(name) for name in names})
    except Exception as error:  # a damaged file fails in many ways
        raise ThriftyError(f"{path} holds no supernet of the space '{space.name}': {one_line(error)[:200]}") from None
    return supernet
