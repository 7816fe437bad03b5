"""`diffclf evaluate`: accuracy on a folder with one sub-folder of images per class, or on a data set.

A run has a folder:

    bank/             the errors of each image, stored when the image is finished (`diffclf.bank`), or --bank
    predictions.csv   a line per image: image, label, predicted, correct, probability, n_evaluations, tie
    confusion.csv     images by label (rows) and prediction (columns)
    summary.json      accuracy with Wilson's 95% interval, confusion matrix, cost, settings

The last three files are written at the end. The same command continues a run that was killed: it computes only the
errors that are not in the bank. Images are known by their pixels, not by their names. The bank keeps errors of
different settings apart, so a run with other settings may use the same folder; it overwrites the three files.

Several workers (--engine, --workers) fill the bank first (`diffclf.engines`); the tables are then made from the bank,
as a single process makes them. A shard (--shard 2/8) is every eighth image from the second on: it fills the bank and
writes summary-2-of-8.json alone. The command without --shard finds everything in the bank and writes the tables.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffclf.bank import ErrorBank
from diffclf.classifier import DiffusionClassifier
from diffclf.commands.items import Item, named, read_dataset, read_folder, say, skipped_images, unusable
from diffclf.commands.options import (
    add_classifier_arguments,
    count,
    make_classifier,
    make_pruning,
    model_options,
)
from diffclf.engines import ENGINES, Job, check_engine, fill, make_workers
from diffclf.engines.job import block_size
from diffclf.files import check_writable, write_csv, write_json
from diffclf.models.loading import built_in_models
from diffclf.models.precision import precision
from diffclf.progress import progress
from diffclf.prompts import resolve_prompts
from diffclf.search import search
from diffclf.stats import proportion
from diffclf.texttable import plural, printable, text_table

__all__ = ["add_arguments", "run"]

WIDEST_TABLE = 20


def _shard(text: str) -> tuple[int, int]:
    """Return the numbers i and n of "i/n", 1 <= i <= n, the type of an option."""
    number, slash, total = text.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise argparse.ArgumentTypeError(f"must be I/N with I in 1..N, such as 2/8, got {text!r}")
    return int(number), int(total)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf evaluate`."""
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="folder with one sub-folder of images per class")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--labels-from-folders", action="store_true", help="the classes are the folders' names, _ a space in prompts")
    prompts = "CSV file: prompt, classname (the folders' or the data set's names), classidx"
    add("--prompts", metavar="FILE", help=prompts)
    add = parser.add_argument_group("data set", "Instead of FOLDER; the prompts are the data set's own.").add_argument
    add("--dataset", metavar="NAME", help="embedded, of the hub or a folder: mini-items, pets, imagenet, ...")
    add("--split", help="tune or test, or all of a folder (default: test)")
    add("--n-images", type=count, metavar="N", help="the first N of a fixed, class-balanced order (default: all)")
    add_classifier_arguments(parser)
    out = "results (default FOLDER-results): a killed run continues there, other settings overwrite its tables"
    skip = "leave images out that cannot be used (damaged, animated); the summary lists them"
    parser.add_argument("--skip-unreadable", action="store_true", help=skip)
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)
    add = parser.add_argument_group("scale", "docs/scale.md says how to use many GPUs.").add_argument
    add("--bank", type=Path, metavar="DIR", help="folder of banks, shared by all processes and runs (default OUT/bank)")
    add("--engine", choices=ENGINES, default="local", help="what runs the workers (default %(default)s)")
    workers = "processes that compute (default: this one alone; with ray one per GPU)"
    add("--workers", type=count, metavar="N", help=workers)
    add("--ray-address", metavar="ADDRESS", help="Ray cluster to join (default: start one on this machine)")
    add("--shard", type=_shard, metavar="I/N", help="only every N-th image from the I-th on, for job arrays")


