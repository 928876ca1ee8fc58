"""The table of docs/summary.md, from docs/summary.schema.json. `python tests/summary_table.py` writes it anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "summary.md"
BEGIN, END = "<!-- the table is made from summary.schema.json by tests/summary_table.py -->", "<!-- end of the table -->"


def schema() -> dict[str, Any]:
    return json.loads((DOCS / "summary.schema.json").read_text(encoding="utf-8"))


def rows(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, type, what it is) of everything below `node`, in its order."""
    required = node.get("required", ())
    for name, inner in node.get("properties", {}).items():
        key = f"{path}.{name}" if path else name
        yield key, _type(inner) + ("" if name in required else ", may be absent"), inner["description"]
        yield from rows(inner, key)
    if isinstance(node.get("additionalProperties"), dict):
        inner = node["additionalProperties"]
        if inner.get("properties"):
            yield from rows(inner, f"{path}.NAME")
    if isinstance(node.get("items"), dict):
        yield from rows(node["items"], f"{path}[]")


def _type(node: dict[str, Any]) -> str:
    names = [node["type"]] if isinstance(node["type"], str) else node["type"]
    inner = node.get("items") or node.get("additionalProperties")
    if isinstance(inner, dict) and "type" in inner:
        word = {"array": "array of", "object": "object, each"}
        names = [f"{word[name]} {_type(inner)}" if name in word else name for name in names]
    return " or ".join(names)


def table() -> str:
    found = ["| key | type | what it is |", "|---|---|---|"]
    return "\n".join([*found, *(f"| `{key}` | {kind} | {what} |" for key, kind, what in rows(schema()))])


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n\n{table()}\n\n{END}{text.split(END)[1]}", encoding="utf-8")
