"""The options that several commands share: what determines a classifier, and numbers checked as they are read."""

import argparse

from diffclf.classifier import DiffusionClassifier
from diffclf.evaluator import LOSSES
from diffclf.models import load_model
from diffclf.prompts import TEMPLATE
from diffclf.pruning import Exhaustive, Racing, Staged, Strategy

__all__ = ["add_classifier_arguments", "count", "make_classifier", "make_pruning"]


def count(text: str) -> int:
    """Return a whole number of at least 1, the type of an option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def positive(text: str) -> float:
    """Return a finite number above 0, the type of an option."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {text}")
    return number


def add_classifier_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that determine a classifier."""
    add = parser.add_argument
    add("--template", metavar="TEXT", help=f'prompt of a label, {{}} is its place (default "{TEMPLATE}")')
    add("--model", default="mini-sd", metavar="NAME", help="built-in name, directory or hub id (default %(default)s)")
    add("--loss", default="l2", choices=LOSSES, help="prediction error that decides (default %(default)s)")
    add("--seed", type=int, default=0, help="seed of the noise (default %(default)s)")
    add("--temperature", type=positive, default=1.0, help="divides the scores before the softmax (default %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    add("--dtype", help="float32, float16 or bfloat16 (default: float16 on cuda, else float32)")
    add("--compile", action="store_true", help="compile the network: a minute first, then faster; for many images")
    add("--batch-size", type=count, metavar="B", help="denoiser evaluations at a time (default: chosen)")
    _add_budget_arguments(parser)


def _add_budget_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that determine the pruning strategy."""
    group = parser.add_argument_group(
        "budget", "Default: a race, at most 128 timesteps per class, that drops classes as soon as they are behind."
    )
    add = group.add_argument
    add("--budget", type=int, metavar="E", help="denoiser evaluations that the race may spend on an image")
    add(
        "--confidence",
        type=float,
        metavar="P",
        help="probability that the race keeps the best class (default: calibrated for the model, else 0.99)",
    )
    add(
        *("--trials", "--n-samples", "--n_samples"),
        dest="trials",
        nargs="+",
        type=int,
        metavar="N",
        help="timesteps per class; several numbers: after each stage, with --keep",
    )
    add(
        *("--keep", "--to-keep", "--to_keep"),
        dest="keep",
        nargs="+",
        type=int,
        metavar="K",
        help="prompts that survive each stage; the last is 1",
    )
    add(
        *("--repeats", "--n-trials", "--n_trials"),
        dest="repeats",
        type=int,
        default=1,
        metavar="R",
        help="noises per timestep (default %(default)s)",
    )


def make_pruning(args: argparse.Namespace) -> Strategy:
    """Return the strategy that --trials, --keep, --budget, --confidence and --repeats ask for.

    Raises:
        ValueError: they do not fit together.
    """
    if args.trials is None:
        if args.keep is not None:
            raise ValueError(f"keep needs trials, got keep {args.keep} alone")
        return Racing(budget=args.budget, confidence=args.confidence, repeats=args.repeats)
    for name in ("budget", "confidence"):
        if getattr(args, name) is not None:
            raise ValueError(f"{name} is for the race, which --trials replaces; got both")
    if args.keep is not None:
        return Staged(tuple(args.trials), tuple(args.keep), repeats=args.repeats)
    if len(args.trials) > 1:
        raise ValueError(f"trials of several stages need keep, with one number each, got trials {args.trials} alone")
    if args.trials[0] < 1:  # Exhaustive calls this number n
        raise ValueError(f"trials must be at least 1, got {args.trials[0]}")
    return Exhaustive(args.trials[0], repeats=args.repeats)


def make_classifier(
    args: argparse.Namespace, prompts: list[tuple[str, str]] | None, pruning: Strategy
) -> DiffusionClassifier:
    """Load the model and return the classifier.

    Args:
        args: parsed options.
        prompts: (prompt, classname) pairs; None for all labels of a class-conditional model.
        pruning: the strategy.

    Raises:
        ValueError: the model cannot be loaded, or it does not go with the other options.
    """
    model = load_model(args.model, device=args.device, dtype=args.dtype, compile=args.compile)
    if model.labels is None and prompts is None:
        raise ValueError(f"--labels or --prompts must name the classes: {args.model} is a model of text")
    if model.labels is not None:
        if args.template is not None or args.prompts is not None:
            raise ValueError(f"{args.model} knows classes and no text: use --labels without --template, or neither")
        prompts = prompts and [classname for _, classname in prompts]
    return DiffusionClassifier(
        model,
        prompts,
        pruning=pruning,
        loss=args.loss,
        seed=args.seed,
        batch_size=args.batch_size,
        temperature=args.temperature,
        progress=True,
    )
