"""Which loss makes the best score of a class out of the same outputs of a network?

Errors of all losses come from the same forward passes. With e = eps - eps_hat and means over the latent's elements,

    l2 = mean e^2,    l1 = mean |e|,    Huber = mean of e^2 / 2 where |e| <= 1, |e| - 1/2 elsewhere
    VLB = L_t / log 2 = w_t l2 + terms of the variance,    w_t = beta_t^2 / (2 Sigma_t (1 - beta_t) sigma_t^2 log 2)

in bits per dimension, w_t for a variance Sigma_t that is the same for all elements. A learned variance lies between
beta_tilde_t and beta_t.

*Chosen loss*: l1 or l2, whichever is more accurate on tune images, l2 in a tie; it is scored once, on test images.

Sources:
    Li et al. 2023, arXiv 2303.16203, Tables 5, 8 and 9.
    Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv 2102.09672.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffclf.bank import ErrorBank
from diffclf.baselines.supervised import load_supervised
from diffclf.datasets import ImageSet, load_dataset
from diffclf.datasets.world import held_out_mask
from diffclf.experiments.accuracy import accuracies, correct_by_budget, correct_by_trial, margins
from diffclf.experiments.answers import left_by
from diffclf.models.protocol import DiffusionModel
from diffclf.schedule import NoiseSchedule
from diffclf.stats import Estimate, paired_difference
from diffclf.trials import TrialList, uniform

__all__ = [
    "DIT_LOSSES",
    "ZERO_SHOT_LOSSES",
    "LossErrors",
    "Task",
    "at_chance",
    "choice_rows",
    "choose",
    "contrasts",
    "differences",
    "dit_rows",
    "dit_tasks",
    "evaluations",
    "load_task",
    "mean_difference",
    "paper_choice",
    "paper_dit",
    "paper_zero_shot",
    "reading",
    "run_tasks",
    "timestep_parts",
    "vlb_weights",
    "zero_shot_rows",
    "zero_shot_tasks",
]

ZERO_SHOT_LOSSES = ("l2", "l1", "huber")
DIT_LOSSES = ("l2", "l1", "vlb", "l2+vlb")


@dataclass(frozen=True)
class Task:
    """Images of one kind and how many of them: n_images to score on, n_tune to choose a loss on."""

    name: str
    n_prompts: int
    n_images: int
    n_tune: int = 0


def zero_shot_tasks(settings: Mapping[str, Any]) -> list[Task]:
    """Return the tasks of the text-to-image model: the data set, then the further tasks, each with tune images."""
    sizes = {settings["dataset"]: (settings["n_classes"], settings["n_images"])}
    sizes |= {name: (task["prompts"], task["images"]) for name, task in settings["more_tasks"].items()}
    return [Task(name, n_prompts, n, max(1, n // 2)) for name, (n_prompts, n) in sizes.items()]


def dit_tasks(settings: Mapping[str, Any]) -> list[Task]:
    """Return the tasks of the class-conditional model: its data set, with tune images, then the shifted sets."""
    n = settings["n_images"]
    shifted = (Task(name, task["prompts"], task["images"]) for name, task in settings["shifted"].items())
    return [Task(settings["class_dataset"], settings["n_dit_classes"], n, max(1, n // 2)), *shifted]


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: every prompt on every trial, for test and tune images of all tasks."""

    def entries(tasks: Sequence[Task]) -> int:
        return sum(task.n_prompts * (task.n_images + task.n_tune) for task in tasks)

    zero_shot = entries(zero_shot_tasks(settings)) * settings["n_trials"]
    return zero_shot + entries(dit_tasks(settings)) * settings["n_dit_trials"]


def load_task(name: str, split: str, n_images: int, filter_network: str = "filter-resnet") -> ImageSet:
    """Return the first images of a task: those of `load_dataset`, or one of these parts of the embedded sets.

    mini-seen-pairs, mini-unseen-pairs   images of mini-coloured-items whose colour and item occur together in
                                         training, or never
    mini-a                               images of mini-items that a network gets wrong (`answers.left_by`),
                                         photographs of the split "pool" whatever the split

    Raises ValueError for an unknown name or split, or more images than there are.
    """
    if name == "mini-a":
        pool = load_dataset("mini-items", "pool")
        return _part(left_by(load_supervised(filter_network), pool), name, n_images)
    if name in ("mini-seen-pairs", "mini-unseen-pairs"):
        data = load_dataset("mini-coloured-items", split)
        unseen = held_out_mask().ravel()[data.labels]
        return _part(data, name, n_images, unseen == (name == "mini-unseen-pairs"))
    return load_dataset(name, split, n_images)


