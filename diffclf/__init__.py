"""Diffusion Classifier: a conditional diffusion model is a zero-shot classifier (Li et al., ICCV 2023)."""

import os

# Idle OpenMP threads that spin instead of sleeping cost torch most of its speed as soon as a core is shared. Read when
# torch is loaded: without effect where it was loaded before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from diffclf.classifier import DiffusionClassifier
from diffclf.errortable import ErrorTable
from diffclf.evaluator import Evaluator
from diffclf.models import load_model
from diffclf.pruning import Exhaustive, Hierarchical, Racing, Shortlist, Staged

__all__ = [
    "DiffusionClassifier",
    "ErrorTable",
    "Evaluator",
    "Exhaustive",
    "Hierarchical",
    "Racing",
    "Shortlist",
    "Staged",
    "load_model",
]
__version__ = "0.1.0"
