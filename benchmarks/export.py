"""What exported networks are worth: labels against PyTorch's on real images, int8, file sizes, latency, memory (one CPU thread).

    python benchmarks/export.py OUTPUT MODEL [MODEL ...] [--unet MODEL] [--images 50] [--side 256] [--rounds 20]

MODEL is a folder of a run, RUN/retrain/<network>/seed_<s>, whose run has its data. Each is exported below OUTPUT (what is there
already is taken), then predicted and timed. Latencies are of the whole way from raw pixels to labels, batch 1, in alternating
rounds; what counts are their ratios. Peak memory is what loading and one image add to a process of its own that has imported the
libraries. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench import peak_of

from thrifty.export.check import Predict, agreement, as_labels
from thrifty.export.graph import graph_labels
from thrifty.export.origin import evenly, find_origin
from thrifty.export.program import pipeline_of
from thrifty.export.stage import INT8, export_model
from thrifty.inference import evaluating, predict_logits
from thrifty.model import load_model
from thrifty.results import Trial, read_json
from thrifty.summary import macs


@dataclass(frozen=True)
class Exported:
    """An exported model: where it came from and where it lies."""

    name: str
    model: Path
    folder: Path


def exported(model: Path, output: Path) -> Exported:
    name = "_".join((model.resolve().parents[2].name, model.resolve().parent.name))
    folder = output / name
    if not folder.exists():
        export_model(model, folder, ["safetensors", "onnx", "int8"])
    return Exported(name, model, folder)


def labels_row(item: Exported, images: int) -> str:
    """Agreement on test cases; every second one is cropped to sizes that are no multiples of the stride."""
    origin = find_origin(item.model)
    assert origin is not None
    network, model = load_model(Trial(item.model), torch.device("cpu"))
    store, splits = origin.prepared(item.folder)

    def expected(pixels: np.ndarray) -> np.ndarray:
        """As `predict_cases`, with the window of the study."""
        normalised = torch.from_numpy(np.stack([model.normalisation.apply(image) for image in pixels]))
        with evaluating(network):
            return as_labels(predict_logits(network, normalised, origin.study.evaluate), model)

    batches = []
    for number, index in enumerate(evenly(store.indices(splits.test), images)):
        image = store.image(index)[None].astype(np.float32)
        batches.append(image[:, :, : -(1 + number % 13), : -(1 + number % 7)] if number % 2 else image)
    found = agreement(graph_labels(item.folder / "network.onnx"), expected, batches)
    quantised = agreement(graph_labels(item.folder / INT8), expected, batches)
    return f"| {item.name} | {len(batches)} | {found.pixels:,} | {100 * found.share:.4f} % | {100 * quantised.share:.2f} % |"


def sizes_row(item: Exported) -> str:
    record = read_json(item.folder / "export.json")
    sizes = {name: f"{record['files'][name]['bytes']:,}" for name in ("weights.safetensors", "network.onnx", INT8)}
    loss = record["int8"]
    dice = f"{loss['dice_float']:.4f} | {loss['dice_int8']:.4f} | {loss['loss_points']:+.2f} | {loss['cases']}"
    return f"| {item.name} | {' | '.join(sizes.values())} | {dice} |"


def torch_labels(item: Exported) -> Predict:
    network, model = load_model(Trial(item.model), torch.device("cpu"))
    pipeline = pipeline_of(network, model, probabilities=False)

    def labels(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return pipeline(torch.from_numpy(pixels)).numpy()

    return labels


FORMS: dict[str, Callable[[Exported], Predict]] = {
    "PyTorch": torch_labels,
    "ONNX": lambda item: graph_labels(item.folder / "network.onnx"),
    "int8": lambda item: graph_labels(item.folder / INT8),
}


def forms(item: Exported, wanted: Iterable[str] = FORMS) -> dict[str, Predict]:
    return {f"{item.name} {name}": FORMS[name](item) for name in wanted}


def latencies(items: list[Exported], side: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every form in every round, in alternation, after two that warm up."""
    ways = {name: way for item in items for name, way in forms(item).items()}
    rng = np.random.default_rng(0)
    channels = {item.name: read_json(item.folder / "model.json")["network"]["channels"] for item in items}
    pixels = {n: rng.integers(0, 255, (1, c, side, side)).astype(np.float32) for n, c in channels.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 2):
        for name, way in ways.items():
            image = pixels[name.rsplit(" ", 1)[0]]
            start = time.perf_counter()
            way(image)
            if round_ > 1:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def memory(item: Exported, form: str, side: int) -> float:
    """Peak memory (MiB) that a form of a model adds: loading it, and the labels of one image."""
    command = [sys.executable, __file__, str(item.folder.parent), str(item.model), "--side", str(side), "--memory", form]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(item: Exported, form: str, side: int) -> float:
    channels = read_json(item.folder / "model.json")["network"]["channels"]
    image = np.zeros((1, channels, side, side), np.float32)
    import onnxruntime  # noqa: F401  # both forms: what an import takes is no one's

    return peak_of(lambda: forms(item, (form,))[f"{item.name} {form}"](image))


def ratios(seconds: dict[str, list[float]], to: str) -> dict[str, float]:
    """The median over rounds of how many times faster than `to` each form is."""
    return {name: statistics.median(b / a for a, b in zip(values, seconds[to], strict=True)) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--unet", type=Path, help="what latencies are compared with; by default the first model")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--memory", choices=sorted(FORMS), help="only the peak memory of this form of the first model")
    told = parser.parse_args()
    torch.set_num_threads(1)
    if told.memory:
        print(measure_memory(exported(told.models[0], told.output), told.memory, told.side))
        return
    items = [exported(model, told.output) for model in told.models]
    print("| model | images | pixels | ONNX = PyTorch | int8 = PyTorch |\n|---|---|---|---|---|")
    for item in items:
        print(labels_row(item, told.images), flush=True)
    compared = [*items, *([exported(told.unet, told.output)] if told.unet else [])]
    print("\n| model | safetensors | ONNX | int8 | Dice float | Dice int8 | points lost | cases |\n" + "|---" * 8 + "|")
    for item in compared:
        print(sizes_row(item), flush=True)
    faster = f"times faster than {compared[-1].name} ONNX | than its PyTorch"
    print(f"\n| form | MACs at {told.side} | MACs, fewer | {faster} | peak memory, MiB |")
    print("|---|---|---|---|---|---|")
    seconds, base = latencies(compared, told.side, told.rounds), compared[-1].name
    by_onnx, by_torch = ratios(seconds, f"{base} ONNX"), ratios(seconds, f"{base} PyTorch")
    counts = {
        item.name: macs(load_model(Trial(item.model), torch.device("cpu"))[1].network, (told.side, told.side))
        for item in compared
    }
    peaks = {f"{item.name} {form}": memory(item, form, told.side) for item in compared for form in FORMS}
    for name in seconds:
        count = counts[name.rsplit(" ", 1)[0]]
        fewer = f"{count / 1e6:,.0f} M | {counts[base] / count:.1f}x"
        print(f"| {name} | {fewer} | {by_onnx[name]:.2f} | {by_torch[name]:.2f} | {peaks[name]:.0f} |")


if __name__ == "__main__":
    main()