def _part(data: ImageSet, name: str, n_images: int, mask: NDArray[np.bool_] | None = None) -> ImageSet:
    """Return the first n_images of those that the mask has (None: all), under a new name."""
    kept = np.arange(len(data)) if mask is None else np.flatnonzero(mask)
    if not 1 <= n_images <= len(kept):
        raise ValueError(f"n_images of {name} must lie in 1..{len(kept)}, got {n_images}")
    return data.take(kept[:n_images], name)


@dataclass(frozen=True, eq=False)
class LossErrors:
    """The errors of some images by every loss; arrays, labels, groups and owners are those of `accuracy`."""

    errors: Mapping[str, NDArray]  # loss -> (n_images, n_prompts, n_trials)
    labels: NDArray
    groups: NDArray
    owners: NDArray | None = None

    def keep(self, trials: ArrayLike) -> "LossErrors":
        """Return the errors of some of the trials: positions, or a mask (n_trials,)."""
        errors = {loss: own[:, :, np.asarray(trials)] for loss, own in self.errors.items()}
        return replace(self, errors=errors)

    def right(self, loss: str) -> NDArray[np.bool_]:
        """Return which images a loss classifies correctly from all trials, (n_images,)."""
        return correct_by_budget(self.errors[loss], self.labels, [self.errors[loss].shape[2]], self.owners)[:, 0]

    def accuracy(self, loss: str) -> Estimate:
        """Return the accuracy of a loss from all trials, in points."""
        return 100 * accuracies(self.right(loss)[:, None], self.groups)[0]

    def compare(self, first: str, second: str, level: float = 0.95) -> Estimate:
        """Return the accuracy of a loss minus that of another one on the same images and noises, in points."""
        return 100 * paired_difference(self.right(first), self.right(second), self.groups, level=level)

    def curves(self) -> dict[str, tuple[NDArray[np.int64], list[Estimate]]]:
        """Return loss -> numbers of trials (1, 2, 3, 5, 10, 20, ... and all) and the accuracy with each, in points."""
        found = {}
        for loss, errors in self.errors.items():
            steps, n_trials = np.array([1, 2, 3, 5, *(10 * 2**k for k in range(8))]), errors.shape[2]
            budgets = np.union1d(steps[steps < n_trials], [n_trials])
            correct = correct_by_budget(errors, self.labels, budgets, self.owners)
            found[loss] = budgets, [100 * estimate for estimate in accuracies(correct, self.groups)]
        return found


def run_tasks(
    make_bank: Callable[..., ErrorBank],
    model: DiffusionModel,
    tasks: Sequence[Task],
    losses: Sequence[str],
    n_trials: int,
    filter_network: str = "filter-resnet",
) -> tuple[dict[str, LossErrors], dict[str, LossErrors], int]:
    """Return task -> errors of its test images, task -> errors of its tune images, and the evaluations that were new.

    Trials are `uniform`, the same for all tasks. make_bank(model, prompts, trials, losses=...) returns an error bank;
    tasks with the same prompts share the bank's folder.
    """
    trials = TrialList(uniform(n_trials, len(model.schedule)))
    test, tune, spent = {}, {}, 0
    for task in tasks:
        for found, split, n in ((test, "test", task.n_images), (tune, "tune", task.n_tune)):
            if not n:
                continue
            data = load_task(task.name, split, n, filter_network)
            bank = make_bank(model, data.captions or data.prompts_for(model), trials, losses=losses)
            errors = {loss: bank.errors(data.images, loss, desc=f"{task.name}, {split}") for loss in losses}
            owners = data.owners(model.labels) if data.captions is None else None
            found[task.name] = LossErrors(errors, data.labels, data.groups, owners)
            spent += bank.n_evaluations
    return test, tune, spent


