"""What the latent diffusion models of diffusers have in common: autoencoder and noise schedule.

    x0 = (mean of q(z | image) - shift) * scaling

with the factors of the autoencoder's configuration. The mean, not a draw: the classifier compares prompts on the same
x0, and the draw's variance would be noise that no trial averages out.

The autoencoder always runs in float32: it runs once per image, so its speed does not matter, and in half precision
some published ones overflow.

The table alpha_bar_t is the pipeline's scheduler's `alphas_cumprod`, whichever sampler that scheduler is: all samplers
of the discrete-time family derive it from the same betas, and their own scalings (sigmas, scale_model_input) are
never used. Two remarks: with `rescale_betas_zero_snr` the last entry is 0 in DDIM and DDPM but 2**-24 in Euler, DPM++
and UniPC, which cannot divide by zero; the table is taken as each gives it. And diffusers computes it in float32, so
its float64 form here has float32's accuracy.
"""

from functools import cached_property
from typing import Any

import torch

from diffclf.models.fingerprint import fingerprint, network_settings
from diffclf.models.protocol import ModelError, UnsupportedModelError
from diffclf.schedule import PREDICTION_TYPES

__all__ = ["LatentDiffusionModel", "noise_schedule"]

AUTOENCODER_PIXELS = 2**20  # per pass: 4 images of 512 x 512, which keeps its float32 activations within 2 GB


def noise_schedule(scheduler: object, name: str) -> tuple[torch.Tensor, str]:
    """Return alphas_cumprod (T,) as float64 on the CPU, and the prediction type, of a pipeline's scheduler.

    Raises:
        UnsupportedModelError: the scheduler has no such table, or the network predicts something else than the noise
            or v.
    """
    kind = type(scheduler).__name__
    table = getattr(scheduler, "alphas_cumprod", None)
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    if table is None:
        raise UnsupportedModelError(
            f"scheduler of {name} must have alphas_cumprod (DDPM, DDIM, PNDM, Euler, DPM++, ...), got {kind}, which "
            "has none"
        )
    if prediction_type not in PREDICTION_TYPES:
        raise UnsupportedModelError(
            f"prediction_type of {name} must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r} ({kind})"
        )
    return torch.as_tensor(table).detach().to("cpu", torch.float64, copy=True), prediction_type


class LatentDiffusionModel:
    """A network on the latents of an autoencoder: the common part of Stable Diffusion and DiT.

    It takes the pipeline over: networks in evaluation mode and without gradients, autoencoder in float32.

    Args:
        pipeline: A diffusers pipeline with `vae` and `scheduler`.
        network: The pipeline's U-Net or transformer.
        name: What to call the model in messages and records.

    Raises:
        UnsupportedModelError: the parts do not fit together as a denoiser of the autoencoder's latents.

    Attributes:
        pipeline: The pipeline, for sampling and for looking at its parts. In half precision sample with
            `output_type="latent"` and use `decode_latents`, since the autoencoder is in float32.
    """

    labels: tuple[str, ...] | None = None

    def __init__(self, pipeline: Any, network: torch.nn.Module, name: str) -> None:  # noqa: ANN401 (diffusers' type)
        """Take the pipeline over."""
        self.name = name
        self.pipeline = pipeline
        self.alphas_cumprod, self.prediction_type = noise_schedule(pipeline.scheduler, name)
        self.vae = pipeline.vae.to(torch.float32).eval().requires_grad_(False)
        self.network = network.eval().requires_grad_(False)
        parameter = next(network.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

        channels = self.vae.config.latent_channels
        outputs = network.config.out_channels or network.config.in_channels
        if network.config.in_channels != channels or outputs not in (channels, 2 * channels):
            raise UnsupportedModelError(
                f"network of {name} must map the autoencoder's {channels} channels to {channels} or {2 * channels}, "
                f"got {network.config.in_channels} to {outputs}"
            )
        self.learns_variance = outputs == 2 * channels
        size = network.config.sample_size
        if not isinstance(size, int):
            raise UnsupportedModelError(f"sample_size of {name} must be one whole number, got {size!r}")
        self.latent_shape = (channels, size, size)
        self.image_size = size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return x0: the means of the images' latents, shifted and scaled as the network expects.

        Args:
            pixels: (n, 3, image_size, image_size), in [-1, 1].

        Returns:
            (n, C, H, W), float32, on the model's device.
        """
        expected = (3, self.image_size, self.image_size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise ValueError(f"pixels must have shape (n, {', '.join(map(str, expected))}), got {tuple(pixels.shape)}")
        if not len(pixels):
            return torch.empty(0, *self.latent_shape, device=self.device)
        shift, scale = self._latent_factors
        n_at_once = max(1, AUTOENCODER_PIXELS // self.image_size**2)
        means = [
            self.vae.encode(part.to(self.device, torch.float32)).latent_dist.mean for part in pixels.split(n_at_once)
        ]
        return (torch.cat(means) - shift) * scale

    @torch.no_grad()
    def decode_latents(self, x0: torch.Tensor) -> torch.Tensor:
        """Return the pixels of latents, the way back of `encode_images`.

        Args:
            x0: (n, C, H, W), of any floating dtype.

        Returns:
            (n, 3, image_size, image_size), float32, not clipped to [-1, 1].
        """
        shift, scale = self._latent_factors
        latents = x0.to(self.device, torch.float32) / scale + shift
        n_at_once = max(1, AUTOENCODER_PIXELS // self.image_size**2)
        return torch.cat([self.vae.decode(part).sample for part in latents.split(n_at_once)])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that determines the numbers; computed when first asked for (seconds for a large model)."""
        networks = {"network": self.network, "vae": self.vae, **self._more_networks()}
        settings = {
            "alphas_cumprod": self.alphas_cumprod.numpy().tobytes().hex(),
            "prediction_type": self.prediction_type,
            "latent_factors": self._latent_factors,
            "network": network_settings(self.network),
            "vae": network_settings(self.vae),
            **self._more_settings(),
        }
        return fingerprint(networks, settings)

    @property
    def _latent_factors(self) -> tuple[float, float]:
        """The shift and the scaling of the latents."""
        config = self.vae.config
        return config.get("shift_factor") or 0.0, config.scaling_factor

    def _more_networks(self) -> dict[str, torch.nn.Module]:
        """Return what else has weights, for the fingerprint."""
        return {}

    def _more_settings(self) -> dict[str, Any]:
        """Return what else determines the numbers, for the fingerprint."""
        return {}

    def _check_sequence(self, prompts: object) -> list:
        """Return prompts as a list; a lone string is not a sequence of prompts."""
        if isinstance(prompts, str | bytes | int) or not hasattr(prompts, "__iter__"):
            raise TypeError(f"prompts must be a sequence with one entry per prompt, got {prompts!r}")
        listed = list(prompts)
        if not listed:
            raise ModelError("prompts must have at least one entry, got none")
        return listed

    def __repr__(self) -> str:
        """Return the name and the facts that matter when reading a log."""
        return f"{type(self).__name__}({self.name!r}, device={str(self.device)!r}, dtype={self.dtype})"
