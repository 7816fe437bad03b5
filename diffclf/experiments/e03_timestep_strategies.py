"""The eight timestep designs of Figure 4, judged on one shared list of trials.

    trials 0 .. U - 1   the timesteps of `uniform(U)`, one noise each
    then                the distinct timesteps of the seven fixed designs, round by round, a new noise in each round

A timestep takes part in R rounds, those of the designs in `REPEATS` in a multiple of R: designs of few timesteps need
more noises before their curves are flat.

A fixed design takes each of its timesteps once, then each a second time with a new noise, and so on; "Uniform" takes a
prefix of `uniform(U)`, which is spread over the whole range. So a design with fewer trials is a prefix of the same
design with more trials, and every error is computed once. `GRID` is no design of the paper's: it takes those trials of
"Uniform" that form an evenly spaced grid made for the number of trials.

Source: Li et al. 2023, arXiv 2303.16203, section 4.1 and Figure 4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffclf.experiments.accuracy import accuracies, correct_by_budget
from diffclf.stats import Estimate, mean, paired_difference
from diffclf.trials import TrialList, even, uniform

__all__ = ["ALL", "CLAIMS", "DESIGNS", "EARLIER", "GRID", "DesignErrors", "SharedTrials", "design_timesteps"]
__all__ += ["evaluations", "interpolate", "paper_gains", "paper_minus"]

DESIGNS: dict[str, tuple[int, ...] | None] = {
    "Uniform": None,
    "0,500,1000": (0, 500, 1000),
    "0": (0,),
    "500": (500,),
    "1000": (1000,),
    "475,500,525": (475, 488, 500, 512, 525),
    "Even 5": tuple(uniform(5).tolist()),
    "Even 10": tuple(uniform(10).tolist()),
}
"""The designs by the paper's name: timesteps of a model that has 1000, where 1000 stands for the last one, 999; None
for as many timesteps as trials. "475,500,525" is drawn at multiples of five trials, hence five timesteps."""

REPEATS = {"500": 5, "0,500,1000": 4, "475,500,525": 3}
"""How many times R noises the timesteps of a design have; a timestep of several designs has the most."""

FIXED = {name: timesteps for name, timesteps in DESIGNS.items() if timesteps}
GRID = "Uniform, own grid"
ALL = 1000  # trials: as many as the list holds

Spent = tuple[str, int]
"""A design and its number of trials."""

CLAIMS: dict[str, tuple[Spent, Spent]] = {
    "single-timestep-plateau": (("Uniform", ALL), ("500", 25)),
    "three-timesteps-plateau": (("Uniform", ALL), ("0,500,1000", 60)),
    "middle-plateau": (("Uniform", 60), ("475,500,525", 60)),
    "crossover": (("500", 4), ("Uniform", 4)),
}
"""The accuracies whose difference, first minus second, each claim of notebook 03 is about."""

EARLIER: dict[str, tuple[Spent, Spent, str, float]] = {
    "uniform-beats-three": (("Uniform", 18), ("0,500,1000", 18), "greater", 0),
    "uniform-beats-middle": (("Uniform", 25), ("475,500,525", 25), "greater", 0),
    "uniform-beats-single": (("Uniform", 6), ("500", 6), "greater", 0),
    "spread-beats-single": (("Even 5", 5), ("500", 5), "greater", 0),
    "ten-timesteps-suffice": (("Even 10", 50), ("Uniform", 50), "no difference", 3),
}
"""Claims of an earlier state of notebook 03: first, second, direction and margin."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations of the fixed designs; those of "Uniform" are counted by notebook 02."""
    return settings["n_classes"] * settings["n_images"] * len(_rounds(settings["n_repeats"], 1000))