def mean_difference(
    runs: Mapping[str, LossErrors],
    first: str | Mapping[str, str],
    second: str = "l2",
    *,
    level: float = 0.95,
    same_photos: bool = False,
) -> Estimate:
    """Return the accuracy of a loss minus that of a second one, the mean of several sets, in points.

    Each set has the same weight. `first` is a loss, or set -> loss. The interval is over photographs, within one set,
    or of all sets together if they show the same photographs.
    """
    parts, groups = [], []
    n = sum(len(run.labels) for run in runs.values())
    for place, (name, run) in enumerate(runs.items()):
        loss = first if isinstance(first, str) else first[name]
        gain = run.right(loss).astype(np.float64) - run.right(second)
        parts.append(gain * n / (len(runs) * len(gain)))
        groups += [(0 if same_photos else place, int(photo)) for photo in run.groups]
    number = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    values = np.concatenate(parts)
    return 100 * paired_difference(values, np.zeros(n), np.array([number[group] for group in groups]), level=level)


def choose(tune: LossErrors, losses: Sequence[str] = ("l2", "l1")) -> str:
    """Return the loss that is the most accurate on tune images, the first in a tie."""
    return max(losses, key=lambda loss: tune.right(loss).mean())


def choice_rows(test: Mapping[str, LossErrors], tune: Mapping[str, LossErrors]) -> dict[str, dict[str, Any]]:
    """Return task -> the loss chosen on tune images, what it gains on test images, and what a choice there would gain.

    A task without tune images takes the choice of the first task.
    """
    rows = {}
    for name, run in test.items():
        own = tune.get(name, next(iter(tune.values())))
        chosen = choose(own)
        rows[name] = {
            "tune images": len(own.labels) if name in tune else f"none: as on {next(iter(tune))}",
            "l1 minus l2 there": own.compare("l1", "l2"),
            "chosen": chosen,
            "gain on test images": run.compare(chosen, "l2") if chosen != "l2" else 0.0,
            "if chosen on test images": max(0.0, run.compare("l1", "l2").value),
        }
    return rows


def contrasts(
    zero_shot: Mapping[str, LossErrors], dit: Mapping[str, LossErrors], chosen: Mapping[str, str], level: float
) -> dict[str, Estimate]:
    """Return claim -> its contrast in points, with an interval at a level; `chosen` is task -> loss.

    The first task of each model is its own data set. The claim about shifted sets is left out where there are none.
    """
    (first, *_), (home, *others) = zero_shot.values(), dit.values()
    found = {
        "l2-beats-vlb": home.compare("l2", "vlb", level),
        "sum-equals-l2": home.compare("l2+vlb", "l2", level),
        "l2-beats-l1-for-the-dit": home.compare("l2", "l1", level),
        "huber-near-l2": first.compare("huber", "l2", level),
        "choosing-beats-l2": mean_difference(zero_shot, chosen, level=level, same_photos=True),
    }
    if others:
        shifted = dict(list(dit.items())[1:])
        found["vlb-worse-out-of-distribution"] = mean_difference(shifted, "l2", "vlb", level=level)
    return found


