"""Accuracy against evaluations of all families of pruning strategies, and cost against the number of classes.

A family is a list of candidates, from cheap to expensive. All candidates have the same trials and noises, those of a
race. Three sets of images, none of which has an image of another one:

    first      all candidates are compared; the cheapest five that lose at most a point to the reference go on
    second     the cheapest of them that still loses at most a point is chosen
    test       the chosen candidate is scored, once

The reference is a cautious race (`CAUTIOUS`). It stands for the full evaluation, all classes on all trials, which sixty
classes make too expensive; `same_winner` counts how often both agree.

    strongest at equal cost     of the candidates that cost no more than a given number of evaluations, the five most
                                accurate on the first images; of these the most accurate on the second
    growth                      least squares: log evaluations = a + b log classes; b = 1 is proportional
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffclf.bank import ErrorBank
from diffclf.baselines.nearest_mean import learn_nearest_mean
from diffclf.datasets import ImageSet, load_dataset
from diffclf.experiments.e04_adaptive_pruning import schedule_label
from diffclf.experiments.sweep import Outcome, Sweep
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Hierarchical, Racing, Round, Shortlist, Staged, Strategy
from diffclf.stats import Estimate, clopper_pearson, non_inferior, paired_difference, percentiles
from diffclf.trials import BLOCK

__all__ = ["CAUTIOUS", "FAMILIES", "Study", "calibrated", "choose", "contrasts", "control_rows", "cost_as_signal"]
__all__ += ["equal_cost_rows", "evaluations", "families", "fixed_schedules", "grow", "growth", "growth_rows", "halving"]
__all__ += ["label", "marked", "middling_race", "open_sweep", "panels", "reading", "strongest", "study"]

CAUTIOUS = 4.0
"""Threshold of the reference race, in standard errors."""
LOSS = 0.01
"""What a candidate may lose to the reference, as a share of the images."""
FEW = 5
"""Candidates that the second comparison sees."""
LADDER = (4, 8, 12, 16, 32, 64, 128)
KEEPS = (20, 12, 8, 5, 3, 2)
"""Trials that a stage may end with, and classes that it may keep."""
THRESHOLDS = (3.0, 2.8, 2.6, 2.4, 2.2, 2.0, 1.8, 1.6, 1.4, 1.2, 1.0)
FAMILIES = ("all classes", "staged", "race", "label tree + race", "shortlist + race")
PROMISED = 0.01
"""Share of winners that a calibrated race may drop."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations, about: they depend on the images.

    An image of a comparison is taken to cost 16 trials of every class and 96 further trials of four classes; one of the
    growth's, 10 trials of every class and 96 further trials of eight classes.
    """
    n_trials, total = settings["race_trials"], 0
    for task in settings["tasks"].values():
        n, n_test = task["classes"], min(task["test"], settings["n_images"])
        n_images = task["first"] + task["second"] + n_test
        total += n_images * (2 * BLOCK * n + 4 * 96) + task["full"] * n * n_trials
    return total + sum(size["images"] * (10 * size["classes"] + 8 * 96) for size in settings["growth"].values())


def open_sweep(bank: Callable[..., ErrorBank], model: DiffusionModel, data: ImageSet, n_trials: int) -> Sweep:
    """Return a sweep over images on the trials of a race; `bank` is as `Workbook.bank`."""
    nodes = list(data.tree) if model.labels is None else []
    trials = Racing(n_trials).trial_list(len(model.schedule))
    return Sweep(bank(model, [*data.prompts_for(model), *nodes], trials, losses=("l2",)), data)


def fixed_schedules(n_classes: int, n_trials: int, most: float) -> list[Staged]:
    """Return all staged strategies of two to four stages that cost at most `most` evaluations, by cost."""
    ladder, keeps = [n for n in LADDER if n <= n_trials], [k for k in KEEPS if k < n_classes]
    made = [
        Staged(trials, (*keep, 1), "random")
        for stages in (2, 3, 4)
        for trials in itertools.combinations(ladder, stages)
        if trials[0] * n_classes <= most
        for keep in itertools.combinations(keeps, stages - 1)
    ]
    costs = {schedule: schedule.evaluations(n_classes) for schedule in made}
    return sorted((schedule for schedule in made if costs[schedule] <= most), key=costs.get)


def families(race: Racing, data: ImageSet, most: float, scorer: Callable | None, k: int) -> dict[str, list[Strategy]]:
    """Return family -> candidates, from cheap to expensive; no label tree where the classes have none.

    Args:
        race: whose trials all candidates have.
        data: images of the classes.
        most: evaluations that a staged strategy may cost.
        scorer: draws up shortlists; None: no shortlists.
        k: classes on a shortlist.
    """
    n_classes = len(data.classnames)
    races = [replace(race, threshold=z) for z in sorted(THRESHOLDS)]
    found: dict[str, list[Strategy]] = {
        FAMILIES[0]: [Staged((n,), (1,), "random") for n in LADDER if n <= race.trials and n * n_classes <= 2 * most],
        FAMILIES[1]: fixed_schedules(n_classes, race.trials, most),
        FAMILIES[2]: races,
    }
    if data.tree:
        found[FAMILIES[3]] = [Hierarchical(data.tree, then=race, race=race) for race in races]
    if scorer is not None:
        found[FAMILIES[4]] = [Shortlist(k, scorer, race) for race in races]
    return found


def label(strategy: Strategy) -> str:
    """Return a candidate in words: trials and classes kept, or the threshold of its race."""
    if isinstance(strategy, Staged):
        return schedule_label(strategy) if len(strategy.trials) > 1 else f"{strategy.trials[0]} trials"
    race = strategy if isinstance(strategy, Racing) else strategy.then
    return f"threshold {race.threshold:g}"


def _best(found: Mapping[Strategy, Outcome], key: Callable[[Outcome], Any], n: int) -> list[Strategy]:
    """Return the n candidates whose outcomes have the smallest keys."""
    return sorted(found, key=lambda candidate: key(found[candidate]))[:n]


def _by_accuracy(outcome: Outcome) -> tuple[float, float]:
    return -outcome.right.mean(), outcome.cost


def choose(first: Mapping[Strategy, Outcome], second: Sweep, reference: Sequence[Outcome]) -> Strategy:
    """Return the cheapest candidate that loses at most `LOSS` to the reference; where none passes, the most accurate.

    Args:
        first: candidate -> its outcome on the first images.
        second: the second images.
        reference: outcomes of the reference on the first and on the second images.
    """
    passed = {c: o for c, o in first.items() if o.right.mean() >= reference[0].right.mean() - LOSS}
    few = _best(passed, lambda outcome: outcome.cost, FEW) or _best(first, _by_accuracy, FEW)
    again = {candidate: second.run(candidate) for candidate in few}
    passed = {c: o for c, o in again.items() if o.right.mean() >= reference[1].right.mean() - LOSS}
    return (_best(passed, lambda outcome: outcome.cost, 1) or _best(again, _by_accuracy, 1))[0]


def strongest(first: Mapping[Strategy, Outcome], second: Sweep, most: float) -> Strategy:
    """Return the most accurate candidate among those that cost at most `most` evaluations on the first images."""
    affordable = {candidate: outcome for candidate, outcome in first.items() if outcome.cost <= most} or first
    return _best({c: second.run(c) for c in _best(affordable, _by_accuracy, FEW)}, _by_accuracy, 1)[0]


def calibrated(race: Racing, sweeps: Sequence[Sweep], references: Sequence[Outcome]) -> tuple[Racing, int, int]:
    """Return the race with the smallest threshold that drops few winners, how many it drops, and of how many images.

    Thresholds are tested from large to small. One passes if the one-sided 95% bound on the share of images where the
    race and the reference choose differently is at most `PROMISED`; the first failure ends the search. With fewer than
    about 300 images none can pass: the race keeps its own threshold, or gets that of the reference if it has none.
    """
    n, dropped = sum(len(reference.chosen) for reference in references), 0
    chosen = race if race.threshold is not None else replace(race, threshold=CAUTIOUS)
    for threshold in THRESHOLDS:
        candidate = replace(race, threshold=threshold)
        runs = [sweep.run(candidate) for sweep in sweeps]
        differ = sum(int((o.chosen != r.chosen).sum()) for o, r in zip(runs, references, strict=True))
        if clopper_pearson(differ, n, 0.9).high > PROMISED:
            break
        chosen, dropped = candidate, differ
    return chosen, dropped, n


@dataclass(frozen=True, eq=False)
class Study:
    """All families on one task.

    Attributes:
        test: the test images.
        groups: the photographs of the test images.
        reference: outcome of the reference on the test images.
        race: the calibrated race.
        calibration: how many winners it dropped, and of how many images that were used to choose it.
        chosen: family -> the candidate that the rule chose.
        opponent: the strongest staged strategy that costs no more than the calibrated race.
        curves: family -> candidates on the front of the first images, from cheap to expensive.
        outcomes: candidate -> outcome on the test images.
        tried: family -> number of candidates.
        same_winner: images on which the reference and the full evaluation have the same winner, and of how many.
    """

    test: Sweep
    groups: NDArray
    reference: Outcome
    race: Racing
    calibration: tuple[int, int]
    chosen: Mapping[str, Strategy]
    opponent: Strategy
    curves: Mapping[str, list[Strategy]]
    outcomes: Mapping[Strategy, Outcome]
    tried: Mapping[str, int]
    same_winner: tuple[int, int]

    def curve(self, family: str) -> tuple[list[float], list[Estimate]]:
        """Return evaluations per image and accuracy in points along the front of a family."""
        found = [self.outcomes[candidate] for candidate in self.curves[family]]
        return [outcome.cost for outcome in found], [outcome.accuracy(self.groups) for outcome in found]

    def difference(self, first: Strategy, second: Strategy | None = None, level: float = 0.95) -> Estimate:
        """Return the accuracy of a candidate minus that of another one (None: the reference), in points."""
        other = self.reference if second is None else self.outcomes[second]
        return 100 * paired_difference(self.outcomes[first].right, other.right, self.groups, level=level)

    def not_worse(self, candidate: Strategy) -> Estimate:
        """Return the accuracy of a candidate minus the reference's, in points, its low end the one-sided 95% bound."""
        return 100 * non_inferior(self.outcomes[candidate].right, self.reference.right, self.groups)

    def dropped(self, level: float = 0.95) -> Estimate:
        """Return the share of test images whose winner the calibrated race drops, in per cent."""
        differ = self.outcomes[self.race].chosen != self.reference.chosen
        return 100 * clopper_pearson(int(differ.sum()), len(differ), level)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return family -> the chosen candidate, its cost, accuracy and difference to the reference on test images."""
        shown = {**self.chosen, "calibrated race": self.race, "staged, at its cost": self.opponent}
        rows = {"reference": {"candidate": f"threshold {CAUTIOUS:g}", "of": 1, "evaluations": self.reference.cost}}
        rows["reference"] |= {"accuracy": self.reference.accuracy(self.groups), "minus the reference": None}
        for name, candidate in shown.items():
            outcome = self.outcomes[candidate]
            rows[name] = {"candidate": label(candidate), "of": self.tried.get(name), "evaluations": outcome.cost}
            rows[name] |= {"accuracy": outcome.accuracy(self.groups), "minus the reference": self.difference(candidate)}
        return rows


def _front(found: Mapping[Strategy, Outcome]) -> list[Strategy]:
    """Return the candidates that no cheaper candidate equals in accuracy, from cheap to expensive."""
    front: list[Strategy] = []
    for candidate in sorted(found, key=lambda c: (found[c].cost, -found[c].right.mean())):
        if not front or found[candidate].right.mean() > found[front[-1]].right.mean():
            front.append(candidate)
    return front


def study(bank: Callable[..., ErrorBank], model: DiffusionModel, dataset: str, settings: Mapping[str, Any]) -> Study:
    """Compare all families on one task.

    `bank` is as `Workbook.bank`. The settings of the notebook have race_trials, scorer_split, n_images (the most test
    images) and, under `tasks`, the task's numbers of images (first, second, test, full), `most` evaluations of a staged
    strategy and `k` of a shortlist.
    """
    task, n_trials = settings["tasks"][dataset], settings["race_trials"]
    tune = load_dataset(dataset, "tune", task["first"] + task["second"])
    data = load_dataset(dataset, n_images=min(task["test"], settings["n_images"]))
    sets = tune.first(task["first"]), tune.take(range(task["first"], len(tune))), data
    first, second, test = sweeps = [open_sweep(bank, model, each, n_trials) for each in sets]
    race = Racing(n_trials)
    cautious = replace(race, threshold=CAUTIOUS)
    references = [sweep.run(cautious, f"{dataset}, reference") for sweep in sweeps]
    scorer = (
        learn_nearest_mean(load_dataset(dataset, settings["scorer_split"]), model.image_size) if task["k"] else None
    )
    candidates = families(race, tune, task["most"], scorer, task["k"])
    found = {family: {c: first.run(c, family) for c in members} for family, members in candidates.items()}
    chosen = {family: choose(outcomes, second, references) for family, outcomes in found.items()}
    steady, *calibration = calibrated(race.prepare(model, data.classnames), sweeps[:2], references[:2])
    opponent = strongest(found[FAMILIES[1]], second, first.run(steady).cost)
    curves = {
        family: _front(outcomes) if family == FAMILIES[1] else list(outcomes) for family, outcomes in found.items()
    }
    scored = dict.fromkeys([*itertools.chain(*curves.values()), *chosen.values(), steady, opponent])
    outcomes = {candidate: test.run(candidate, f"{dataset}, test") for candidate in scored}
    few = data.first(task["full"])
    full = open_sweep(bank, model, few, n_trials).run(Staged((n_trials,), (1,), "random"))
    same = int((full.chosen == references[2].chosen[: len(few)]).sum())
    return Study(
        test=test,
        groups=data.groups,
        reference=references[2],
        race=steady,
        calibration=tuple(calibration),
        chosen=chosen,
        opponent=opponent,
        curves=curves,
        outcomes=outcomes,
        tried={family: len(members) for family, members in candidates.items()},
        same_winner=(same, len(few)),
    )


def grow(
    bank: Callable[..., ErrorBank], model: DiffusionModel, studies: Mapping[str, Study], settings: Mapping[str, Any]
) -> dict[str, dict[int, Outcome]]:
    """Return strategy -> number of classes -> outcome on test images, for the data sets of the setting `growth`.

    The staged strategy and the race of a data set are those that a study chose on the data set itself, or on that of
    the studies with the most classes.
    """
    found: dict[str, dict[int, Outcome]] = {}
    for dataset, size in settings["growth"].items():
        data = load_dataset(dataset, n_images=size["images"])
        own = studies.get(dataset) or list(studies.values())[-1]
        sweep = open_sweep(bank, model, data, settings["race_trials"])
        staged, race = own.chosen[FAMILIES[1]], own.race
        tried: dict[str, Strategy] = {"staged": staged, "race": race}
        if data.tree:
            levels = replace(race, trials=staged.trials[-1])
            tried["label tree + staged"] = Hierarchical(data.tree, then=staged, race=levels)
            tried["label tree + race"] = Hierarchical(data.tree, then=race, race=race)
        for name, strategy in tried.items():
            found.setdefault(name, {})[len(data.classnames)] = sweep.run(strategy, f"{dataset}, {name}")
    return found


def _slopes(n_classes: Sequence[int], costs: NDArray) -> NDArray[np.float64]:
    """Return the slopes of log costs, (..., n), over the log numbers of classes (n,)."""
    x = np.log(np.asarray(n_classes, dtype=float))
    x = x - x.mean()
    return np.log(costs) @ x / (x @ x)


def growth(
    found: Mapping[str, Mapping[int, Outcome]], level: float = 0.95, *, minus: str = "", n_resamples: int = 2000
) -> dict[str, Estimate]:
    """Return strategy -> exponent b of evaluations ~ classes^b, over the numbers of classes that all strategies have.

    `found` is as `grow` returns it; `minus` names a strategy whose exponent is subtracted. The interval is a bootstrap
    over the images of each number of classes, the same images for all strategies. Empty if the strategies have fewer
    than two numbers of classes in common.
    """
    common = sorted(set.intersection(*(set(own) for own in found.values())))
    if len(common) < 2:
        return {}
    rng, slopes, sizes = np.random.default_rng(0), {}, [len(next(iter(found.values()))[n].spent) for n in common]
    draws = [rng.integers(size, size=(n_resamples, size)) for size in sizes]
    for name, own in found.items():
        spent = [own[n].spent for n in common]
        means = np.array([each.mean() for each in spent])
        resampled = np.stack([each[drawn].mean(axis=1) for each, drawn in zip(spent, draws, strict=True)], axis=1)
        slopes[name] = np.append(_slopes(common, means), _slopes(common, resampled))
    base = slopes.get(minus, 0)
    differences = {name: own - base for name, own in slopes.items() if name != minus}
    return {name: percentiles(float(d[0]), d[1:], level, sum(sizes)) for name, d in differences.items()}


def growth_rows(found: Mapping[str, Mapping[int, Outcome]]) -> dict[str, dict[str, Any]]:
    """Return strategy and number of classes -> images, evaluations per image and per class, right answers."""
    rows = {}
    for name, own in found.items():
        for n, outcome in own.items():
            rows[f"{name}, {n} classes"] = {
                "images": len(outcome.spent),
                "evaluations": outcome.cost,
                "per class": outcome.cost / n,
                "right": int(outcome.right.sum()),
            }
    return rows


def equal_cost_rows(studies: Mapping[str, Study]) -> dict[str, dict[str, Any]]:
    """Return task -> the calibrated race beside the strongest staged strategy of at most its cost, on test images."""
    rows = {}
    for name, own in studies.items():
        race, staged = own.outcomes[own.race], own.outcomes[own.opponent]
        rows[name] = {
            "staged": label(own.opponent),
            "its evaluations": staged.cost,
            "its accuracy": staged.accuracy(own.groups),
            "race": label(own.race),
            "evaluations": race.cost,
            "accuracy": race.accuracy(own.groups),
            "race minus staged": own.difference(own.race, own.opponent),
        }
    return rows


def control_rows(studies: Mapping[str, Study]) -> dict[str, dict[str, Any]]:
    """Return task -> winners that the calibrated race drops on tune and on test images, with the share on test."""
    rows = {}
    for name, own in studies.items():
        (n_tune, of), (same, full) = own.calibration, own.same_winner
        n_test = int((own.outcomes[own.race].chosen != own.reference.chosen).sum())
        rows[name] = {
            "threshold": own.race.threshold,
            "dropped, tune": f"{n_tune} of {of}",
            "dropped, test": f"{n_test} of {len(own.groups)}",
            "share on test, %": own.dropped(),
            "reference as all classes": f"{same} of {full}",
        }
    return rows


def contrasts(
    studies: Mapping[str, Study], found: Mapping[str, Mapping[int, Outcome]], level: float
) -> dict[str, Estimate]:
    """Return claim -> estimate; the claims whose id ends in 60 are about the second study."""
    made = {}
    for suffix, own in zip(("", "-60"), studies.values(), strict=False):
        made[f"race-keeps-accuracy{suffix}"] = own.not_worse(own.race)
        made[f"race-beats-staged{suffix}"] = own.difference(own.race, own.opponent, level)
        made[f"winners-are-kept{suffix}"] = own.dropped(level)
    if gained := growth(found, level, minus="race").get("label tree + race"):
        made["tree-grows-slower"] = gained
    return made


def middling_race(own: Study) -> list[Round]:
    """Return the rounds of the calibrated race on the test image with the median cost."""
    spent = own.outcomes[own.race].spent
    place = int(np.argsort(spent, kind="stable")[len(spent) // 2])
    race = replace(own.race, trials=own.test.tables.shape[2])
    return list(race.rounds(own.test.tables[place, : len(own.test.data.classnames)]))


def panels(studies: Mapping[str, Study]) -> dict[str, dict[str, tuple[list[float], list[Estimate]]]]:
    """Return title of a task -> family -> evaluations per image and accuracies in points along its front."""
    made = {}
    for name, own in studies.items():
        made[_title(name, own)] = {family: own.curve(family) for family in own.curves}
    return made


def _title(name: str, own: Study) -> str:
    """Return the title of a task's panel."""
    return f"{name}: {len(own.test.data.classnames)} classes, {len(own.groups)} images"


