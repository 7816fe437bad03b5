"""What the rest of the package asks of a diffusion model.

A model maps a noised latent x_t, a timestep t and a conditioning to the raw output of its network, from which its
noise schedule makes eps_hat. The classifier also needs the way into the latents (images to x0) and the way into the
conditionings (prompts to cond).

Anything with these attributes and methods can be classified with: a pipeline of diffusers, or a density that is known
exactly.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from diffclf.models.conditioning import Conditioning
from diffclf.schedule import NoiseSchedule

__all__ = ["DiffusionModel", "ModelError", "UnsupportedModelError"]


class ModelError(ValueError):
    """A model cannot be found, read or used; the message names it and what is accepted."""


class UnsupportedModelError(ModelError):
    """The model is of a kind that cannot be used as a classifier here."""


@runtime_checkable
class DiffusionModel(Protocol):
    """A conditional diffusion model in some latent space.

    Attributes:
        name: What `load_model` was given.
        device: Where the network is and where its inputs and outputs are.
        dtype: The network's precision.
        image_size: Side of the square images, in pixels.
        latent_shape: (C, H, W) of x0.
        schedule: alpha_t and sigma_t for t = 0 .. T-1, on the CPU, and what the network predicts.
        learns_variance: Whether the output has 2C channels, the second half being the variance's interpolation.
        labels: Names of the classes of a class-conditional model, in index order; None for a model of text.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    image_size: int
    latent_shape: tuple[int, int, int]
    schedule: NoiseSchedule
    learns_variance: bool
    labels: tuple[str, ...] | None

    @property
    def fingerprint(self) -> str:
        """A hash of all weights and settings that determine the model's numbers, 16 hexadecimal digits."""
        ...

    @property
    def calibration(self) -> Mapping[str, Any] | None:
        """The calibration of a race for exactly these weights (the content of `racing.json`), or None."""
        ...

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return x0, the scaled means of the images' latents.

        Args:
            pixels: (n, 3, image_size, image_size), float32 in [-1, 1].

        Returns:
            (n, C, H, W), float32, on the model's device.
        """
        ...

    def encode_prompts(self, prompts: Sequence[str] | Sequence[int]) -> Conditioning:
        """Return one conditioning per prompt, on the model's device."""
        ...

    def denoise(self, x_t: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """Return the network's raw output.

        Args:
            x_t: Noised latents (b, C, H, W), of any floating dtype.
            t: Timesteps (b,), int64.
            cond: b conditionings, rows of what `encode_prompts` returned.

        Returns:
            (b, C, H, W), or (b, 2C, H, W) if the variance is learned, in the model's dtype.
        """
        ...
