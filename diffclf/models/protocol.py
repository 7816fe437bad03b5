"""What the rest of the package asks of a diffusion model.

A model maps a noised latent x_t, a timestep t and a conditioning to the raw output of its network, from which its
noise schedule makes eps_hat. The classifier also needs the way into the latents (images to x0) and the way into the
conditionings (prompts to cond).

Anything with these attributes and methods can be classified with: a pipeline of diffusers, or a known density.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from diffclf.models.conditioning import Conditioning
from diffclf.schedule import NoiseSchedule

__all__ = ["DiffusionModel", "ModelError", "UnsupportedModelError", "check_pixels"]


class ModelError(ValueError):
    """A model cannot be found, read or used; the message names it and what is accepted."""


class UnsupportedModelError(ModelError):
    """The model is of a kind that cannot be used as a classifier here."""


@runtime_checkable
class DiffusionModel(Protocol):
    """A conditional diffusion model in some latent space.

    Attributes:
        name: what `load_model` was given.
        device: where the network is and where its inputs and outputs are.
        dtype: the network's precision.
        image_size: side of the square images, in pixels.
        halves_large_images: whether images were halved as long as possible in training (`diffclf.images.to_pixels`).
        latent_shape: (C, H, W) of x0.
        schedule: alpha_t and sigma_t for t = 0 .. T-1, on the CPU, and what the network predicts.
        learns_variance: whether the output has 2C channels, the second half being the variance's interpolation.
        labels: names of the classes of a class-conditional model, in index order; None for a model of text.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    image_size: int
    halves_large_images: bool = False
    latent_shape: tuple[int, int, int]
    schedule: NoiseSchedule
    learns_variance: bool
    labels: tuple[str, ...] | None

    @property
    def fingerprint(self) -> str:
        """A hash of all weights and settings that determine the model's numbers, 16 hexadecimal digits."""

    @property
    def calibration(self) -> Mapping[str, Any] | None:
        """The calibration of a race for exactly these weights (the content of `racing.json`), or None."""

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return x0 (n, C, H, W), float32 on the device: the scaled means of the images' latents.

        Pixels are (n, 3, image_size, image_size), in [-1, 1]; another shape raises ValueError.
        """

    def encode_prompts(self, prompts: Sequence[str] | Sequence[int]) -> Conditioning:
        """Return one conditioning per prompt, on the device; an unknown class raises ValueError."""

    def denoise(self, x_t: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """Return the network's raw output, (b, C, H, W), or (b, 2C, H, W) if the variance is learned.

        Noised latents x_t are (b, C, H, W), of any floating dtype, timesteps (b,) int64; cond has b rows. The output is
        in the model's dtype.
        """


def check_pixels(pixels: torch.Tensor, size: int) -> None:
    """Raise ValueError unless pixels have shape (n, 3, size, size)."""
    if pixels.shape[1:] != (3, size, size):
        raise ValueError(f"pixels must have shape (n, 3, {size}, {size}), got {tuple(pixels.shape)}")
