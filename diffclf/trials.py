"""The shared set S = {(t_i, eps_i)} on which all prompts of an image are compared.

Sharing is what makes the comparison sharp: the error of one prompt varies far more from one (t, eps) to the next than
the *difference* between two prompts does (Li et al. 2023, section 3.3 and Figure 2).

The timesteps are evenly spaced (section 4.1) and come in van der Corput order, so that stopping early still leaves
them spread over the whole range. The noise of trial i is a stream of its own, a counter-based generator keyed by
(seed, image key) at counter i: it does not depend on what else is computed, in which order, or where. Trials may name
other noises, such as the mirror image of an earlier one (`antithetic_noises`).

References:
    Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", arXiv 2303.16203.
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "MAX_POSITIONS",
    "STRATEGIES",
    "Trials",
    "antithetic_noises",
    "even",
    "image_key",
    "label_to_index",
    "nested_positions",
    "spread_order",
    "strategy_timesteps",
    "uniform",
]

BLOCK = 8
"""Nested positions that stand together: one in each eighth of the range."""
MAX_POSITIONS = 1024
"""How many nested positions a seed has: as fine as a thousand timesteps need, and a power of two."""


def spread_order(n: int) -> np.ndarray:
    """Return 0..n-1 in van der Corput order, of which every prefix is spread over the range: (n,) int64."""
    bits = int(n - 1).bit_length()
    sequence = np.array([int(f"{k:0{bits}b}"[::-1], 2) if bits else 0 for k in range(2**bits)]) * n >> bits
    _, first = np.unique(sequence, return_index=True)
    return sequence[np.sort(first)].astype(np.int64)


def uniform(n: int, n_timesteps: int = 1000) -> np.ndarray:
    """Return the n timesteps floor((i + 0.5) T / n), ordered so that every prefix is spread over the range.

    Args:
        n: how many, 1 to T.
        n_timesteps: T.

    Returns:
        (n,) int64 distinct timesteps.

    Raises:
        ValueError: n is not in 1..T.
    """
    if not 1 <= n <= n_timesteps:
        raise ValueError(f"number of timesteps must lie in 1..{n_timesteps}, got {n}")
    grid = (2 * np.arange(n) + 1) * n_timesteps // (2 * n)
    return grid[spread_order(n)]


def even(k: int, n_timesteps: int = 1000) -> np.ndarray:
    """Return k evenly spaced timesteps in increasing order: the set of `uniform(k)`."""
    return np.sort(uniform(k, n_timesteps))


def label_to_index(label: int, n_timesteps: int = 1000) -> int:
    """Return diffusers' index of the paper's timestep label 0..T: T itself is the last index, T - 1.

    Raises:
        ValueError: the label is not in 0..T.
    """
    if not 0 <= label <= n_timesteps:
        raise ValueError(f"timestep label must lie in 0..{n_timesteps}, got {label}")
    return min(int(label), n_timesteps - 1)


def nested_positions(n: int, seed: int = 0) -> NDArray[np.float64]:
    """Return n positions in [0, 1), of which every first 2^k have one in each of 2^k equal parts: (n,).

    The same seed gives the same positions for any n, one by one: a van der Corput sequence with nested random flips and
    random offsets (Owen 1995). Each position by itself is uniform.

    Args:
        n: how many, at most 1024.
        seed: seed of the flips and offsets.
    """
    return _positions(seed)[:n].copy()


def antithetic_noises(n: int, repeats: int = 1) -> NDArray[np.int64]:
    """Return numbers of noises as `Trials` takes them, every second block of 8 nested positions mirroring the first.

    The two of a pair stand eight apart, their positions in the same eighth of the range. Each noise is standard normal
    by itself, but what is odd in it cancels in their sum.

    Args:
        n: positions.
        repeats: noises at each of them.

    Returns:
        (n, repeats).

    Source: Hammersley and Morton 1956 (antithetic variates).
    """
    index = np.arange(n)
    mirrored = (index // BLOCK % 2 == 1)[:, None]
    numbers = (index[:, None] - BLOCK * mirrored) * repeats + np.arange(repeats)
    return np.where(mirrored, ~numbers, numbers)


@cache
def _positions(seed: int) -> NDArray[np.float64]:
    """Return all 1024 positions of a seed."""
    rng = np.random.default_rng([seed, 11])
    index = np.arange(MAX_POSITIONS)
    cell = np.zeros_like(index)
    for level in range(MAX_POSITIONS.bit_length() - 1):
        flips = rng.integers(2, size=2**level)
        cell = 2 * cell + (((index >> level) & 1) ^ flips[cell])
    return (cell + rng.random(len(cell))) / len(cell)


STRATEGIES: dict[str, tuple[int, ...] | int | None] = {
    "Uniform": None,
    "0,500,1000": (0, 500, 1000),
    "0": (0,),
    "500": (500,),
    "1000": (1000,),
    "475,500,525": (475, 488, 500, 512, 525),
    "Even 5": 5,
    "Even 10": 10,
}
"""The eight strategies of Figure 4 by the paper's name: timestep labels, a number of even ones, or None for as many
timesteps as trials. "475,500,525" is drawn at multiples of five trials, hence five timesteps."""


def strategy_timesteps(name: str, n_trials: int, n_timesteps: int = 1000) -> np.ndarray:
    """Return the timesteps of one strategy of Figure 4 for a budget of trials per class.

    A strategy of k timesteps takes each of them once, then each a second time with fresh noise, and so on.

    Args:
        name: a key of `STRATEGIES`.
        n_trials: trials per class.
        n_timesteps: T.

    Returns:
        (n_trials,) int64 timesteps, with repeats.

    Raises:
        ValueError: unknown name, or fewer trials than the strategy has timesteps.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {list(STRATEGIES)}, got {name!r}")
    kind = STRATEGIES[name]
    if kind is None:
        return uniform(n_trials, n_timesteps)
    if isinstance(kind, int):
        cycle = uniform(kind, n_timesteps)
    else:
        cycle = np.array([label_to_index(label * n_timesteps // 1000, n_timesteps) for label in kind])
    if n_trials < len(cycle):
        raise ValueError(f"n_trials of {name!r} must be at least {len(cycle)}, got {n_trials}")
    return np.resize(cycle, n_trials)


def image_key(pixels: torch.Tensor) -> int:
    """Return a 64-bit key of one preprocessed image: a hash of its float32 pixels and their shape."""
    array = pixels.detach().to("cpu", torch.float32).contiguous().numpy()
    digest = hashlib.blake2b(array.tobytes(), digest_size=8, person=repr(array.shape).encode()[:16])
    return int.from_bytes(digest.digest(), "little")


class Trials:
    """The trials of one image: a timestep and a noise for each index.

    Args:
        timesteps: (n_trials,) timesteps, 0..T-1; may repeat.
        seed: seed of the noise.
        key: the image's key (`image_key`), or None for the same noise whatever the image.
        latent_shape: (C, H, W) of one latent.
        noises: (n_trials,) number of each trial's noise, ~k for the mirror image -eps of noise k; None: 0, 1, 2, …

    Attributes:
        timesteps: (n_trials,) int64.

    Raises:
        ValueError: not as many noises as timesteps.
    """

    def __init__(
        self,
        timesteps: Sequence[int] | np.ndarray,
        seed: int,
        key: int | None,
        latent_shape: Sequence[int],
        noises: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        self.timesteps = np.asarray(timesteps, dtype=np.int64)
        self.latent_shape = tuple(int(n) for n in latent_shape)
        self._noises = np.arange(len(self)) if noises is None else np.asarray(noises, dtype=np.int64)
        if len(self._noises) != len(self):
            raise ValueError(f"noises must be as many as the {len(self)} timesteps, got {len(self._noises)}")
        identity = f"{int(seed)}/{'any image' if key is None else int(key)}".encode()
        self._key = np.frombuffer(hashlib.blake2b(identity, digest_size=16).digest(), np.uint64)

    def __len__(self) -> int:
        return len(self.timesteps)

    def noise(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Return eps of the trials asked for, (n, C, H, W) float32 on the CPU.

        Raises:
            IndexError: an index is not in 0..n_trials-1.
        """
        indices = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if indices.size and not (0 <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"trial indices must lie in 0..{len(self) - 1}, got {indices.min()}..{indices.max()}")
        eps = np.empty((len(indices), *self.latent_shape), dtype=np.float32)
        numbers = self._noises[indices]
        for row, number in zip(eps, np.maximum(numbers, ~numbers), strict=True):
            stream = np.random.Philox(key=self._key, counter=[0, 0, 0, number])
            np.random.Generator(stream).standard_normal(out=row, dtype=np.float32)
        eps[numbers < 0] *= -1
        return torch.from_numpy(eps)