def reading(found: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """Return one sentence per loss: the sets on which its interval excludes 0, from set -> loss -> difference to l2."""
    sentences = []
    for loss in next(iter(found.values())):
        apart = [f"{name} ({own[loss]:.1f})" for name, own in found.items() if not own[loss].low <= 0 <= own[loss].high]
        told = f"differs from l2 on {len(apart)} of {len(found)} sets" + (f": {', '.join(apart)}" if apart else "")
        sentences.append(f"{loss} {told}.")
    return sentences


def at_chance(runs: Mapping[str, LossErrors]) -> str:
    """Return the names of the sets whose interval of l2 has 100 points over the number of prompts in it, or "none"."""
    chance = {name: 100 / run.errors["l2"].shape[1] for name, run in runs.items()}
    found = [name for name, run in runs.items() if run.accuracy("l2").low <= chance[name] <= run.accuracy("l2").high]
    return ", ".join(found) or "none"


def paper_choice(table8: Mapping[str, Any]) -> dict[str, float]:
    """Return data set -> points that the paper's choice of l1 or l2 gains beside l2 alone (Table 8)."""
    l2, l1 = (table8["rows"][loss] for loss in ("l2", "l1"))
    return {name: round(max(0.0, b - a), 1) for name, a, b in zip(table8["columns"], l2, l1, strict=True)}


def differences(
    runs: Mapping[str, LossErrors], losses: Sequence[str], level: float = 0.95
) -> dict[str, dict[str, Estimate]]:
    """Return set -> loss other than l2 -> its accuracy minus that of l2, in points."""
    others = [loss for loss in losses if loss != "l2"]
    return {name: {loss: run.compare(loss, "l2", level) for loss in others} for name, run in runs.items()}


def paper_zero_shot(table8: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return data set of Table 8 -> loss -> its accuracy minus that of l2, in points."""
    rows, found = table8["rows"], {}
    for place, name in enumerate(table8["columns"]):
        others = [loss for loss in ZERO_SHOT_LOSSES if loss != "l2"]
        found[name] = {loss: round(rows[loss][place] - rows["l2"][place], 1) for loss in others}
    return found


def paper_dit(table5: Mapping[str, Any], table9: Mapping[str, Any], pixels: int) -> dict[str, dict[str, float]]:
    """Return data set of Tables 5 and 9 -> loss -> its accuracy minus that of l2 in the same table, in points."""
    found = {}
    for place, name in enumerate(table5["columns"]):
        rows = {loss: (table9 if loss == "l1" else table5)["rows"] for loss in DIT_LOSSES if loss != "l2"}
        found[name] = {
            loss: round(own[f"{pixels} {loss}"][place] - own[f"{pixels} l2"][place], 1) for loss, own in rows.items()
        }
    return found


def zero_shot_rows(runs: Mapping[str, LossErrors], table8: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a row per task of this run and per data set of Table 8: accuracies in points by loss."""
    rows: dict[str, dict[str, Any]] = {
        f"this run, {name}": {"images": len(run.labels)} | {loss: run.accuracy(loss) for loss in ZERO_SHOT_LOSSES}
        for name, run in runs.items()
    }
    for place, name in enumerate(table8["columns"]):
        rows[f"paper, {name}"] = {loss: table8["rows"][loss][place] for loss in ZERO_SHOT_LOSSES}
    return rows


def dit_rows(
    runs: Mapping[str, LossErrors], table5: Mapping[str, Any], table9: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return a row per set of this run, and per set and size of Tables 5 and 9: accuracies in points by loss."""
    rows: dict[str, dict[str, Any]] = {
        f"this run, {name}": {"images": len(run.labels)} | {loss: run.accuracy(loss) for loss in DIT_LOSSES}
        for name, run in runs.items()
    }
    for pixels in (256, 512):
        for place, name in enumerate(table5["columns"]):
            row = {loss: table5["rows"][f"{pixels} {loss}"][place] for loss in ("l2", "vlb", "l2+vlb")}
            rows[f"paper, {name}, {pixels}"] = row | {"l1": table9["rows"][f"{pixels} l1"][place]}
    return rows


def vlb_weights(schedule: NoiseSchedule, timesteps: ArrayLike) -> NDArray[np.float64]:
    """Return w_t of the module's docstring for Sigma_t = beta_tilde_t and for Sigma_t = beta_t, (n_timesteps, 2).

    The schedule is variance-preserving. beta_tilde_0 is taken to be beta_tilde_1, as in `variational_terms`.
    """
    t, bars = np.asarray(timesteps, dtype=np.int64), schedule.alpha.square().numpy()
    before = np.append(1.0, bars[:-1])
    betas = 1 - bars / before
    betas_tilde = betas * (1 - before) / (1 - bars)
    betas_tilde[0] = betas_tilde[1]
    shared = betas**2 / (2 * (1 - betas) * (1 - bars) * log(2))
    return np.stack([shared / betas_tilde, shared / betas], axis=1)[t]


def timestep_parts(
    run: LossErrors, losses: Sequence[str], timesteps: ArrayLike
) -> tuple[NDArray[np.int64], dict[str, list[Estimate]], dict[str, NDArray[np.float64]]]:
    """Return timesteps, increasing; loss -> accuracy of each trial alone; loss -> the part of each trial in the score.

    Accuracies are in points. The part of a trial is the variance over images of its margin (`accuracy.margins`), as a
    share of the sum over trials, in per cent.
    """
    order = np.argsort(timesteps)
    accuracy, parts = {}, {}
    for loss in losses:
        errors = run.errors[loss][:, :, order]
        accuracy[loss] = [100 * estimate for estimate in accuracies(correct_by_trial(errors, run.labels), run.groups)]
        spread = margins(errors, run.labels).var(axis=0)
        parts[loss] = 100 * spread / spread.sum()
    return np.asarray(timesteps)[order], accuracy, parts
