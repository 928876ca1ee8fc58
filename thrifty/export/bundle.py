"""A MONAI bundle: the folder that monai.bundle runs, verifies and loads. It holds all it needs, network.py included."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thrifty import __version__
from thrifty.export.meaning import meaning, output_names
from thrifty.inference import stride_of
from thrifty.model import Model
from thrifty.results import write_file, write_json, write_text

META_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"

EVALUATOR = '''\
"""Runs the network over images, from raw pixels to saved labels. Needs torch and MONAI only."""

from __future__ import annotations

import torch
from monai.data import MetaTensor, decollate_batch


class Evaluator:
    """Predicts every batch of `dataloader`; each image goes with its labels (`pred`, (1, H, W)) to `postprocessing`."""

    def __init__(self, pipeline, inferer, dataloader, postprocessing, device):
        self.pipeline, self.inferer, self.dataloader = pipeline.to(device).eval(), inferer, dataloader
        self.postprocessing, self.device = postprocessing, device

    def run(self):
        for batch in self.dataloader:
            pixels = torch.as_tensor(batch["image"]).as_subclass(torch.Tensor).float().to(self.device)
            with torch.no_grad():
                labels = self.inferer(pixels, self.pipeline)[:, None].cpu()
            for item, label in zip(decollate_batch(batch), labels):
                item["pred"] = MetaTensor(label, meta=item["image"].meta)
                self.postprocessing(item)
'''

README = """\
# {name}

A MONAI bundle made by thrifty {version}. **Research use only: this is not a medical device.**

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir IMAGES --output_dir LABELS

writes a picture of labels for every png in IMAGES ({channels} channels, any size): {meaning}. Padding, normalisation and the
choice of the class are in `scripts/network.py`, which is the network in plain torch. `monai.bundle.load` needs this folder on
the Python path, as every bundle with scripts does. Where the model chose a clean-up of components, it is not in the bundle.
"""


def write_bundle(folder: Path, model: Model, network: nn.Module, source: str, facts: dict[str, str]) -> None:
    """Writes configs/, models/, scripts/ and docs/.

    Args:
        source: the text of network.py.
        facts: copyright, data_source and description of metadata.json.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_file(folder / "models" / "model.pt", lambda file: torch.save(weights, file))
    write_text(folder / "scripts" / "__init__.py", "")
    write_text(folder / "scripts" / "network.py", source)
    write_text(folder / "scripts" / "evaluator.py", EVALUATOR)
    write_json(folder / "configs" / "metadata.json", _metadata(model, stride_of(network), facts))
    write_json(folder / "configs" / "inference.json", _inference())
    name, channels = model.network.name, model.network.channels
    text = README.format(name=name, version=__version__, channels=channels, meaning=meaning(model))
    write_text(folder / "docs" / "README.md", text)


def _inference() -> dict[str, Any]:
    transposed = {"_target_": "Transposed", "indices": [0, 2, 1]}  # MONAI reads pictures as (columns, rows)
    return {
        "imports": ["$import glob", "$import numpy"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.png'))",
        "network_def": {"_target_": "scripts.network.Network"},
        "network": "$@network_def.to(@device)",
        "pipeline": {"_target_": "scripts.network.pipeline_of", "network": "@network"},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {**transposed, "keys": "image"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "$[{'image': path} for path in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {**transposed, "keys": "pred"},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_ext": ".png",
                    "output_postfix": "labels",
                    "output_dtype": "$numpy.uint8",
                    "resample": False,
                    "separate_folder": False,
                },
            ],
        },
        "evaluator": {
            "_target_": "scripts.evaluator.Evaluator",
            "pipeline": "@pipeline",
            "inferer": "@inferer",
            "dataloader": "@dataloader",
            "postprocessing": "@postprocessing",
            "device": "@device",
        },
        # Not in "initialize", which monai.bundle.load runs too, wherever it is called.
        "run": [
            "$@network.load_state_dict(torch.load(@ckpt_path, map_location=@device, weights_only=True))",
            "$@evaluator.run()",
        ],
    }


def _metadata(model: Model, stride: int, facts: dict[str, str]) -> dict[str, Any]:
    spec = model.network
    sizes = {"spatial_shape": [f"{stride}*n", f"{stride}*n"], "dtype": "float32", "is_patch_data": False}
    return {
        "schema": META_SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by thrifty {__version__}"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {"pillow": metadata.version("pillow")},
        "name": spec.name,
        "task": f"Segmentation of 2-D images into {', '.join(model.labels[1:])}",
        "description": facts["description"],
        "authors": "the user of thrifty who trained it",
        "copyright": facts["copyright"],
        "data_source": facts["data_source"],
        "data_type": "png",
        "image_classes": f"{spec.channels} channels of raw pixels",
        "pred_classes": meaning(model),
        "intended_use": "Research only. This is not a medical device.",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "unknown",
                    "num_channels": spec.channels,
                    **sizes,
                    "value_range": [],
                    "channel_def": {str(k): f"channel {k}, normalised" for k in range(spec.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": spec.classes,
                    **sizes,
                    "value_range": [],
                    "channel_def": {str(index): label for index, label in enumerate(output_names(model))},
                }
            },
        },
    }
