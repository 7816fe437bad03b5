"""The common part of diffusers' latent diffusion models: autoencoder, noise schedule, fingerprint.

    x0 = (mean of q(z | image) - shift) * scaling

with the factors of the autoencoder's configuration. x0 is the mean, not a draw: the classifier compares prompts on the
same x0, and the draw's variance would be noise that no trial averages out.

The autoencoder always runs in float32: some published autoencoders overflow in half precision, and its speed does not
matter, since it runs once per image.

The noise schedule comes from the table `alphas_cumprod` of the pipeline's scheduler, whichever sampler that scheduler
is: all samplers of the discrete-time family derive the table from the same betas, and their own scalings (sigmas,
scale_model_input) are never used. With `rescale_betas_zero_snr` the last entry is 0 in DDIM and DDPM but 2**-24 in
Euler, DPM++ and UniPC, which cannot divide by zero; the table is taken as the sampler gives it. diffusers computes the
table in float32, so its float64 form here has the accuracy of float32.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch

from diffclf.models.fingerprint import fingerprint, network_settings
from diffclf.models.protocol import ModelError, UnsupportedModelError
from diffclf.schedule import NoiseSchedule

__all__ = ["LatentDiffusionModel", "noise_schedule"]

AUTOENCODER_PIXELS = 2**20  # per pass: 4 images of 512 x 512, which keeps its float32 activations within 2 GB
PREDICTION_TYPES = ("epsilon", "v_prediction")  # of the schedulers that have alphas_cumprod


def noise_schedule(scheduler: object, name: str) -> tuple[torch.Tensor, NoiseSchedule]:
    """Return alphas_cumprod (T,), float64 on the CPU, of a pipeline's scheduler, and the noise schedule made of it.

    Raises:
        UnsupportedModelError: the scheduler has no such table, or the network predicts neither the noise nor v.
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
    table = torch.as_tensor(table).detach().to("cpu", torch.float64, copy=True)
    return table, NoiseSchedule.variance_preserving(table, prediction_type)


class LatentDiffusionModel:
    """A network on the latents of an autoencoder: the common part of Stable Diffusion and DiT.

    The model takes the pipeline over: networks in evaluation mode and without gradients, autoencoder in float32.

    Args:
        pipeline: A diffusers pipeline with `vae` and `scheduler`.
        network: The pipeline's U-Net or transformer.
        name: What to call the model in messages and records.

    Raises:
        UnsupportedModelError: the parts do not fit together as a denoiser of the autoencoder's latents.

    Attributes:
        pipeline: The pipeline, for sampling and for looking at its parts. In half precision sample with
            `output_type="latent"` and use `decode_latents`, since the autoencoder is in float32.
        stored_calibration: The content of `racing.json` beside the weights, of whatever weights; None without a file.
        kind: The class of the pipeline in diffusers.
        parts: The parts of the pipeline that are read, and the classes each part may have. A part with weights is read
            with the first class.
        left_out: Arguments that make the pipeline do without its other parts.
        index_entries: Entries of `model_index.json` that the model's constructor takes.
    """

    kind: ClassVar[str]
    parts: ClassVar[Mapping[str, tuple[str, ...]]]
    left_out: ClassVar[Mapping[str, object]] = {}
    index_entries: ClassVar[tuple[str, ...]] = ()
    labels: tuple[str, ...] | None = None
    stored_calibration: Mapping[str, Any] | None = None

    def __init__(self, pipeline: Any, network: torch.nn.Module, name: str) -> None:  # noqa: ANN401 (diffusers' type)
        """Take the pipeline over."""
        self.name = name
        self.pipeline = pipeline
        self._alphas_cumprod, self.schedule = noise_schedule(pipeline.scheduler, name)
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
        parts = (part.to(self.device, torch.float32) for part in pixels.split(n_at_once))
        return (torch.cat([self.vae.encode(part).latent_dist.mean for part in parts]) - shift) * scale

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
        """A hash of all that determines the numbers; computed on first use (seconds for a large model)."""
        more_networks, more_settings = self._more_for_fingerprint()
        networks = {"network": self.network, "vae": self.vae, **more_networks}
        settings = {
            "alphas_cumprod": self._alphas_cumprod.numpy().tobytes().hex(),
            "prediction_type": self.schedule.prediction_type,
            "latent_factors": self._latent_factors,
            "network": network_settings(self.network),
            "vae": network_settings(self.vae),
            **more_settings,
        }
        return fingerprint(networks, settings)

    @property
    def calibration(self) -> Mapping[str, Any] | None:
        """The stored calibration of a race, or None if there is none for exactly these weights."""
        stored = self.stored_calibration
        return stored if stored and stored.get("fingerprint") == self.fingerprint else None

    @property
    def _latent_factors(self) -> tuple[float, float]:
        """The shift and the scaling of the latents."""
        config = self.vae.config
        return config.get("shift_factor") or 0.0, config.scaling_factor

    def _more_for_fingerprint(self) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
        """Return the other networks, and the other settings, that determine the numbers."""
        return {}, {}

    def _check_sequence(self, prompts: object) -> list:
        """Return prompts as a list; a single string is not a sequence of prompts."""
        if isinstance(prompts, str | bytes | int) or not hasattr(prompts, "__iter__"):
            raise TypeError(f"prompts must be a sequence with one entry per prompt, got {prompts!r}")
        listed = list(prompts)
        if not listed:
            raise ModelError("prompts must have at least one entry, got none")
        return listed

    def __repr__(self) -> str:
        """Return the name and the facts that matter when reading a log."""
        return f"{type(self).__name__}({self.name!r}, device={str(self.device)!r}, dtype={self.dtype})"
