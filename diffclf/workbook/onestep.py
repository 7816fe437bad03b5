"""What a model makes of a noised image in one step.

    x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_bar_t)
    mean (eps - eps_hat)^2 = SNR(t) mean (x0 - x0_hat)^2,       SNR(t) = alpha_bar_t / (1 - alpha_bar_t)

The second line follows from the first: the error in the noise is the error in the picture times the
signal-to-noise ratio.

Source: Ho et al. 2020, arXiv 2006.11239, Eq. 15; Kingma et al. 2021, arXiv 2107.00630, for the signal-to-noise ratio.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffclf.models.protocol import DiffusionModel
from diffclf.schedule import add_noise, predict_eps

__all__ = ["one_step", "pictures"]


@torch.inference_mode()
def one_step(
    model: DiffusionModel, x0: Tensor, eps: Tensor, timesteps: Sequence[int], cond: Tensor
) -> tuple[Tensor, Tensor]:
    """Noise one latent to several timesteps and predict it back under several prompts.

    Args:
        model: the diffusion model.
        x0: (1, C, H, W) clean latent, on the model's device.
        eps: (1, C, H, W) noise, the same at all timesteps.
        timesteps: n_t timesteps, at which alpha_bar_t is above 0.
        cond: (n_prompts, ...) conditionings.

    Returns:
        x_t, (n_t, C, H, W), and x0_hat, (n_prompts, n_t, C, H, W), float32.
    """
    t = torch.as_tensor(list(timesteps), dtype=torch.int64)
    alpha_bar_t = model.alphas_cumprod[t].float().to(model.device)
    t = t.to(model.device)
    clean = x0.float().expand(len(t), *x0.shape[1:])
    x_t = add_noise(clean, eps.to(clean.device, clean.dtype).expand_as(clean), alpha_bar_t)
    predicted = []
    for row in cond:
        output = model.denoise(x_t, t, row.expand(len(t), *row.shape)).float()[:, : x_t.shape[1]]
        eps_hat = predict_eps(output, x_t, alpha_bar_t, model.prediction_type)
        scale, sigma = (value.view(-1, 1, 1, 1) for value in (alpha_bar_t.sqrt(), (1 - alpha_bar_t).sqrt()))
        predicted.append((x_t - sigma * eps_hat) / scale)
    return x_t, torch.stack(predicted)


def pictures(pixels: Tensor) -> Tensor:
    """Return pixels in [-1, 1], (n, 3, H, W), as pictures to draw: (n, H, W, 3) in [0, 1], clipped, on the CPU."""
    return ((pixels.detach().cpu().float() + 1) / 2).clamp(0, 1).movedim(1, -1)
