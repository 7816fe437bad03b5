"""`diffclf calibrate`: choose the race's threshold for an embedded model."""

import argparse
from pathlib import Path

from diffclf.files import write_json
from diffclf.mini.calibrate import calibrate_model
from diffclf.mini.card import write_card
from diffclf.models import load_model
from diffclf.models.layout import CALIBRATION
from diffclf.paths import data_dir

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf calibrate`."""
    parser.add_argument("name", help="an embedded model: mini-sd, mini-dit")
    parser.add_argument("--tune", type=int, default=1000, help="images to choose the threshold on")
    parser.add_argument("--test", type=int, default=1000, help="images to report it on")
    parser.add_argument("--compile", action="store_true", help="compile the network: a minute first, then faster")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="error bank; the same folder resumes")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf calibrate`: 2.6 million denoiser evaluations with the defaults, an hour on two cores."""
    folder = data_dir() / "models" / args.name
    model = load_model(args.name, compile=args.compile)
    result = calibrate_model(model, args.work, n_tune=args.tune, n_test=args.test)
    write_json(folder / CALIBRATION, result)
    write_card(folder)
    print(f"threshold {result['threshold']}, written to {folder / CALIBRATION} and the card")
    return 0
