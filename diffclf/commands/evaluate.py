"""`diffclf evaluate`: accuracy on a folder with one sub-folder of images per class.

A run has a folder:

    bank/             the errors of each image, stored when the image is finished (`diffclf.bank`)
    predictions.csv   a line per image: image, label, predicted, correct, probability, n_evaluations, tie
    confusion.csv     images by label (rows) and prediction (columns)
    summary.json      accuracy with Wilson's 95% interval, confusion matrix, cost, settings

The last three files are written at the end. The same command continues a run that was killed: it computes only the
errors that are not in the bank. Images are known by their pixels, not by their names. The bank keeps errors of
different settings apart, so a run with other settings may use the same folder; it overwrites the three files.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffclf.bank import ErrorBank
from diffclf.classifier import DiffusionClassifier
from diffclf.commands.options import (
    add_classifier_arguments,
    first_reasons,
    make_classifier,
    make_prompts,
    make_pruning,
)
from diffclf.datasets.folder import ClassFolder, FolderImage, shown, unreadable
from diffclf.files import write_csv, write_json
from diffclf.models.precision import precision
from diffclf.progress import progress
from diffclf.prompts import resolve_prompts
from diffclf.search import search
from diffclf.stats import proportion
from diffclf.texttable import plural, printable, text_table

__all__ = ["add_arguments", "run"]

WIDEST_TABLE = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf evaluate`."""
    parser.add_argument("folder", metavar="FOLDER", help="folder with one sub-folder of images per class")
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--labels-from-folders", action="store_true", help="the classes are the folders' names, _ a space in prompts")
    add("--prompts", metavar="FILE", help="CSV file: prompt, classname (the folders' names), classidx")
    add_classifier_arguments(parser)
    out = "results (default FOLDER-results): a killed run continues there, other settings overwrite its tables"
    skip = "leave images out that cannot be used (damaged, animated); the summary lists them"
    parser.add_argument("--skip-unreadable", action="store_true", help=skip)
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)


def run(args: argparse.Namespace) -> int:
    """Classify all images of the folder, write and print the results, and return the exit status."""
    pruning = make_pruning(args)
    folder = ClassFolder(args.folder)
    prompts = _prompts(args, folder)
    out = args.out or Path(f"{folder.path.resolve().name}-results")
    _check_out(out, folder)
    if folder.ignored:
        names = ", ".join(shown(path.name) for path in folder.ignored[:3])
        names += ", ..." if len(folder.ignored) > 3 else ""
        what = "entry that is" if len(folder.ignored) == 1 else "entries that are"
        _say(f"ignoring {len(folder.ignored)} {what} no image of a class: {names}")
    images, skipped = _usable(folder, args.skip_unreadable)
    labels = {image.label for image in images}
    if empty := [name for name in folder.classnames if name not in labels]:
        _say(f"no image of {', '.join(empty)}, which can still be predicted")

    classifier = make_classifier(args, prompts, pruning)
    predictions, n_computed = _predict(classifier, images, out / "bank")
    summary = _summary(predictions, classifier.classes_.tolist()) | {"n_skipped": len(skipped), "skipped": skipped}
    model, settings = classifier.model, {name: getattr(args, name) for name in ("model", "loss", "seed", "temperature")}
    settings |= {"weights": model.fingerprint, "dtype": precision(model), "pruning": repr(classifier.strategy_)}
    summary["settings"] = settings | {"prompts": [list(pair) for pair in prompts]}
    confusion = zip(summary["classes"], summary["confusion"], strict=True)
    write_csv(out / "predictions.csv", [list(predictions[0]), *(row.values() for row in predictions)])
    write_csv(out / "confusion.csv", [["", *summary["classes"]], *([name, *counts] for name, counts in confusion)])
    write_json(out / "summary.json", summary)
    print(json.dumps(summary | {"out": str(out)}, indent=2) if args.json else _report(summary, n_computed, out))
    return 0


def _say(message: str) -> None:
    """Print a line about the folder on stderr."""
    print(f"diffclf: {printable(message)}", file=sys.stderr)


def _usable(folder: ClassFolder, skip: bool) -> tuple[list[FolderImage], dict[str, str]]:
    """Return the images that can be used, and the names of the others with the reasons.

    Raises ValueError if there are others and `skip` is False, or no image can be used.
    """
    bad = unreadable(progress([image.path for image in folder.images], desc="checking images", unit="image"))
    if bad and not skip:
        raise ValueError(f"{first_reasons(bad)}; --skip-unreadable leaves such images out")
    if len(bad) == len(folder.images):
        raise ValueError(f"no image of {folder.path} can be used: {first_reasons(bad)}")
    if bad:
        _say(f"skipping {plural(len(bad), 'image')} that cannot be used: {first_reasons(bad)}")
    return (
        [image for image in folder.images if image.path not in bad],
        {image.name: bad[image.path] for image in folder.images if image.path in bad},
    )


