"""`diffclf train`: make an embedded model again from its seed."""

import argparse
import shutil
from pathlib import Path

import torch

from diffclf.mini.recipes import RECIPES
from diffclf.mini.scores import EXPERIMENTS
from diffclf.mini.training import Job

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf train`."""
    add = parser.add_argument
    add("name", choices=list(RECIPES), help="which embedded model to train")
    add("--fashion-mnist", metavar="DIR", help="folder of Fashion-MNIST's four IDX files")
    add("--out", type=Path, metavar="DIR", help="where the model goes (default runs/NAME/pipeline)")
    add("--work", type=Path, metavar="DIR", help="checkpoints; the same folder resumes (default runs/NAME)")
    add("--samples", type=int, metavar="N", help="samples that the main network sees (default: the recipe's)")
    add("--start-from", type=Path, metavar="DIR", help="train on from an exported model")
    add("--scale", type=float, default=1.0, help="share of the recipe's scenes; below 1 for trials")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf train`: minutes for a discriminative network, one to two hours for a diffusion model."""
    torch.set_num_threads(args.threads)
    recipe, work = RECIPES[args.name], args.work or Path("runs", args.name)
    out = args.out or Path("runs", args.name, "pipeline")
    print(f"training {args.name}: about {recipe.hours} hours on one thread of a CPU; {work} keeps checkpoints")
    recipe.train(Job(out, work, args.fashion_mnist, args.samples, args.seed, args.start_from, args.scale))
    (out / "training").mkdir(exist_ok=True)
    for log in work.glob("*.csv"):
        shutil.copy(log, out / "training")
    print(f"the model is in {out}; {_next_step(args.name)}")
    return 0


def _next_step(name: str) -> str:
    """Return what makes a trained model part of the embedded data."""
    if (experiment := name.partition("-")[0]) in EXPERIMENTS:
        return f"`diffclf score {experiment}` stores what the models of its experiment answer"
    return f"copied to data/models/{name}, `diffclf measure {name}` writes its card"
