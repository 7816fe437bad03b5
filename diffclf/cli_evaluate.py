"""`diffclf evaluate`: accuracy on a folder with one sub-folder of images per class."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffclf.cli_classify import add_classifier_arguments, check_options, make_classifier, make_pruning
from diffclf.prompts import TEMPLATE, prompts_from_labels, read_prompts

if TYPE_CHECKING:
    from diffclf.classifier import DiffusionClassifier
    from diffclf.folder import ClassFolder, FolderImage
    from diffclf.predictions import Prediction, PredictionRun, Summary
    from diffclf.pruning import Pruning

__all__ = ["add_arguments", "run"]

WIDEST_TABLE = 20
FORMAT = 1
"""Raised when a change of the code changes the numbers: runs of another format are not continued."""


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
        help="where results go, and where a run is continued (default FOLDER-results)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf evaluate`."""
    from diffclf.folder import ClassFolder
    from diffclf.predictions import PredictionRun

    check_options(args)
    pruning = make_pruning(args)
    folder = ClassFolder(args.folder)
    labels, prompts = _classes(args, folder)
    out = args.out or Path(f"{folder.path.resolve().name}-results")
    settings = {
        "format": FORMAT,
        "model": args.model,
        "prompts": [list(pair) for pair in prompts],
        "loss": args.loss,
        "seed": args.seed,
        "temperature": args.temperature,
    }
    if args.trials is not None:  # else the model has a say in it
        settings["pruning"] = repr(pruning)
    with PredictionRun(out) as results:
        results.check_settings(settings)
        classifier = _load(args, folder, results, labels, prompts, pruning)
        model = classifier.model
        settings |= {"pruning": repr(classifier.pruning), "weights": model.fingerprint, "dtype": str(model.dtype)}
        done = results.start(settings)
        done += _predict(classifier, _pending(folder, done), results, len(done), args.temperature)
        summary = results.finish(done, classifier.classes_.tolist())
    if args.json:
        json.dump({**summary.as_dict(), "out": str(out), "settings": settings}, sys.stdout, indent=2)
        print()
    else:
        print(_report(summary, out))
    return 0


def _classes(args: argparse.Namespace, folder: "ClassFolder") -> tuple[list[str] | None, list[tuple[str, str]]]:
    """Return the class names, None if a file gives them, and the (prompt, classname) pairs.

    Raises:
        ValueError: too few classes, a folder without a class, or options that do not go together.
    """
    if args.prompts is None:
        labels = list(folder.classnames)
        words = [name.replace("_", " ") for name in labels]
        texts = [text for text, _ in prompts_from_labels(words, args.template or TEMPLATE)]
        return labels, list(zip(texts, labels, strict=True))
    if args.template is not None:
        raise ValueError("--template goes with --labels-from-folders, a file of --prompts has whole prompts; got both")
    prompts = read_prompts(args.prompts)
    known = {classname for _, classname in prompts}
    if unknown := [name for name in folder.classnames if name not in known]:
        raise ValueError(
            f"every sub-folder of {folder.path} must be a classname in {args.prompts}, "
            f"got {', '.join(map(repr, unknown[:5]))}{' and others' if len(unknown) > 5 else ''}"
        )
    return None, prompts


def _load(
    args: argparse.Namespace,
    folder: "ClassFolder",
    results: "PredictionRun",
    labels: list[str] | None,
    prompts: list[tuple[str, str]],
    pruning: "Pruning",
) -> "DiffusionClassifier":
    """Check the images that are still to do, then return the classifier."""
    from diffclf.folder import check_images
    from diffclf.progress import progress

    if folder.ignored:
        names = ", ".join(path.name for path in folder.ignored[:3])
        more = ", ..." if len(folder.ignored) > 3 else ""
        print(
            f"diffclf: ignoring {len(folder.ignored)} files that are no images of a class: {names}{more}",
            file=sys.stderr,
        )
    pending = _pending(folder, results.read())
    check_images(progress([image.path for image in pending], desc="checking images", unit="image"))
    return make_classifier(args, labels, prompts, pruning)


def _pending(folder: "ClassFolder", done: list["Prediction"]) -> list["FolderImage"]:
    """Return the images that have no prediction yet.

    Raises:
        ValueError: there is a prediction of an image that is not in the folder.
    """
    known = {(image.name, image.label) for image in folder.images}
    if gone := [row.image for row in done if (row.image, row.label) not in known]:
        raise ValueError(
            f"{folder.path} must have all images of the run that is continued, got none called {gone[0]} "
            f"({len(gone)} missing); choose another --out"
        )
    finished = {row.image for row in done}
    return [image for image in folder.images if image.name not in finished]


def _predict(
    classifier: "DiffusionClassifier",
    images: list["FolderImage"],
    results: "PredictionRun",
    n_done: int,
    temperature: float,
) -> list["Prediction"]:
    """Classify images one at a time, each written as soon as it is done, and return the predictions."""
    from diffclf.predictions import Prediction
    from diffclf.progress import progress

    predictions = []
    if n_done:
        print(f"diffclf: continuing, {n_done} of {n_done + len(images)} images are done", file=sys.stderr)
    for image in progress(images, desc="images", unit="image"):
        table = classifier.errors(image.path)
        correct = table.predicted == image.label
        probability = float(table.proba(temperature).max())
        row = Prediction(
            image.name, image.label, table.predicted, correct, probability, table.n_evaluations, bool(table.tie)
        )
        results.append(row)
        predictions.append(row)
    return predictions


def _report(summary: "Summary", out: Path) -> str:
    """Return what is printed at the end."""
    n = int(summary.confusion.sum())
    accuracy = summary.accuracy
    lines = [
        f"accuracy {accuracy.value:.2%}, {accuracy.level:.0%} interval {accuracy.low:.2%} to {accuracy.high:.2%} "
        f"(Wilson; {int(summary.confusion.trace())} of {n} images)",
        f"{summary.n_evaluations} denoiser evaluations, {summary.n_evaluations / n:.1f} an image",
        f"{summary.n_ties} ties",
        "",
    ]
    if len(summary.classnames) <= WIDEST_TABLE:
        lines += _confusion_lines(summary)
    else:
        lines.append(f"confusion matrix of {len(summary.classnames)} classes: {out / 'confusion.csv'}")
    return "\n".join([*lines, "", f"predictions and summary: {out}"])


def _confusion_lines(summary: "Summary") -> list[str]:
    """Return the confusion matrix as text, columns numbered as rows to stay narrow."""
    names = [f"{position} {name}" for position, name in enumerate(summary.classnames)]
    wide = max(len(name) for name in names)
    cell = max(3, len(str(summary.confusion.max())), len(str(len(names) - 1)))
    lines = ["rows: true class; columns: predicted", " " * wide + "".join(f" {i:>{cell}}" for i in range(len(names)))]
    for name, counts in zip(names, summary.confusion.tolist(), strict=True):
        lines.append(name.ljust(wide) + "".join(f" {count:>{cell}}" for count in counts))
    return lines
