"""The errors a user can cause, each with one clear line: what came, what is allowed, what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

USER_ERROR = 2
SOME_FAILED = 3  # of `thrifty predict`: some inputs were bad, the others are done
CREDENTIALS = re.compile(r"""(:/{1,2})[^/\s'"]*@""")  # one slash: what a path makes of a URL


class ThriftyError(Exception):
    """Bad input or a refused request. The command line prints its text on one line and exits with 2."""

    def __init__(self, text: object = "") -> None:
        super().__init__(mask(str(text)))


def mask(text: str) -> str:
    """`text` without the user names and passwords of URLs: they must not reach messages, logs or files."""
    return CREDENTIALS.sub(r"\1***@", text)


def one_line(text: object) -> str:
    """`text` with every run of white space made one blank, so that an error stays one line; credentials masked."""
    return mask(" ".join(str(text).split()))


def last_line(text: object) -> str:
    """The last line of a traceback or of a long message: the one that says what happened."""
    lines = [line for line in str(text).splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else "no reason was given"


def nearest(name: str, allowed: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the allowed name closest to `name`, or nothing where none is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
