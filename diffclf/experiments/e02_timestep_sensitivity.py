"""What a single timestep tells about the class: in one dimension, where the best denoiser is known, and for a model.

The line has two classes of three narrow bumps each (`line_world`), which is long beside the noise. A network trained to
predict eps tends to the best denoiser, so that the results on the line hold without any error of the network.

Source: Li et al. 2023, arXiv 2303.16203, section 4.1 and Figure 3; Ho et al. 2020, arXiv 2006.11239, Eq. 15.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffclf.models.conditioning import Conditioning
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.models.protocol import DiffusionModel
from diffclf.schedule import NoiseSchedule

__all__ = ["evaluations", "line_errors", "line_world", "predict_clean"]


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: every prompt on every timestep of `Uniform`, which notebooks 03 and 04 share."""
    return settings["n_classes"] * settings["n_trials"] * settings["n_images"]


def line_world(
    schedule: NoiseSchedule, classes: Sequence[Sequence[float]] = ((-12, -8, 4), (-4, 8, 12)), width: float = 1.0
) -> GaussianMixtureModel:
    """Return the exact model of classes on a line: centres of equally likely bumps, all of one standard deviation."""
    centres = [[float(centre)] for bumps in classes for centre in bumps]
    owners = [c for c, bumps in enumerate(classes) for _ in bumps]
    return GaussianMixtureModel(centres, [width**2] * len(centres), classes=owners, schedule=schedule)


def line_errors(
    world: GaussianMixtureModel, timesteps: Sequence[int], *, n_points: int, one_noise: bool, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the squared errors of random points on the line under every class, and the points' own classes.

    The world has as many bumps in each class. The timesteps are those of n_trials trials, each with a noise of its own
    unless all trials of a point have one noise. The results are (n_points, n_classes, n_trials) and (n_points,).
    """
    rng, n_classes = np.random.default_rng(seed), len(world.labels)
    centres, width = world.means.numpy().reshape(n_classes, -1), float(world.covariances[0, 0, 0]) ** 0.5
    label = rng.integers(n_classes, size=n_points)
    x0 = rng.normal(centres[label, rng.integers(centres.shape[1], size=n_points)], width)
    noises = rng.standard_normal((1 if one_noise else len(timesteps), n_points))
    errors = np.empty((n_points, n_classes, len(timesteps)))
    clean, every = torch.from_numpy(x0).view(-1, 1, 1, 1), world.encode_prompts(range(n_classes))
    for trial, t in enumerate(timesteps):
        eps = torch.from_numpy(noises[trial % len(noises)]).view_as(clean)
        steps = torch.full((n_points,), int(t))
        x_t = world.schedule.add_noise(clean, eps, steps)
        for c in range(n_classes):
            output = world.denoise(x_t, steps, every[[c] * n_points])
            errors[:, c, trial] = (world.schedule.predict_eps(output, x_t, steps) - eps).square().flatten()
    return errors, label


@torch.inference_mode()
def predict_clean(
    model: DiffusionModel, x0: Tensor, eps: Tensor, timesteps: Sequence[int], cond: Conditioning
) -> tuple[Tensor, Tensor]:
    """Noise one latent to several timesteps and predict the clean latent from each, in one step.

    The latent, on the model's device, and the noise are (1, C, H, W). At every timestep alpha_t must be above 0.
    Returns x_t, (n_t, C, H, W), and x0_hat, (n_prompts, n_t, C, H, W), float32, for each row of cond.
    """
    schedule, t = model.schedule.to(model.device), torch.tensor(list(timesteps), device=model.device)
    clean = x0.float().expand(len(t), -1, -1, -1)
    x_t = schedule.add_noise(clean, eps.to(clean).expand_as(clean), t)
    outputs = [model.denoise(x_t, t, cond[[prompt] * len(t)]).float()[:, : x_t.shape[1]] for prompt in range(len(cond))]
    return x_t, torch.stack([schedule.predict_x0(output, x_t, t) for output in outputs])
