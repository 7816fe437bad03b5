"""Racing: sequential elimination by paired differences.

All surviving prompts are evaluated on the same new trials. With d_i the difference of two prompts' errors on trial i,
a prompt is dropped once its mean difference to the best one is large against its standard error,

    mean d > z SE,     SE^2 = V (1 - n / N),     V = sum over pairs of neighbouring strata of (d_a - d_b)^2 / n^2,

and stays dropped. N is the number of trials of the full evaluation whose winner is asked for: with n = N nothing is
left to chance, hence the factor. V is the collapsed-strata estimate of the variance of a stratified mean (Cochran 1977,
section 5A.12): the trials have one timestep in each of n equal parts of the range, the part of the variance that
comes from the timestep is small, and a plain standard error would not know.

The timesteps are those of `diffclf.trials.nested_positions`: every block of 8 trials has one in each eighth of the
range, the first 16 one in each sixteenth, and so on, while each timestep by itself is uniform.

The noise is antithetic: every second block takes the mirror images -eps of the noises of the block before it, at
timesteps in the same eighths. Each is standard normal by itself, so the mean estimates the same as ever, but what is
odd in eps cancels. From 16 trials on V is made of the means of a trial and its mirror image, two strata as one.

Two thresholds z. `Racing(confidence=0.99)` takes Student's quantile for the error shared among rivals and looks
(Bonferroni): with at least that probability the winner of the full evaluation is not dropped. It needs no data and
is cautious. `Racing.calibrate` chooses z on error tables of other images.

V rests on few pairs at the first looks. A given z is therefore compared with moderated standard errors: each V is drawn
towards the geometric mean of those of the rivals still in, as if that mean were worth 8 pairs (Smyth 2004, whose
empirical Bayes does so for genes). The rivals lend each other what all of them lack, and the calibration answers for
the error. The cautious mode does without.

Sources: Paulson 1964 and Even-Dar et al. 2006 (successive elimination); Maron and Moore 1993 (races); Clark and Jaini
2023, arXiv 2303.15233 (paired tests of a diffusion model's classes); Li et al. 2023, section 4.2 (its alternative).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffclf.models.protocol import DiffusionModel
from diffclf.paths import data_dir
from diffclf.stats import clopper_pearson
from diffclf.trials import BLOCK, MAX_POSITIONS, antithetic_noises, nested_positions

__all__ = [
    "CALIBRATED_FOR",
    "CALIBRATION",
    "Calibration",
    "Racing",
    "THRESHOLDS",
    "Round",
    "calibrated",
    "collapsed_variance",
    "moderated_variance",
]

CALIBRATION = "racing.json"
"""File beside a built-in model's weights: the threshold that was calibrated for them."""
CALIBRATED_FOR = ("trials", "repeats", "seed", "prior_pairs", "antithetic")
"""What else determines a race: a threshold is calibrated for one choice of these."""

LOOKS_PER_DOUBLING = 4
PRIOR_PAIRS = 8  # what the variances of the other rivals are worth
THRESHOLDS = tuple(np.round(np.arange(5, 0.95, -0.1), 1).tolist())
"""What a calibration tries, from the most cautious on."""


