"""Whether a network agrees with the noise schedule and the prediction type that its model states.

A wrong statement is no error: the classifier runs and is a few points less accurate, or guesses. The check needs no
image. The network makes one itself: x0_hat of pure noise at a low signal-to-noise ratio. That image gets fresh noise
eps, and the network predicts the noise again, which gives two numbers.

    misfit      E||output - target||^2 / E||target||^2, once for each prediction type
    noise ratio E<eps_hat, eps> / E<eps_hat, eps_hat>

A third number needs the latents of some image, at a signal-to-noise ratio of 1 (mid-range t), and is measured where the
caller has them:

    error       E||eps_hat - eps||^2 per element

A prediction of zero has error 1. A trained network is only that bad if it gets latents or timesteps of another scale,
or its output is read as something else. An untrained network is that bad, too, but its output has nothing to do with
the noise: the correlation of eps_hat and eps tells them apart.

The misfit of the right prediction type is the smallest. A prediction of least squared error is uncorrelated with its
own error, so the noise ratio of a right model is 1. If the network takes the noise of timestep t to have the scale
sigma' instead of sigma_t, then eps_hat is about eps sigma_t / sigma' and the ratio about sigma' / sigma_t.
"""

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffclf.models.protocol import DiffusionModel
from diffclf.schedule import NoiseSchedule

__all__ = ["Reading", "few_steps", "mid_range_error", "read_output", "warn_if_few_steps", "warn_if_wrong"]

N_ELEMENTS = 2048  # of all latents together: the noise ratio of a trained model then varies by 0.01
LOG_SNR_IMAGE, LOG_SNR_TEST = -2.0, -1.0
PREDICTION_TYPES = ("epsilon", "v_prediction")  # that a configuration may confuse
FITS = 0.7  # misfit below which a prediction type explains the output; a prediction of zero has 1
BETTER = 0.6  # and it must be this fraction of the stated type's
RATIOS = (0.94, 1.07)
LEARNED = 0.2  # correlation of eps_hat and eps above which a network is trained; random ones had at most 0.1
FEW_STEPS = ("turbo", "lightning", "lcm", "dmd", "schnell")  # in names of distilled models
FEW_STEP_SAMPLERS = ("LCMScheduler", "TCDScheduler")


@dataclass(frozen=True)
class Reading:
    """A network's output, read as one prediction type.

    Attributes:
        prediction_type: what the output is taken for.
        t: the timestep.
        misfit: squared difference between output and target, over the target's square.
        noise_ratio: noise that the network expects at t over the noise that the schedule states; nan without output.
    """

    prediction_type: str
    t: int
    misfit: float
    noise_ratio: float


@torch.no_grad()
def read_output(model: DiffusionModel, prediction_types: tuple[str, ...], seed: int = 0) -> list[Reading]:
    """Return one reading of the network's output per prediction type, from (1 + types) batches of a few latents.

    The result depends on the model and the seed alone; no random state is touched. Class 0, or the empty prompt.
    """
    generator, shape = torch.Generator().manual_seed(seed), model.latent_shape
    n = max(1, math.ceil(N_ELEMENTS / math.prod(shape)))
    # x0 of the first x_t is noise as well: x_t has the usual scale and no signal.
    start, eps_start, eps = torch.randn(3, n, *shape, generator=generator)
    cond = model.encode_prompts([""] if model.labels is None else [0])[[0] * n]

    def run(x_t: Tensor, t: Tensor) -> Tensor:
        output = model.denoise(x_t.to(model.device), t.to(model.device), cond)
        return output[:, : shape[0]].to("cpu", torch.float32)

    t_image, t_test = (_timestep(model.schedule, log_snr).expand(n) for log_snr in (LOG_SNR_IMAGE, LOG_SNR_TEST))
    x_t = model.schedule.add_noise(start, eps_start, t_image)
    first, readings = run(x_t, t_image), []
    for prediction_type in prediction_types:
        schedule = replace(model.schedule, prediction_type=prediction_type)
        x0 = schedule.predict_x0(first, x_t, t_image)
        noised = schedule.add_noise(x0, eps, t_test)
        output, target = run(noised, t_test), schedule.target(x0, eps, t_test)
        eps_hat = schedule.predict_eps(output, noised, t_test)
        readings.append(
            Reading(
                prediction_type=prediction_type,
                t=int(t_test[0]),
                misfit=float((output - target).square().sum() / target.square().sum()),
                noise_ratio=float((eps_hat * eps).sum() / eps_hat.square().sum()),
            )
        )
    return readings


