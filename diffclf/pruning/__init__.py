"""Pruning strategies: which prompts to evaluate on which trials."""

from diffclf.pruning.base import Round, Strategy, Subset, run_stored
from diffclf.pruning.calibration import Calibration
from diffclf.pruning.hierarchy import Hierarchical
from diffclf.pruning.racing import Racing
from diffclf.pruning.shortlist import Shortlist
from diffclf.pruning.staged import Exhaustive, Fixed, Staged
from diffclf.pruning.within import Within, best_range

__all__ = [
    "Calibration",
    "Exhaustive",
    "Fixed",
    "Hierarchical",
    "Racing",
    "Round",
    "Shortlist",
    "Staged",
    "Strategy",
    "Subset",
    "Within",
    "best_range",
    "run_stored",
]
