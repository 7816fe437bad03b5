"""Algorithm 2 written down plainly: what the benchmark compares with.

One image at a time, batches of 32, each error fetched as soon as it is computed, the network as diffusers loads it.
It takes the same trials as the evaluator and finds the same errors; nothing slows it down on purpose.

Source: Li et al. 2023, arXiv 2303.16203, Algorithm 2; batch size: appendix F.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffclf.pruning import Staged
from diffclf.trials import Trials

__all__ = ["plain_staged"]

BATCH_SIZE = 32


@torch.no_grad()
def plain_staged(
    unet: Any,  # noqa: ANN401 (diffusers' type)
    alphas_cumprod: Tensor,
    x0: Tensor,
    embeddings: Tensor,
    trials: Trials,
    schedule: Staged,
    batch_size: int = BATCH_SIZE,
) -> tuple[int, np.ndarray]:
    """Classify one image with an epsilon-predicting U-Net.

    Args:
        unet: a `UNet2DConditionModel`.
        alphas_cumprod: (T,) table of the noise schedule.
        x0: (1, C, H, W) clean latent.
        embeddings: (n_prompts, L, D) text embeddings.
        trials: the trials, in the order of `schedule.timesteps()`.
        schedule: trials and prompts of each stage.
        batch_size: evaluations per forward pass.

    Returns:
        The prompt with the lowest mean error, and (n_prompts, n_trials) squared errors, NaN where none was computed.
    """
    errors = np.full((len(embeddings), len(trials)), np.nan, dtype=np.float32)
    remaining = list(range(len(embeddings)))
    seen: list[int] = []
    for wanted, n_keep in zip(schedule.stages(), schedule.keep, strict=True):
        new = [int(trial) for trial in wanted if trial not in seen]
        seen += new
        pairs = [(prompt, trial) for prompt in remaining for trial in new]
        for start in range(0, len(pairs), batch_size):
            prompts, indices = map(list, zip(*pairs[start : start + batch_size], strict=True))
            t = torch.from_numpy(trials.timesteps[indices])
            eps = trials.noise(indices).to(x0)
            alpha_bar_t = alphas_cumprod[t].to(x0).view(-1, 1, 1, 1)
            x_t = alpha_bar_t.sqrt() * x0 + (1 - alpha_bar_t).sqrt() * eps
            eps_hat = unet(x_t, t.to(x0.device), encoder_hidden_states=embeddings[prompts]).sample
            errors[prompts, indices] = (eps_hat - eps).square().mean(dim=(1, 2, 3)).cpu().numpy()
        means = np.array([np.nanmean(errors[prompt], dtype=np.float64) for prompt in remaining])
        remaining = sorted(np.array(remaining)[means.argsort(kind="stable")[:n_keep]].tolist())
    return remaining[0], errors
