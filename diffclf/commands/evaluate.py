"""`diffclf evaluate`: accuracy on a folder with one sub-folder of images per class.

A run has a folder:

    settings.json     all settings that determine the numbers
    bank/             the errors of each image, stored when the image is finished (`diffclf.bank`)
    predictions.csv   a line per image: image, label, predicted, correct, probability, n_evaluations, tie
    confusion.csv     images by label (rows) and prediction (columns)
    summary.json      accuracy with Wilson's 95% interval, confusion matrix, cost

The last three files are written at the end. The same command continues a run that was killed: it computes only the
images that are not in the bank. Images are known by their pixels, not by their names. Other settings are an error.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffclf.bank import ErrorBank
from diffclf.classifier import DiffusionClassifier
from diffclf.commands.options import add_classifier_arguments, make_classifier, make_pruning
from diffclf.datasets.folder import ClassFolder, check_images
from diffclf.files import write_json, write_whole
from diffclf.progress import progress
from diffclf.prompts import TEMPLATE, prompts_from_labels, read_prompts, resolve_prompts
from diffclf.search import search
from diffclf.stats import proportion

__all__ = ["add_arguments", "run"]

WIDEST_TABLE = 20
SETTINGS = "settings.json"


class Prediction(NamedTuple):
    """One line of predictions.csv; `tie`: whether other classes could not be told apart from the predicted one."""

    image: str
    label: str
    predicted: str
    correct: bool
    probability: float
    n_evaluations: int
    tie: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf evaluate`."""
    parser.add_argument("folder", metavar="FOLDER", help="folder with one sub-folder of images per class")
    classes = parser.add_mutually_exclusive_group(required=True)
    classes.add_argument(
        "--labels-from-folders",
        action="store_true",
        help="the classes are the folders' names, _ read as a space in prompts",
    )
    classes.add_argument(
        "--prompts", metavar="FILE", help="CSV file with the columns prompt, classname (the folders' names), classidx"
    )
    add_classifier_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the results, where a killed run continues (default FOLDER-results)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Classify all images of the folder, write and print the results, and return the exit status."""
    pruning = make_pruning(args)
    folder = ClassFolder(args.folder)
    prompts = _prompts(args, folder)
    out = args.out or Path(f"{folder.path.resolve().name}-results")
    settings = {name: getattr(args, name) for name in ("model", "loss", "seed", "temperature")}
    settings["prompts"] = [list(pair) for pair in prompts]
    if args.trials is not None:  # a race depends on the model's calibration, too
        settings["pruning"] = repr(pruning)
    _check_out(out, folder)
    _check_settings(out, settings)
    _warn_of_ignored(folder)
    check_images(progress([image.path for image in folder.images], desc="checking images", unit="image"))

    classifier = make_classifier(args, prompts, pruning)
    model = classifier.model
    settings |= {"pruning": repr(classifier.strategy_), "weights": model.fingerprint, "dtype": str(model.dtype)}
    _check_settings(out, settings)
    write_json(out / SETTINGS, settings)
    predictions, n_computed = _predict(classifier, folder, out / "bank")
    summary = _summary(predictions, classifier.classes_.tolist())
    _write(out, predictions, summary | {"settings": settings})
    if args.json:
        print(json.dumps(summary | {"out": str(out), "settings": settings}, indent=2))
    else:
        print("\n".join([*_report(summary, n_computed, out), "", f"predictions and summary: {out}"]))
    return 0


def _prompts(args: argparse.Namespace, folder: ClassFolder) -> list[tuple[str, str]]:
    """Return the (prompt, classname) pairs.

    Raises:
        ValueError: too few classes, a folder without a class, or options that do not go together.
    """
    if args.prompts is None:
        words = [name.replace("_", " ") for name in folder.classnames]
        texts = [text for text, _ in prompts_from_labels(words, args.template or TEMPLATE)]
        return list(zip(texts, folder.classnames, strict=True))
    if args.template is not None:
        raise ValueError("--template goes with --labels-from-folders, a file of --prompts has whole prompts; got both")
    prompts = read_prompts(args.prompts)
    known = {classname for _, classname in prompts}
    if unknown := [name for name in folder.classnames if name not in known]:
        raise ValueError(
            f"every sub-folder of {folder.path} must be a classname in {args.prompts}, "
            f"got {', '.join(map(repr, unknown[:5]))}{' and others' if len(unknown) > 5 else ''}"
        )
    return prompts


def _check_out(out: Path, folder: ClassFolder) -> None:
    """Raise ValueError unless the results can go to this folder."""
    if out.resolve().is_relative_to(folder.path.resolve()):
        raise ValueError(f"out must not lie inside the folder of images {folder.path}, got {out}; choose another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out must be a folder, got the file {out}")
    if out.is_dir() and not (out / SETTINGS).exists():
        if any(not entry.name.startswith(f".{SETTINGS}") for entry in out.iterdir()):
            raise ValueError(f"out must be a new folder or the folder of an earlier run, got {out} with other files")


def _check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Raise ValueError if the folder holds a run with other settings; `settings` may be a part of all settings."""
    path = out / SETTINGS
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    different = [
        _difference(name, stored.get(name), given) for name, given in settings.items() if given != stored.get(name)
    ]
    if different:
        raise ValueError(
            f"settings must be those of the run in {out}: {'; '.join(different[:3])}. "
            "Choose another --out, or the same settings to continue"
        )


