"""Adaptive pruning: staged search beside exhaustive search, what becomes of the true class, and seconds per image.

A strategy asks for entries of an error table and gets stored ones. Any number of strategies can thus be compared on the
same images and the same noise. Tables (n_images, n_prompts, n_trials) hold what a strategy asked for, NaN elsewhere.

Source: Li et al. 2023, arXiv 2303.16203, Algorithm 2, Tables 6 and 7.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffclf.bank import ErrorBank
from diffclf.classifier import DiffusionClassifier
from diffclf.datasets import ImageSet
from diffclf.errortable import prompt_scores
from diffclf.experiments.accuracy import accuracies, correct_by_budget
from diffclf.experiments.e03_timestep_strategies import SharedTrials
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Exhaustive, Racing, Staged, Strategy, run_stored
from diffclf.search import ErrorSource, search
from diffclf.stats import Estimate, paired_difference
from diffclf.trials import BLOCK, TrialList, uniform

__all__ = ["Searches", "decisions", "evaluations", "fit_schedules", "n_evaluations", "run_searches"]
__all__ += ["run_stored_images", "schedule_label", "search_errors", "staged_strategies"]
__all__ += ["table6_rows", "table7_rows", "time_images"]


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: further noise seeds, schedules off the shared trials, and the clock.

    Those of the first seed are counted by notebook 02. The cost of a race depends on the images; it is taken to be 8
    trials of every class and all trials of two.
    """
    n_images, n_classes, n, seeds = (settings[name] for name in ("n_images", "n_classes", "n_trials", "n_seeds"))
    staged = staged_strategies(fit_schedules(settings["schedules"], n), n_classes).values()
    shared, full = TrialList(uniform(n)), n_classes * n
    apart = sum(s.evaluations(n_classes) for s in staged if not shared.starts_with(s.trial_list()))
    race = n_classes * BLOCK + 2 * (Racing().trials - BLOCK)
    clocked = full + next(iter(staged)).evaluations(n_classes) + race
    searched = n_images * ((seeds - 1) * full + seeds * apart)
    return searched + (settings["n_timed"] * settings["n_timings"] + 1) * clocked


def run_stored_images(strategy: Strategy, errors: NDArray) -> NDArray:
    """Return the tables of a strategy on stored errors, whose first trials are its own."""
    n_trials = len(strategy.trial_list())
    return np.stack([run_stored(strategy, table[:, :n_trials]) for table in errors])


def search_errors(source: ErrorSource, images: object, strategy: Strategy, desc: str = "images") -> NDArray[np.float32]:
    """Return the tables of a strategy on a bank or a network."""
    return np.stack([table.errors for table in search(source, images, strategy, desc=desc)])


def decisions(tables: NDArray) -> NDArray[np.int64]:
    """Return (n_images,) the prompt that each table decides for."""
    return np.array([prompt_scores(table).argmax() for table in tables])


def n_evaluations(tables: NDArray) -> NDArray[np.int64]:
    """Return (n_images,) the denoiser evaluations behind each table."""
    return (~np.isnan(tables)).sum(axis=(1, 2))


def fit_schedules(entries: Sequence[Mapping[str, Sequence[int]]], n_trials: int) -> list[dict[str, list[int]]]:
    """Return schedules scaled so that the last stage of each has n_trials, without stages that add no trial."""
    made = []
    for entry in entries:
        scaled = [max(1, round(n * n_trials / entry["trials"][-1])) for n in entry["trials"]]
        keep = dict(zip(scaled, entry["keep"], strict=True))  # the last of equal stages counts
        made.append({"trials": list(keep), "keep": list(keep.values())})
    return made


def schedule_label(schedule: Staged) -> str:
    """Return a schedule in words: 10/100 keep 5 1."""
    return f"{'/'.join(map(str, schedule.trials))} keep {' '.join(map(str, schedule.keep))}"


def staged_strategies(entries: Sequence[Mapping[str, Sequence[int]]], n_prompts: int) -> dict[str, Staged]:
    """Return label -> strategy: each schedule on the official grid, and on the nested one where that costs less."""
    made: dict[str, Staged] = {}
    for entry in entries:
        official, nested = (Staged(**entry, grid=grid) for grid in ("official", "nested"))
        label = schedule_label(official)
        made[label] = official
        if nested.evaluations(n_prompts) != official.evaluations(n_prompts):
            made[f"{label}, nested"] = nested
    return made