def run(args: argparse.Namespace) -> int:
    """Classify all images, write and print the results, and return the exit status."""
    pruning = make_pruning(args)
    if args.ray_address is not None and args.engine != "ray":
        raise ValueError(f"--ray-address is for --engine ray, got --engine {args.engine}")
    check_engine(args.engine)
    data = read_dataset(args) if args.dataset is not None else read_folder(args)
    out = args.out or Path(f"{Path(data.name).resolve().name}-results")
    _check_out(out, args.bank, data.name)
    first, step = args.shard or (1, 1)
    items = data.items[first - 1 :: step]
    if not items:
        raise ValueError(f"shard must be one of at most {len(data.items)}, one image each, got {first}/{step}")
    in_workers = args.engine == "ray" or (args.workers or 1) > 1
    skipped = {} if in_workers else unusable(items, data, args.skip_unreadable)  # workers check their own images
    if data.empty:
        say(f"no image of {', '.join(data.empty)}, which can still be predicted")

    classifier = make_classifier(args, data.prompts, pruning, data.images and data.images.positions)
    _, classnames = resolve_prompts(classifier.prompts, classifier.model.labels)
    if data.images and (labels := classifier.model.labels):  # the data set's names: a class may be several labels
        classnames = [data.images.classnames[place] for place in data.images.owners(labels)]
    bank, n_computed = _open_bank(classifier, args.bank or out / "bank"), 0
    if in_workers:
        n_computed, skipped = _fill(args, bank, classifier, items)
    predictions = _predict(classifier, bank, [item for item in items if item.name not in skipped], classnames)
    n_computed += bank.n_evaluations
    summary = _summary(predictions, list(dict.fromkeys(classnames))) | {"n_skipped": len(skipped), "skipped": skipped}
    model, settings = classifier.model, {name: getattr(args, name) for name in ("model", "loss", "seed", "temperature")}
    settings |= {
        "source": model.source,
        "weights": model.fingerprint,
        "dtype": precision(model),
        "pruning": repr(classifier.strategy_),
    }
    summary["settings"] = settings | {"prompts": [list(pair) for pair in data.prompts]}
    if args.shard is None:
        confusion = zip(summary["classes"], summary["confusion"], strict=True)
        write_csv(out / "predictions.csv", [list(predictions[0]), *(row.values() for row in predictions)])
        write_csv(out / "confusion.csv", [["", *summary["classes"]], *([name, *counts] for name, counts in confusion)])
        write_json(out / "summary.json", summary)
        text = _report(summary, n_computed, out)
    else:
        write_json(out / f"summary-{first}-of-{step}.json", summary)
        text = (
            f"shard {first}/{step}: {plural(len(predictions), 'image')}, {len(skipped)} skipped, "
            f"{plural(n_computed, 'denoiser evaluation')} computed now\n"
            "after the last shard run the same command without --shard: it writes the tables"
        )
    print(json.dumps(summary | {"out": str(out)}, indent=2) if args.json else text)
    return 0


def _check_out(out: Path, bank: Path | None, source: str) -> None:
    """Raise ValueError unless the results and the bank can go to their folders."""
    for name, place in (("out", out), ("bank", bank)):
        if place is not None and place.resolve().is_relative_to(Path(source).resolve()):
            raise ValueError(
                f"{name} must not lie inside the folder of images {source}, got {place}; choose another --{name}"
            )
        if place is not None:
            check_writable(name, place)
    if bank is not None and (bank / "bank.json").is_file():
        raise ValueError(f"bank must be a folder of banks, got one bank, {bank}; did you mean {bank.parent}?")
    taken = out.is_dir() and any(out.iterdir())
    if taken and not (out / "bank").is_dir() and not any(out.glob("summary*.json")):
        raise ValueError(f"out must be a new folder or the folder of an earlier run, got {out} without a bank")


def _open_bank(classifier: DiffusionClassifier, banks: Path) -> ErrorBank:
    """Return the bank of the classifier's settings, in a folder of banks."""
    model, strategy = classifier.model, classifier.strategy_
    prompts, _ = resolve_prompts(classifier.prompts, model.labels)
    options = {"seed": classifier.seed, "losses": (classifier.loss,), "batch_size": classifier.batch_size}
    return ErrorBank(banks, model, prompts, strategy.trial_list(len(model.schedule)), **options)


def _fill(
    args: argparse.Namespace, bank: ErrorBank, classifier: DiffusionClassifier, items: Sequence[Item]
) -> tuple[int, dict[str, str]]:
    """Let workers fill the bank; return their evaluations, and the images that cannot be used with the reasons."""
    load = model_options(args) | {"dtype": args.dtype or str(bank.model.dtype).removeprefix("torch.")}
    if args.model.partition("@")[0] not in built_in_models() and Path(args.model).exists():
        load["name_or_path"] = os.path.abspath(args.model)
    load["lora"] = args.lora and os.path.abspath(args.lora)
    load["config"] = os.path.abspath(args.config) if args.config and Path(args.config).exists() else args.config
    options = {"seed": bank.seed, "losses": bank.losses, "batch_size": args.batch_size}
    job = Job(load, bank.path.resolve(), bank.prompts, classifier.strategy_, options)
    workers = make_workers(job, args.engine, args.workers, args.ray_address)
    size = block_size(bank, classifier.strategy_, len(items), workers.n)
    n_computed, bad = 0, {}
    with progress(total=len(items), desc=plural(workers.n, "worker"), unit="image") as bar:
        for done in fill(workers, [named(item) for item in items], size):
            n_computed += done.n_evaluations
            bad |= done.failed
            bar.update(done.n_images)
    return n_computed, skipped_images(items, bad, args.skip_unreadable, args.dataset or args.folder)


def _predict(
    classifier: DiffusionClassifier, bank: ErrorBank, items: Sequence[Item], classnames: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a row of predictions.csv per image, given the class of each prompt; what the bank lacks is computed."""
    tables = search(bank, [item.image for item in items], classifier.strategy_, classnames=classnames)
    return [
        {
            "image": item.name,
            "label": item.label,
            "predicted": table.predicted,
            "correct": table.predicted == item.label,
            "probability": f"{table.proba(classifier.temperature).max():.6g}",
            "n_evaluations": table.n_evaluations,
            "tie": bool(table.tie),
        }
        for item, table in zip(items, tables, strict=True)
    ]


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
