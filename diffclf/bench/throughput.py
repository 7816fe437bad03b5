"""Seconds per denoiser evaluation: bare forward passes, the plain loop, the evaluator, the evaluator compiled."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from diffclf.bench.clock import Comparison, compare
from diffclf.bench.plain_loop import plain_loop
from diffclf.evaluator import Evaluator
from diffclf.models.conditioning import Conditioning
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Staged
from diffclf.trials import Trials, uniform

__all__ = ["measure_overhead", "measure_throughput"]

N_PROMPTS, N_BATCHES = 10, 4


def _problem(model: DiffusionModel, n: int) -> tuple[torch.Tensor, Conditioning, Trials, NDArray[np.int64]]:
    """Return a clean latent, conditionings, trials, and (n, 3) triples of one image."""
    prompts = [i % len(model.labels) if model.labels else f"a photo of number {i}" for i in range(N_PROMPTS)]
    n_trials, n_timesteps = -(-n // N_PROMPTS), len(model.schedule)
    trials = Trials(np.resize(uniform(n_timesteps, n_timesteps), n_trials), 0, 0, model.latent_shape)
    triples = np.argwhere(np.ones((1, N_PROMPTS, n_trials)))[:n]
    return trials.noise([0]).to(model.device), model.encode_prompts(prompts), trials, triples


def measure_overhead(model: DiffusionModel, n_pairs: int = 11, batch_size: int | None = None) -> Comparison:
    """Return seconds per evaluation of the evaluator and of bare forward passes of the network on the same batches.

    The overhead of the evaluator is the speed-up of the bare passes minus 1.

    Args:
        model: the model; its weights do not matter.
        n_pairs: interleaved pairs of runs.
        batch_size: evaluations per forward pass; None: the evaluator's choice.
    """
    evaluator = Evaluator(model, ["l2", "l1", "huber"], batch_size)
    n = evaluator.batch_size * N_BATCHES
    x0, cond, trials, triples = _problem(model, n)
    batches = []
    for part in np.split(triples, N_BATCHES):
        t = torch.from_numpy(trials.timesteps[part[:, 2]]).to(model.device)
        batches.append((trials.noise(part[:, 2]).to(model.device), t, cond[part[:, 1]]))

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            model.denoise(*batch)

    acts = {"evaluator": partial(evaluator.errors, x0, cond, [trials], triples), "bare forward passes": bare}
    return {name: row | {"batch_size": evaluator.batch_size} for name, row in compare(acts, [n, n], n_pairs).items()}


def _gigaflops(model: DiffusionModel, size: int = 2048) -> tuple[float, float]:
    """Return billions of operations of one evaluation, and per second of a matrix product of this size."""
    from torch.utils.flop_counter import FlopCounterMode

    x0, cond, _, _ = _problem(model, 1)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.denoise(x0, torch.zeros(1, dtype=torch.int64, device=model.device), cond[:1])
    matrix = torch.randn(size, size, device=model.device, dtype=model.dtype)
    product = compare({"product": lambda: matrix @ matrix}, [2 * size**3 / 1e9], 5)["product"]
    return counter.get_total_flops() / 1e9, 1 / product["seconds"]


def measure_throughput(
    plain: DiffusionModel, models: Mapping[str, DiffusionModel], n_rounds: int = 5, n: int = 1024
) -> Comparison:
    """Return the speed of the plain loop, and of the evaluator with versions of the model, on the same evaluations.

    The utilisation is the operations per second over those of a large matrix product on this machine.

    Args:
        plain: runs the plain loop.
        models: name -> model that the evaluator runs, compiled or not.
        n_rounds: interleaved rounds.
        n: evaluations per run.
    """
    x0, cond, trials, triples = _problem(plain, n)
    one_stage = Staged((len(trials),), (1,), "nested")
    acts: dict[str, Callable[[], object]] = {"plain loop": lambda: plain_loop(plain, x0, cond, trials, one_stage)}
    for name, model in models.items():
        acts[name] = partial(Evaluator(model, ["l2"]).errors, x0, cond, [trials], triples)
    found = compare(acts, [len(trials) * len(cond), *[n] * len(models)], n_rounds)
    work, machine = _gigaflops(plain)
    for row in found.values():
        row |= {"per_second": 1 / row["seconds"], "utilisation": work / row["seconds"] / machine}
    return found
