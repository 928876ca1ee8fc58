"""What the labels of an exported network mean, in words and numbers: class ids, a label map of regions, or bit sets."""

from __future__ import annotations

from thrifty.model import Model


def label_values(model: Model) -> list[tuple[int, str]]:
    """The number that stands in the labels for each class, and its name, the background first."""
    count = len(model.labels)
    bits = tuple(2**k for k in range(count - 1))
    numbers = (0, *(model.region_values or bits)) if model.overlapping else tuple(range(count))
    return list(zip(numbers, model.labels, strict=True))


def meaning(model: Model) -> str:
    """One phrase for a card, a docstring, metadata."""
    listed = ", ".join(f"{number} {name}" for number, name in label_values(model))
    if not model.overlapping:
        return f"class ids ({listed})"
    if model.region_values:
        return f"one number for each pixel ({listed}); of several classes at a pixel the last in this list is written"
    return f"bit sets ({listed}; several classes at a pixel add up)"


def output_names(model: Model) -> tuple[str, ...]:
    """The class of each output of the network: overlapping classes have none for the background."""
    return model.labels[1:] if model.overlapping else model.labels
