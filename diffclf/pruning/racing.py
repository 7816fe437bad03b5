"""Racing: sequential elimination by paired differences.

All surviving prompts are evaluated on the same new trials. With d_i the difference of two prompts' errors on trial i, a
prompt is dropped, for good, once its mean difference to the best prompt is large against its standard error:

    mean d > z SE,     SE^2 = V (1 - n / N).

N is the number of trials of the full evaluation, whose winner is sought; 1 - n / N is the finite-population correction.
There are two kinds of V and z:

    threshold     V = sum over pairs of neighbouring strata of (d_a - d_b)^2 / n^2,     z calibrated
    confidence    V = sum d_i^2 / n^2,                              z^2 = 2 log(rivals x looks / (1 - confidence))

The timesteps are `diffclf.trials.nested_positions`: every block of 8 trials has one in each eighth of the range, the
first 16 one in each sixteenth, and so on, while each timestep by itself is uniform. The noise is antithetic: every
second block takes the mirror images -eps of the noises of the block before, at timesteps in the same eighths. From 16
trials on V is made of the means of a trial and its mirror image.

*Threshold.* V is the collapsed-strata estimate of the variance of a stratified mean: the trials have one timestep in
each of n equal parts of the range, so that the part of the variance that comes from the timestep is small. V rests on
few pairs at the first looks, so that each V is shrunk towards the geometric mean over the remaining rivals. The number
z is calibrated on error tables of other images (`diffclf.pruning.calibration`). The thresholds of the embedded models
are calibrated on tune images of single items and ten prompts; for other images, and for more prompts, they promise
nothing.

*Confidence.* No data choose z. The sum of independent d_i, each symmetric about 0, exceeds z sqrt(sum d_i^2) with
probability at most exp(-z^2 / 2), whatever their variances (Efron 1969). The errors of a few timesteps may therefore
vary a hundred times as much as those of all others, where Student's quantile for V of the threshold fails. The error
is shared among rivals and looks (Bonferroni). The bound is cautious: no prompt is dropped before there are z^2 terms
(of ten prompts and 128 mirrored trials: before 48 trials). It is no theorem for a race, since the d_i of a close rival
may be skewed and the finite-population correction is not part of it; simulated races keep it.

References:
    Efron 1969, "Student's t-test under symmetry conditions" (the bound of a confidence).
    Cochran 1977, "Sampling techniques", section 5A.12 (collapsed strata).
    Smyth 2004, "Linear models and empirical Bayes methods", Eq. 8 (moderated variances).
    Paulson 1964 and Even-Dar et al. 2006 (successive elimination); Maron and Moore 1993 (races).
    Clark, Jaini 2023, arXiv 2303.15233 (paired tests of a diffusion model's classes).
    Li et al. 2023, arXiv 2303.16203, section 4.2 (the staged alternative).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from diffclf.models.protocol import DiffusionModel
from diffclf.pruning.base import Round, Strategy, check_count, check_timesteps, widen
from diffclf.trials import BLOCK, MAX_POSITIONS, TrialList, antithetic_noises, nested_positions

__all__ = ["CALIBRATED_FOR", "Racing", "collapsed_variance", "moderated_variance"]

CALIBRATED_FOR = ("trials", "repeats", "seed", "prior_pairs", "antithetic")  # what a calibrated threshold is valid for
CONFIDENCE = 0.99
LOOKS_PER_DOUBLING = 4
PRIOR_PAIRS = 8


@dataclass(frozen=True)
class Racing(Strategy):
    """Drop prompts as soon as their mean paired difference to the best prompt is significant.

    Attributes:
        trials: N, timesteps of the full evaluation.
        confidence: probability that the winner of the full evaluation is not dropped, where there is no threshold. It
            holds where differences vary symmetrically about their mean at each timestep. None: the model's calibrated
            threshold where it has one, else 0.99.
        threshold: z itself.
        budget: denoiser evaluations that an image may cost at most; None: no limit. Prompts that are left when it is
            spent are undecided.
        repeats: noises per timestep.
        seed: seed of the timesteps.
        prior_pairs: with a threshold, weight of the rivals' mean variance in pairs of strata; 0: own variances only.
        antithetic: whether every second block of 8 trials mirrors the noises of the block before.
    """

    trials: int = 128
    confidence: float | None = None
    threshold: float | None = None
    budget: int | None = None
    repeats: int = 1
    seed: int = 0
    prior_pairs: float = PRIOR_PAIRS
    antithetic: bool = True

    def __post_init__(self) -> None:
        for name in ("trials", "repeats", *(["budget"] if self.budget is not None else [])):
            check_count(name, getattr(self, name))
        if self.trials > MAX_POSITIONS:
            raise ValueError(f"trials must be at most {MAX_POSITIONS}, got {self.trials}")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {self.confidence}")
        if not self.prior_pairs >= 0:
            raise ValueError(f"prior_pairs must be at least 0, got {self.prior_pairs}")
        if self.threshold is not None and not self.threshold > 0:
            raise ValueError(f"threshold must be above 0, got {self.threshold}")

    @override
    def prepare(self, model: DiffusionModel, classnames: Sequence[str]) -> "Racing":
        race = replace(self, trials=min(self.trials, len(model.schedule)))
        stored = model.calibration
        if stored is None or race.threshold is not None or race.confidence is not None:
            return race
        fits = all(stored.get(name) == getattr(race, name) for name in CALIBRATED_FOR)
        return replace(race, threshold=stored["threshold"]) if fits else race

    @override
    def trial_list(self, n_timesteps: int = 1000) -> TrialList:
        check_timesteps(self.trials, n_timesteps)
        timesteps = np.repeat((nested_positions(self.trials, self.seed) * n_timesteps).astype(np.int64), self.repeats)
        return TrialList(timesteps, antithetic_noises(self.trials, self.repeats).ravel() if self.antithetic else None)

    def looks(self) -> list[int]:
        """Return the numbers of trials at which prompts may be dropped: blocks of 8 with their mirrors, and all."""
        found, n = [], BLOCK
        while n < self.trials:
            found.append(n)
            block = 2 * BLOCK if self.antithetic and n > BLOCK else BLOCK
            n += max(block, 2 ** (n.bit_length() - 1) // LOOKS_PER_DOUBLING)
        return [*found, self.trials]

    @override
    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        most = n_prompts * len(self.trial_list(n_timesteps))
        self._target(0, n_prompts, 0)  # raises for a budget that is too small
        return most if self.budget is None else min(most, self.budget)

    @override
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        alive, had, spent = np.arange(len(errors)), 0, 0
        for look in self.rounds(errors):
            if look.finished:
                return None
            alive, had, spent = look.survivors, look.n_trials, look.n_evaluations
        n = self._target(had, len(alive), spent)
        return widen(np.isnan(errors[alive, : n * self.repeats]), alive, errors.shape)

    @override
    def undecided(self, errors: NDArray) -> NDArray[np.int64]:
        looks = list(self.rounds(errors))
        left = looks[-1].survivors if looks else np.arange(len(errors))
        return left if len(left) > 1 else left[:0]

    @override
    def rounds(self, errors: NDArray) -> Iterator[Round]:
        if errors.shape[1] != self.trials * self.repeats:
            raise ValueError(f"errors must be of {self.trials * self.repeats} trials, got {errors.shape[1]}")
        alive, had, spent, finished = np.arange(len(errors)), 0, 0, False
        while not finished:
            n = self._target(had, len(alive), spent)
            known = errors[alive, : n * self.repeats]
            if np.isnan(known).any():
                return
            spent += len(alive) * (n - had) * self.repeats
            values = known.reshape(len(alive), n, self.repeats).mean(axis=2, dtype=np.float64)
            means = values.mean(axis=1)
            best = int(means.argmin())
            differences = means - means[best]
            margins = _margins(self, values - values[best], len(errors))
            raced, alive, had = alive, alive[differences <= margins], n
            finished = len(alive) == 1 or self._target(had, len(alive), spent) == had
            yield Round(n, raced, alive, int(raced[best]), means, differences, margins, spent, finished)

    def _target(self, had: int, n_alive: int, spent: int) -> int:
        """Return the number of trials at the next look; `had` where there is no further look."""
        n, cost = next((look for look in self.looks() if look > had), had), n_alive * self.repeats
        if self.budget is not None:
            n = min(n, had + (self.budget - spent) // cost)
        if n == 0:
            raise ValueError(f"budget must give {n_alive} prompts a trial each, {cost} evaluations, got {self.budget}")
        return n


def _margins(race: Racing, differences: NDArray, n_prompts: int) -> NDArray[np.float64]:
    """Return what the mean of each row of differences (m, n) must exceed for its prompt to be dropped."""
    n = differences.shape[1]
    if n == race.trials:
        return np.zeros(len(differences))
    if n < BLOCK:
        return np.full(len(differences), np.inf)
    strata, share = _strata(race, differences)
    if race.threshold is not None:
        variance = collapsed_variance(strata) * (1 - share)
        return race.threshold * np.sqrt(moderated_variance(variance, strata.shape[1] // 2, race.prior_pairs))
    n_tests = max(1, n_prompts - 1) * max(1, len(race.looks()) - 1)
    confidence = CONFIDENCE if race.confidence is None else race.confidence
    variance = np.square(strata).sum(axis=1, dtype=np.float64) / strata.shape[1] ** 2 * (1 - share)
    return np.sqrt(2 * np.log(n_tests / (1 - confidence)) * variance)


def _strata(race: Racing, differences: NDArray) -> tuple[NDArray, float]:
    """Return (m, n) differences as one value per stratum, strata in their order, and the share of the full mean.

    A trial and its mirror image are one value, their mean. Antithetic trials without their mirror image, or of a block
    cut short, are left out. The first block alone is not part of the full mean, in which its noises cancel: its share
    is 0, which leaves out the finite-population correction.
    """
    n = differences.shape[1]
    positions, share = nested_positions(n, race.seed), n / race.trials
    if race.antithetic:
        n_pair = 2 if n >= 2 * BLOCK else 1
        blocks = (-1, n_pair, BLOCK)
        n -= n % (n_pair * BLOCK)
        positions = positions[:n].reshape(blocks).mean(axis=1).ravel()
        differences = differences[:, :n].reshape(len(differences), *blocks).mean(axis=2).reshape(-1, n // n_pair)
        share = n / race.trials if n_pair == 2 else 0
    return differences[:, np.argsort(positions)], share


def collapsed_variance(values: NDArray) -> NDArray[np.float64]:
    """Return the collapsed-strata estimate of the variance of the mean of one value per stratum.

    Neighbouring strata are joined in pairs, the last three if n is odd: sum over groups of L strata of
    L / (L - 1) sum (y - mean y)^2, over n^2. The estimate is not below the true variance on average. Values are
    (..., n), strata in their order, n at least 2; the result is (...).
    """
    n = values.shape[-1]
    ends = n - 3 if n % 2 else n
    pairs = values[..., :ends].reshape(*values.shape[:-1], ends // 2, 2)
    total = np.square(pairs[..., 0] - pairs[..., 1]).sum(axis=-1, dtype=np.float64)
    if n % 2:
        total = total + 1.5 * 3 * values[..., ends:].astype(np.float64).var(axis=-1)
    return total / n**2


def moderated_variance(variance: NDArray, n_pairs: int, prior_pairs: float = PRIOR_PAIRS) -> NDArray[np.float64]:
    """Return (k,) variances shrunk towards their geometric mean; those of zero are left out of the mean and left alone.

    Each estimate has `n_pairs` pairs of strata behind it; the mean weighs as much as `prior_pairs`.
    """
    variance = np.asarray(variance, dtype=np.float64)
    positive = variance > 0
    if not positive.any():
        return variance.copy()
    mean = np.exp(np.log(variance[positive]).mean())
    return np.where(positive, (prior_pairs * mean + n_pairs * variance) / (prior_pairs + n_pairs), 0)
