"""Timing that holds when the machine's speed drifts: all acts run in turn, a, b, a, b, ..."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch.utils.benchmark import timer

__all__ = ["Comparison", "compare"]

Comparison = dict[str, dict[str, float]]  # name of an act -> what was measured of it
MEASURES = ("seconds", "speedup", "least", "largest")


def compare(acts: Mapping[str, Callable[[], object]], units: Sequence[float], n_rounds: int) -> Comparison:
    """Time acts in turn, after one run of each that does not count.

    A slow moment of the machine disturbs all acts of a round alike. `timer` waits for the device.

    Args:
        acts: name -> act.
        units: (n_acts,) units of work that one run of each act does: images, or denoiser evaluations.
        n_rounds: runs of each act.

    Returns:
        For each act its median of the seconds per unit, and the median, the least and the largest of its speed-up: the
        seconds per unit of the first act over its own, round by round.
    """
    for act in acts.values():
        act()
    clock = np.empty((n_rounds, len(acts) + 1))
    for row in clock:
        row[0] = timer()
        for place, act in enumerate(acts.values(), 1):
            act()
            row[place] = timer()
    seconds = np.diff(clock, axis=1) / units
    ratios = seconds[:, :1] / seconds
    found = np.stack([np.median(seconds, axis=0), np.median(ratios, axis=0), ratios.min(axis=0), ratios.max(axis=0)])
    return {name: dict(zip(MEASURES, own, strict=True)) for name, own in zip(acts, found.T.tolist(), strict=True)}