def marked(studies: Mapping[str, Study]) -> dict[str, dict[str, list[tuple[str, float, float]]]]:
    """Return title of a task -> "chosen" or "equal cost" -> the candidates of the tables on test images.

    A candidate is its family, evaluations per image and accuracy in points. "equal cost" are the calibrated race and
    the strongest staged strategy of at most its cost.
    """
    made = {}
    for name, own in studies.items():
        kinds = {"chosen": own.chosen, "equal cost": {FAMILIES[1]: own.opponent, FAMILIES[2]: own.race}}
        found = {kind: [(f, own.outcomes[c]) for f, c in each.items()] for kind, each in kinds.items()}
        made[_title(name, own)] = {
            kind: [(family, outcome.cost, 100 * float(outcome.right.mean())) for family, outcome in each]
            for kind, each in found.items()
        }
    return made


def halving(data: ImageSet, n_trials: int) -> Staged:
    """Return successive halving: twice the trials and half the classes at each stage until one class is left."""
    n_stages = max(1, int(np.ceil(np.log2(len(data.classnames)))))
    trials = sorted({max(1, n_trials >> step) for step in range(n_stages)})
    keep = [*(max(1, len(data.classnames) >> step) for step in range(1, len(trials))), 1]
    n_stages = keep.index(1) + 1
    return Staged(tuple(trials[:n_stages]), tuple(keep[:n_stages]), "random")


