"""The trials of Algorithm 1: the shared set S = {(t_i, eps_i)} on which all prompts of an image are compared.

Sharing the trials makes the comparison sharp: the error of one prompt varies far more from one (t, eps) to the next
than the *difference* between two prompts does (Li et al. 2023, section 3.3 and Figure 2).

A `TrialList` says which timestep and which noise each trial has; it is the same for all images. `Trials` are one
image's: noise number k is a stream of its own, a counter-based generator keyed by (seed, image key) at counter k. So a
noise does not depend on what else is computed, in which order, or where.

References:
    Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", arXiv 2303.16203.
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    Owen 1995, "Randomly permuted (t,m,s)-nets and (t,s)-sequences" (nested random flips).
    Hammersley, Morton 1956, "A new Monte Carlo technique: antithetic variates".
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BLOCK",
    "TrialList",
    "Trials",
    "antithetic_noises",
    "even",
    "image_key",
    "nested_positions",
    "spread_order",
    "uniform",
]

BLOCK = 8  # nested positions that stand together, one in each eighth of the range
MAX_POSITIONS = 1024  # of a seed: a power of two, at least the timesteps of any model in use


class TrialList:
    """The timestep and the noise of each trial, for any image.

    Attributes:
        timesteps: (n_trials,) int64 timesteps, 0..T-1; may repeat.
        noises: (n_trials,) int64 number of each trial's noise, ~k for the mirror image -eps of noise k. By default each
            trial has its own noise: 0, 1, 2, ...
    """

    def __init__(self, timesteps: ArrayLike, noises: ArrayLike | None = None) -> None:
        self.timesteps = np.asarray(timesteps, dtype=np.int64)
        self.noises = np.arange(len(self)) if noises is None else np.asarray(noises, dtype=np.int64)
        if self.noises.shape != self.timesteps.shape:
            raise ValueError(f"noises must be as many as the {len(self)} timesteps, got {len(self.noises)}")

    @classmethod
    def every_noise_at(cls, timesteps: ArrayLike, n_noises: int) -> "TrialList":
        """Return every timestep with each of the same few noises; trial i has timestep i // n_noises (Figure 2)."""
        if n_noises < 1:
            raise ValueError(f"n_noises must be at least 1, got {n_noises}")
        timesteps = np.asarray(timesteps, dtype=np.int64)
        return cls(np.repeat(timesteps, n_noises), np.tile(np.arange(n_noises), len(timesteps)))

    def __len__(self) -> int:
        return len(self.timesteps)

    def __getitem__(self, indices: slice | ArrayLike) -> "TrialList":
        return TrialList(self.timesteps[indices], self.noises[indices])

    def starts_with(self, other: "TrialList") -> bool:
        """Return whether the other list's trials are the first ones of this list."""
        first = self[: len(other)]
        return np.array_equal(first.timesteps, other.timesteps) and np.array_equal(first.noises, other.noises)


class Trials:
    """The trials of one image.

    Args:
        trials: a list of trials, or (n_trials,) timesteps with a noise each.
        key: the image's key (`image_key`), or None for the same noise whatever the image.
        latent_shape: (C, H, W) of one latent.
    """

    def __init__(self, trials: TrialList | ArrayLike, seed: int, key: int | None, latent_shape: Sequence[int]) -> None:
        listed = trials if isinstance(trials, TrialList) else TrialList(trials)
        self.timesteps, self._noises = listed.timesteps, listed.noises
        self.latent_shape = tuple(int(n) for n in latent_shape)
        identity = f"{int(seed)}/{'any image' if key is None else int(key)}".encode()
        self._key = np.frombuffer(hashlib.blake2b(identity, digest_size=16).digest(), np.uint64)

    def __len__(self) -> int:
        return len(self.timesteps)

    def noise(self, indices: ArrayLike) -> torch.Tensor:
        """Return eps of some trials, (n, C, H, W) float32 on the CPU; raise IndexError unless 0 <= index < n_trials."""
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


def image_key(pixels: torch.Tensor) -> int:
    """Return a 64-bit key of one preprocessed image: a hash of its float32 pixels and their shape."""
    array = pixels.detach().to("cpu", torch.float32).contiguous().numpy()
    digest = hashlib.blake2b(array.tobytes(), digest_size=8, person=repr(array.shape).encode()[:16])
    return int.from_bytes(digest.digest(), "little")


def spread_order(n: int) -> NDArray[np.int64]:
    """Return 0..n-1 in van der Corput order: every prefix is spread over the range, (n,)."""
    bits = int(n - 1).bit_length()
    reversed_bits = [int(f"{k:0{bits}b}"[::-1], 2) for k in range(2**bits)]
    return np.array(list(dict.fromkeys(k * n >> bits for k in reversed_bits)), dtype=np.int64)


def uniform(n: int, n_timesteps: int = 1000) -> NDArray[np.int64]:
    """Return the n timesteps floor((i + 0.5) T / n), ordered so that every prefix is spread over the range: (n,).

    T is n_timesteps. Raises ValueError unless 1 <= n <= T.
    """
    if not 1 <= n <= n_timesteps:
        raise ValueError(f"number of timesteps must lie in 1..{n_timesteps}, got {n}")
    grid = (2 * np.arange(n) + 1) * n_timesteps // (2 * n)
    return grid[spread_order(n)]


def even(k: int, n_timesteps: int = 1000) -> NDArray[np.int64]:
    """Return k evenly spaced timesteps in increasing order: the set of `uniform(k)`."""
    return np.sort(uniform(k, n_timesteps))


@cache
def nested_positions(n: int, seed: int = 0) -> NDArray[np.float64]:
    """Return n positions in [0, 1), (n,), read-only: of every first 2^k there is one in each of 2^k equal parts.

    A van der Corput sequence with nested random flips and random offsets (Owen 1995). The first n positions are the
    same for every larger n, up to 1024. Each position by itself is uniform.
    """
    rng = np.random.default_rng([seed, 11])
    index = np.arange(MAX_POSITIONS)
    cell = np.zeros_like(index)
    for level in range(MAX_POSITIONS.bit_length() - 1):
        flips = rng.integers(2, size=2**level)
        cell = 2 * cell + (((index >> level) & 1) ^ flips[cell])
    positions = (cell + rng.random(len(cell))) / len(cell)
    positions.flags.writeable = False
    return positions[:n]


def antithetic_noises(n: int, repeats: int = 1) -> NDArray[np.int64]:
    """Return numbers of noises at n positions, (n, repeats): every second block of 8 mirrors the block before.

    The two of a pair stand eight apart, their positions in the same eighth of the range. Each noise is standard normal
    by itself; what is odd in it cancels in the sum of the pair (Hammersley and Morton 1956).
    """
    index = np.arange(n)
    mirrored = (index // BLOCK % 2 == 1)[:, None]
    numbers = (index[:, None] - BLOCK * mirrored) * repeats + np.arange(repeats)
    return np.where(mirrored, ~numbers, numbers)
