"""Timing that holds when the machine's speed drifts: all acts run in turn, a, b, a, b, ..."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch.utils.benchmark import timer

__all__ = ["Comparison", "compare"]

Comparison = dict[str, dict[str, float]]  # name of an act -> what was measured of it


def compare(acts: Mapping[str, Callable[[], object]], units: Sequence[float], n_rounds: int) -> Comparison:
    """Time n_rounds runs of acts in turn, after one run of each that does not count.

    A slow moment of the machine disturbs all acts of a round alike. `timer` waits for the device. One run of an act
    does that many `units` (n_acts,) of work: images, or denoiser evaluations.

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
    measures = {
        "seconds": np.median(seconds, axis=0),
        "speedup": np.median(ratios, axis=0),
        "least": ratios.min(axis=0),
        "largest": ratios.max(axis=0),
    }
    return {name: {key: float(found[i]) for key, found in measures.items()} for i, name in enumerate(acts)}
