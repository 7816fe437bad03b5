"""`diffclf bench`: what the evaluator costs over the bare forward passes of the network.

Both run the same batches in turn, bare - evaluator - bare - evaluator …, so that a machine whose speed drifts
disturbs both alike; what is reported is the ratio pair by pair.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from diffclf.evaluator import Evaluator
from diffclf.models import load_model
from diffclf.models.protocol import DiffusionModel
from diffclf.trials import Trials, uniform

__all__ = ["add_arguments", "measure_overhead", "run"]


def _seconds(act: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure_overhead(
    model: DiffusionModel, *, n_prompts: int = 10, n_pairs: int = 11, batch_size: int | None = None, n_batches: int = 4
) -> dict[str, float | int]:
    """Time the evaluator against bare forward passes on the same batches.

    Args:
        model: the model; its weights do not matter.
        n_prompts: prompts per trial, among which a trial's noise is shared.
        n_pairs: interleaved pairs of runs.
        batch_size: evaluations per forward pass; None: the evaluator's choice.
        n_batches: forward passes per run.

    Returns:
        Median, least and largest ratio (evaluator / bare), and the median evaluations per second of each.
    """
    evaluator = Evaluator(model, ["l2", "l1", "huber"], batch_size)
    n = evaluator.batch_size * n_batches
    n_trials = -(-n // n_prompts)
    if model.labels is None:
        cond = model.encode_prompts([f"a photo of number {i}" for i in range(n_prompts)])
    else:
        cond = model.encode_prompts([i % len(model.labels) for i in range(n_prompts)])
    timesteps = np.resize(uniform(min(n_trials, len(model.alphas_cumprod)), len(model.alphas_cumprod)), n_trials)
    trials = Trials(timesteps, 0, 0, model.latent_shape)
    x0 = trials.noise([0])
    triples = np.array([(0, p, t) for t in range(n_trials) for p in range(n_prompts)])[:n]

    batches = []
    for start in range(0, n, evaluator.batch_size):
        part = triples[start : start + evaluator.batch_size]
        x_t = torch.randn(len(part), *model.latent_shape, generator=torch.Generator().manual_seed(start))
        t = torch.from_numpy(timesteps[part[:, 2]])
        batches.append((x_t.to(model.device), t.to(model.device), cond[torch.from_numpy(part[:, 1]).to(model.device)]))

    @torch.inference_mode()
    def bare() -> None:
        for x_t, t, c in batches:
            model.denoise(x_t, t, c)

    def ours() -> None:
        evaluator.errors(x0, cond, [trials], triples)

    for act in (bare, ours):
        act()
    seconds = np.array([[_seconds(bare, model.device), _seconds(ours, model.device)] for _ in range(n_pairs)])
    ratios = seconds[:, 1] / seconds[:, 0]
    return {
        "overhead": float(np.median(ratios)) - 1,
        "overhead_least": float(ratios.min()) - 1,
        "overhead_largest": float(ratios.max()) - 1,
        "bare_per_second": n / float(np.median(seconds[:, 0])),
        "evaluator_per_second": n / float(np.median(seconds[:, 1])),
        "pairs": n_pairs,
        "batch_size": evaluator.batch_size,
        "evaluations_per_run": n,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf bench`."""
    parser.add_argument("--model", default="mini-sd", help="built-in name, directory or hub id")
    parser.add_argument("--device", help="cpu, cuda, …; by default the fastest there is")
    parser.add_argument("--batch-size", type=int, help="evaluations per forward pass")
    parser.add_argument("--pairs", type=int, default=11, help="interleaved pairs of runs")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf bench`."""
    model = load_model(args.model, device=args.device)
    result = measure_overhead(model, n_pairs=args.pairs, batch_size=args.batch_size)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{args.model} on {model.device}, batches of {result['batch_size']}, {torch.get_num_threads()} CPU threads")
    print(f"bare forward passes  {result['bare_per_second']:8.0f} evaluations/s")
    print(f"evaluator            {result['evaluator_per_second']:8.0f} evaluations/s")
    print(
        f"overhead             {result['overhead']:+8.1%} median of {result['pairs']} pairs, "
        f"{result['overhead_least']:+.1%} to {result['overhead_largest']:+.1%}"
    )
    return 0
