"""The baseline of features: a small ResNet on the activations in the middle of the U-Net, trained with labels.

    h = activations of the U-Net's middle block on x_t, t = 100, under the empty prompt
    p(c | image) = softmax_c (head(h))

The head has the paper's layers (Table 11) scaled to the width of the activations: with 1024 channels, as in Stable
Diffusion, the widths are the paper's.

The labels of a training set are needed, so this is no zero-shot classifier.

Source: Li et al. 2023, arXiv 2303.16203, section 5.1, appendix F.4, Table 11 ("SD features").
"""

import json
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from torch import Tensor, nn

from diffclf.datasets.imageset import ImageSet
from diffclf.files import write_json
from diffclf.images import list_images, load_image, to_pixels
from diffclf.models.protocol import DiffusionModel, ModelError
from diffclf.models.stable_diffusion import StableDiffusionModel
from diffclf.paths import embedded_models
from diffclf.trials import TrialList, Trials, image_key

__all__ = ["Block", "FeatureClassifier", "Head", "T_FEATURES", "load_features", "mid_features", "save_head"]

T_FEATURES = 100
SCALES = (1.25, 1.25, 2.5, 2.5)
"""Widths of the first convolution and of the three stages, in channels of the activations (Table 11)."""


class Block(nn.Module):
    """A basic residual block: two 3x3 convolutions, the first with a stride; a 1x1 shortcut where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        same = inputs == outputs and stride == 1
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if same else projection

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, h / stride, w / stride)."""
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


