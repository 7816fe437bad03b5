"""Algorithm 1 step by step: in a world of two exact classes, and on one real image.

Source: Li et al. 2023, arXiv 2303.16203, Algorithm 1 and Figure 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffclf.evaluator import Evaluator
from diffclf.experiments.accuracy import accuracies, correct_by_budget, correct_by_trial
from diffclf.experiments.e01_shared_noise import fixed_noise_errors
from diffclf.experiments.e02_timestep_sensitivity import predict_clean
from diffclf.images import load_images, to_pixels
from diffclf.models.conditioning import Conditioning
from diffclf.models.gaussian import GaussianMixtureModel, expected_errors, variational_weights
from diffclf.models.protocol import DiffusionModel
from diffclf.stats import Estimate, mean
from diffclf.trials import Trials, even

__all__ = ["Gaps", "error_gaps", "error_maps", "evaluations", "gaps_over_t", "latent", "noised", "point_errors"]
__all__ += ["predict_noise", "reading", "rule_margins", "step_latents", "timestep_rows", "winner", "with_rivals"]

N_TRIALS = 100
"""Trials of a point of the exact world, spread over all timesteps."""
PLANE = np.linspace(-4.5, 4.5, 46), np.linspace(-2.5, 2.5, 26)
"""x and y of a grid over the exact world."""
Gaps = Mapping[str, Estimate]
"""Prompt -> its mean error x 1000, minus that of the right prompt."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the evaluations of the real image: its table twice, error maps of 5 prompts, 4 clean images, Figure 1."""
    n_classes, n_trials = settings["n_classes"], settings["n_trials"]
    maps = min(5, n_classes) * (n_trials - 2 * (n_trials // 4))
    return n_classes * (2 * n_trials + settings["n_slider"] * settings["n_noises"]) + maps + min(4, n_classes)


def rule_margins(world: GaussianMixtureModel) -> dict[str, NDArray[np.float64]]:
    """Return rule -> the score of class 1 minus that of class 0 on `PLANE`, (n_y, n_x), for a world of two classes.

    The rules are Bayes' rule, and the mean error over all noises with the bound's weights and with equal weights.
    """
    places, t = torch.from_numpy(np.stack(np.meshgrid(*PLANE), axis=-1)), np.arange(25, 1000, 50)
    errors = expected_errors(world, places.reshape(-1, 2), t, n_nodes=8)
    bound = (errors * variational_weights(world.schedule)[t]).mean(2)
    scores = {"Bayes' rule": world.log_density(places.reshape(-1, 2)), "bound's weights": -bound}
    scores["equal weights"] = -errors.mean(2)
    return {rule: score.diff(dim=1).reshape(places.shape[:2]).numpy() for rule, score in scores.items()}


def point_errors(
    world: GaussianMixtureModel, points: Tensor, alone: Sequence[int], seed: int = 0
) -> NDArray[np.float32]:
    """Return the squared errors of points (n_points, C, H, W): (n_points, n_classes, N_TRIALS + len(alone)).

    The first N_TRIALS trials are spread over all timesteps, in a random order for each point. Then comes one trial at
    each timestep of `alone`. Every point has noises of its own, the same for all classes.
    """
    rng, every = np.random.default_rng(seed), even(N_TRIALS)
    orders = [[*rng.permutation(every), *alone] for _ in points]
    trials = [Trials(order, seed, key, world.latent_shape) for key, order in enumerate(orders)]
    shape = len(points), len(world.labels), len(orders[0])
    triples, cond = np.indices(shape).reshape(3, -1).T, world.encode_prompts(range(shape[1]))
    return Evaluator(world, ["l2"], batch_size=8192).errors(points, cond, trials, triples).reshape(shape)


def timestep_rows(
    world: GaussianMixtureModel, points: Tensor, labels: Tensor, errors: NDArray, alone: Sequence[int]
) -> dict[str, dict[str, Estimate]]:
    """Return a row per timestep, and one for all: accuracy in points with one trial and with many trials.

    The errors are those of `point_errors`. "Many" are all noises at one timestep, or the N_TRIALS at all timesteps.
    """
    one = correct_by_trial(errors[:, :, [*range(N_TRIALS, errors.shape[2]), 0]], labels)
    many = correct_by_trial(expected_errors(world, points, alone, n_nodes=8).numpy(), labels)
    many = np.append(many, correct_by_budget(errors, labels, [N_TRIALS]), axis=1)
    rows = zip([*(f"t = {t}" for t in alone), "all t"], accuracies(one), accuracies(many), strict=True)
    return {name: {"one trial": 100 * few, "many trials": 100 * most} for name, few, most in rows}


def latent(model: DiffusionModel, image: object) -> Tensor:
    """Return x0 (1, C, H, W) of an image, on the model's device."""
    return model.encode_images(to_pixels(load_images(image)[0], model.image_size)[None])


def noised(model: DiffusionModel, x0: Tensor, timesteps: Sequence[int], seed: int = 0) -> Tensor:
    """Return a latent (1, C, H, W) with the same noise at every timestep, (n_t, C, H, W), on the CPU."""
    clean = x0.float().cpu().expand(len(timesteps), -1, -1, -1)
    eps = Trials([0], seed, None, model.latent_shape).noise([0])
    return model.schedule.add_noise(clean, eps.expand_as(clean), torch.tensor(list(timesteps)))


def step_latents(model: DiffusionModel, x0: Tensor, t: int, cond: Conditioning, seed: int = 0) -> Tensor:
    """Return a latent, the same noised to t, and the clean latents predicted for each row of cond.

    The latent is (1, C, H, W), the result (2 + n_prompts, C, H, W); the noise is that of `noised`.
    """
    eps = Trials([0], seed, None, model.latent_shape).noise([0])
    x_t, clean = predict_clean(model, x0, eps, [t], cond)
    return torch.cat([x0.to(x_t), x_t, clean[:, 0]])


@torch.inference_mode()
def predict_noise(model: DiffusionModel, x0: Tensor, trials: Trials, cond: Conditioning) -> tuple[Tensor, Tensor]:
    """Return the noise of each trial, (n_trials, C, H, W), and its prediction, (n_prompts, n_trials, C, H, W).

    The latent is (1, C, H, W); cond has a row per prompt. The results are float32 on the CPU.

    Source: Li et al. 2023, Algorithm 1, the loop over trials and prompts.
    """
    schedule, eps = model.schedule.to(model.device), trials.noise(range(len(trials)))
    predicted = torch.empty(len(cond), *eps.shape)
    for some in torch.arange(len(trials)).split(64):
        t, noise = (part[some].to(model.device) for part in (torch.from_numpy(trials.timesteps), eps))
        x_t = schedule.add_noise(x0.float().to(model.device).expand_as(noise), noise, t)
        for prompt in range(len(cond)):
            output = model.denoise(x_t, t, cond[[prompt] * len(t)]).float()[:, : x_t.shape[1]]
            predicted[prompt, some] = schedule.predict_eps(output, x_t, t).float().cpu()
    return eps, predicted


def error_maps(model: DiffusionModel, x0: Tensor, cond: Conditioning, n_trials: int, seed: int = 0) -> NDArray:
    """Return the squared error at each place of a latent, a mean over trials and channels: (n_prompts, H, W).

    The trials are the middle half of n_trials, with noises that `DiffusionClassifier` does not draw.
    """
    middle = even(n_trials, len(model.schedule))[n_trials // 4 : n_trials - n_trials // 4]
    eps, predicted = predict_noise(model, x0, Trials(middle, seed, None, model.latent_shape), cond)
    return (eps - predicted).square().mean((1, 2)).numpy()


def with_rivals(errors: NDArray, right: int) -> list[int]:
    """Return the right prompt, then the others, the smallest mean error first; errors are (n_prompts, n_trials)."""
    order = errors.mean(axis=1).argsort(kind="stable")
    return [right, *order[order != right].tolist()]


def error_gaps(errors: NDArray, right: int, names: Sequence[str]) -> dict[str, Estimate]:
    """Return the gaps of all prompts from errors (n_prompts, n_trials), 95% over trials; that of `right` is 0."""
    gaps = 1000 * (errors.astype(np.float64) - errors[right])
    found = {name: mean(row, n_resamples=1000) for name, row in zip(names, gaps, strict=True)}
    return found | {names[right]: Estimate(0.0, 0.0, 0.0)}


def gaps_over_t(
    model: DiffusionModel, image: object, prompts: Mapping[str, str], right: str, settings: Mapping[str, Any]
) -> dict[int, dict[str, Estimate]]:
    """Return timestep -> `error_gaps` of all prompts (name -> prompt), over the same few noises at each (Figure 1)."""
    timesteps, names = even(settings["n_slider"], len(model.schedule)), list(prompts)
    trials = timesteps, settings["n_noises"]
    errors = fixed_noise_errors(model, image, list(prompts.values()), *trials, seed=settings["seed"])[0]
    return {int(t): error_gaps(errors[:, i], names.index(right), names) for i, t in enumerate(timesteps)}


def winner(gaps: Gaps) -> str:
    """Return the prompt with the smallest error."""
    return min(gaps, key=lambda name: gaps[name].value)


def reading(gaps: Mapping[int, Gaps], overall: Gaps, right: str) -> list[str]:
    """Return in sentences where a wrong prompt has the smallest error: at which timesteps, and over all trials."""
    wrong = {t: winner(own) for t, own in gaps.items() if winner(own) != right}
    said = [f"{right} has the smallest error at {len(gaps) - len(wrong)} of {len(gaps)} timesteps."]
    for t, name in wrong.items():
        sure = "lies below 0" if gaps[t][name].high < 0 else "contains 0"
        said.append(f"t = {t}: {name} wins. Its error x 1000 minus that of {right} is {gaps[t][name]}, which {sure}.")
    close = ", ".join(name for name, gap in overall.items() if name != right and gap.low <= 0) or "none"
    return [*said, f"Over all trials {winner(overall)} wins. Rivals whose interval begins at or below 0: {close}."]
