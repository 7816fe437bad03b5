"""`diffclf classify`: say what is on images."""

import argparse
import json
import sys

from tqdm import tqdm

from diffclf.commands.options import add_classifier_arguments, make_classifier, make_prompts, make_pruning
from diffclf.datasets.folder import check_images, shown
from diffclf.errortable import ErrorTable
from diffclf.prompts import split_labels

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf classify`."""
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files (before options that take several values)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--labels", metavar="A,B,...", help="the classes, separated by commas")
    add("--prompts", metavar="FILE", help="CSV file with the columns prompt, classname, classidx")
    add_classifier_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Classify all images, print each one's result as it comes, and return the exit status."""
    labels = None if args.labels is None else split_labels(args.labels)
    prompts, pruning = make_prompts(args, labels), make_pruning(args)
    check_images(args.images)
    classifier = make_classifier(args, prompts, pruning)
    names = [shown(path) for path in args.images]
    width, found = max(map(len, names)), []
    for name, table in zip(names, classifier.error_tables(args.images), strict=True):
        result = _result(name, table, args.temperature)
        found.append(result)
        if not args.json:
            tie = f"  (a tie of {', '.join(table.tie)})" if table.tie else ""
            line = f"{name:{width}}  {table.predicted}  {result['probability']:.4f}  {table.n_evaluations} evaluations"
            tqdm.write(line + tie)  # above the progress bar
            sys.stdout.flush()
    if args.json:
        settings = {"model": args.model, "pruning": repr(classifier.strategy_), "loss": args.loss, "seed": args.seed}
        print(json.dumps({**settings, "classes": classifier.classes_.tolist(), "images": found}, indent=2))
    return 0


def _result(name: str, table: ErrorTable, temperature: float) -> dict[str, object]:
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
