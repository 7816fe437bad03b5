"""Whether a network agrees with the noise schedule and the prediction type that its model states.

A wrong statement is no error: the classifier runs and is a few points less accurate, or guesses. The check needs no
image. The network makes one itself: x0_hat of pure noise at a low signal-to-noise ratio. That image gets fresh noise
eps, and the network predicts the noise again, which gives two numbers.

    misfit      E||output - target||^2 / E||target||^2, once for each prediction type
    noise ratio E<eps_hat, eps> / E<eps_hat, eps_hat>

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

__all__ = ["Reading", "read_output", "warn_if_wrong"]

N_ELEMENTS = 2048  # of all latents together: the noise ratio of a trained model then varies by 0.01
LOG_SNR_IMAGE, LOG_SNR_TEST = -2.0, -1.0
PREDICTION_TYPES = ("epsilon", "v_prediction")  # that a configuration may confuse
FITS = 0.7  # misfit below which a prediction type explains the output; a prediction of zero has 1
BETTER = 0.6  # and it must be this fraction of the stated type's
RATIOS = (0.94, 1.07)


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


def warn_if_wrong(model: DiffusionModel) -> None:
    """Warn if the network contradicts the prediction type or the noise schedule of its model.

    Nothing is said of a network that has learned too little to tell.
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


def _timestep(schedule: NoiseSchedule, log_snr: float) -> Tensor:
    """Return the timestep of a schedule whose logarithm of the signal-to-noise ratio is nearest to a given one."""
    return (schedule.log_snr - log_snr).abs().argmin()