def _difference(name: str, stored: object, given: object) -> str:
    """Return how a setting differs, in a few words."""
    if isinstance(stored, list) and isinstance(given, list):
        for position, (before, now) in enumerate(zip(stored, given, strict=False)):
            if before != now:
                return f"{name}[{position}] was {before!r}, got {now!r}"
        return f"{name} had {len(stored)} entries, got {len(given)}"
    return f"{name} was {stored!r}, got {given!r}"


def _warn_of_ignored(folder: ClassFolder) -> None:
    """Print on stderr which files of the folder are not used."""
    if folder.ignored:
        names = ", ".join(path.name for path in folder.ignored[:3]) + (", ..." if len(folder.ignored) > 3 else "")
        print(f"diffclf: ignoring {len(folder.ignored)} files that are no images of a class: {names}", file=sys.stderr)


def _predict(classifier: DiffusionClassifier, folder: ClassFolder, banks: Path) -> tuple[list[Prediction], int]:
    """Return the prediction of each image, and the number of denoiser evaluations that were not in the bank yet."""
    model, strategy = classifier.model, classifier.strategy_
    prompts, classnames = resolve_prompts(classifier.prompts, model.labels)
    bank = ErrorBank(
        banks,
        model,
        prompts,
        strategy.trial_list(len(model.schedule)),
        seed=classifier.seed,
        losses=(classifier.loss,),
        batch_size=classifier.batch_size,
    )
    predictions = []
    tables = search(bank, [image.path for image in folder.images], strategy, classnames=classnames)
    for image, table in zip(folder.images, tables, strict=True):
        correct, probability = table.predicted == image.label, float(table.proba(classifier.temperature).max())
        result = image.name, image.label, table.predicted, correct, probability, table.n_evaluations, bool(table.tie)
        predictions.append(Prediction(*result))
    return predictions, bank.n_evaluations


def _summary(predictions: Sequence[Prediction], classnames: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, cost and confusion matrix as plain values."""
    index = {name: position for position, name in enumerate(classnames)}
    confusion = np.zeros((len(index), len(index)), dtype=np.int64)
    for row in predictions:
        confusion[index[row.label], index[row.predicted]] += 1
    n_correct = sum(row.correct for row in predictions)
    accuracy = asdict(proportion(n_correct, len(predictions)))
    return {
        "n_images": len(predictions),
        "n_correct": n_correct,
        "accuracy": {name: accuracy[name] for name in ("value", "low", "high", "level")},
        "n_evaluations": sum(row.n_evaluations for row in predictions),
        "n_ties": sum(row.tie for row in predictions),
        "classes": list(classnames),
        "confusion": confusion.tolist(),
    }


def _write(out: Path, predictions: Sequence[Prediction], summary: Mapping[str, Any]) -> None:
    """Write predictions.csv, confusion.csv and summary.json."""
    classes = summary["classes"]
    rows = [row._replace(probability=f"{row.probability:.6g}") for row in predictions]
    counts = [[name, *line] for name, line in zip(classes, summary["confusion"], strict=True)]
    for name, lines in {
        "predictions.csv": [Prediction._fields, *rows],
        "confusion.csv": [["", *classes], *counts],
    }.items():
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(lines)
        write_whole(out / name, text.getvalue())
    write_json(out / "summary.json", summary)


def _report(summary: Mapping[str, Any], n_computed: int, out: Path) -> list[str]:
    """Return the lines that are printed at the end."""
    n_images, n_evaluations, accuracy = summary["n_images"], summary["n_evaluations"], summary["accuracy"]
    resumed = f"; {n_computed} computed now, the others read from the bank" if n_computed < n_evaluations else ""
    lines = [
        f"accuracy {accuracy['value']:.2%}, {accuracy['level']:.0%} interval {accuracy['low']:.2%} to "
        f"{accuracy['high']:.2%} (Wilson; {summary['n_correct']} of {n_images} images)",
        f"{n_evaluations} denoiser evaluations, {n_evaluations / n_images:.1f} an image{resumed}",
        f"{summary['n_ties']} ties",
        "",
    ]
    classes, confusion = summary["classes"], summary["confusion"]
    if len(classes) > WIDEST_TABLE:
        return [*lines, f"confusion matrix of {len(classes)} classes: {out / 'confusion.csv'}"]
    names = [f"{position} {name}" for position, name in enumerate(classes)]
    wide = max(map(len, names))
    cell = max(3, len(str(np.max(confusion))), len(str(len(names) - 1)))
    lines += ["rows: true class; columns: predicted", " " * wide + "".join(f" {i:>{cell}}" for i in range(len(names)))]
    for name, counts in zip(names, confusion, strict=True):
        lines.append(name.ljust(wide) + "".join(f" {count:>{cell}}" for count in counts))
    return lines