@torch.no_grad()
def mid_range_error(model: DiffusionModel, x0: Tensor, seed: int = 0) -> tuple[float, float]:
    """Return the mean squared error of eps_hat on latents x0 (1, C, H, W) at mid-range t, and the correlation with eps.

    Class 0, or the empty prompt; one batch of a few noises, which depend on the seed alone.
    """
    schedule, n = model.schedule, max(1, math.ceil(N_ELEMENTS / x0.numel()))
    eps = torch.randn(n, *x0.shape[1:], generator=torch.Generator().manual_seed(seed))
    t = _timestep(schedule, 0.0).expand(n)
    x_t = schedule.add_noise(x0.to("cpu", torch.float32).expand_as(eps), eps, t)
    cond = model.encode_prompts([""] if model.labels is None else [0])[[0] * n]
    output = model.denoise(x_t.to(model.device), t.to(model.device), cond)[:, : x0.shape[1]].to("cpu", torch.float32)
    eps_hat = schedule.predict_eps(output, x_t, t)
    return float((eps_hat - eps).square().mean()), float((eps_hat * eps).sum() / (eps_hat.norm() * eps.norm()))


def few_steps(scheduler: object, name: str) -> str | None:
    """Return why a model seems to be distilled for a few sampling steps, None if nothing says so.

    The configurations of SD-Turbo and SDXL-Turbo ask for "trailing" timesteps, without the zero terminal SNR that
    others ask for them with; consistency models have a sampler of their own. SD 3.5's turbo models differ from the
    others in nothing but their weights and their name.
    """
    config, last = scheduler.config, name.partition("@")[0].rstrip("/").rpartition("/")[2]
    if type(scheduler).__name__ in FEW_STEP_SAMPLERS:
        return f"its scheduler is {type(scheduler).__name__}"
    if config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr"):
        return "its scheduler has timestep_spacing trailing"
    return next((f"its name says {word}" for word in FEW_STEPS if word in last.lower()), None)


def warn_if_few_steps(scheduler: object, name: str) -> None:
    """Warn if a model seems to be distilled for a few sampling steps."""
    if reason := few_steps(scheduler, name):
        warnings.warn(
            f"{name} seems to be distilled for a few sampling steps ({reason}): such a model was trained at some "
            "timesteps only and no longer to predict the noise, so expect it to classify worse than the model that it "
            "was made from (not measured here)",
            stacklevel=3,
        )


def warn_if_wrong(model: DiffusionModel, x0: Tensor | None = None) -> None:
    """Warn if the network contradicts the prediction type, the noise schedule or the latents' scale of its model.

    x0 (1, C, H, W) are the latents of some image. Nothing is said of a network that has learned too little to tell.
    """
    stated = model.schedule.prediction_type
    others = tuple(kind for kind in PREDICTION_TYPES if kind != stated)
    own, *alternatives = read_output(model, (stated, *others))
    best = min(alternatives, key=lambda reading: reading.misfit)
    where = "in scheduler/scheduler_config.json"
    if best.misfit < min(FITS, BETTER * own.misfit):
        warnings.warn(
            f"the network of {model.name} seems to predict {best.prediction_type}, not {stated}: at timestep {own.t} "
            f"its squared error is {best.misfit:.2f} of the target's square if read as {best.prediction_type}, "
            f"{own.misfit:.2f} if read as {stated}; check prediction_type {where}",
            stacklevel=3,
        )
    elif own.misfit < FITS and not RATIOS[0] <= own.noise_ratio <= RATIOS[1]:
        warnings.warn(
            f"the network of {model.name} seems to be of another noise schedule: at timestep {own.t} it expects "
            f"about {own.noise_ratio:.2f} times the noise that the schedule states, which should be {RATIOS[0]} to "
            f"{RATIOS[1]} times; check beta_start, beta_end, beta_schedule and num_train_timesteps {where}",
            stacklevel=3,
        )
    elif x0 is not None:
        error, correlation = mid_range_error(model, x0)
        if error >= 1 and correlation > LEARNED:
            warnings.warn(
                f"the network of {model.name} predicts the noise of an image worse than zero does: its squared error "
                f"at mid-range t is {error:.2f}, which should be well below 1; check prediction_type and the betas "
                f"{where}, scaling_factor and shift_factor in vae/config.json",
                stacklevel=3,
            )


def _timestep(schedule: NoiseSchedule, log_snr: float) -> Tensor:
    """Return the timestep of a schedule whose logarithm of the signal-to-noise ratio is nearest to a given one."""
    return (schedule.log_snr - log_snr).abs().argmin()
