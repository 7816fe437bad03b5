"""What sharing the trials buys: classes compared on the same (t, eps), on the same t only, or on trials of their own.

Two prompts' errors e_1, e_2 of one image at one timestep vary with the noise. On noises of their own

    var(e_1 - e_2) = var e_1 + var e_2,    on shared noise    var(e_1 - e_2) = var e_1 + var e_2 - 2 cov(e_1, e_2)

and their ratio says how many times more trials it takes to know the difference as well without sharing.

Source: Li et al. 2023, arXiv 2303.16203, section 3.3 and Figure 2.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from diffclf.evaluator import Evaluator
from diffclf.images import load_images, to_pixels
from diffclf.models.protocol import DiffusionModel
from diffclf.trials import Trials, image_key

__all__ = ["SHARED", "difference_variances", "sharing_errors", "sharing_trials", "variance_ratio"]

SHARED = ("t and noise", "t only", "nothing")
"""What the classes share, from the paper's way to the naive one."""


def difference_variances(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance over noises of the difference of two prompts' errors, shared and not.

    Args:
        errors: (..., 2, n_t, n_noises) errors of the two prompts on the same noises.

    Returns:
        Unbiased sample variances (..., n_t): of the difference on shared noise, and of a difference on noises of their
        own, which is the sum of the two prompts' variances.
    """
    errors = np.asarray(errors, dtype=np.float64)
    shared = (errors[..., 0, :, :] - errors[..., 1, :, :]).var(axis=-1, ddof=1)
    return shared, errors.var(axis=-1, ddof=1).sum(axis=-2)


def variance_ratio(shared: np.ndarray, own: np.ndarray) -> float:
    """Return the median over timesteps of var(own noises) / var(shared noise), the variances averaged over images.

    Averaging before dividing keeps a few images whose variance comes out tiny by chance from deciding the result.

    Args:
        shared: (n_images, n_t) variances of the difference on shared noise.
        own: (n_images, n_t) on noises of their own.
    """
    return float(np.median(own.mean(axis=0) / shared.mean(axis=0)))


def sharing_trials(
    shared: str, n_prompts: int, n_trials: int, seed: int, key: int, latent_shape: Sequence[int], n_timesteps: int
) -> tuple[Trials, np.ndarray]:
    """Return an image's trials and which of them each prompt is evaluated on.

    Timesteps are drawn uniformly and independently, as in Algorithm 1, in all three cases, so that only the sharing
    differs. Of more trials the first ones are the same.

    Args:
        shared: one of `SHARED`.
        n_prompts: prompts.
        n_trials: trials per prompt.
        seed: seed of timesteps and noise.
        key: the image's key.
        latent_shape: (C, H, W) of one latent.
        n_timesteps: T.

    Returns:
        The trials, and (n_prompts, n_trials) their indices.

    Raises:
        ValueError: `shared` is none of the three.
    """
    if shared not in SHARED:
        raise ValueError(f"shared must be one of {SHARED}, got {shared!r}")
    own = np.arange(n_prompts * n_trials).reshape(n_trials, n_prompts).T
    drawn = np.random.default_rng([seed, key]).integers(n_timesteps, size=n_prompts * n_trials)
    common = drawn[own[0]]  # the first prompt's timesteps
    if shared == "t and noise":
        return Trials(common, seed, key, latent_shape), np.tile(np.arange(n_trials), (n_prompts, 1))
    return Trials(np.repeat(common, n_prompts) if shared == "t only" else drawn, seed, key, latent_shape), own


def sharing_errors(
    model: DiffusionModel,
    images: object,
    prompts: Sequence[str] | Sequence[int],
    n_trials: int,
    shared: str,
    *,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Return the squared errors (l2) of all prompts on n_trials each: (n_images, n_prompts, n_trials) float32.

    Without sharing every prompt's noises are really drawn and evaluated; nothing is shuffled or simulated.

    Args:
        model: the diffusion model.
        images: PIL images, paths, arrays or tensors, one or many.
        prompts: what `model.encode_prompts` takes.
        n_trials: trials per prompt.
        shared: one of `SHARED`.
        seed: seed of timesteps and noise.
        progress: called with the number of evaluations after each batch.
    """
    pixels = [to_pixels(image, model.image_size) for image in load_images(images)]
    sets = [
        sharing_trials(
            shared, len(prompts), n_trials, seed, image_key(p), model.latent_shape, len(model.alphas_cumprod)
        )
        for p in pixels
    ]
    shape = (len(pixels), len(prompts), n_trials)
    image, prompt, _ = np.indices(shape).reshape(3, -1)
    triples = np.stack([image, prompt, np.concatenate([index.ravel() for _, index in sets])], axis=1)
    x0, cond = model.encode_images(torch.stack(pixels)), model.encode_prompts(prompts)
    evaluator = Evaluator(model, ("l2",))
    return evaluator.errors(x0, cond, [trials for trials, _ in sets], triples, progress)[:, 0].reshape(shape)
