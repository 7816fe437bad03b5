"""Checkpoints of a training run: written whole or not at all, with a log of the loss beside them."""

import csv
import os
from pathlib import Path

import torch

__all__ = ["load_checkpoint", "log_loss", "save_checkpoint", "trim_log"]


def save_checkpoint(path: Path, step: int, seconds: float, **parts: torch.nn.Module | torch.optim.Optimizer) -> None:
    """Write the state of `parts` after `step` steps and `seconds` of training; a killed write leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save({"step": step, "seconds": seconds} | {name: p.state_dict() for name, p in parts.items()}, part)
    os.replace(part, path)


def load_checkpoint(path: Path, **parts: torch.nn.Module | torch.optim.Optimizer) -> tuple[int, float]:
    """Restore `parts` in place and return (steps done, seconds spent); (0, 0.0) if there is no checkpoint."""
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"], state["seconds"]


def log_loss(path: Path, step: int, n_samples: int, loss: float, seconds: float) -> None:
    """Append one row (step, samples, loss, seconds) to a CSV file, with a header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "samples", "loss", "seconds"])
        writer.writerow([step, n_samples, f"{loss:.6f}", f"{seconds:.1f}"])


def trim_log(path: Path, step: int) -> None:
    """Drop the rows after `step`: steps that a killed run took after its last checkpoint are taken again."""
    if not path.is_file():
        return
    header, *rows = path.read_text().splitlines()
    kept = [row for row in rows if int(row.partition(",")[0]) <= step]
    path.write_text("\n".join([header, *kept]) + "\n")
