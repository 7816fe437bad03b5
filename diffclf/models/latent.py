"""The common part of diffusers' latent diffusion models: autoencoder, noise schedule, fingerprint.

    x0 = (mean of q(z | image) - shift) * scaling / std

with the factors of the autoencoder's configuration: `shift_factor` and `scaling_factor`, or `latents_mean` and
`latents_std` per channel in autoencoders that have them. x0 is the mean, not a draw: the classifier compares prompts on
the same x0, and the draw's variance would be noise that no trial averages out.

The autoencoder always runs in float32: some published autoencoders overflow in half precision, and its speed does not
matter, since it runs once per image.

The noise schedule comes from the table `alphas_cumprod` of the pipeline's scheduler, whichever sampler that scheduler
is: all samplers of the discrete-time family derive the table from the same betas, and their own scalings (sigmas,
scale_model_input) are never used. With `rescale_betas_zero_snr` the last entry is 0 in DDIM and DDPM but 2**-24 in
Euler, DPM++ and UniPC, which cannot divide by zero; the table is taken as the sampler gives it. diffusers computes the
table in float32, so its float64 form here has the accuracy of float32.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from typing_extensions import override

from diffclf.models.fingerprint import fingerprint, network_settings
from diffclf.models.protocol import DiffusionModel, ModelError, UnsupportedModelError, check_pixels
from diffclf.schedule import NoiseSchedule

__all__ = ["LatentDiffusionModel", "list_prompts", "noise_schedule"]

AUTOENCODER_PIXELS = 2**20  # per pass: 4 images of 512 x 512, which keeps its float32 activations within 2 GB
MAX_SIDE = 256  # of the latents: images of 2048 pixels; no published model comes near
PREDICTION_TYPES = ("epsilon", "v_prediction")  # of the schedulers that have alphas_cumprod


def noise_schedule(scheduler: object, name: str) -> tuple[torch.Tensor, NoiseSchedule]:
    """Return alphas_cumprod (T,), float64 on the CPU, of a pipeline's scheduler, and the noise schedule made of it.

    Raises:
        UnsupportedModelError: the scheduler has no such table, or the network predicts neither the noise nor v.
        ModelError: the table is no noise schedule.
    """
    table = getattr(scheduler, "alphas_cumprod", None)
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    if table is None or prediction_type not in PREDICTION_TYPES:
        raise UnsupportedModelError(
            f"scheduler of {name} must have alphas_cumprod (DDPM, DDIM, PNDM, Euler, DPM++, ...) and a prediction_type "
            f"out of {', '.join(PREDICTION_TYPES)}, got {type(scheduler).__name__} with {prediction_type!r}"
        )
    table = torch.as_tensor(table).detach().to("cpu", torch.float64, copy=True)
    # Not comparable: NaN. Each beta lies in [0, 1), so the table falls from 1 to 0; the last entry may be 0 itself.
    if table.ndim != 1 or len(table) < 2 or not (table.diff() <= 0).all() or not 0 <= table[-1] < table[0] <= 1:
        ends = f"from {table[0]:.3g} to {table[-1]:.3g}" if table.ndim == 1 and len(table) else ""
        raise ModelError(
            f"alphas_cumprod of the scheduler of {name} must be 2 or more numbers that fall from at most 1 to at least "
            f"0, got shape {tuple(table.shape)} {ends}"
        )
    return table, NoiseSchedule.variance_preserving(table, prediction_type)


def _is_side(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= MAX_SIDE


def list_prompts(prompts: object) -> list:
    """Return prompts as a list; raise TypeError for a single string or number and ModelError for none."""
    if isinstance(prompts, str | bytes) or not hasattr(prompts, "__iter__"):
        raise TypeError(f"prompts must be a sequence with one entry per prompt, got {prompts!r}")
    listed = list(prompts)
    if not listed:
        raise ModelError("prompts must have at least one entry, got none")
    return listed


def _latent_factors(config: Mapping[str, Any], n_channels: int, name: str) -> tuple[list[float], list[float]]:
    """Return the shift and the scale of an autoencoder's latents, each one number for all channels or one per channel.

    Raises:
        UnsupportedModelError: the means or deviations are not one number per channel.
        ModelError: a factor is not finite, or a scale not above 0.
    """
    means, deviations = config.get("latents_mean"), config.get("latents_std")
    for entry, values in {"latents_mean": means, "latents_std": deviations}.items():
        if values is not None and not (isinstance(values, list | tuple) and len(values) == n_channels):
            raise UnsupportedModelError(f"{entry} of {name} must have {n_channels} numbers, got {values!r:.80}")
    shift = [config.get("shift_factor") or 0.0] if means is None else list(means)
    scale = config["scaling_factor"]
    if not all(isinstance(number, int | float) and number > 0 for number in (scale, *(deviations or ()))):
        raise ModelError(
            f"scaling_factor and latents_std of {name} must be above 0, got {scale!r:.80}, {deviations!r:.80}"
        )
    scales = [scale] if deviations is None else [scale / deviation for deviation in deviations]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in (*shift, *scales)):
        raise ModelError(f"shift and scale of the latents of {name} must be finite, got {shift!r:.80}, {scales!r:.80}")
    return shift, scales


class LatentDiffusionModel(DiffusionModel):
    """A network on the latents of an autoencoder: the common part of all pipelines of diffusers.

    The model takes the pipeline over: networks in evaluation mode and without gradients, autoencoder in float32.

    Raises:
        UnsupportedModelError: the parts do not fit together as a denoiser of the autoencoder's latents.

    Attributes:
        pipeline: the pipeline, for sampling and for looking at its parts. In half precision sample with
            `output_type="latent"` and use `decode_latents`, since the autoencoder is in float32.
        stored_calibration: the content of `racing.json` beside the weights, of whatever weights; None without a file.
        source: where its files are from: a folder, or a hub id with the commit that was read.
        lora: name, scale and SHA-256 of the LoRA that was added to the weights, None without.
        kind: the class of the pipeline in diffusers.
        parts: the parts of the pipeline that are read, and the classes each part may have. A part with weights is read
            with the first class.
        left_out: arguments that make the pipeline do without its other parts.
        optional: parts that a pipeline may lack, each with the part that is of no use without it.
        index_entries: entries of `model_index.json` that the model's constructor takes.
    """

    kind: ClassVar[str]
    parts: ClassVar[Mapping[str, tuple[str, ...]]]
    left_out: ClassVar[Mapping[str, object]] = {}
    optional: ClassVar[Mapping[str, str]] = {}
    index_entries: ClassVar[tuple[str, ...]] = ()
    labels: tuple[str, ...] | None = None
    stored_calibration: Mapping[str, Any] | None = None
    source: str = ""
    lora: Mapping[str, Any] | None = None

    def __init__(self, pipeline: Any, network: torch.nn.Module, name: str) -> None:  # noqa: ANN401 (diffusers' type)
        self.name = name
        self.pipeline = pipeline
        self._table, self.schedule = self.read_schedule(pipeline.scheduler, name, network.config)
        self.vae = pipeline.vae.to(torch.float32).eval().requires_grad_(False)
        self.network = network.eval().requires_grad_(False)
        parameter = next(network.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

        config, channels = network.config, self.vae.config.latent_channels
        size, outputs = config.sample_size, config.out_channels or config.in_channels
        if config.in_channels != channels or outputs not in (channels, 2 * channels) or not _is_side(size):
            raise UnsupportedModelError(
                f"network of {name} must map the autoencoder's {channels} channels to {channels} or {2 * channels}, "
                f"with a sample_size from 1 to {MAX_SIDE}, got {config.in_channels} to {outputs} with {size!r}"
            )
        self.learns_variance = outputs == 2 * channels
        self.latent_shape = (channels, size, size)
        self.image_size = size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._n_at_once = max(1, AUTOENCODER_PIXELS // self.image_size**2)
        self._factors = _latent_factors(self.vae.config, channels, name)
        self._shift, self._scale = (torch.tensor(f, device=self.device).view(-1, 1, 1) for f in self._factors)

    @classmethod
    def read_schedule(
        cls, scheduler: object, name: str, config: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, NoiseSchedule]:
        """Return the table that determines the noise schedule, (T,) float64 on the CPU, and the noise schedule.

        `config` is the network's configuration, None before the network is read. Raises ModelError as `noise_schedule`.
        """
        return noise_schedule(scheduler, name)

    @override
    @torch.no_grad()
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        check_pixels(pixels, self.image_size)
        if not len(pixels):
            return torch.empty(0, *self.latent_shape, device=self.device)
        return torch.cat([self.latents_of(part) for part in pixels.split(self._n_at_once)])

    def latents_of(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the latents of pixels (n, 3, S, S) of any side that the autoencoder can halve."""
        mean = self.vae.encode(pixels.to(self.device, torch.float32)).latent_dist.mean
        return (mean - self._shift) * self._scale

    @torch.no_grad()
    def decode_latents(self, x0: torch.Tensor) -> torch.Tensor:
        """Return the pixels of latents (n, C, H, W), the way back of `encode_images`; not clipped to [-1, 1]."""
        latents = x0.to(self.device, torch.float32) / self._scale + self._shift
        return torch.cat([self.vae.decode(part).sample for part in latents.split(self._n_at_once)])

    @cached_property
    @override
    def fingerprint(self) -> str:
        networks, settings = self._more_for_fingerprint()
        networks |= {"network": self.network, "vae": self.vae}
        settings |= {
            "alphas_cumprod": self._table.numpy().tobytes().hex(),
            "prediction_type": self.schedule.prediction_type,
            "latent_factors": tuple(factor[0] if len(factor) == 1 else tuple(factor) for factor in self._factors),
            "network": network_settings(self.network),
            "vae": network_settings(self.vae),
        }
        settings |= {"lora": dict(self.lora)} if self.lora else {}
        return fingerprint(networks, settings)

    @property
    @override
    def calibration(self) -> Mapping[str, Any] | None:
        stored = self.stored_calibration
        return stored if stored and stored.get("fingerprint") == self.fingerprint else None

    def _more_for_fingerprint(self) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
        """Return the other networks, and the other settings, that determine the numbers."""
        return {}, {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, device={str(self.device)!r}, dtype={self.dtype})"
