"""Options that several commands share, and the classifier that some of them determine."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffclf.classifier import DiffusionClassifier
from diffclf.evaluator import LOSSES
from diffclf.models import load_model
from diffclf.models.memory import MEMORY
from diffclf.prompts import TEMPLATE, prompts_from_labels, read_prompts
from diffclf.pruning import Exhaustive, Racing, Staged, Strategy
from diffclf.pruning.within import Within

__all__ = ["add_classifier_arguments", "add_notebook_arguments", "count", "first_reasons", "make_classifier"]
__all__ += ["make_prompts", "make_pruning", "model_options", "positive"]


def count(text: str) -> int:
    """Return a whole number of at least 1, the type of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def positive(text: str) -> float:
    """Return a finite number above 0, the type of an option."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0 and finite, got {text}")
    return number


def first_reasons(bad: Mapping[object, str]) -> str:
    """Return the reasons why images cannot be used, at most five of them."""
    reasons = list(bad.values())
    return "; ".join(reasons[:5]) + (f"; and {len(reasons) - 5} more" if len(reasons) > 5 else "")


def add_notebook_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose notebooks, their profile and their parameters."""
    add = parser.add_argument
    add("--profile", default="", help="smoke, mini, full or paper (default: $DIFFCLF_PROFILE, else mini)")
    add("--only", default="", metavar="01,03", help="numbers or names of notebooks, by commas")
    parameter = {"dest": "parameters", "nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
    add("-p", **parameter, help="set a parameter in every notebook that has it; may be repeated")


def add_classifier_arguments(parser: argparse.ArgumentParser) -> "argparse._MutuallyExclusiveGroup":
    """Declare the options that determine a classifier; its classes are the caller's.

    Returns the group of --json, for other forms of output.
    """
    add = parser.add_argument
    add("--template", metavar="TEXT", help=f'prompt of a label, {{}} is its place (default "{TEMPLATE}")')
    add(
        "--model",
        default="mini-sd",
        metavar="NAME",
        help="built-in name, sd-2-base, directory, file or hub id (default %(default)s)",
    )
    add("--config", metavar="NAME", help="for a model in a single safetensors file: a model of its kind")
    add("--lora", metavar="FILE", help="LoRA to add to the model's weights: a safetensors file, or its folder")
    add("--lora-scale", type=float, metavar="S", help="what the LoRA is multiplied by (default 1.0)")
    add("--without", nargs="+", default=(), metavar="PART", help="parts to leave out: text_encoder_3 (SD3's T5)")
    add("--loss", default="l2", choices=LOSSES, help="prediction error that decides (default %(default)s)")
    add("--seed", type=int, default=0, help="seed of the noise (default %(default)s)")
    add("--temperature", type=positive, default=1.0, help="divides the scores before the softmax (default %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    add("--dtype", help="float32, tf32, float16 or bfloat16 (default: float16 on cuda, else float32)")
    add("--memory", default="normal", choices=MEMORY, help="less than normal for a small GPU: slower, same numbers")
    add("--compile", action="store_true", help="compile the network: a minute first, then faster; for many images")
    add("--batch-size", type=count, metavar="B", help="denoiser evaluations at a time (default: chosen)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print all results as JSON")
    add = parser.add_argument_group(
        "budget", "Default: a race, at most 128 timesteps per class, that drops classes as soon as they are behind."
    ).add_argument
    add("--budget", type=count, metavar="E", help="denoiser evaluations that the race may spend on an image")
    confidence = "probability that the race keeps the best class (default: the model's calibrated threshold, else 0.99)"
    add("--confidence", type=float, metavar="P", help=confidence)
    trials = "timesteps per class; several numbers: after each stage, with --keep"
    add("--trials", "--n-samples", "--n_samples", nargs="+", type=count, metavar="N", help=trials)
    keep = "prompts that survive each stage; the last is 1"
    add("--keep", "--to-keep", "--to_keep", nargs="+", type=count, metavar="K", help=keep)
    timesteps = "part of the timesteps to take trials from, as shares from 0 to 1 (default: all); for flow models"
    add("--timesteps", nargs=2, type=float, metavar=("LOW", "HIGH"), help=timesteps)
    repeats = "noises per timestep (default %(default)s)"
    add("--repeats", "--n-trials", "--n_trials", type=count, default=1, metavar="R", help=repeats)
    return output


def make_prompts(args: argparse.Namespace, labels: Sequence[str] | None) -> list[tuple[str, str]] | None:
    """Return the (prompt, classname) pairs of --prompts, else those of the labels; None without either.

    Raises ValueError: bad labels, template or file, or --template with --prompts; OSError: an unreadable file.
    """
    if args.prompts is None:
        return (
            None
            if labels is None
            else prompts_from_labels(labels, TEMPLATE if args.template is None else args.template)
        )
    if args.template is not None:
        raise ValueError("--template is for labels, a file of --prompts has whole prompts; got both")
    return read_prompts(args.prompts)


def make_pruning(args: argparse.Namespace) -> Strategy:
    """Return the strategy that the options of the budget ask for; raise ValueError if they do not fit together."""
    strategy = _pruning(args)
    return strategy if args.timesteps is None else Within(*args.timesteps, strategy)


def _pruning(args: argparse.Namespace) -> Strategy:
    """Return the strategy on all timesteps."""
    if args.trials is None:
        if args.keep is not None:
            raise ValueError(f"keep needs trials, got keep {args.keep} alone")
        return Racing(budget=args.budget, confidence=args.confidence, repeats=args.repeats)
    if args.budget is not None or args.confidence is not None:
        raise ValueError("budget and confidence are for the race, which --trials replaces; got both")
    if args.keep is not None:
        return Staged(tuple(args.trials), tuple(args.keep), repeats=args.repeats)
    if len(args.trials) > 1:
        raise ValueError(f"trials of several stages need keep, with one number each, got trials {args.trials} alone")
    return Exhaustive(args.trials[0], repeats=args.repeats)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `load_model`; raise ValueError for a scale without a LoRA."""
    names = ("device", "dtype", "compile", "memory", "lora", "config", "without")
    if args.lora is None and args.lora_scale is not None:
        raise ValueError(f"--lora-scale is for --lora, got --lora-scale {args.lora_scale} alone")
    scale = {} if args.lora_scale is None else {"lora_scale": args.lora_scale}
    return {"name_or_path": args.model} | {name: getattr(args, name) for name in names} | scale


def make_classifier(
    args: argparse.Namespace,
    prompts: list[tuple[str, str]] | None,
    pruning: Strategy,
    positions: Callable[[Sequence[str]], list[int]] | None = None,
) -> DiffusionClassifier:
    """Load the model and return the classifier; prompts None: all labels of a class-conditional model.

    Such a model finds the classes by their names, or by what `positions` says of its labels (`ImageSet.positions`).

    Raises ValueError if the model cannot be loaded, or it does not go with the other options.
    """
    model = load_model(**model_options(args))
    if model.labels is None and prompts is None:
        raise ValueError(f"--labels or --prompts must name the classes: {args.model} is a model of text")
    if model.labels is not None:
        if args.template is not None or args.prompts is not None:
            raise ValueError(f"{args.model} knows classes and no text: use --labels without --template, or neither")
        prompts = prompts and (positions(model.labels) if positions else [classname for _, classname in prompts])
    options = {name: getattr(args, name) for name in ("loss", "seed", "batch_size", "temperature")}
    return DiffusionClassifier(model, prompts, pruning=pruning, progress=True, **options)
