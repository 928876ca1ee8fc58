"""thrifty: very small segmentation networks for medical images, found under a parameter budget."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Predictor": "thrifty.predictor",
    "Study": "thrifty.config",
    "ThriftyError": "thrifty.errors",
    "build_network": "thrifty.api",
    "check_study": "thrifty.api",
    "load": "thrifty.predictor",
    "predict_files": "thrifty.predict",
    "read_genotype": "thrifty.api",
    "read_study": "thrifty.api",
    "run_study": "thrifty.api",
}
__all__ = [
    "Predictor",
    "Study",
    "ThriftyError",
    "build_network",
    "check_study",
    "load",
    "predict_files",
    "read_genotype",
    "read_study",
    "run_study",
]


def __getattr__(name: str) -> Any:
    """A public name is imported when it is first used (PEP 562), so that `import thrifty` stays quick."""
    if name not in _WHERE:
        raise AttributeError(f"module 'thrifty' has no attribute '{name}'")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