def _prompts(args: argparse.Namespace, folder: ClassFolder) -> list[tuple[str, str]]:
    """Return the (prompt, classname) pairs; raise ValueError if a sub-folder is no class."""
    pairs = make_prompts(args, [name.replace("_", " ") for name in folder.classnames])
    if args.prompts is None:
        return [(prompt, name) for (prompt, _), name in zip(pairs, folder.classnames, strict=True)]
    known = {classname for _, classname in pairs}
    if unknown := [name for name in folder.classnames if name not in known]:
        raise ValueError(
            f"every sub-folder of {folder.path} must be a classname in {args.prompts}, "
            f"got {', '.join(map(repr, unknown))}"
        )
    return pairs


def _check_out(out: Path, folder: ClassFolder) -> None:
    """Raise ValueError unless the results can go to this folder."""
    if out.resolve().is_relative_to(folder.path.resolve()):
        raise ValueError(f"out must not lie inside the folder of images {folder.path}, got {out}; choose another --out")
    taken = out.is_file() or (out.is_dir() and any(out.iterdir()))
    if taken and not (out / "bank").is_dir():
        raise ValueError(f"out must be a new folder or the folder of an earlier run, got {out} without a bank")


def _predict(
    classifier: DiffusionClassifier, images: Sequence[FolderImage], banks: Path
) -> tuple[list[dict[str, Any]], int]:
    """Return a row of predictions.csv per image, and the denoiser evaluations that were not in the bank yet."""
    model, strategy = classifier.model, classifier.strategy_
    prompts, classnames = resolve_prompts(classifier.prompts, model.labels)
    options = {"seed": classifier.seed, "losses": (classifier.loss,), "batch_size": classifier.batch_size}
    bank = ErrorBank(banks, model, prompts, strategy.trial_list(len(model.schedule)), **options)
    tables = search(bank, [image.path for image in images], strategy, classnames=classnames)
    predictions = [
        {
            "image": image.name,
            "label": image.label,
            "predicted": table.predicted,
            "correct": table.predicted == image.label,
            "probability": f"{table.proba(classifier.temperature).max():.6g}",
            "n_evaluations": table.n_evaluations,
            "tie": bool(table.tie),
        }
        for image, table in zip(images, tables, strict=True)
    ]
    return predictions, bank.n_evaluations


def _summary(predictions: Sequence[dict[str, Any]], classnames: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, cost and confusion matrix as plain values."""
    pairs = Counter((row["label"], row["predicted"]) for row in predictions)
    n_correct = sum(row["correct"] for row in predictions)
    accuracy = asdict(proportion(n_correct, len(predictions)))
    return {
        "n_images": len(predictions),
        "n_correct": n_correct,
        "accuracy": {name: accuracy[name] for name in ("value", "low", "high", "level")},
        "n_evaluations": sum(row["n_evaluations"] for row in predictions),
        "n_ties": sum(row["tie"] for row in predictions),
        "classes": list(classnames),
        "classes_without_images": [name for name in classnames if not any(row["label"] == name for row in predictions)],
        "confusion": [[pairs[label, predicted] for predicted in classnames] for label in classnames],
    }


def _report(summary: dict[str, Any], n_computed: int, out: Path) -> str:
    """Return what is printed at the end."""
    n_images, n_evaluations, accuracy = summary["n_images"], summary["n_evaluations"], summary["accuracy"]
    resumed = f"; {n_computed} computed now, the others read from the bank" if n_computed < n_evaluations else ""
    classes = summary["classes"]
    skipped = f"{plural(summary['n_skipped'], 'image')} skipped\n" if summary["n_skipped"] else ""
    where = printable(str(out))
    table = f"confusion matrix of {len(classes)} classes: {where}/confusion.csv"
    if len(classes) <= WIDEST_TABLE:
        rows = [["", *map(str, range(len(classes)))]]
        for position, counts in enumerate(summary["confusion"]):
            rows.append([f"{position} {classes[position]}", *map(str, counts)])
        table = f"rows: true class; columns: predicted\n{text_table(rows, str.rjust)}"
    return (
        f"accuracy {accuracy['value']:.2%}, {accuracy['level']:.0%} interval {accuracy['low']:.2%} to "
        f"{accuracy['high']:.2%} (Wilson; {summary['n_correct']} of {plural(n_images, 'image')})\n"
        f"{skipped}{plural(n_evaluations, 'denoiser evaluation')}, {n_evaluations / n_images:.1f} an image{resumed}\n"
        f"{plural(summary['n_ties'], 'tie')}\n\n{table}\n\npredictions and summary: {where}"
    )
