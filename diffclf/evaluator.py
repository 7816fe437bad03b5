"""The error evaluator: prediction errors of (image, prompt, trial) triples, computed in full batches.

    x_t = alpha_t x0 + sigma_t eps
    l2 = mean (eps - eps_hat)^2,    l1 = mean |eps - eps_hat|,    huber = mean of Huber's loss with delta 1

each a mean over the latent's elements, all from one forward pass of the network; `velocity`, the mean squared error of
the network's output itself, against v or u where it predicts one of these (for a noise prediction the same as l2); for
a model that learns its variance also `vlb`, the single term L_t of the variational bound in bits per dimension, and
`l2+vlb`.

For flow matching l2 = alpha_t^2 velocity: as a noise prediction the noisy timesteps have the smaller weight.

Source: Li et al. 2023, arXiv 2303.16203, Eq. 4 and Algorithm 1; losses: Tables 5, 8 and 9.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from diffclf.models.batch_size import choose_batch_size
from diffclf.models.compiled import CompiledDenoiser
from diffclf.models.conditioning import Conditioning
from diffclf.models.protocol import DiffusionModel
from diffclf.schedule import variational_terms
from diffclf.trials import Trials

__all__ = ["LOSSES", "Evaluator", "NonFiniteError", "check_losses"]

PLAIN = {"l2": mse_loss, "l1": l1_loss, "huber": huber_loss}
LOSSES = (*PLAIN, "velocity", "vlb", "l2+vlb")


class NonFiniteError(ArithmeticError):
    """The model returned NaN or infinity.

    Attributes:
        errors: (m, n_losses) errors of all triples that were asked for, those that are not finite among them.
    """

    def __init__(self, message: str, errors: np.ndarray | None = None) -> None:
        super().__init__(message)
        self.errors = errors


def check_losses(losses: Sequence[str], learns_variance: bool) -> None:
    """Raise ValueError for an unknown loss, and for a variational one if the model does not learn its variance."""
    for loss in losses:
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
        if "vlb" in loss and not learns_variance:
            raise ValueError(f"loss {loss!r} needs a model that learns its variance; this one does not")


class Evaluator:
    """Computes prediction errors of (image, prompt, trial) triples in full batches.

    Triples of different images and prompts share batches; the order in which they are handed in does not matter. The
    loop never waits for the device. On an out-of-memory error the batch is halved and the work goes on.

    `losses`, of `LOSSES`, are the errors to return; `batch_size` is the number of triples per forward pass, at least 1;
    None chooses (`diffclf.models.batch_size`).
    """

    def __init__(
        self, model: DiffusionModel, losses: Sequence[str] = ("l2", "l1", "huber"), batch_size: int | None = None
    ) -> None:
        check_losses(losses, model.learns_variance)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model, self.losses = model, tuple(losses)
        self.batch_size = batch_size or choose_batch_size(model)
        self.n_evaluations = 0  # of the denoiser, so far
        self._schedule = model.schedule.to(model.device)
        self._announce_batch_size()

    def _announce_batch_size(self) -> None:
        """Tell a compiled network which batches will be full ones."""
        if isinstance(self.model.denoise, CompiledDenoiser):
            self.model.denoise.expect(self.batch_size)

    @torch.inference_mode()
    def errors(
        self,
        x0: Tensor,
        cond: Conditioning,
        trials: Sequence[Trials],
        triples: np.ndarray,
        names: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Return the (m, n_losses) float32 errors of triples, on the CPU.

        Args:
            x0: (n_images, C, H, W) clean latents.
            cond: conditionings of the prompts, as the model's `encode_prompts` returns them.
            trials: the trials of each image.
            triples: (m, 3) integers: image, prompt, trial.
            names: (n_images,) names of the images in messages; None: their positions.

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
            found = self._try(x0, cond, trials, batch)
            if found is not None:
                parts.append(found)
                start += len(batch)
                self.n_evaluations += len(batch)
        errors = np.empty((len(triples), len(self.losses)), dtype=np.float32)
        if parts:
            errors[order] = torch.cat(parts).cpu().numpy()
        if not np.isfinite(errors).all():
            image, prompt, trial = triples[np.flatnonzero(~np.isfinite(errors).all(axis=1))[0]]
            name = image if names is None else names[image]
            raise NonFiniteError(
                f"the model's errors must be finite, got NaN or infinity for image {name}, prompt {prompt}, "
                f"timestep {trials[image].timesteps[trial]}; try another dtype (float32)",
                errors,
            )
        return errors

    def _try(self, x0: Tensor, cond: Conditioning, trials: Sequence[Trials], batch: np.ndarray) -> Tensor | None:
        """Return the errors of one batch; None if it does not fit into memory, the batch size being halved."""
        try:
            return self._batch_errors(x0, cond, trials, batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            self.batch_size = len(batch) // 2
            self._announce_batch_size()
        torch.cuda.empty_cache()  # not in the except clause, whose traceback keeps the failed batch in memory
        return None

    def _batch_errors(self, x0: Tensor, cond: Conditioning, trials: Sequence[Trials], batch: np.ndarray) -> Tensor:
        """Return (n, n_losses) float32 errors of one batch of triples, on the device."""
        pairs, which = np.unique(batch[:, [0, 2]], axis=0, return_inverse=True)  # of images and trials
        own = {image: pairs[pairs[:, 0] == image, 1] for image in np.unique(pairs[:, 0])}
        noise = torch.cat([trials[image].noise(indices) for image, indices in own.items()])
        t_pairs = np.concatenate([trials[image].timesteps[indices] for image, indices in own.items()])
        eps, t, rows = self._send(noise), self._send(t_pairs), self._send(which.ravel())
        clean = x0[self._send(pairs[:, 0])]
        x_t = self._schedule.add_noise(clean, eps, t)[rows]
        eps, t = eps[rows], t[rows]
        output = self.model.denoise(x_t, t, cond[self._send(batch[:, 1])]).float()
        n_channels = x_t.shape[1]
        eps_hat = self._schedule.predict_eps(output[:, :n_channels], x_t, t)
        terms = {name: loss(eps_hat, eps, reduction="none").flatten(1).mean(1) for name, loss in PLAIN.items()}
        if "velocity" in self.losses:
            target = self._schedule.target(clean[rows], eps, t)
            terms["velocity"] = mse_loss(output[:, :n_channels], target, reduction="none").flatten(1).mean(1)
        if any("vlb" in loss for loss in self.losses):
            terms["vlb"] = variational_terms(clean[rows], x_t, eps_hat, output[:, n_channels:], t, self._schedule)
            terms["l2+vlb"] = terms["l2"] + terms["vlb"]
        return torch.stack([terms[loss] for loss in self.losses], dim=1)

    def _send(self, array: np.ndarray | Tensor) -> Tensor:
        """Return the array as a tensor on the device, without waiting for a copy to end."""
        tensor = torch.as_tensor(array)
        pinned = tensor.pin_memory() if self.model.device.type == "cuda" else tensor
        return pinned.to(self.model.device, non_blocking=True)
