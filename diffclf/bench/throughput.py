"""Seconds per denoiser evaluation (bare forward passes, plain loop, evaluator) and per image (plain loop, races)."""

from collections.abc import Mapping
from functools import partial
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray

from diffclf.bench.clock import Comparison, compare
from diffclf.bench.plain_loop import plain_loop
from diffclf.classifier import DiffusionClassifier
from diffclf.datasets import ImageSet
from diffclf.evaluator import Evaluator
from diffclf.images import load_images, to_pixels
from diffclf.models.conditioning import Conditioning
from diffclf.models.operations import count_operations
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Staged, Strategy
from diffclf.trials import Trials, image_key, uniform

__all__ = ["measure_overhead", "measure_throughput", "time_races"]

N_PROMPTS, N_BATCHES = 10, 4


def _problem(model: DiffusionModel, n: int) -> tuple[torch.Tensor, Conditioning, Trials, NDArray[np.int64]]:
    """Return a clean latent, conditionings, trials, and (n, 3) triples of one image."""
    prompts = [i % len(model.labels) if model.labels else f"a photo of number {i}" for i in range(N_PROMPTS)]
    n_trials, n_timesteps = -(-n // N_PROMPTS), len(model.schedule)
    trials = Trials(np.resize(uniform(n_timesteps, n_timesteps), n_trials), 0, 0, model.latent_shape)
    triples = np.argwhere(np.ones((1, N_PROMPTS, n_trials)))[:n]
    return trials.noise([0]).to(model.device), model.encode_prompts(prompts), trials, triples


@torch.inference_mode()
def measure_overhead(model: DiffusionModel, n_pairs: int = 11, batch_size: int | None = None) -> Comparison:
    """Return seconds per evaluation of the evaluator and of bare forward passes of the network on the same batches.

    The overhead of the evaluator is the speed-up of the bare passes minus 1. Both run n_pairs times, in turn.
    """
    evaluator = Evaluator(model, ["l2", "l1", "huber"], batch_size)
    n = evaluator.batch_size * N_BATCHES
    x0, cond, trials, triples = _problem(model, n)
    batches = []
    for part in np.split(triples, N_BATCHES):
        t = torch.from_numpy(trials.timesteps[part[:, 2]]).to(model.device)
        batches.append((trials.noise(part[:, 2]).to(model.device), t, cond[part[:, 1]]))

    def bare() -> None:
        for batch in batches:
            model.denoise(*batch)

    acts = {"evaluator": partial(evaluator.errors, x0, cond, [trials], triples), "bare forward passes": bare}
    return {name: row | {"batch_size": evaluator.batch_size} for name, row in compare(acts, [n, n], n_pairs).items()}


def measure_throughput(
    plain: DiffusionModel, models: Mapping[str, DiffusionModel], n_rounds: int = 5, n: int = 1024
) -> Comparison:
    """Return the speed of the plain loop, and of the evaluator with versions of the model, on the same n evaluations.

    The utilisation is the operations per second over those of a large matrix product on this machine.
    """
    x0, cond, trials, triples = _problem(plain, n)
    acts = {"plain loop": partial(plain_loop, plain, x0, cond, trials, Staged((len(trials),), (1,), "nested"))}
    for name, model in models.items():
        acts[name] = partial(Evaluator(model, ["l2"]).errors, x0, cond, [trials], triples)
    found = compare(acts, [len(trials) * len(cond), *[n] * len(models)], n_rounds)
    work, machine = _gigaflops(plain)
    for row in found.values():
        row |= {"per_second": 1 / row["seconds"], "utilisation": work / row["seconds"] / machine}
    return found


def _gigaflops(model: DiffusionModel, size: int = 2048) -> tuple[float, float]:
    """Return billions of operations of one evaluation, and per second of a matrix product of this size."""
    matrix = torch.randn(size, size, device=model.device, dtype=model.dtype)
    product = compare({"product": lambda: matrix @ matrix}, [2 * size**3 / 1e9], 5)["product"]
    return count_operations(model) / 1e9, 1 / product["seconds"]


def time_races(
    model: DiffusionModel,
    plain: DiffusionModel,
    data: ImageSet,
    staged: Staged,
    strategies: Mapping[str, Strategy],
    n_rounds: int = 5,
) -> Comparison:
    """Return seconds and mean evaluations per image of the plain loop and of strategies.

    In each round the plain loop, with the model `plain` and the stages `staged`, classifies the next image; each
    strategy classifies all images with `model`, which may be compiled.
    """
    cond = plain.encode_prompts(data.prompts_for(plain))
    spent = {"plain loop": float(staged.evaluations(len(cond)))}
    images = cycle(data.images)

    def plainly() -> None:
        pixels = to_pixels(load_images([next(images)])[0], plain.image_size)
        trials = Trials(staged.trial_list(len(plain.schedule)), 0, image_key(pixels), plain.latent_shape)
        plain_loop(plain, plain.encode_images(pixels[None]), cond, trials, staged)

    def classify(name: str, classifier: DiffusionClassifier) -> None:
        spent[name] = sum(table.n_evaluations for table in classifier.error_tables(data.images)) / len(data)

    acts, prompts = {"plain loop": plainly}, data.prompts if plain.labels is None else data.classnames
    for name, strategy in strategies.items():
        acts[name] = partial(classify, name, DiffusionClassifier(model, prompts, pruning=strategy))
    found = compare(acts, [1, *[len(data)] * len(strategies)], n_rounds)
    return {name: row | {"evaluations": spent[name]} for name, row in found.items()}
