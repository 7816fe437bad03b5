"""DDIM inversion: from an image to the noise from which a deterministic sampler makes this image, and back.

    x0_hat, eps_hat = what the network predicts at (x_s, s)
    x_t = alpha_t x0_hat + sigma_t eps_hat                                  (one step of DDIM with eta = 0, from s to t)

With t > s the step adds noise (inversion), with t < s it removes noise (sampling). Both ways are Euler steps of one
ordinary differential equation. So the way there and back under one prompt returns to x0 as the number of steps grows,
whatever the prompt says; with few steps it misses x0 by about 1 / steps. The image is taken for x_t at t = 0, where
Stable Diffusion's own sampler ends, too.

References:
    Song, Meng, Ermon 2021, "Denoising diffusion implicit models", arXiv 2010.02502, Eq. 12 and section 4.3.
    Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", arXiv 2303.16203, appendix D, Figure 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffclf.datasets.imageset import ImageSet
from diffclf.datasets.world import COLOURS, caption_single
from diffclf.experiments.field import Field
from diffclf.images import list_images, load_image, load_images, to_pixels
from diffclf.models.batch_size import choose_batch_size
from diffclf.models.conditioning import Conditioning
from diffclf.models.device import choose_device
from diffclf.models.image_network import load_image_network
from diffclf.models.protocol import DiffusionModel
from diffclf.stats import Estimate, mean, paired_difference

__all__ = ["DESCRIBED", "RIGHT", "SWAPPED", "WRONG", "RoundTrips", "ddim", "ddim_timesteps", "describe", "round_trips"]
__all__ += ["squared_error"]

RIGHT, WRONG, DESCRIBED, SWAPPED = "right class", "wrong class", "description", "right, back under wrong"


def ddim_timesteps(n_steps: int, n_timesteps: int = 1000) -> NDArray[np.int64]:
    """Return n_steps + 1 timesteps from 0 to T - 1, evenly spread: those of an inversion; reversed, of a sampling.

    T is n_timesteps. Raises ValueError unless 1 <= n_steps < T.
    """
    if not 1 <= n_steps < n_timesteps:
        raise ValueError(f"n_steps must lie in 1..{n_timesteps - 1}, got {n_steps}")
    return np.linspace(0, n_timesteps - 1, n_steps + 1).round().astype(np.int64)


@torch.inference_mode()
def ddim(
    model: DiffusionModel, x: Tensor, cond: Conditioning, timesteps: Sequence[int], batch_size: int | None = None
) -> Tensor:
    """Return latents moved along the timesteps by deterministic DDIM, (n, C, H, W), float32 on the model's device.

    Args:
        model: the diffusion model.
        x: (n, C, H, W) latents at the first timestep.
        cond: n conditionings, one per latent.
        timesteps: two or more; increasing for an inversion, decreasing for sampling.
        batch_size: latents per forward pass; None chooses.

    Source: Song, Meng, Ermon 2021, Eq. 12 with sigma = 0.
    """
    schedule, n_channels, moved = model.schedule.to(model.device), model.latent_shape[0], []
    for rows in torch.arange(len(x)).split(batch_size or choose_batch_size(model)):
        x_t, own = x[rows.to(x.device)].to(model.device, torch.float32), cond[rows]
        for start, end in zip(timesteps[:-1], timesteps[1:], strict=True):
            here, there = (torch.full((len(rows),), int(t), device=model.device) for t in (start, end))
            output = model.denoise(x_t, here, own).float()[:, :n_channels]
            x0_hat = schedule.predict_x0(output, x_t, here)
            x_t = schedule.add_noise(x0_hat, schedule.predict_eps(output, x_t, here), there)
        moved.append(x_t)
    return torch.cat(moved)


def squared_error(x: Tensor, x0: Tensor) -> NDArray[np.float64]:
    """Return the squared distance of latents (n, C, H, W) to others of that shape, mean over the elements: (n,)."""
    return (x - x0).double().square().flatten(1).mean(1).cpu().numpy()


def describe(data: ImageSet, captioner: str = "") -> list[str]:
    """Return a caption of each image: that of its scene, "a photo of a red sneaker", or that of a BLIP.

    Args:
        data: the images. The scene's caption has the image's own class and the tint nearest to its mean colour.
        captioner: folder or hub id of a BLIP of transformers; "" for scenes of the mini world.

    Raises:
        ValueError: no captioner for images that are no scenes of the mini world.
    """
    if captioner:
        return _blip_captions(data, captioner)
    if not data.name.startswith("mini-"):
        raise ValueError(f"captioner must name a BLIP for images that are no scenes of the mini world, got {data.name}")
    tints = np.array(list(COLOURS.values()), dtype=np.float64)
    mean_colours = np.stack([np.asarray(image).reshape(-1, 3).mean(0) for image in load_images(data.images)])
    nearest = (mean_colours @ (tints / np.linalg.norm(tints, axis=1, keepdims=True)).T).argmax(axis=1)
    colours = np.array(list(COLOURS))[nearest]
    return [caption_single(data.classnames[label], c) for label, c in zip(data.labels, colours, strict=True)]


def _blip_captions(data: ImageSet, name: str) -> list[str]:
    """Return the captions that a BLIP generates without sampling; the first token only begins the sentence."""
    from transformers import AutoTokenizer, BlipForConditionalGeneration

    network, processor = load_image_network(BlipForConditionalGeneration, name, f"captioner {name}", choose_device())
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    captions = []
    for item in list_images(data.images):
        pixels = processor(load_image(*item), return_tensors="pt")["pixel_values"].to(network.device)
        tokens = network.generate(pixel_values=pixels, max_new_tokens=30, do_sample=False)
        captions.append(tokenizer.decode(tokens[0, 1:], skip_special_tokens=True).strip())
    return captions


@dataclass(frozen=True, eq=False)
class RoundTrips:
    """Images that were inverted and made again from their noise, under several prompts.

    Attributes:
        errors: (n_images, n_classes) `squared_error` of the round trip under the prompt of each class.
        kinds: RIGHT, WRONG (the strongest rival), DESCRIBED and SWAPPED -> (n_images,) error; SWAPPED is inverted under
            the right class and made again under the wrong one.
        latents: the same names -> (n_images, C, H, W) the latents made again, on the CPU.
        labels, groups: (n_images,) those of the images.
    """

    errors: NDArray[np.float64]
    kinds: dict[str, NDArray[np.float64]]
    latents: dict[str, Tensor]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    def minus_right(self, kind: str, level: float = 0.95) -> Estimate:
        """Return the mean error x 1000 under another prompt minus that under the right class's, paired by image."""
        return 1000 * paired_difference(self.kinds[kind], self.kinds[RIGHT], self.groups, level=level)

    def rows(self) -> dict[str, dict[str, Estimate | None]]:
        """Return a row per kind of prompt: its error x 1000, the difference to the right class, how often more."""
        return {
            kind: {
                "error x 1000": 1000 * mean(errors, groups=self.groups),
                f"minus {RIGHT}": None if kind == RIGHT else self.minus_right(kind),
                "median x 1000": 1000 * float(np.median(errors)),
                f"larger than {RIGHT}, %": None if kind == RIGHT else 100 * float((errors > self.kinds[RIGHT]).mean()),
            }
            for kind, errors in self.kinds.items()
        }

    def field(self, chosen: NDArray) -> Field:
        """Return the classes with the smallest reconstruction error, beside those that the classifier chose, (n,)."""
        return Field(
            self.labels,
            self.groups,
            {"diffusion classifier": chosen[: len(self.labels)], "reconstruction": self.errors.argmin(axis=1)},
        )


