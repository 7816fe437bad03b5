"""Errors on a grid: every timestep with each of the same few noises.

Figure 2 of Li et al. 2023 (arXiv 2303.16203) follows four noises through all timesteps. Averaging over the noises of
one timestep shows what that timestep says about the classes, and how sure it is.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from diffclf.evaluator import Evaluator
from diffclf.images import load_images, to_pixels
from diffclf.models.protocol import DiffusionModel
from diffclf.schedule import add_noise, predict_eps
from diffclf.trials import Trials, image_key

__all__ = ["TrialGrid", "error_maps", "grid_errors"]


class TrialGrid(Trials):
    """Trials that combine every timestep with every one of a few noises; trial i has timestep i // n_noises.

    Args:
        timesteps: (n_t,) timesteps.
        n_noises: noises, the same at every timestep.
        seed: seed of the noise.
        key: the image's key, or None for the same noises whatever the image.
        latent_shape: (C, H, W) of one latent.
    """

    def __init__(
        self,
        timesteps: Sequence[int] | np.ndarray,
        n_noises: int,
        seed: int,
        key: int | None,
        latent_shape: Sequence[int],
    ) -> None:
        if n_noises < 1:
            raise ValueError(f"n_noises must be at least 1, got {n_noises}")
        super().__init__(np.repeat(timesteps, n_noises), seed, key, latent_shape)
        self.n_noises = n_noises

    def noise(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Return eps of the trials asked for, (n, C, H, W) float32 on the CPU."""
        return super().noise(np.asarray(indices, dtype=np.int64) % self.n_noises)


def grid_errors(
    model: DiffusionModel,
    images: object,
    prompts: Sequence[str] | Sequence[int],
    timesteps: Sequence[int] | np.ndarray,
    n_noises: int,
    *,
    asked: np.ndarray | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> np.ndarray:
    """Return the squared errors (l2) of images under prompts for every timestep and noise.

    Args:
        model: the diffusion model.
        images: PIL images, paths, arrays or tensors, one or many.
        prompts: what `model.encode_prompts` takes.
        timesteps: (n_t,) timesteps.
        n_noises: noises per image, the same for all its prompts and timesteps.
        asked: (n_images, k) which prompts each image is tried with; None: all.
        seed: seed of the noise.
        progress: called with the number of evaluations after each batch.

    Returns:
        (n_images, k, n_t, n_noises) float32; its size is the number of denoiser evaluations.
    """
    pixels = [to_pixels(image, model.image_size) for image in load_images(images)]
    x0 = model.encode_images(torch.stack(pixels))
    if asked is None:
        asked = np.tile(np.arange(len(prompts)), (len(pixels), 1))
    trials = [TrialGrid(timesteps, n_noises, seed, image_key(p), model.latent_shape) for p in pixels]
    shape = (*np.shape(asked), len(timesteps), n_noises)
    image, which, trial = np.indices((shape[0], shape[1], shape[2] * shape[3])).reshape(3, -1)
    triples = np.stack([image, np.asarray(asked)[image, which], trial], axis=1)
    evaluator = Evaluator(model, ("l2",))
    return evaluator.errors(x0, model.encode_prompts(prompts), trials, triples, progress)[:, 0].reshape(shape)


@torch.inference_mode()
def error_maps(model: DiffusionModel, x0: torch.Tensor, cond: torch.Tensor, trials: Trials) -> np.ndarray:
    """Return where in the latent the noise is predicted badly: the squared error before its mean over the latent.

    Args:
        model: the diffusion model.
        x0: (1, C, H, W) clean latent.
        cond: (n_prompts, ...) conditionings.
        trials: what to average over.

    Returns:
        (n_prompts, H, W), means over trials and channels; the mean of a map is the prompt's mean error.
    """
    t, eps = torch.from_numpy(trials.timesteps), trials.noise(np.arange(len(trials)))
    alpha_bar_t = model.alphas_cumprod[t]
    x_t = add_noise(x0.float().cpu().expand_as(eps), eps, alpha_bar_t)
    maps = []
    for row in cond:
        squared = torch.zeros(eps.shape[2:])
        for part in torch.arange(len(t)).split(64):
            each = row.expand(len(part), *row.shape)
            output = model.denoise(x_t[part].to(model.device), t[part].to(model.device), each).float().cpu()
            eps_hat = predict_eps(output[:, : x0.shape[1]], x_t[part], alpha_bar_t[part], model.prediction_type)
            squared += (eps[part] - eps_hat).square().mean(1).sum(0)
        maps.append(squared / len(t))
    return torch.stack(maps).numpy()