def reading(studies: Mapping[str, Study], found: Mapping[str, Mapping[int, Outcome]]) -> list[str]:
    """Return what the tables say, in sentences."""
    said = []
    for name, own in studies.items():
        race, staged = own.outcomes[own.race], own.outcomes[own.opponent]
        full = own.test.tables.shape[2] * len(own.test.data.classnames)
        gap = own.difference(own.race, own.opponent)
        words = "told apart" if gap.low > 0 or gap.high < 0 else "not told apart"
        said += [
            f"{name}: the race needs {race.cost:.0f} of {full:,} evaluations, {full / race.cost:.1f} times fewer;",
            f"  its first round takes {100 * BLOCK * len(own.test.data.classnames) / race.cost:.0f}% of them;",
            f"  race minus staged: {gap:.1f} points, {words};",
            f"  the race costs {race.cost / staged.cost:.2f} times as many evaluations as the staged strategy;",
            f"  a right decision costs less than a wrong one {100 * cost_as_signal(own):.0f}% of the time.",
        ]
    common = set.intersection(*(set(own) for own in found.values()))
    for name, own in found.items() if len(common) > 1 else ():
        fewest, most = min(common), max(common)
        times = own[most].cost / own[fewest].cost
        said.append(f"{name}: {most / fewest:.0f} times as many classes cost {times:.1f} times as many evaluations.")
    return said


def cost_as_signal(own: Study) -> float:
    """Return how often a correctly classified image costs the race less than a wrong one, ties half (AUROC); or NaN."""
    outcome = own.outcomes[own.race]
    right, wrong = outcome.spent[outcome.right], outcome.spent[~outcome.right]
    if not len(right) or not len(wrong):
        return float("nan")
    less, equal = right[:, None] < wrong, right[:, None] == wrong
    return float((less + 0.5 * equal).mean())
