"""`diffclf measure`: what an embedded model can do, for its card."""

import argparse
from pathlib import Path

from diffclf.mini.card import write_card
from diffclf.mini.measure import load_network, measure, measure_network
from diffclf.models import load_model
from diffclf.paths import data_dir

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf measure`."""
    parser.add_argument("name", help="an embedded model: mini-sd, mini-sd@2, mini-dit, ...")
    parser.add_argument("--images", type=int, default=1000, help="test images a task")
    parser.add_argument("--exhaustive", type=int, default=200, help="images with all sixty classes, exhaustively")
    parser.add_argument("--compile", action="store_true", help="compile the network: a minute first, then faster")
    parser.add_argument("--out", type=Path, help="JSON file; by default beside the weights, with a new card")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf measure`: about four million denoiser evaluations of mini-sd, an hour on two CPU cores."""
    folder = data_dir() / "models" / args.name
    if args.out is None and "@" in args.name:
        raise ValueError(f"--out must be given for a version along the training, {args.name}, which has no card")
    path = args.out or folder / "measures.json"
    if (folder / "config.json").is_file():
        measure_network(load_network(args.name), path)
    else:
        measure(load_model(args.name, compile=args.compile), path, args.images, args.exhaustive)
    if args.out is None:
        write_card(folder)
        print(f"wrote {folder / 'README.md'}")
    return 0
