"""`diffclf classify`: say what is on images.

Also the options that every command with a classifier has, and how a classifier is made from them.
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from diffclf.prompts import TEMPLATE, prompts_from_labels, read_prompts, split_labels

if TYPE_CHECKING:
    from diffclf.classifier import DiffusionClassifier
    from diffclf.errortable import ErrorTable
    from diffclf.pruning import Pruning

__all__ = ["add_arguments", "add_classifier_arguments", "check_options", "make_classifier", "make_pruning", "run"]

LOSSES = ("l2", "l1", "huber", "vlb", "l2+vlb")


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


def add_classifier_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that determine a classifier."""
    parser.add_argument("--template", metavar="TEXT", help=f'prompt of a label, {{}} its place (default "{TEMPLATE}")')
    parser.add_argument(
        "--model", default="mini-sd", metavar="NAME", help="built-in name, directory or hub id (default %(default)s)"
    )
    parser.add_argument(
        "--loss", default="l2", choices=LOSSES, help="prediction error that decides (default %(default)s)"
    )
    budget = parser.add_argument_group(
        "budget", "Default: a race, at most 100 timesteps per class, that drops classes as soon as they are behind."
    )
    budget.add_argument(
        "--budget", type=int, metavar="E", help="denoiser evaluations that the race may spend on an image"
    )
    budget.add_argument(
        "--confidence",
        type=float,
        metavar="P",
        help="probability that the race keeps the best class (default: calibrated for the model, else 0.99)",
    )
    budget.add_argument(
        *("--trials", "--n-samples", "--n_samples"),
        dest="trials",
        nargs="+",
        type=int,
        metavar="N",
        help="timesteps per class; several numbers: after each stage, with --keep",
    )
    budget.add_argument(
        *("--keep", "--to-keep", "--to_keep"),
        dest="keep",
        nargs="+",
        type=int,
        metavar="K",
        help="prompts that survive each stage; the last is 1",
    )
    budget.add_argument(
        *("--repeats", "--n-trials", "--n_trials"),
        dest="repeats",
        type=int,
        default=1,
        metavar="R",
        help="noises per timestep (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default %(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="divides the scores before the softmax (default %(default)s)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--dtype", help="float32, float16 or bfloat16 (default: float16 on cuda, else float32)")
    parser.add_argument(
        "--compile", action="store_true", help="compile the network: a minute first, then faster; for many images"
    )
    parser.add_argument("--batch-size", type=int, metavar="B", help="denoiser evaluations at a time (default: chosen)")


def make_pruning(args: argparse.Namespace) -> "Pruning":
    """Return the strategy that --trials, --keep, --budget, --confidence and --repeats ask for.

    Raises:
        ValueError: they do not fit together.
    """
    from diffclf.pruning import Exhaustive, Staged
    from diffclf.racing import Racing

    if args.trials is None:
        if args.keep is not None:
            raise ValueError(f"keep needs trials, got keep {args.keep} alone")
        confidence = {} if args.confidence is None else {"confidence": args.confidence}
        return Racing(budget=args.budget, repeats=args.repeats, **confidence)
    for name in ("budget", "confidence"):
        if getattr(args, name) is not None:
            raise ValueError(f"{name} is for the race, which --trials replaces; got both")
    if args.keep is None:
        if len(args.trials) > 1:
            raise ValueError(
                f"trials of several stages need keep, with one number each, got trials {args.trials} alone"
            )
        if args.trials[0] < 1:  # said here, where it is not called n
            raise ValueError(f"trials must be at least 1, got {args.trials[0]}")
        return Exhaustive(args.trials[0], repeats=args.repeats)
    return Staged(tuple(args.trials), tuple(args.keep), repeats=args.repeats)


def make_classifier(
    args: argparse.Namespace, labels: list[str] | None, prompts: list[tuple[str, str]] | None, pruning: "Pruning"
) -> "DiffusionClassifier":
    """Load the model and return the classifier.

    Args:
        args: parsed options.
        labels: class names, or None where `prompts` has them or a class-conditional model's own are meant.
        prompts: (prompt, classname) pairs, or None without labels.
        pruning: the strategy.

    Raises:
        ValueError: the model cannot be had, or does not go with the other options.
    """
    from diffclf.classifier import DiffusionClassifier
    from diffclf.models import load_model
    from diffclf.racing import Racing, calibrated

    model = load_model(args.model, device=args.device, dtype=args.dtype, compile=args.compile)
    if model.labels is None:
        if prompts is None:
            raise ValueError(f"--labels or --prompts must name the classes: {args.model} is a model of text")
        what = prompts
    else:
        if args.template is not None or (prompts is not None and labels is None):
            raise ValueError(f"{args.model} knows classes and no text: use --labels without --template, or neither")
        what = labels
    if isinstance(pruning, Racing) and args.confidence is None:
        pruning = calibrated(pruning, model)
    return DiffusionClassifier(
        model,
        what,
        pruning=pruning,
        loss=args.loss,
        seed=args.seed,
        batch_size=args.batch_size,
        temperature=args.temperature,
    )


def check_options(args: argparse.Namespace) -> None:
    """Refuse numbers out of range before anything is loaded.

    Raises:
        ValueError: as said.
    """
    if args.batch_size is not None and args.batch_size < 1:
        raise ValueError(f"batch-size must be at least 1, got {args.batch_size}")
    if not 0 < args.temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite, got {args.temperature}")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf classify`."""
    check_options(args)
    labels = None if args.labels is None else split_labels(args.labels)
    if args.prompts is not None:
        if args.template is not None:
            raise ValueError("--template goes with --labels, a file of --prompts has whole prompts; got both")
        prompts = read_prompts(args.prompts)
    else:
        prompts = None if labels is None else prompts_from_labels(labels, args.template or TEMPLATE)
    pruning = make_pruning(args)

    from tqdm import tqdm

    from diffclf.folder import check_images, shown
    from diffclf.progress import progress

    check_images(args.images)
    classifier = make_classifier(args, labels, prompts, pruning)
    found = []
    width = max(len(shown(path)) for path in args.images)
    for path in progress(args.images, desc="images", unit="image"):
        table = classifier.errors(path)
        if args.json:
            found.append(_as_dict(shown(path), table, args.temperature))
        else:
            tqdm.write(_line(shown(path).ljust(width), table, args.temperature))  # above the bar
            sys.stdout.flush()
    if args.json:
        settings = {"model": args.model, "pruning": repr(classifier.pruning), "loss": args.loss, "seed": args.seed}
        json.dump({**settings, "classes": classifier.classes_.tolist(), "images": found}, sys.stdout, indent=2)
        print()
    return 0


def _line(name: str, table: "ErrorTable", temperature: float) -> str:
    """Return what is printed of one image."""
    probability = table.proba(temperature).max()
    tie = f"  (a tie of {', '.join(table.tie)})" if table.tie else ""
    return f"{name}  {table.predicted}  {probability:.4f}  {table.n_evaluations} evaluations{tie}"


def _as_dict(name: str, table: "ErrorTable", temperature: float) -> dict[str, object]:
    """Return all that is known of one image as plain values."""
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