def round_trips(
    model: DiffusionModel, data: ImageSet, rivals: NDArray, descriptions: Sequence[str], n_steps: int
) -> RoundTrips:
    """Invert images under every class, under their descriptions, and make them again under the same prompt.

    Args:
        model: a model of text.
        data: the images.
        rivals: (n_images or more,) position of the strongest wrong class of each image.
        descriptions: (n_images or more,) a prompt for each image.
        n_steps: steps of DDIM, each way.

    Source: Li et al. 2023, Figure 7.
    """
    pixels = [to_pixels(load_image(*item), model.image_size) for item in list_images(data.images)]
    x0 = torch.cat([model.encode_images(own[None]) for own in pixels]).float()
    classes, place = data.prompts_for(model), np.arange(len(data))
    prompts = list(dict.fromkeys([*classes, *descriptions[: len(data)]]))
    cond = model.encode_prompts(prompts)
    rows = np.array([[*range(len(classes)), prompts.index(own)] for own in descriptions[: len(data)]])
    up = ddim_timesteps(n_steps, len(model.schedule))
    start, same = x0.repeat_interleave(rows.shape[1], dim=0), cond[rows.ravel()]
    noise = ddim(model, start, same, up)
    back = ddim(model, noise, same, up[::-1])
    errors = squared_error(back, start).reshape(rows.shape)
    noise, back = (each.view(*rows.shape, *x0.shape[1:]) for each in (noise, back))
    columns = {RIGHT: data.labels, WRONG: rivals[: len(data)], DESCRIBED: np.full(len(data), len(classes))}
    kinds = {kind: errors[place, column] for kind, column in columns.items()}
    latents = {kind: back[place, column].cpu() for kind, column in columns.items()}
    swapped = ddim(model, noise[place, data.labels], cond[rivals[: len(data)]], up[::-1])
    kinds[SWAPPED], latents[SWAPPED] = squared_error(swapped, x0), swapped.cpu()
    return RoundTrips(errors[:, :-1], kinds, latents, data.labels, data.groups)