class Head(nn.Module):
    """A ResNet-18 without its first stage and pooling, on activations (n, n_channels, h, w)."""

    def __init__(self, n_channels: int, n_classes: int) -> None:
        super().__init__()
        stem, *stages = (int(scale * n_channels) for scale in SCALES)
        self.conv1 = nn.Sequential(nn.Conv2d(n_channels, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        inputs = (stem, *stages[:-1])
        for number, (before, width) in enumerate(zip(inputs, stages, strict=True), start=3):
            stride = 1 if number == 3 else 2
            self.add_module(f"conv{number}", nn.Sequential(Block(before, width, stride), Block(width, width, 1)))
        self.classify = nn.Linear(stages[-1], n_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return (n, n_classes) logits."""
        x = self.conv5(self.conv4(self.conv3(self.conv1(features))))
        return self.classify(x.mean(dim=(2, 3)))

    def layers(self) -> dict[str, str]:
        """Return the layers in Table 11's words: "conv1": "3x3x80", "conv3 x2": "3x3x80", ..."""
        found = {"conv1": self.conv1[0]}
        found |= {f"conv{number} x2": getattr(self, f"conv{number}")[0].first[0] for number in (3, 4, 5)}
        return {name: "x".join(map(str, (*conv.kernel_size, conv.out_channels))) for name, conv in found.items()}


@torch.inference_mode()
def mid_features(
    model: DiffusionModel, pixels: Iterable[Tensor], seed: int = 0, batch_size: int = 64, file: BinaryIO | None = None
) -> Tensor:
    """Return the activations of the U-Net's middle block, (n, C, h, w) float32 on the CPU.

    Args:
        model: a Stable Diffusion.
        pixels: n images (3, S, S) in [-1, 1], drawn one batch at a time.
        seed: of the noise, which depends on the image and the seed alone.
        batch_size: images at a time.
        file: an empty file that holds the activations, so that they need not fit into memory: with Stable Diffusion
            262 kB an image.

    Raises:
        ModelError: the model has no U-Net with a middle block.
    """
    if not isinstance(model, StableDiffusionModel) or getattr(model.network, "mid_block", None) is None:
        raise ModelError(f"features need a Stable Diffusion, whose U-Net has a middle block; got {model.name}")
    trials, cond = TrialList([T_FEATURES]), model.encode_prompts([""])
    kept: list[Tensor] = []
    hook = model.network.mid_block.register_forward_hook(lambda module, args, output: kept.append(output.float().cpu()))
    try:
        source = iter(pixels)
        while part := list(islice(source, batch_size)):
            x0 = model.encode_images(torch.stack(part))
            keys = [image_key(image) for image in part]
            eps = torch.cat([Trials(trials, seed, key, model.latent_shape).noise([0]) for key in keys]).to(x0)
            t = torch.full((len(part),), T_FEATURES)
            x_t = model.schedule.to(x0.device).add_noise(x0, eps, t.to(x0.device))
            model.denoise(x_t, t.to(x0.device), cond[torch.zeros(len(part), dtype=torch.int64)])
            if file is not None:
                shape = kept[0].shape[1:]
                file.write(kept.pop().numpy().tobytes())
    finally:
        hook.remove()
    if file is None:
        return torch.cat(kept)
    file.flush()
    return torch.from_numpy(np.memmap(file, np.float32, "r+")).reshape(-1, *shape)


class FeatureClassifier:
    """A head on the features of a diffusion model; a `Scorer` by its logits.

    Attributes:
        labels: names of the head's classes in index order.
        n_parameters: weights of the head.
    """

    def __init__(self, model: DiffusionModel, head: Head, labels: Sequence[str], name: str) -> None:
        self.model, self.head, self.labels, self.name = model, head.to(model.device).eval(), tuple(labels), name
        self.n_parameters = sum(weights.numel() for weights in head.parameters())

    @torch.inference_mode()
    def logits(self, images: object) -> NDArray[np.float32]:
        """Return the (n_images, n_labels) logits of images of any usual kind (`diffclf.images.load_images`)."""
        pixels = (to_pixels(load_image(*item), self.model.image_size) for item in list_images(images))
        return self.head(mid_features(self.model, pixels).to(self.model.device)).cpu().numpy()

    def __call__(self, pixels: Tensor) -> NDArray[np.float32]:
        """Return the (n_labels,) logits of pixels (3, S, S) in [-1, 1]."""
        with torch.inference_mode():
            return self.head(mid_features(self.model, [pixels]).to(self.model.device))[0].cpu().numpy()

    def probabilities(self, data: ImageSet) -> NDArray[np.float64]:
        """Return the probabilities of the classes of a data set, (n_images, n_classes), each row with the sum 1.

        Raises:
            ValueError: a class that the head does not have.
        """
        logits = self.logits(data.images)[:, data.positions(self.labels)].astype(np.float64)
        return softmax(data.best(logits, self.labels), axis=1)

    def predict(self, data: ImageSet) -> NDArray[np.int64]:
        """Return the most probable class of each image, (n_images,) positions in the data set's class names."""
        return self.probabilities(data).argmax(axis=1)


def save_head(head: Head, labels: Sequence[str], model: DiffusionModel, folder: Path) -> None:
    """Write a head in half precision, the names of its classes, and the fingerprint of the model it belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.half() if value.is_floating_point() else value for name, value in head.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    n_channels = head.conv1[0].in_channels
    facts = {"model_type": "features", "labels": list(labels), "n_channels": n_channels}
    write_json(folder / "config.json", facts | {"model": model.name, "fingerprint": model.fingerprint})


def load_features(name_or_path: str | os.PathLike[str], model: DiffusionModel) -> FeatureClassifier:
    """Load a head by a built-in name ("features-items") or a folder, for the model whose features it learned from.

    Raises:
        ModelError: there is no such head, its files are incomplete, or it belongs to another model.
    """
    name = os.fspath(name_or_path)
    folder = embedded_models("config.json").get(name, Path(name))
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        head = Head(facts["n_channels"], len(facts["labels"]))
        head.load_state_dict({key: value.float() for key, value in load_file(folder / "model.safetensors").items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"head {name} cannot be read from {folder}: {type(error).__name__}: {error}") from error
    if facts.get("fingerprint") != model.fingerprint:
        message = f"head {name} must be used with the features of {facts.get('model')}, weights"
        raise ModelError(f"{message} {facts.get('fingerprint')}, got {model.name}, weights {model.fingerprint}")
    return FeatureClassifier(model, head, facts["labels"], name)
