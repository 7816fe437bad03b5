"""Algorithm 2 written down plainly, the reference of the benchmark.

One image at a time, batches of 32, each error fetched as soon as it is computed. The loop takes the same trials as the
evaluator and finds the same errors; nothing slows it down on purpose.

Source: Li et al. 2023, arXiv 2303.16203, Algorithm 2; batch size: appendix F.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffclf.models.conditioning import Conditioning
from diffclf.models.protocol import DiffusionModel
from diffclf.pruning import Staged
from diffclf.trials import Trials

__all__ = ["plain_loop"]


@torch.no_grad()
def plain_loop(
    model: DiffusionModel, x0: Tensor, cond: Conditioning, trials: Trials, staged: Staged, batch_size: int = 32
) -> tuple[int, NDArray[np.float32]]:
    """Classify the image of a clean latent x0 (1, C, H, W) with its own trials of `staged.trial_list()`.

    Returns:
        The prompt with the lowest mean error, and (n_prompts, n_trials) squared errors, NaN where none was computed.
    """
    schedule = model.schedule.to(x0.device)
    errors = np.full((len(cond), len(trials)), np.nan, dtype=np.float32)
    remaining, seen = list(range(len(cond))), set()
    for wanted, n_keep in zip(staged.stages(), staged.keep, strict=True):
        new = [int(trial) for trial in wanted if trial not in seen]
        seen.update(new)
        pairs = [(prompt, trial) for prompt in remaining for trial in new]
        for start in range(0, len(pairs), batch_size):
            prompts, indices = map(list, zip(*pairs[start : start + batch_size], strict=True))
            t = torch.from_numpy(trials.timesteps[indices]).to(x0.device)
            eps = trials.noise(indices).to(x0)
            x_t = schedule.add_noise(x0, eps, t)
            output = model.denoise(x_t, t, cond[prompts])[:, : x0.shape[1]]
            eps_hat = schedule.predict_eps(output, x_t, t)
            errors[prompts, indices] = (eps_hat - eps).square().mean(dim=(1, 2, 3)).cpu().numpy()
        means = np.nanmean(errors[remaining], axis=1, dtype=np.float64)
        remaining = sorted(np.array(remaining)[means.argsort(kind="stable")[:n_keep]].tolist())
    return remaining[0], errors