def collapsed_variance(values: NDArray) -> NDArray[np.float64]:
    """Return the collapsed-strata estimate of the variance of the mean of one value per stratum.

    Neighbouring strata are joined in pairs, the last three if n is odd: sum over groups of L strata of
    L / (L - 1) sum (y - mean y)^2, over n^2. It is not below the true variance on average.

    Args:
        values: (..., n) one value per stratum, strata in their order, n at least 2.

    Returns:
        (...) variances.

    Source: Cochran 1977, Sampling Techniques, section 5A.12.
    """
    n = values.shape[-1]
    ends = n - 3 if n % 2 else n
    pairs = values[..., :ends].reshape(*values.shape[:-1], ends // 2, 2)
    total = np.square(pairs[..., 0] - pairs[..., 1]).sum(axis=-1, dtype=np.float64)
    if n % 2:
        total = total + 1.5 * 3 * values[..., ends:].astype(np.float64).var(axis=-1)
    return total / n**2


def moderated_variance(variance: NDArray, n_pairs: int, prior_pairs: float = PRIOR_PAIRS) -> NDArray[np.float64]:
    """Return variances drawn towards their geometric mean, those of zero left out of it and left alone.

    Args:
        variance: (k,) estimates.
        n_pairs: pairs of strata that each rests on.
        prior_pairs: pairs that the mean counts as.

    Source: Smyth 2004, Linear models and empirical Bayes methods, Eq. 8, with the prior's place and weight given.
    """
    variance = np.asarray(variance, dtype=np.float64)
    positive = variance > 0
    if not positive.any():
        return variance.copy()
    mean = np.exp(np.log(variance[positive]).mean())
    return np.where(positive, (prior_pairs * mean + n_pairs * variance) / (prior_pairs + n_pairs), 0)


@dataclass(frozen=True)
class Round:
    """One look at the race.

    Attributes:
        n_trials: trials that each of the raced prompts has had.
        raced: (m,) prompts that were still in.
        survivors: (k,) those of them that still are, after this look.
        best: the prompt with the lowest mean error.
        means: (m,) mean errors of the raced ones.
        differences: (m,) means minus that of the best.
        margins: (m,) what a difference must exceed for its prompt to be dropped; infinite where nothing may be.
        n_evaluations: denoiser evaluations so far, of all prompts.
        finished: whether the race is over: one survivor, all trials taken, or the budget spent.
    """

    n_trials: int
    raced: NDArray[np.int64]
    survivors: NDArray[np.int64]
    best: int
    means: NDArray[np.float64]
    differences: NDArray[np.float64]
    margins: NDArray[np.float64]
    n_evaluations: int
    finished: bool


@dataclass(frozen=True)
class Racing:
    """Sequential elimination of prompts; see the module's text.

    Attributes:
        trials: N, timesteps of the full evaluation.
        confidence: probability that the full evaluation's winner is not dropped, where `threshold` is None.
        threshold: z itself, from a calibration; None: from the confidence.
        budget: denoiser evaluations an image may cost at most; None: no limit. Prompts that are left when it is spent
            are a tie.
        repeats: noises per timestep.
        seed: seed of the timesteps.
        prior_pairs: with a threshold, what the other rivals' variances are worth in pairs of strata; 0: nothing.
        antithetic: whether every second block of 8 trials mirrors the noises of the block before it.
    """

    trials: int = 128
    confidence: float = 0.99
    threshold: float | None = None
    budget: int | None = None
    repeats: int = 1
    seed: int = 0
    prior_pairs: float = PRIOR_PAIRS
    antithetic: bool = True

    def __post_init__(self) -> None:
        for name in ("trials", "repeats", *(["budget"] if self.budget is not None else [])):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.trials > MAX_POSITIONS:
            raise ValueError(f"trials must be at most {MAX_POSITIONS}, got {self.trials}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {self.confidence}")
        if not self.prior_pairs >= 0:
            raise ValueError(f"prior_pairs must be at least 0, got {self.prior_pairs}")
        if self.threshold is not None and not self.threshold > 0:
            raise ValueError(f"threshold must be above 0, got {self.threshold}")

    def timesteps(self, n_timesteps: int = 1000) -> np.ndarray:
        """Return (trials x repeats,) timesteps, the repeats of one beside each other.

        Raises:
            ValueError: more trials than the model has timesteps.
        """
        if self.trials > n_timesteps:
            raise ValueError(f"trials must be at most the model's {n_timesteps} timesteps, got {self.trials}")
        once = (nested_positions(self.trials, self.seed) * n_timesteps).astype(np.int64)
        return np.repeat(once, self.repeats)

    def noises(self) -> NDArray[np.int64] | None:
        """Return (trials x repeats,) the number of each trial's noise, or None: each its own."""
        return antithetic_noises(self.trials, self.repeats).ravel() if self.antithetic else None

    def looks(self) -> list[int]:
        """Return the numbers of trials at which prompts may be dropped: blocks of 8 with their mirrors, and all."""
        found, n = [], BLOCK
        while n < self.trials:
            found.append(n)
            block = 2 * BLOCK if self.antithetic and n > BLOCK else BLOCK
            n += max(block, 2 ** (n.bit_length() - 1) // LOOKS_PER_DOUBLING)
        return [*found, self.trials]

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations one image costs at most.

        Raises:
            ValueError: the budget does not give every prompt a trial.
        """
        most = n_prompts * len(self.timesteps(n_timesteps))
        self._check_budget(n_prompts)
        return most if self.budget is None else min(most, self.budget)

    def next(self, errors: np.ndarray) -> np.ndarray | None:
        """Return the mask of entries to evaluate next, or None when the race is over."""
        alive, had, spent = np.arange(len(errors)), 0, 0
        for look in self.rounds(errors):
            if look.finished:
                return None
            alive, had, spent = look.survivors, look.n_trials, look.n_evaluations
        mask = np.zeros(errors.shape, dtype=bool)
        mask[alive, : self._target(had, len(alive), spent) * self.repeats] = True
        return mask & np.isnan(errors)

    def survivors(self, errors: np.ndarray) -> NDArray[np.int64]:
        """Return the prompts that were not dropped: several if they cannot be told apart."""
        left = np.arange(len(errors))
        for look in self.rounds(errors):
            left = look.survivors
        return left

    def rounds(self, errors: np.ndarray) -> Iterator[Round]:
        """Yield the looks at a race, as far as the errors known so far go.

        Args:
            errors: (n_prompts, trials x repeats) prediction errors, NaN where unknown.

        Raises:
            ValueError: the errors are not of the race's trials, or the budget does not give every prompt a trial.
        """
        if errors.shape[1] != self.trials * self.repeats:
            raise ValueError(f"errors must be of {self.trials * self.repeats} trials, got {errors.shape[1]}")
        self._check_budget(len(errors))
        alive, had, spent = np.arange(len(errors)), 0, 0
        while True:
            n = self._target(had, len(alive), spent)
            known = errors[alive, : n * self.repeats]
            if np.isnan(known).any():
                return
            spent += len(alive) * (n - had) * self.repeats
            values = known.reshape(len(alive), n, self.repeats).mean(axis=2, dtype=np.float64)
            look = self._look(alive, values, len(errors))
            alive, had = look.survivors, n
            finished = len(alive) == 1 or self._target(had, len(alive), spent) == had
            yield replace(look, n_evaluations=spent, finished=finished)
            if finished:
                return

    def _target(self, had: int, n_alive: int, spent: int) -> int:
        """Return the trials in all that the next heat takes its prompts to; `had` where there is no more of it."""
        n = next((look for look in self.looks() if look > had), had)
        if self.budget is not None:
            n = min(n, had + (self.budget - spent) // (n_alive * self.repeats))
        return n

    def _look(self, alive: NDArray, values: NDArray, n_prompts: int) -> Round:
        """Return the look at the errors (m, n) of the raced prompts."""
        n = values.shape[1]
        means = values.mean(axis=1)
        best = int(means.argmin())
        differences = means - means[best]
        margins = np.full(len(alive), np.inf)
        if n == self.trials:
            margins[:] = 0
        elif n >= BLOCK:
            variance, n_pairs = self._variance(values - values[best])
            if self.threshold is not None:
                variance = moderated_variance(variance, n_pairs, self.prior_pairs)
            margins = self._quantile(n_pairs, n_prompts) * np.sqrt(variance)
        stays = differences <= margins
        return Round(n, alive, alive[stays], int(alive[best]), means, differences, margins, 0, False)

    def _variance(self, differences: NDArray) -> tuple[NDArray[np.float64], int]:
        """Return the variances of the means of (m, n) differences about those of all trials, and the pairs behind each.

        Of antithetic trials those without their mirror image, or of a block cut short, are left out: more trials make a
        mean no worse. The first block alone is no part of the full mean, where its noises cancel; SE^2 is then V.
        """
        n = differences.shape[1]
        positions, share = nested_positions(n, self.seed), n / self.trials
        if self.antithetic:
            n_pair = 2 if n >= 2 * BLOCK else 1
            blocks = (-1, n_pair, BLOCK)
            n -= n % (n_pair * BLOCK)
            positions = positions[:n].reshape(blocks).mean(axis=1).ravel()
            differences = differences[:, :n].reshape(len(differences), *blocks).mean(axis=2).reshape(-1, n // n_pair)
            share = n / self.trials if n_pair == 2 else 0
        return collapsed_variance(differences[:, np.argsort(positions)]) * (1 - share), differences.shape[1] // 2

    def _quantile(self, n_pairs: int, n_prompts: int) -> float:
        """Return z for a look whose variances rest on so many pairs."""
        if self.threshold is not None:
            return self.threshold
        from scipy.special import stdtrit

        n_tests = max(1, n_prompts - 1) * max(1, len(self.looks()) - 1)
        return float(-stdtrit(n_pairs, (1 - self.confidence) / n_tests))

    def _check_budget(self, n_prompts: int) -> None:
        if self.budget is not None and self.budget < n_prompts * self.repeats:
            raise ValueError(
                f"budget must give each of the {n_prompts} prompts a trial, {n_prompts * self.repeats} evaluations, "
                f"got {self.budget}"
            )

    def calibrate(
        self,
        tables: np.ndarray,
        *,
        thresholds: Sequence[float] = THRESHOLDS,
        error: float = 0.01,
        level: float = 0.95,
    ) -> "Calibration":
        """Choose the threshold on full error tables of images that nothing else is judged on.

        The thresholds are tested from large to small. One passes if the one-sided Clopper-Pearson upper bound on the
        probability of dropping the full evaluation's winner is at most `error`; the first failure ends the search, so
        the order of the tests needs no further correction (fixed-sequence testing).

        Args:
            tables: (n_images, n_prompts, trials x repeats) errors of every prompt on every trial.
            thresholds: candidates.
            error: what the bound must not exceed.
            level: confidence of the one-sided bound.

        Returns:
            The calibration; its `racing` is this race with the chosen threshold.

        Raises:
            ValueError: incomplete tables, or so few images that no threshold could pass; or none passes.
        """
        tables = np.asarray(tables)
        if tables.ndim != 3 or tables.shape[2] != self.trials * self.repeats or np.isnan(tables).any():
            raise ValueError(
                f"tables must be complete, (n_images, n_prompts, {self.trials * self.repeats}), got {tables.shape}"
                + (" with NaN" if np.isnan(tables).any() else "")
            )
        n = len(tables)
        if clopper_pearson(0, n, 2 * level - 1).high > error:
            raise ValueError(f"tables must be of more images to bound an error of {error}, got {n}")
        chosen = None
        for threshold in sorted(thresholds, reverse=True):
            found = self._judge(tables, threshold, level)
            if found.bound > error:
                break
            chosen = found
        if chosen is None:
            raise ValueError(f"thresholds must include one that drops at most {error} of the winners, got none")
        return chosen

    def check(self, tables: np.ndarray, *, level: float = 0.95) -> "Calibration":
        """Return how often this threshold drops the full evaluation's winner on other images' full error tables."""
        if self.threshold is None:
            raise ValueError("threshold must be a number, got None; calibrate first")
        return self._judge(np.asarray(tables), self.threshold, level)

    def _judge(self, tables: np.ndarray, threshold: float, level: float) -> "Calibration":
        """Race on every table with one threshold."""
        race = replace(self, threshold=float(threshold), budget=None)
        dropped = spent = 0
        for table in tables:
            *_, last = race.rounds(table)
            values = table.reshape(len(table), self.trials, self.repeats).mean(axis=2, dtype=np.float64)
            dropped += values.mean(axis=1).argmin() not in last.survivors
            spent += last.n_evaluations
        bound = clopper_pearson(int(dropped), len(tables), 2 * level - 1).high
        return Calibration(race, len(tables), int(dropped), bound, level, spent / len(tables))


@dataclass(frozen=True)
class Calibration:
    """How often a race with some threshold drops the winner of the full evaluation.

    Attributes:
        racing: the race.
        n_images: images it was run on.
        n_dropped: images on which the full evaluation's winner was dropped.
        bound: one-sided upper Clopper-Pearson bound on that probability.
        level: confidence of the bound.
        n_evaluations: denoiser evaluations per image, on average.
    """

    racing: Racing
    n_images: int
    n_dropped: int
    bound: float
    level: float
    n_evaluations: float


def calibrated(race: Racing, model: DiffusionModel) -> Racing:
    """Return the race as it is best run with this model.

    A built-in model may bring a threshold that was calibrated for its weights and these trials; other models keep the
    cautious one. A model with fewer timesteps than the race has trials gets as many trials as it has timesteps.
    """
    race = replace(race, trials=min(race.trials, len(model.alphas_cumprod)))
    try:
        stored = json.loads((data_dir() / "models" / model.name / CALIBRATION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return race
    same_race = all(stored.get(name) == getattr(race, name) for name in CALIBRATED_FOR)
    if race.threshold is None and same_race and stored["fingerprint"] == model.fingerprint:
        return replace(race, threshold=stored["threshold"])
    return race
