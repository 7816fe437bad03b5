"""The error evaluator: how well does the model predict the noise of a trial under a prompt?

    x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps
    l2 = mean (eps - eps_hat)^2,    l1 = mean |eps - eps_hat|,    huber = mean of Huber's loss with delta 1

each a mean over the latent's elements, all from one forward pass of the network; for a model that learns its
variance also `vlb`, the single term L_t of the variational bound in bits per dimension, and `l2+vlb`.

Source: Li et al. 2023, arXiv 2303.16203, Eq. 4 and Algorithm 1; losses: Tables 5, 8 and 9.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffclf.batchsize import choose_batch_size
from diffclf.models.compiled import CompiledDenoiser
from diffclf.models.protocol import DiffusionModel
from diffclf.schedule import add_noise, predict_eps, variational_terms
from diffclf.trials import Trials

__all__ = ["LOSSES", "Evaluator", "NonFiniteError", "check_losses"]

LOSSES = ("l2", "l1", "huber", "vlb", "l2+vlb")


class NonFiniteError(ArithmeticError):
    """The model returned NaN or infinity."""


def check_losses(losses: Sequence[str], learns_variance: bool) -> None:
    """Refuse unknown losses, and variational ones for a model that does not learn its variance.

    Raises:
        ValueError: as said.
    """
    for loss in losses:
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
        if "vlb" in loss and not learns_variance:
            raise ValueError(f"loss {loss!r} needs a model that learns its variance; this one does not")


class Evaluator:
    """Computes prediction errors of (image, prompt, trial) triples in full batches.

    Triples of different images and prompts share batches; the order in which they are handed in does not matter. The
    loop never waits for the device. On an out-of-memory error the batch is halved and the work goes on.

    Args:
        model: the diffusion model.
        losses: which errors to return, of `LOSSES`.
        batch_size: triples per forward pass; None chooses (`diffclf.batchsize`).

    Attributes:
        n_evaluations: denoiser evaluations so far.

    Raises:
        ValueError: unknown or unsupported loss, or a batch size below 1.
    """

    def __init__(
        self, model: DiffusionModel, losses: Sequence[str] = ("l2", "l1", "huber"), batch_size: int | None = None
    ) -> None:
        check_losses(losses, model.learns_variance)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.losses = tuple(losses)
        self.batch_size = batch_size or choose_batch_size(model)
        self.n_evaluations = 0
        self._announce_batch_size()
        # The table stays in double precision: 1 - alpha_bar at t = 0 is a small difference.
        precision = torch.float32 if model.device.type == "mps" else torch.float64
        self._alphas_cumprod = model.alphas_cumprod.to(model.device, precision)

    def _announce_batch_size(self) -> None:
        """Tell a compiled network which batches will be full ones."""
        if isinstance(self.model.denoise, CompiledDenoiser):
            self.model.denoise.expect(self.batch_size)

    @torch.inference_mode()
    def errors(
        self,
        x0: Tensor,
        cond: Tensor,
        trials: Sequence[Trials],
        triples: np.ndarray,
        progress: Callable[[int], object] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return the errors of the triples.

        Args:
            x0: (n_images, C, H, W) clean latents.
            cond: (n_prompts, ...) conditionings, as the model's `encode_prompts` returns them.
            trials: the trials of each image.
            triples: (m, 3) integers: image, prompt, trial.
            progress: called with the number of evaluations after each batch.
            numbers: (n_images,) what messages call the images; None: their places here.

        Returns:
            (m, n_losses) float32, on the CPU.

        Raises:
            NonFiniteError: an error is NaN or infinite; the message names the first such triple.
        """
        triples = np.asarray(triples, dtype=np.int64).reshape(-1, 3)
        # Prompts of one trial stand together, so that its noise is drawn once.
        order = np.lexsort((triples[:, 1], triples[:, 2], triples[:, 0]))
        x0 = x0.to(self.model.device, torch.float32)
        parts, start = [], 0
        while start < len(order):
            batch = triples[order[start : start + self.batch_size]]
            try:
                parts.append(self._batch_errors(x0, cond, trials, batch))
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.batch_size = len(batch) // 2
                self._announce_batch_size()
                batch = batch[:0]
            if not len(batch):  # not in the except clause, whose traceback keeps the failed batch in memory
                torch.cuda.empty_cache()
                continue
            start += len(batch)
            self.n_evaluations += len(batch)
            if progress is not None:
                progress(len(batch))
        errors = np.empty((len(triples), len(self.losses)), dtype=np.float32)
        if parts:
            errors[order] = torch.cat(parts).cpu().numpy()
        if not np.isfinite(errors).all():
            image, prompt, trial = triples[np.flatnonzero(~np.isfinite(errors).all(axis=1))[0]]
            name = image if numbers is None else numbers[image]
            raise NonFiniteError(
                f"the model's errors must be finite, got NaN or infinity for image {name}, prompt {prompt}, "
                f"timestep {trials[image].timesteps[trial]}; try another dtype (float32)"
            )
        return errors

    def _batch_errors(self, x0: Tensor, cond: Tensor, trials: Sequence[Trials], batch: np.ndarray) -> Tensor:
        """Return (n, n_losses) float32 errors of one batch of triples, on the device."""
        new = np.ones(len(batch), dtype=bool)
        new[1:] = (batch[1:, 0] != batch[:-1, 0]) | (batch[1:, 2] != batch[:-1, 2])
        pairs, which = batch[new], np.cumsum(new) - 1
        images = np.unique(pairs[:, 0])
        noise = torch.cat([trials[i].noise(pairs[pairs[:, 0] == i, 2]) for i in images])
        t_pairs = np.concatenate([trials[i].timesteps[pairs[pairs[:, 0] == i, 2]] for i in images])

        def send(array: np.ndarray | Tensor) -> Tensor:
            tensor = torch.as_tensor(array)
            if self.model.device.type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(self.model.device, non_blocking=True)

        eps, t, alpha_bar_t = send(noise), send(t_pairs), None
        alpha_bar_t = self._alphas_cumprod[t]
        clean = x0[send(pairs[:, 0])]
        x_t = add_noise(clean, eps, alpha_bar_t)
        rows = send(which)
        x_t, eps, t, alpha_bar_t = x_t[rows], eps[rows], t[rows], alpha_bar_t[rows]
        output = self.model.denoise(x_t, t, cond[send(batch[:, 1])]).float()
        n_channels = x_t.shape[1]
        eps_hat = predict_eps(output[:, :n_channels], x_t, alpha_bar_t, self.model.prediction_type)
        terms = _loss_terms(eps, eps_hat)
        if any("vlb" in loss for loss in self.losses):
            terms["vlb"] = variational_terms(clean[rows], x_t, eps_hat, output[:, n_channels:], t, self._alphas_cumprod)
            terms["l2+vlb"] = terms["l2"] + terms["vlb"]
        return torch.stack([terms[loss] for loss in self.losses], dim=1)


def _loss_terms(eps: Tensor, eps_hat: Tensor) -> dict[str, Tensor]:
    """Return the three plain losses, each (n,): means over the latent's elements."""
    error = (eps_hat - eps).flatten(1)
    size = error.abs()
    clipped = size.clamp(max=1)
    return {
        "l2": error.square().mean(1),
        "l1": size.mean(1),
        "huber": (clipped * (size - 0.5 * clipped)).mean(1),
    }
