"""`diffclf score`: store what the arms of an experiment answer."""

import argparse
from pathlib import Path

import numpy as np

from diffclf.mini.scores import EXPERIMENTS, card_text, score_arms
from diffclf.paths import data_dir

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf score`."""
    parser.add_argument("experiment", choices=list(EXPERIMENTS), help="whose models are scored")
    parser.add_argument("--models", type=Path, default=Path("runs"), metavar="DIR", help="what `diffclf train` wrote")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf score`: minutes a model."""
    path = data_dir() / "scores" / f"{args.experiment}.npz"
    arrays = score_arms(args.experiment, args.models)
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **arrays)
    (path.parent / "README.md").write_text(card_text(path.parent), encoding="utf-8")
    print(f"wrote {path}: " + ", ".join(f"{name} {array.shape}" for name, array in arrays.items()))
    return 0
