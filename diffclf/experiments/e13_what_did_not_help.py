"""Variants of the classifier that the paper tried in vain: guidance, crops, other noises; and a few more tries.

With r_0 the error of the unconditional prediction, r_0 = eps_hat_empty - eps, and d_c = eps_hat_c - eps_hat_empty, the
guided prediction of class c, eps_hat_c + w d_c, has the error

    |r_0 + (1 + w) d_c|^2 = |r_0|^2 + 2 (1 + w) r_0 . d_c + (1 + w)^2 |d_c|^2                           (Figure 8)

so three inner products give it for every w. w = 0 is no guidance; at w = -1 all classes have the same error. A perfect
denoiser has E[(r_0 + d_c) . d_c] = 0 for the true class c, whose mean error is then smallest at w = 0.

    crop i            the mean over the latent without i positions at each side                         (Figure 9)
    noise             x_t = alpha_t x0 + sigma_t eps with eps of another distribution, error to this eps  (Table 12)
    weights           sum_t v_t error_t instead of the mean; Clark and Jaini: exp(-7 t / T) on the error in x0, which is
                      v_t = exp(-7 t / T) sigma_t^2 / alpha_t^2 on the error in eps
    votes, ranks      each trial alone chooses a class, or ranks all of them
    centred median    median over trials of the error minus the mean of all classes on the same trial

Sources: Li et al. 2023, arXiv 2303.16203, appendix G; Clark and Jaini 2023, arXiv 2303.15233 (the weight); Favero et
al. 2025, arXiv 2502.03687 (votes).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, lgamma, log
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from torch import Tensor
from torch.special import ndtr, ndtri
from typing_extensions import override

from diffclf.datasets.imageset import ImageSet
from diffclf.evaluator import NonFiniteError
from diffclf.experiments.field import Field
from diffclf.images import list_images, load_image, to_pixels
from diffclf.models.batch_size import choose_batch_size
from diffclf.models.protocol import DiffusionModel
from diffclf.progress import progress
from diffclf.schedule import NoiseSchedule
from diffclf.search import ErrorSource, compute_errors
from diffclf.stats import Estimate, bootstrap, mean
from diffclf.trials import TrialList, Trials, image_key, uniform

__all__ = ["CLARK_JAINI", "NOISES", "PLAIN", "VARIANCE", "Products", "answers", "chosen_on_tune", "clark_jaini"]
__all__ += ["contrasts", "crop_curve", "crop_name", "evaluations", "gaussian_errors", "guidance_curve"]
__all__ += ["guidance_name", "measure", "nearer_share", "noise_field", "noise_rows", "parabolas", "reading"]
__all__ += ["ring_numbers", "tried", "variance_weights", "vertex", "width_rows"]

PLAIN = "mean error"
CLARK_JAINI = "Clark and Jaini's weight"
VARIANCE = "weight 1 / variance"
GUIDANCE = (-0.5, 0.25, 1.0)
"""Values of w that claims are about."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: all classes and the empty prompt; then all classes with four other noises."""
    n_images, n_classes = settings["n_images"], settings["n_classes"]
    whole = (n_classes + 1) * (n_images + settings["n_tune"])
    return settings["n_trials"] * (whole + (len(NOISES) - 1) * n_classes * min(settings["n_noise"], n_images))


def ring_numbers(height: int, width: int) -> NDArray[np.int64]:
    """Return the distance of each position of a latent to the nearest side, (height, width): 0 at the border."""
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in (height, width))
    return np.minimum.outer(rows, columns)


@dataclass(frozen=True, eq=False)
class Products:
    """What guidance and crops need of the predictions on some images; means are over the latent.

    Attributes:
        errors: (n_images, n_prompts, n_trials) mean of (eps_hat_c - eps)^2.
        empty: (n_images, n_trials) mean of r_0^2.
        along: (n_images, n_prompts, n_trials) mean of r_0 d_c.
        size: (n_images, n_prompts, n_trials) mean of d_c^2.
        rings: (n_images, n_prompts, n_rings) squared error, summed over the positions of a ring (`ring_numbers`), mean
            over channels and trials.
        positions: (n_rings,) positions in each ring.
        labels, groups: (n_images,) those of the images.
    """

    errors: NDArray
    empty: NDArray
    along: NDArray
    size: NDArray
    rings: NDArray
    positions: NDArray
    labels: NDArray
    groups: NDArray

    def guided(self, w: float) -> NDArray[np.float64]:
        """Return the error of the guided prediction, mean over trials: (n_images, n_prompts)."""
        along, size = (each.mean(axis=2, dtype=np.float64) for each in (self.along, self.size))
        return self.empty.mean(axis=1, dtype=np.float64)[:, None] + 2 * (1 + w) * along + (1 + w) ** 2 * size

    def cropped(self, crop: int) -> NDArray[np.float64]:
        """Return the error without the outermost rings, mean over positions, channels and trials."""
        return self.rings[:, :, crop:].sum(axis=2, dtype=np.float64) / self.positions[crop:].sum()


