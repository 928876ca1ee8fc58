"""Pictures as parts of a page: SVG as elements of it, PNG as data."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
POINT = 4 / 3
"""CSS pixels."""
QUALITY = 85
REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_picture(path: Path, caption: str) -> str:
    """HTML that shows the file, for .svg and .png.

    Ids of an SVG are made its own by the file's name: else all drawings of a page would share them. A PNG becomes WebP, which
    is a fraction of its size.
    """
    return _svg(path, caption) if path.suffix == ".svg" else _png(path, caption)


def _svg(path: Path, caption: str) -> str:
    root = ElementTree.parse(path).getroot()
    prefix = f"{path.stem}-"
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}metadata", f"{SVG}style"):  # a style would reach the whole page
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        for name, value in list(element.attrib.items()):
            element.attrib.pop(name)
            element.set(name.removeprefix(XLINK), _renamed(name.removeprefix(XLINK), value, prefix))
    width = float(root.attrib.pop("width").removesuffix("pt")) * POINT
    for name in ("height", "version"):
        root.attrib.pop(name, None)
    root.set("style", f"stroke-linejoin:round;stroke-linecap:butt;width:{width:.0f}px;min-width:{min(width, 560):.0f}px")
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}title")
    title = ElementTree.Element("title", {"id": f"{prefix}title"})
    title.text = caption
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _renamed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    return REFERENCE.sub(rf"url(#{prefix}\1)", value)


def _png(path: Path, caption: str) -> str:
    from html import escape

    from PIL import Image

    content = io.BytesIO()
    with Image.open(path) as image:
        width, height = image.size
        image.convert("RGB").save(content, "WEBP", quality=QUALITY)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    size = f'width="{width}" height="{height}" style="width:{width}px;min-width:{min(width, 560)}px"'
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(caption)}" {size}>'
