"""`diffclf bench`: how much faster the evaluator and the race are than the paper's loop, measured in one run.

Notebook 14_racing says how accurate they are. `--workers N` measures N worker processes against one instead, and
`--fleet` simulates what ImageNet costs on many GPUs (docs/scale.md). `--true-size NAME` runs a large model with random
weights.
"""

import argparse
import json
from dataclasses import asdict
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch

from diffclf.bench.fleet import PAPER_RATE, fleet_tables
from diffclf.bench.throughput import measure_overhead, measure_throughput, time_races
from diffclf.bench.true_size import TRUE_SIZES, measure_true_size
from diffclf.bench.workers import measure_workers
from diffclf.commands.options import count, positive
from diffclf.datasets import load_dataset
from diffclf.engines import ENGINES
from diffclf.models import load_model
from diffclf.models.device import choose_device
from diffclf.models.precision import choose_dtype
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Hierarchical, Racing, Staged, Strategy
from diffclf.texttable import text_table

__all__ = ["add_arguments", "run"]

SCHEDULES = {
    "mini-items": Staged((50, 500), (5, 1)),
    "mini-coloured-items": Staged((20, 50, 100, 500), (20, 10, 5, 1)),
}
"""Data sets, and the paper's schedule for about as many classes (Table 6: CIFAR-10's, and Food-101's)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf bench`."""
    add = parser.add_argument
    add("--model", default="mini-sd", help="the model (default %(default)s)")
    add("--device", help="cpu, cuda, ...; by default the fastest there is")
    add("--batch-size", type=count, help="evaluations per forward pass, for the overhead")
    add("--rounds", type=count, default=5, help="interleaved rounds (default %(default)s)")
    add("--pairs", type=count, default=11, help="interleaved pairs for the overhead (default %(default)s)")
    add("--images", type=count, default=16, help="test images a race is timed on (default %(default)s)")
    add("--only-overhead", action="store_true", help="the evaluator over the bare network, no more")
    add("--no-compile", action="store_true", help="leave the compiled network out: a minute less")
    add("--workers", type=count, metavar="N", help="N worker processes against one, no more")
    add("--engine", choices=ENGINES, default="local", help="what runs the workers (default %(default)s)")
    add("--fleet", action="store_true", help="simulate ImageNet on 1, 8 and 1000 GPUs, no more")
    rate = "evaluations per second of a GPU, for --fleet (default: the paper's, about %(default)g on an RTX 3090)"
    add("--rate", type=positive, default=PAPER_RATE, metavar="R", help=rate)
    sizes = "a large model at its true size, with random weights: memory and time of four evaluations, no more"
    add("--true-size", choices=TRUE_SIZES, help=sizes)
    add("--dtype", help="its precision: float32, tf32, float16 or bfloat16, for --true-size")
    add("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print the results."""
    if args.fleet:
        return _show(fleet_tables(args.rate), args.json)
    if args.workers is not None:
        return _show({"workers": measure_workers(args.model, args.workers, args.rounds, args.engine)}, args.json)
    if args.true_size:
        device = choose_device(args.device)
        how = (device, choose_dtype(args.dtype, device), args.batch_size or 1)
        return _show({"true size": {args.true_size: measure_true_size(args.true_size, *how)}}, args.json)
    model = load_model(args.model, device=args.device)
    found = {"overhead": measure_overhead(model, args.pairs, args.batch_size)}
    if not args.only_overhead:
        found |= _more_measurements(args, model)
    cuda = model.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(model.device) if cuda else getrusage(RUSAGE_SELF).ru_maxrss * 1024
    found["memory"] = {str(model.device): {"peak, GB": peak / 1e9, "CPU threads": torch.get_num_threads()}}
    return _show(found, args.json)


def _show(found: dict[str, dict[str, dict[str, Any]]], as_json: bool) -> int:
    """Print tables by name, and return the exit status."""
    tables = (f"{name}\n{_table(rows)}\n" for name, rows in found.items())
    print(json.dumps(found, indent=1, default=asdict) if as_json else "\n".join(tables))
    return 0


def _more_measurements(args: argparse.Namespace, model: DiffusionModel) -> dict[str, Any]:
    """Return the throughput, and the races on each data set."""
    plain, fast = load_model(args.model, device=args.device), model
    plain.network.to(memory_format=torch.contiguous_format)  # as diffusers loads it
    models = {"evaluator": model}
    if not args.no_compile:
        models["compiled"] = fast = load_model(args.model, device=args.device, compile=True)
    found = {"throughput": measure_throughput(plain, models, args.rounds)}
    for name, schedule in SCHEDULES.items():
        data = load_dataset(name, n_images=args.images)
        strategies: dict[str, Strategy] = {"race": Racing()}
        if data.tree:
            strategies["label tree + race"] = Hierarchical(data.tree)
        found[name] = time_races(fast, plain, data, schedule, strategies, args.rounds)
    return found


def _table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [["", *next(iter(rows.values()))]]
    for name, row in rows.items():
        lines.append([name, *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())])
    return text_table(lines, str.rjust)