@torch.inference_mode()
def measure(
    model: DiffusionModel,
    data: ImageSet,
    timesteps: ArrayLike,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    desc: str | None = "images",
) -> Products:
    """Return the inner products of the predictions under all prompts and the empty one.

    The predictions of a batch are reduced before the next batch begins.

    Args:
        model: a model of text; a class-conditional one has no empty prompt.
        data: the images; their classes' prompts are shared.
        timesteps: (n_trials,) of the trials; the noises are those of an error bank with the same seed.
        seed: of the noise.
        batch_size: evaluations per forward pass; None chooses. A pass has all prompts of one trial at least.
        desc: words before the progress bar; None: no bar.

    Raises:
        ValueError: the model has no empty prompt.
        NonFiniteError: a prediction is NaN or infinite.
    """
    cond = model.encode_prompts([*data.prompts_for(model), ""])
    schedule, (n_channels, *sides) = model.schedule.to(model.device), model.latent_shape
    numbers = torch.as_tensor(ring_numbers(*sides)).flatten()
    rings = torch.nn.functional.one_hot(numbers).to(model.device, torch.float32)
    at_once, trials = max(1, (batch_size or choose_batch_size(model)) // len(cond)), TrialList(timesteps)
    parts: list[list[NDArray]] = []
    for item in progress(list_images(data.images), desc=desc, unit="image", enabled=desc is not None):
        pixels = to_pixels(load_image(*item), model.image_size)
        x0 = model.encode_images(pixels[None]).float()
        own = Trials(trials, seed, image_key(pixels), model.latent_shape)
        found = []
        for chunk in np.split(np.arange(len(own)), range(at_once, len(own), at_once)):
            eps, t = own.noise(chunk).to(model.device), torch.as_tensor(own.timesteps[chunk]).to(model.device)
            x_t, every = schedule.add_noise(x0, eps, t), torch.arange(len(chunk)).repeat_interleave(len(cond))
            every = every.to(model.device)
            x_t, t = x_t[every], t[every]
            output = model.denoise(x_t, t, cond[torch.arange(len(cond)).repeat(len(chunk))]).float()
            eps_hat = schedule.predict_eps(output[:, :n_channels], x_t, t)
            found.append(_reduce((eps_hat - eps[every]).view(len(chunk), len(cond), n_channels, -1), rings))
        parts.append([torch.cat(each).movedim(0, -1).cpu().numpy() for each in zip(*found, strict=True)])
    errors, empty, along, size, squares = (np.stack(each) for each in zip(*parts, strict=True))
    if not np.isfinite(along).all():
        raise NonFiniteError("the model's predictions must be finite, got NaN or infinity; try dtype float32")
    positions = np.bincount(numbers.numpy())
    return Products(errors, empty, along, size, squares.mean(axis=-1), positions, data.labels, data.groups)


def _reduce(residual: Tensor, rings: Tensor) -> tuple[Tensor, ...]:
    """Return errors, empty, along, size and rings of `Products`, trials first, from eps_hat - eps.

    Residuals are (n_trials, n_prompts + 1, C, positions), the empty prompt last; rings (positions, n_rings) is one-hot.
    """
    own, empty = residual[:, :-1], residual[:, -1:]
    shift = own - empty
    squares = own.square().mean(dim=2)  # over channels
    errors, along, size = (each.mean(dim=(2, 3)) for each in (own.square(), empty * shift, shift.square()))
    return errors, empty.square().mean(dim=(1, 2, 3)), along, size, squares @ rings


def guidance_name(w: float) -> str:
    """Return the name of guidance with w among the answers."""
    return f"guidance, w = {w:g}"


def crop_name(crop: int) -> str:
    """Return the name of a crop among the answers."""
    return f"crop by {crop}"


def clark_jaini(schedule: NoiseSchedule, timesteps: ArrayLike) -> NDArray[np.float64]:
    """Return the weight of the error in eps at each timestep, (n_trials,): exp(-7 t / T) sigma_t^2 / alpha_t^2.

    Source: Clark and Jaini 2023, arXiv 2303.15233, who weight the error in x0 by exp(-7 t), t in [0, 1].
    """
    t = np.asarray(timesteps)
    return np.exp(-7 * t / len(schedule) - schedule.log_snr.numpy()[t])


def variance_weights(errors: NDArray) -> NDArray[np.float64]:
    """Return 1 / s_t^2, (n_trials,): s_t^2 is the mean variance of the prompts' errors on a trial, over the images."""
    return 1 / errors.var(axis=1, dtype=np.float64).mean(axis=0)


def answers(found: Products, weights: Mapping[str, NDArray], guidance: Sequence[float]) -> Field:
    """Return the class that each method chooses for each image.

    Args:
        found: of the images.
        weights: name of a method -> weight of each trial.
        guidance: values of w; -1, at which all classes have the same error, is left out.
    """
    errors = found.errors.astype(np.float64)
    score, votes = errors.mean(axis=2), np.eye(errors.shape[1])[errors.argmin(axis=1)].sum(axis=1)
    # Equal numbers of votes are decided by the mean error.
    nearly = 0.5 * (score - score.min()) / max(np.ptp(score), 1e-12)
    scores = {PLAIN: score} | {name: errors @ own for name, own in weights.items()}
    scores |= {"majority vote": nearly - votes, "mean rank": rankdata(errors, axis=1).mean(axis=2) + 1e-6 * nearly}
    scores["centred median"] = np.median(errors - errors.mean(axis=1, keepdims=True), axis=2)
    scores |= {guidance_name(w): found.guided(w) for w in guidance if w != -1}
    scores |= {crop_name(crop): found.cropped(crop) for crop in range(len(found.positions))}
    return Field(found.labels, found.groups, {name: own.argmin(axis=1) for name, own in scores.items()})


def chosen_on_tune(tune: Field, guidance: Sequence[float]) -> float:
    """Return the w with the highest accuracy on tune images, the one nearest to 0 in a tie; never -1."""
    return min((w for w in guidance if w != -1), key=lambda w: (-tune.right(guidance_name(w)).mean(), abs(w)))


def guidance_curve(test: Field, guidance: Sequence[float]) -> tuple[list[float], list[Estimate]]:
    """Return the values of w without -1 and the accuracy with each, in points."""
    shown = [w for w in guidance if w != -1]
    return shown, [test.accuracy(guidance_name(w)) for w in shown]


def crop_curve(test: Field, side: int) -> tuple[list[float], list[Estimate]]:
    """Return the share of a side that each crop removes at each end, and the accuracy with it, in points."""
    crops = [crop for crop in range((side + 1) // 2) if crop_name(crop) in test.chosen]
    return [crop / side for crop in crops], [test.accuracy(crop_name(crop)) for crop in crops]


def parabolas(found: Products, guidance: Sequence[float]) -> dict[str, tuple[list[float], list[Estimate]]]:
    """Return values of w and the mean error there minus the unconditional one: of the right class, of the others."""
    n_prompts, curves = found.errors.shape[1], {"right class": [], "wrong classes": []}
    rows = np.arange(len(found.labels))
    for w in guidance:
        errors = found.guided(w) - found.guided(-1)
        right = errors[rows, found.labels]
        wrong = (errors.sum(axis=1) - right) / (n_prompts - 1)
        for name, values in zip(curves, (right, wrong), strict=True):  # at w = -1 the difference is 0 by definition
            curves[name].append(Estimate(0.0, 0.0, 0.0) if w == -1 else mean(values, groups=found.groups))
    return {name: (list(guidance), estimates) for name, estimates in curves.items()}


def vertex(found: Products, *, right: bool = True) -> Estimate:
    """Return the w at which the mean error of the right class, or of the wrong classes, is smallest.

    The interval is a bootstrap over photographs.
    """
    own = np.eye(found.errors.shape[1], dtype=bool)[found.labels] == right
    along, size = ((own * each.mean(axis=2, dtype=np.float64)).sum(axis=1) for each in (found.along, found.size))
    return bootstrap(lambda a, b: -1 - a.sum() / b.sum(), along, size, groups=found.groups)


def nearer_share(found: Products, field: Field, method: str) -> tuple[int, int]:
    """Return how many wrong answers of a method have a smaller |d_c|^2 than the right class, and how many are wrong."""
    rows, size = np.arange(len(found.labels)), found.size.mean(axis=2, dtype=np.float64)
    wrong = ~field.right(method)
    nearer = size[rows, field.chosen[method]] < size[rows, found.labels]
    return int((nearer & wrong).sum()), int(wrong.sum())


def gaussian_errors(alpha2: ArrayLike, distance: float, variance: float, noise: float) -> NDArray[np.float64]:
    """Return the mean error of the exact prediction for one class, a normal distribution, at alpha_t^2 = 1 - sigma_t^2.

        alpha^2 (sigma^2 distance^2 + alpha^2 variance^2 noise) / (alpha^2 variance + sigma^2)^2

    Args:
        alpha2: alpha_t^2, any shape.
        distance: of x0 from the mean of the class.
        variance: of the class.
        noise: variance of the noise; 1 for N(0, 1), 0 without noise.
    """
    alpha2 = np.asarray(alpha2, dtype=np.float64)
    sigma2 = 1 - alpha2
    return alpha2 * (sigma2 * distance**2 + alpha2 * variance**2 * noise) / (alpha2 * variance + sigma2) ** 2


def _truncated(eps: Tensor, bound: float) -> Tensor:
    """Return normal noise cut to [-bound, bound]: the quantiles of the standard normal noise eps."""
    low = ndtr(torch.tensor(-bound, dtype=torch.float64))
    return ndtri(low + ndtr(eps.double()) * (1 - 2 * low)).clamp(-bound, bound).float()


def _expected_norm(eps: Tensor) -> Tensor:
    """Return each noise (n, ...) scaled to the mean norm of standard normal noise."""
    size = eps[0].numel()
    norm = exp(lgamma((size + 1) / 2) - lgamma(size / 2) + log(2) / 2)
    return norm * torch.nn.functional.normalize(eps.flatten(1), dim=1).view_as(eps)


NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "eps = 0": torch.zeros_like,
    "TruncatedNormal [-1, 1]": partial(_truncated, bound=1.0),
    "TruncatedNormal [-2.5, 2.5]": partial(_truncated, bound=2.5),
    "expected norm": _expected_norm,
    "N(0, I)": torch.clone,
}
"""The rows of Table 12: what becomes of standard normal noise (n, C, H, W)."""
NORMAL = "N(0, I)"


class _ShapedTrials(Trials):
    """Trials whose noises are a function, one of `NOISES`, of those that `Trials` has with the same arguments."""

    def __init__(self, shape: Callable[[Tensor], Tensor], *arguments: Any) -> None:  # noqa: ANN401 (those of Trials)
        super().__init__(*arguments)
        self._shape = shape

    @override
    def noise(self, indices: ArrayLike) -> Tensor:
        return self._shape(super().noise(indices))


class _ShapedSource(ErrorSource):
    """Errors on such trials; the other arguments are those of `ErrorSource`."""

    def __init__(self, shape: Callable[[Tensor], Tensor], *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self._shape = shape

    @override
    def trials_of(self, key: int) -> Trials:
        return _ShapedTrials(self._shape, self.trials, self.seed, key, self.model.latent_shape)


def noise_field(
    model: DiffusionModel, data: ImageSet, found: Products, n_images: int, n_trials: int, seed: int = 0
) -> Field:
    """Return the answers on the first images with each noise of Table 12; the mean error decides.

    `found` has the errors with standard normal noise on the `n_trials` trials of `uniform`, which all noises share.
    """
    few = data.first(n_images)
    prompts, trials = few.prompts_for(model), TrialList(uniform(n_trials, len(model.schedule)))
    errors = {NORMAL: found.errors[: len(few)]}
    for name in [name for name in NOISES if name != NORMAL]:
        source = _ShapedSource(NOISES[name], model, prompts, trials, seed=seed, losses=("l2",))
        errors[name] = compute_errors(source, few.images, desc=name)
    chosen = {name: errors[name].mean(axis=2, dtype=np.float64).argmin(axis=1) for name in NOISES}
    return Field(few.labels, few.groups, chosen)


def noise_rows(noises: Field, paper: Mapping[str, float], classnames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a row per noise: accuracy, difference to N(0, I), the paper's values, and the most frequent answer."""
    rows = {}
    for name, chosen in noises.chosen.items():
        counts = np.bincount(chosen, minlength=len(classnames))
        often = int(counts.argmax())
        rows[name] = {
            "accuracy": noises.accuracy(name),
            f"minus {NORMAL}": None if name == NORMAL else noises.difference(name, NORMAL),
            "paper": paper[name],
            f"paper, minus {NORMAL}": None if name == NORMAL else round(paper[name] - paper[NORMAL], 1),
            "most frequent answer": f"{classnames[often]}, {100 * counts[often] / len(chosen):.0f}%",
            "true share, %": round(100 * float((noises.labels == often).mean()), 1),
        }
    return rows


def width_rows(found: Products, noises: Field, classnames: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a row per class, the largest error on its own images first: its images and answers without and with noise.

    The error is that of the class's prompt on the class's own images, with N(0, I); the answers are those of `noises`,
    on the first images of `found`.
    """
    labels = noises.labels
    errors = found.errors[: len(labels)].mean(axis=2, dtype=np.float64)
    rows = {}
    for place, name in enumerate(classnames):
        own = errors[labels == place, place]
        rows[name] = {"its error": own.mean() if len(own) else np.nan, "images": len(own)}
        rows[name] |= {f"answers, {key}": int((noises.chosen[key] == place).sum()) for key in (NORMAL, "eps = 0")}
    return dict(sorted(rows.items(), key=lambda row: -np.nan_to_num(row[1]["its error"])))


def tried(test: Field, noises: Field, best: float, side: int) -> dict[str, Estimate]:
    """Return method -> its accuracy minus that of the plain classifier, in points, from the worst to the best.

    The intervals hold together 95 times of 100 (Bonferroni). The noises are compared on their own, fewer images.

    Args:
        test: the answers.
        noises: those with other noises.
        best: the w that was chosen on tune images.
        side: of the latent; crops are those of one, two and three eighths of it.
    """
    crops = [crop_name(round(eighths * side / 8)) for eighths in (1, 2, 3)]
    rest = [name for name in test.chosen if name != PLAIN and not name.startswith(("guidance", "crop"))]
    shown = {name: name for name in (*map(guidance_name, GUIDANCE), *crops, *rest)}
    shown[f"{guidance_name(best)}, chosen on tune"] = guidance_name(best)
    others = [name for name in noises.chosen if name != NORMAL]
    level = 1 - 0.05 / (len(shown) + len(others))
    rows = {title: test.difference(name, PLAIN, level) for title, name in shown.items()}
    rows |= {f"noise: {name}": noises.difference(name, NORMAL, level) for name in others}
    return dict(sorted(rows.items(), key=lambda row: row[1].value))


def contrasts(test: Field, noises: Field, best: float, side: int, level: float) -> dict[str, Estimate]:
    """Return claim -> its contrast in points, with an interval at a level; `side` is that of the latent."""
    small, little, large = (guidance_name(w) for w in GUIDANCE)
    crop = crop_name(round(3 * side / 8))
    pairs = {
        "guidance-hurts": (test, large, PLAIN),
        "little-guidance-hurts": (test, little, PLAIN),
        "less-than-conditional-hurts": (test, small, PLAIN),
        "tuned-guidance-gains-nothing": (test, guidance_name(best), PLAIN),
        "crop-hurts": (test, crop, PLAIN),
        "no-noise-hurts": (noises, "eps = 0", NORMAL),
        "narrow-noise-hurts": (noises, "TruncatedNormal [-1, 1]", NORMAL),
        "cut-noise-hurts": (noises, "TruncatedNormal [-2.5, 2.5]", NORMAL),
        "norm-changes-nothing": (noises, "expected norm", NORMAL),
        "weights-hurt": (test, CLARK_JAINI, PLAIN),
    }
    return {claim: field.difference(first, second, level) for claim, (field, first, second) in pairs.items()}


def reading(rows: Mapping[str, Estimate]) -> list[str]:
    """Return sentences: which tries help, hurt, or are not told apart, by their intervals, from `tried`."""
    said = []
    for verdict, names in {
        "More accurate than the plain classifier": [name for name, e in rows.items() if e.low > 0],
        "Less accurate": [name for name, e in rows.items() if e.high < 0],
        "Not told apart": [name for name, e in rows.items() if e.low <= 0 <= e.high],
    }.items():
        said.append(f"{verdict} ({len(names)} of {len(rows)}): {'; '.join(names) or 'none'}.")
    return said