@dataclass(frozen=True, eq=False)
class Searches:
    """What strategies found on the same images; an image occurs once per noise seed.

    Attributes:
        labels: (n_images,) positions of the right prompts; groups (n_images,) are photographs.
        strategies: name -> strategy; the first one is "exhaustive", the others are staged.
        tables: name -> (n_images, n_prompts, n_trials) errors, NaN where the strategy asked for none.
    """

    labels: NDArray
    groups: NDArray
    strategies: Mapping[str, Strategy]
    tables: Mapping[str, NDArray]

    @cached_property
    def correct(self) -> dict[str, NDArray[np.bool_]]:
        """Name -> (n_images,) whether the strategy decides for the right prompt."""
        return {name: decisions(tables) == self.labels for name, tables in self.tables.items()}

    @property
    def errors(self) -> NDArray:
        """The errors of exhaustive search."""
        return self.tables["exhaustive"]

    def share(self, members: NDArray[np.bool_]) -> Estimate:
        """Return the share of (n_images,) images in per cent."""
        return 100 * accuracies(members[:, None], self.groups)[0]

    def cost(self, name: str) -> float:
        """Return the denoiser evaluations of an image, mean over images."""
        return float(n_evaluations(self.tables[name]).mean())

    def equal_trials(self, name: str) -> int:
        """Return the trials with which exhaustive search costs as much as a strategy."""
        return min(self.errors.shape[2], round(self.cost(name) / self.errors.shape[1]))

    def curve(self) -> tuple[NDArray[np.int64], list[Estimate]]:
        """Return numbers of trials, from a twentieth of all, and the accuracy (%) of exhaustive search with each."""
        most = self.errors.shape[2]
        budgets = np.unique(np.geomspace(max(1, most // 20), most, 9).round().astype(int))
        return budgets, [self.share(right) for right in correct_by_budget(self.errors, self.labels, budgets).T]

    def compare(self, name: str, n_trials: int, level: float = 0.95) -> Estimate:
        """Return the accuracy of a strategy minus that of exhaustive search with n_trials trials, in points."""
        fewer = correct_by_budget(self.errors, self.labels, [n_trials])[:, 0]
        return 100 * paired_difference(self.correct[name], fewer, self.groups, level=level)

    def gaps(self) -> dict[str, dict[str, Estimate]]:
        """Return staged strategy -> its accuracy minus that of exhaustive search with all trials, and at equal cost."""
        found = {}
        for name in list(self.strategies)[1:]:
            ends = {"all trials": self.errors.shape[2], "equal cost": self.equal_trials(name)}
            found[name] = {f"minus {end}": self.compare(name, n_trials) for end, n_trials in ends.items()}
        return found

    def rows(self) -> dict[str, dict[str, float | Estimate]]:
        """Return strategy -> evaluations, accuracy (%), and the differences of `gaps`."""
        rows, gaps, most = {}, self.gaps(), self.cost("exhaustive")
        for name, right in self.correct.items():
            cost = {"evaluations": self.cost(name), "times fewer": most / self.cost(name)}
            rows[name] = cost | {"accuracy (%)": self.share(right)} | gaps.get(name, {})
        return rows

    def points(self) -> dict[str, tuple[float, Estimate]]:
        """Return staged strategy -> evaluations per class, and accuracy (%)."""
        staged, n_prompts = list(self.strategies)[1:], self.errors.shape[1]
        return {name: (self.cost(name) / n_prompts, self.share(self.correct[name])) for name in staged}

    def fates(self, name: str) -> dict[str, NDArray[np.bool_]]:
        """Return what became of the true prompt -> (n_images,) bool, where a strategy or exhaustive search is wrong.

        A prompt is dropped if it lacks a trial. One that has all trials and loses has lost in exhaustive search, too.
        """
        right, found = self.correct["exhaustive"], self.correct[name]
        dropped = np.isnan(self.tables[name][np.arange(len(self.labels)), self.labels]).any(axis=1)
        fates = {"dropped, exhaustive right": dropped & right, "dropped, exhaustive wrong": dropped & ~right}
        fates["kept to the end, both wrong"] = ~dropped & ~found & ~right
        return fates | {"chosen, exhaustive wrong": found & ~right}


def run_searches(
    make_bank: Callable[..., ErrorBank], model: DiffusionModel, images: ImageSet, settings: Mapping[str, Any]
) -> tuple[Searches, int]:
    """Return the searches of all strategies, and how many errors were not in a bank.

    The schedules are fitted to n_trials. A strategy whose trials are not the first of those that notebooks 02 to 04
    share gets a bank of its own. `make_bank` is (model, prompts, trials, seed) -> bank.
    """
    texts, T, n = images.prompts_for(model), len(model.schedule), settings["n_trials"]
    seeds = range(settings["seed"], settings["seed"] + settings["n_seeds"])
    shared = SharedTrials(n, settings["n_repeats"], T).trial_list()
    banks = [make_bank(model, texts, shared, seed=seed) for seed in seeds]
    errors = np.concatenate([bank.errors(images.images, n_trials=n, desc=f"seed {bank.seed}") for bank in banks])
    staged, tables = staged_strategies(fit_schedules(settings["schedules"], n), len(texts)), {"exhaustive": errors}
    for name, strategy in staged.items():
        if shared[:n].starts_with(trials := strategy.trial_list(T)):
            tables[name] = run_stored_images(strategy, errors)
            continue
        own = [make_bank(model, texts, trials, seed=seed) for seed in seeds]
        tables[name] = np.concatenate([search_errors(bank, images.images, strategy, name) for bank in own])
        banks += own
    labels, groups = (np.tile(values, len(seeds)) for values in (images.labels, images.groups))
    found = Searches(labels, groups, {"exhaustive": Exhaustive(n), **staged}, tables)
    return found, sum(bank.n_evaluations for bank in banks)


def time_images(
    model: DiffusionModel, images: ImageSet, strategies: Mapping[str, Strategy], repeats: int, seed: int = 0
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float32]]]:
    """Return strategy -> (repeats, n_images) seconds and (n_images, n_prompts, n_trials) errors of a classifier.

    The strategies take turns on every image, so that a machine that slows down slows all of them. Each is run once on
    the first image without a clock. Raises ValueError for fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    found = {}
    for name, strategy in strategies.items():
        classifier = DiffusionClassifier(model, images.prompts, pruning=strategy, seed=seed)
        classifier.errors(images.images[0])
        found[name] = classifier, np.empty((repeats, len(images))), [None] * len(images)
    for repeat, number in np.ndindex(repeats, len(images)):
        for classifier, seconds, tables in found.values():
            began = time.perf_counter()
            tables[number] = classifier.errors(images.images[number]).errors
            seconds[repeat, number] = time.perf_counter() - began
    return {name: (seconds, np.stack(tables)) for name, (_, seconds, tables) in found.items()}


def table7_rows(timed: Mapping[str, tuple], table6: Mapping[str, Any], table7: Mapping[str, Any]) -> dict[str, dict]:
    """Return the rows of Table 7: the paper's, with the evaluations of its Table 6, and those of `time_images`.

    "times fewer" and "times faster" compare with the first strategy timed.
    """
    seconds = zip(table7["columns"], table7["rows"]["seconds_per_image"], strict=True)
    rows = {f"paper, {name}": {"evaluations": table6["rows"][name][3], "seconds": spent} for name, spent in seconds}
    costs = {name: (n_evaluations(tables).mean(), np.median(clock)) for name, (clock, tables) in timed.items()}
    most = next(iter(costs.values()))
    for name, own in costs.items():
        clock, (fewer, faster) = timed[name][0], np.divide(most, own)
        rows[f"here, {name}"] = {
            "evaluations": own[0],
            "seconds": own[1],
            "fastest": clock.min(),
            "slowest": clock.max(),
        }
        rows[f"here, {name}"] |= {"times fewer": fewer, "times faster": faster}
    return {name: row | {"per second": row["evaluations"] / row["seconds"]} for name, row in rows.items()}


def table6_rows(table6: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of Table 6 with the evaluations of an image: printed, and counted in three ways."""
    rows = {}
    for name, (n_classes, keep, trials, printed, _, _) in table6["rows"].items():
        nested, official = (Staged(trials, keep, grid).evaluations(n_classes) for grid in ("nested", "official"))
        rows[name] = {"classes": n_classes, "keep": " ".join(map(str, keep)), "trials": " ".join(map(str, trials))}
        rows[name] |= {"printed": printed, "Algorithm 2": nested, "released code": official}
        rows[name] |= {"exhaustive": n_classes * trials[-1], "times fewer": n_classes * trials[-1] / official}
    return rows
