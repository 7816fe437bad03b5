"""Errors at every timestep with each of the same few noises, and where in the latent they arise.

Figure 2 of Li et al. 2023 (arXiv 2303.16203) follows four noises through all timesteps. The mean over the noises of one
timestep shows what that timestep says about the classes, and the spread over the noises how surely.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffclf.models.conditioning import Conditioning
from diffclf.models.protocol import DiffusionModel
from diffclf.search import ErrorSource, compute_errors
from diffclf.trials import TrialList, Trials

__all__ = ["error_maps", "fixed_noise_errors"]


def fixed_noise_errors(
    model: DiffusionModel, images: object, prompts: Sequence, timesteps: ArrayLike, n_noises: int, *, seed: int = 0
) -> NDArray[np.float32]:
    """Return the squared errors (l2) of images under prompts for every timestep and noise.

    Args:
        model: the diffusion model.
        images: PIL images, paths, arrays or tensors, one or many.
        prompts: prompts of all images, or one sequence of prompts per image, of equal lengths.
        timesteps: (n_t,) timesteps.
        n_noises: noises of each image, the same for all its prompts and timesteps.
        seed: seed of the noise.

    Returns:
        (n_images, n_prompts, n_t, n_noises); its size is the number of denoiser evaluations.
    """
    trials = TrialList.every_noise_at(timesteps, n_noises)
    source = ErrorSource(model, prompts, trials, seed=seed, losses=("l2",))
    errors = compute_errors(source, images, desc=None)
    return errors.reshape(*errors.shape[:2], -1, n_noises)


@torch.inference_mode()
def error_maps(model: DiffusionModel, x0: Tensor, cond: Conditioning, trials: Trials) -> NDArray[np.float32]:
    """Return the squared error of each place in the latent, a mean over trials and channels.

    Args:
        model: the diffusion model.
        x0: (1, C, H, W) clean latent.
        cond: conditionings of n_prompts prompts.
        trials: the trials.

    Returns:
        (n_prompts, H, W); the mean of a map is the prompt's mean error.
    """
    schedule = model.schedule.to(model.device)
    t, eps = (part.to(model.device) for part in (torch.from_numpy(trials.timesteps), trials.noise(range(len(trials)))))
    maps = []
    for prompt in range(len(cond)):
        squared = torch.zeros(eps.shape[2:], device=model.device)
        for t_i, eps_i in zip(t.split(64), eps.split(64), strict=True):
            x_t = schedule.add_noise(x0.float().to(model.device).expand_as(eps_i), eps_i, t_i)
            output = model.denoise(x_t, t_i, cond[[prompt] * len(t_i)]).float()[:, : x_t.shape[1]]
            squared += (eps_i - schedule.predict_eps(output, x_t, t_i)).square().mean(1).sum(0)
        maps.append(squared / len(t))
    return torch.stack(maps).cpu().numpy()
