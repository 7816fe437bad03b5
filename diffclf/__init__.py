"""Diffusion Classifier: a conditional diffusion model is a zero-shot classifier (Li et al., ICCV 2023).

A public name's module is imported when the name is first used, so that `diffclf --help` does not wait for torch.
"""

import os
from importlib import import_module

# Idle OpenMP threads that spin instead of sleeping cost torch most of its speed as soon as a core is shared. Read when
# torch is loaded: without effect where it was loaded before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_MODULES = {
    "DiffusionClassifier": "classifier",
    "ErrorTable": "errortable",
    "Evaluator": "evaluator",
    "Exhaustive": "pruning",
    "Hierarchical": "pruning",
    "Racing": "pruning",
    "Shortlist": "pruning",
    "Staged": "pruning",
    "load_model": "models",
}
__all__ = list(_MODULES)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
