"""Names that tell nothing: cases and patients are numbered, or patients get a salted hash; kept only where that was asked for."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Hashable

from thrifty.data.importing.items import Item, Loaded, Wishes
from thrifty.errors import ThriftyError

LEAST_SALT = 16  # bytes: a shorter one can be guessed, and with it every patient number


class Names:
    """Gives each case, patient and volume its name, in the order in which they come.

    Raises:
        ThriftyError: names to be kept although they may be those of patients, or a salt too short.
    """

    def __init__(self, wishes: Wishes, private: bool) -> None:
        if wishes.names == "keep" and private:
            raise ThriftyError("names cannot be kept for DICOM: its file names may hold those of patients; take number or hash")
        if wishes.names == "hash" and len(wishes.salt) < LEAST_SALT:
            raise ThriftyError(f"hashed names need a file of at least {LEAST_SALT} secret bytes as --salt")
        self._wishes = wishes
        self._cases: set[str] = set()
        self._patients: dict[Hashable, str] = {}
        self._volumes: dict[Hashable, str] = {}

    def case(self, item: Item, loaded: Loaded) -> str:
        name = f"case_{len(self._cases) + 1:04d}"
        if self._wishes.names == "keep":
            name = _plain(item.key) + loaded.part
            while name.lower() in self._cases:  # also for disks that do not tell A from a
                name += "-2"
        self._cases.add(name.lower())
        return name

    def patient(self, key: Hashable) -> str:
        if key not in self._patients:
            self._patients[key] = self._new_patient(key)
        return self._patients[key]

    def _new_patient(self, key: Hashable) -> str:
        if self._wishes.names == "hash":
            return "p" + hmac.new(self._wishes.salt, repr(key).encode(), hashlib.sha256).hexdigest()[:16]
        if self._wishes.names == "keep":
            return _plain(str(key))
        return f"p{len(self._patients) + 1:04d}"

    def volume(self, key: Hashable | None) -> str:
        if key is None:
            return ""
        return self._volumes.setdefault(key, f"v{len(self._volumes) + 1:04d}")


def _plain(name: str) -> str:
    """`name` with everything but letters, digits, '.', '_' and '-' replaced, so that it is a file name anywhere."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "case"