def design_timesteps(name: str, n_trials: int, n_timesteps: int = 1000) -> NDArray[np.int64]:
    """Return the timesteps of one design for a number of trials per class, (n_trials,), with repeats.

    Raises ValueError for an unknown name and, for "Uniform", more trials than timesteps.
    """
    if name not in DESIGNS:
        raise ValueError(f"design must be one of {list(DESIGNS)}, got {name!r}")
    if (timesteps := DESIGNS[name]) is None:
        return uniform(n_trials, n_timesteps)
    return np.resize(np.minimum(np.array(timesteps) * n_timesteps // 1000, n_timesteps - 1), n_trials)


def _own_timesteps(design: str, n_timesteps: int) -> list[int]:
    """Return the timesteps of a fixed design, each once."""
    return design_timesteps(design, len(FIXED[design]), n_timesteps).tolist()


def _repeats(n_repeats: int, n_timesteps: int) -> dict[int, int]:
    """Return the timesteps of the fixed designs, 21 of 1000, and the noises of each, in the order of the designs."""
    found: dict[int, int] = {}
    for design in FIXED:
        for t in _own_timesteps(design, n_timesteps):
            found[t] = max(found.get(t, 0), n_repeats * REPEATS.get(design, 1))
    return found


def _rounds(n_repeats: int, n_timesteps: int) -> list[tuple[int, int]]:
    """Return (round, timestep) of all trials after those of "Uniform", in their order."""
    repeats = _repeats(n_repeats, n_timesteps)
    return [(r, t) for r in range(max(repeats.values())) for t, n in repeats.items() if r < n]


@dataclass(frozen=True)
class SharedTrials:
    """The list of trials that all designs share; raises ValueError for numbers out of range."""

    n_uniform: int  # U, in 1..T
    n_repeats: int  # R, at least 1
    n_timesteps: int = 1000  # T

    def __post_init__(self) -> None:
        if self.n_repeats < 1:
            raise ValueError(f"n_repeats must be at least 1, got {self.n_repeats}")
        uniform(self.n_uniform, self.n_timesteps)  # checks n_uniform

    def trial_list(self) -> TrialList:
        """Return all trials, each with a noise of its own."""
        repeated = [t for _, t in _rounds(self.n_repeats, self.n_timesteps)]
        return TrialList(np.append(uniform(self.n_uniform, self.n_timesteps), repeated))

    def most(self, design: str) -> int:
        """Return the largest number of trials of a design or of GRID; raise ValueError for another name."""
        if design not in (*DESIGNS, GRID):
            raise ValueError(f"design must be one of {[*DESIGNS, GRID]}, got {design!r}")
        if design not in FIXED:
            return self.n_uniform
        repeats, own = _repeats(self.n_repeats, self.n_timesteps), _own_timesteps(design, self.n_timesteps)
        return len(own) * min(repeats[t] for t in own)

    def columns(self, design: str, n_trials: int) -> NDArray[np.int64]:
        """Return the positions of a design's trials in the list, in the design's order: (n_trials,), all different.

        Raises ValueError for an unknown design, or more trials than the list holds for it.
        """
        most = self.most(design)
        if not 1 <= n_trials <= most:
            raise ValueError(f"n_trials of {design!r} must lie in 1..{most}, got {n_trials}")
        if design == GRID:
            return uniform(self.n_uniform, self.n_timesteps).argsort()[even(n_trials, self.n_uniform)]
        if design not in FIXED:
            return np.arange(n_trials)
        places = {trial: place for place, trial in enumerate(_rounds(self.n_repeats, self.n_timesteps))}
        rounds = np.arange(n_trials) // len(FIXED[design])
        timesteps = design_timesteps(design, n_trials, self.n_timesteps)
        return self.n_uniform + np.array([places[trial] for trial in zip(rounds, timesteps, strict=True)])

    def rounds(self, design: str) -> tuple[int, int]:
        """Return the number of a design's timesteps, 1 for "Uniform", and how many times the list has them all."""
        size = len(FIXED.get(design, [0]))
        return size, self.most(design) // size

    def budgets(self, design: str) -> NDArray[np.int64]:
        """Return the numbers of trials at which a design is drawn: 1, 2, 4, 8, ... rounds and all of them."""
        size, rounds = self.rounds(design)
        return size * np.union1d(2 ** np.arange(rounds.bit_length()), [rounds])

    def design_rows(self) -> dict[str, dict[str, Any]]:
        """Return a row per design: its timesteps in their order, ten at most, its noises of each, and its trials."""
        rows = {}
        for name in DESIGNS:
            size, noises = self.rounds(name)
            once = self.trial_list().timesteps[self.columns(name, size if name in FIXED else noises)]
            listed = ", ".join(map(str, once[:10])) + (", ..." if len(once) > 10 else "")
            rows[name] = {"timesteps": listed, "noises of each": noises if name in FIXED else 1}
            rows[name]["trials"] = self.most(name)
        return rows


@dataclass(frozen=True, eq=False)
class DesignErrors:
    """The errors of some images on the shared trials; errors, labels and groups are those of `accuracy`."""

    shared: SharedTrials
    errors: NDArray
    labels: NDArray
    groups: NDArray

    def correct(self, trials: ArrayLike) -> NDArray[np.bool_]:
        """Return which images are classified correctly from some trials, positions in the list: (n_images,)."""
        chosen = self.errors[:, :, trials]
        return correct_by_budget(chosen, self.labels, [chosen.shape[2]])[:, 0]

    def right(self, design: str, n_trials: int) -> NDArray[np.bool_]:
        """Return which images a design classifies correctly with a number of trials, (n_images,)."""
        return self.correct(self.shared.columns(design, n_trials))

    def accuracy(self, design: str, n_trials: int) -> Estimate:
        """Return the accuracy of a design with a number of trials, in points."""
        return 100 * accuracies(self.right(design, n_trials)[:, None], self.groups)[0]

    def curve(self, design: str) -> tuple[NDArray[np.int64], list[Estimate]]:
        """Return numbers of trials and the accuracy of a design with each, in points."""
        budgets = self.shared.budgets(design)
        return budgets, [self.accuracy(design, n) for n in budgets]

    def limit(self, first: Spent, second: Spent) -> tuple[Spent, Spent]:
        """Return two designs with as many trials as the list holds for each; equal numbers stay equal."""
        a, b = (min(n, self.shared.most(design)) for design, n in (first, second))
        if first[1] == second[1]:
            a = b = min(a, b)
        return (first[0], a), (second[0], b)

    def compare(self, first: Spent, second: Spent, level: float = 0.95) -> Estimate:
        """Return the accuracy of a design minus that of another one on the same images, in points."""
        return 100 * paired_difference(self.right(*first), self.right(*second), self.groups, level=level)

    def uniform_minus(self, design: str, uniform: str = "Uniform") -> tuple[NDArray[np.int64], list[Estimate]]:
        """Return numbers of trials and, at equal trials, the accuracy of "Uniform" (or GRID) minus a design's."""
        budgets = self.shared.budgets(design)
        budgets = budgets[budgets <= self.shared.n_uniform]
        return budgets, [self.compare((uniform, n), (design, n)) for n in budgets]

    def against_rows(self, paper: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return a row per fixed design: "Uniform" minus the design at equal trials, and with all trials of both."""
        rows, last = {}, self.shared.n_uniform
        for name in FIXED:
            size, rounds = self.shared.rounds(name)
            n = min(rounds, last // size) * size
            rows[name] = {
                "trials": n,
                "equal trials": self.compare(("Uniform", n), (name, n)),
                "paper, equal": float(interpolate(paper["Uniform"], n) - interpolate(paper[name], n)),
                "all trials": self.compare(("Uniform", last), (name, size * rounds)),
                "paper, all": round(paper["Uniform"][-1][1] - paper[name][-1][1], 1),
            }
        return rows

    def gains(self) -> dict[str, tuple[int, int, Estimate]]:
        """Return design -> n, 2 n, and the gain in points from n to 2 n trials, n the largest possible whole rounds."""
        found = {}
        for name in DESIGNS:
            size, rounds = self.shared.rounds(name)
            if half := size * (rounds // 2):
                found[name] = half, 2 * half, self.compare((name, 2 * half), (name, half))
        return found

    def repeated_rows(self) -> dict[str, dict[str, Any]]:
        """Return a row per fixed design: how two halves of its noises choose, in per cent of the images.

        The last column is the share of the images on which both halves choose the same wrong class and "Uniform" with
        all trials is right.
        """
        rows, best = {}, self.right("Uniform", self.shared.n_uniform)
        for name in FIXED:
            size, rounds = self.shared.rounds(name)
            if rounds < 2:
                continue
            own = self.shared.columns(name, 2 * size * (rounds // 2)).reshape(-1, 2, size)
            one, two = (self.errors[:, :, own[:, half].ravel()].mean(axis=2).argmin(axis=1) for half in (0, 1))
            same = one == two
            shares = {"same class": same, "same wrong class": same & (one != self.labels)}
            shares["Uniform is right"] = shares["same wrong class"] & best
            rows[name] = {"trials of a half": own.size // 2}
            rows[name] |= {title: 100 * mean(share, groups=self.groups) for title, share in shares.items()}
        return rows

    def overtakes(self, first: str, second: str) -> int | None:
        """Return the trials from which a design stays at least as accurate as another one; None: at no number."""
        most = min(self.shared.most(first), self.shared.most(second))
        behind = [n for n in range(1, most + 1) if self.right(first, n).mean() < self.right(second, n).mean()]
        last = max(behind, default=0)
        return last + 1 if last < most else None

    def earlier_rows(self) -> dict[str, dict[str, Any]]:
        """Return a row per earlier claim: its contrast at 95% in points, with what its rule needs."""
        rows = {}
        for claim, (first, second, direction, margin) in EARLIER.items():
            pair = self.limit(first, second)
            (a, n), (b, _) = pair
            rows[claim] = {"contrast": f"{a} − {b}", "trials": n, "points": self.compare(*pair)}
            rows[claim] |= {"direction": direction, "margin": margin}
        return rows


def interpolate(curve: Sequence[Sequence[float]], n_trials: ArrayLike) -> NDArray[np.float64]:
    """Return the value of a curve [[trials, accuracy], ...] on straight lines over log trials; NaN outside of it."""
    x, y = np.asarray(curve, dtype=float).T
    return np.interp(np.log(n_trials), np.log(x), y, left=np.nan, right=np.nan)


def paper_minus(paper: Mapping[str, Any], design: str) -> list[list[float]]:
    """Return the paper's [[trials, "Uniform" minus a design], ...] at those of the design's points that both have."""
    first = paper["Uniform"][0][0]
    return [[n, float(interpolate(paper["Uniform"], n)) - y] for n, y in paper[design] if n >= first]


def paper_gains(paper: Mapping[str, Any]) -> dict[str, tuple[int, int, float]]:
    """Return design -> n, 2 n, and the paper's gain in points from n to 2 n trials, 2 n its last point."""
    last = {name: int(curve[-1][0]) for name, curve in paper.items()}
    gain = {name: float(paper[name][-1][1] - interpolate(paper[name], n / 2)) for name, n in last.items()}
    return {name: (n // 2, n, gain[name]) for name, n in last.items()}
