"""What the trained baselines of Table 1 learn: three sets of classes of the miniature world."""

from collections.abc import Sequence
from pathlib import Path

from diffclf.baselines.fitting import Epoch
from diffclf.files import write_whole

__all__ = ["TASKS", "write_log"]

TASKS = {"items": "mini-items", "colours": "mini-colours", "coloured-items": "mini-coloured-items"}
"""Last part of a recipe's name -> data set with the classes."""


def write_log(epochs: Sequence[Epoch], path: Path, seconds: float) -> None:
    """Write the losses of a training as a log like those of `diffclf.mini.training`."""
    rows = ["step,samples,loss,held_out,seconds"]
    for number, epoch in enumerate(epochs, start=1):
        spent = seconds * number / len(epochs)
        rows.append(f"{number},{epoch.samples},{epoch.loss:.6f},{epoch.held_out:.6f},{spent:.1f}")
    write_whole(path, "\n".join(rows) + "\n")
