"""`diffclf classify`: say what is on images."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from diffclf.commands.options import (
    add_classifier_arguments,
    first_reasons,
    make_classifier,
    make_prompts,
    make_pruning,
)
from diffclf.datasets.folder import shown, unreadable
from diffclf.errortable import ErrorTable
from diffclf.prompts import split_labels
from diffclf.texttable import plural, printable

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf classify`."""
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files (before options that take several values)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--labels", metavar="A,B,...", help="the classes, separated by commas")
    add("--prompts", metavar="FILE", help="CSV file with the columns prompt, classname, classidx")
    add_classifier_arguments(parser).add_argument(
        "--jsonl", action="store_true", help="print the results of each image as a line of JSON, as they come"
    )


def run(args: argparse.Namespace) -> int:
    """Classify all images, print each one's result as it comes, and return the exit status."""
    labels = None if args.labels is None else split_labels(args.labels)
    if labels is not None and len(labels) < 2:
        raise ValueError(f"labels must name at least two classes, separated by commas (A,B), got {args.labels!r}")
    prompts, pruning = make_prompts(args, labels), make_pruning(args)
    if bad := unreadable((path, str(path)) for path in args.images):
        raise ValueError(first_reasons(bad))
    classifier = make_classifier(args, prompts, pruning)
    names = [shown(path) for path in args.images]
    width, found = max(len(printable(name)) for name in names), []
    for table in classifier.error_tables(args.images, ordered=not args.jsonl):
        result = _result(names[table.position], table, args.temperature)
        found.append(result)
        if not args.json:
            tqdm.write(json.dumps(result) if args.jsonl else _line(result, width))  # above the progress bar
            sys.stdout.flush()
    if args.json:
        settings = {"model": args.model, "pruning": repr(classifier.strategy_), "loss": args.loss, "seed": args.seed}
        print(json.dumps({**settings, "classes": classifier.classes_.tolist(), "images": found}, indent=2))
    return 0


def _line(result: Mapping[str, Any], width: int) -> str:
    """Return what is printed about one image."""
    tie = f"  (a tie of {', '.join(result['tie'])})" if result["tie"] else ""
    cost = plural(result["n_evaluations"], "evaluation")
    line = f"{result['label']}  {result['probability']:.4f}  {cost}{tie}"
    return f"{printable(result['image']):{width}}  {printable(line)}"


def _result(name: str, table: ErrorTable, temperature: float) -> dict[str, Any]:
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
