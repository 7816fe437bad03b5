"""One image, step by step: where in its latent errors arise, and what notebook 00 costs.

Source: Li et al. 2023, arXiv 2303.16203, Algorithm 1 and Figure 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffclf.models.conditioning import Conditioning
from diffclf.models.protocol import DiffusionModel
from diffclf.trials import Trials

__all__ = ["error_maps", "evaluations", "middle_half"]


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: the table twice, the error maps of at most five prompts, and Figure 1."""
    n_classes, n_trials = settings["n_classes"], settings["n_trials"]
    figure = n_classes * settings["n_slider"] * settings["n_noises"]
    return 2 * n_classes * n_trials + min(5, n_classes) * len(middle_half(range(n_trials))) + figure


def middle_half(timesteps: ArrayLike) -> NDArray[np.int64]:
    """Return the timesteps without the first and the last quarter of them."""
    timesteps = np.asarray(timesteps)
    quarter = len(timesteps) // 4
    return timesteps[quarter : len(timesteps) - quarter]


@torch.inference_mode()
def error_maps(model: DiffusionModel, x0: Tensor, cond: Conditioning, trials: Trials) -> NDArray[np.float32]:
    """Return the squared error at each place of a latent (1, C, H, W), a mean over trials and channels.

    There is a map for each row of cond, (n_prompts, H, W), whose mean is the prompt's mean error.
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
