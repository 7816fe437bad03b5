"""`diffclf classify`: say what is on images."""

import argparse
import json
import sys

from tqdm import tqdm

from diffclf.commands.options import add_classifier_arguments, make_classifier, make_pruning
from diffclf.datasets.folder import check_images, shown
from diffclf.errortable import ErrorTable
from diffclf.prompts import TEMPLATE, prompts_from_labels, read_prompts, split_labels

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf classify`."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files (before options that take several values)"
    )
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument("--labels", metavar="A,B,...", help="the classes, separated by commas")
    classes.add_argument("--prompts", metavar="FILE", help="CSV file with the columns prompt, classname, classidx")
    add_classifier_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON: all probabilities and scores")


def run(args: argparse.Namespace) -> int:
    """Classify all images, print each one's result as it comes, and return the exit status."""
    prompts, pruning = _prompts(args), make_pruning(args)
    check_images(args.images)
    classifier = make_classifier(args, prompts, pruning)
    names = [shown(path) for path in args.images]
    width, found = max(map(len, names)), []
    for name, table in zip(names, classifier.error_tables(args.images), strict=True):
        if args.json:
            found.append(_as_dict(name, table, args.temperature))
        else:
            tqdm.write(_line(name.ljust(width), table, args.temperature))  # above the progress bar
            sys.stdout.flush()
    if args.json:
        settings = {"model": args.model, "pruning": repr(classifier.strategy_), "loss": args.loss, "seed": args.seed}
        json.dump({**settings, "classes": classifier.classes_.tolist(), "images": found}, sys.stdout, indent=2)
        print()
    return 0


def _prompts(args: argparse.Namespace) -> list[tuple[str, str]] | None:
    """Return the (prompt, classname) pairs of --prompts or --labels, None without either."""
    if args.prompts is not None:
        if args.template is not None:
            raise ValueError("--template goes with --labels, a file of --prompts has whole prompts; got both")
        return read_prompts(args.prompts)
    return None if args.labels is None else prompts_from_labels(split_labels(args.labels), args.template or TEMPLATE)


def _line(name: str, table: ErrorTable, temperature: float) -> str:
    """Return what is printed of one image."""
    probability = table.proba(temperature).max()
    tie = f"  (a tie of {', '.join(table.tie)})" if table.tie else ""
    return f"{name}  {table.predicted}  {probability:.4f}  {table.n_evaluations} evaluations{tie}"


def _as_dict(name: str, table: ErrorTable, temperature: float) -> dict[str, object]:
    """Return all results of one image as plain values."""
    probabilities = table.proba(temperature).tolist()
    return {
        "image": name,
        "label": table.predicted,
        "probability": max(probabilities),
        "probabilities": dict(zip(table.classes, probabilities, strict=True)),
        "scores": dict(zip(table.classes, table.scores().tolist(), strict=True)),
        "n_evaluations": table.n_evaluations,
        "tie": list(table.tie),
    }
