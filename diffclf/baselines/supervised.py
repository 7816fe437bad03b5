"""Discriminative networks: ResNets and ViTs of transformers that were trained with labels.

    p(c | image) = softmax(logits)[c],   the softmax over the classes of a data set only

The restriction to a data set's classes is that of ImageNet-A and ObjectNet, which have some of ImageNet's classes. A
class of ObjectNet that is several of ImageNet has the largest of their logits.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from diffclf.datasets.imageset import ImageSet
from diffclf.images import list_images, load_image
from diffclf.models.device import choose_device
from diffclf.models.image_network import load_image_network
from diffclf.models.layout import HUB_ID
from diffclf.models.protocol import ModelError
from diffclf.paths import embedded_models, known_models

__all__ = ["FAMILIES", "SupervisedClassifier", "load_supervised"]

FAMILIES = {"resnet": "ResNet", "vit": "ViT"}
"""Kinds of networks by transformers' `model_type`."""


class SupervisedClassifier:
    """A discriminative network with its preprocessing; a `Scorer` by its logits.

    Attributes:
        name: as it was asked for.
        family: "ResNet" or "ViT".
        labels: names of its classes in index order.
        n_parameters: number of weights.
    """

    def __init__(self, network: torch.nn.Module, processor: Any, name: str) -> None:  # noqa: ANN401 (transformers' type)
        self.network, self.processor, self.name = network.eval(), processor, name
        self.family = FAMILIES[network.config.model_type]
        self.labels = tuple(network.config.id2label[index] for index in range(network.config.num_labels))
        self.n_parameters = sum(weights.numel() for weights in network.parameters())

    def __call__(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Return the (n_labels,) logits of pixels (3, S, S) in [-1, 1]."""
        values = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
        return self.logits([values.numpy()])[0]

    @torch.inference_mode()
    def logits(self, images: Any, batch_size: int = 64) -> NDArray[np.float32]:  # noqa: ANN401 (as `load_images`)
        """Return the (n_images, n_labels) logits of images of any usual kind (`diffclf.images.load_images`)."""
        items, found = list_images(images), []
        for start in range(0, len(items), batch_size):
            pictures: list[Image.Image] = [load_image(*item) for item in items[start : start + batch_size]]
            pixels = self.processor(pictures, return_tensors="pt")["pixel_values"]
            found.append(self.network(pixels.to(self.network.device)).logits.float().cpu())
        return torch.cat(found).numpy()

    def probabilities(self, data: ImageSet, batch_size: int = 64) -> NDArray[np.float64]:
        """Return the probabilities of the classes of a data set, (n_images, n_classes), each row with the sum 1.

        Raises:
            ValueError: a class that the network does not have.
        """
        classes = data.positions(self.labels)
        logits = self.logits(data.images, batch_size)[:, classes].astype(np.float64)
        return softmax(data.best(logits, self.labels), axis=1)

    def predict(self, data: ImageSet, batch_size: int = 64) -> NDArray[np.int64]:
        """Return the most probable class of each image, (n_images,) positions in the data set's class names."""
        return self.probabilities(data, batch_size).argmax(axis=1)


def load_supervised(
    name_or_path: str | os.PathLike[str], device: str | torch.device | None = None
) -> SupervisedClassifier:
    """Load a discriminative network.

    Args:
        name_or_path: a built-in name ("mini-resnet-m"), one with a version along its training ("mini-resnet-m@2"), a
            folder in transformers' layout, or a hub id ("microsoft/resnet-50", "microsoft/resnet-101@refs/pr/2").
        device: by default "cuda" if there is one, else "cpu".

    Raises:
        ModelError: there is no such network, it is neither a ResNet nor a ViT, or its files are incomplete.
    """
    from transformers import AutoModelForImageClassification

    name, device = os.fspath(name_or_path), choose_device(device)
    found = load_image_network(AutoModelForImageClassification, _locate(name), f"network {name}", device, FAMILIES)
    return SupervisedClassifier(*found, name)


def _locate(name: str) -> str:
    """Return the folder of a network, or its hub id."""
    base, at, version = name.partition("@")
    built_in = embedded_models("config.json")
    if base in built_in:
        folder = built_in[base] / "versions" / version if at else built_in[base]
        if not folder.is_dir():
            known = sorted(path.name for path in (built_in[base] / "versions").glob("*"))
            raise ModelError(f"no version {version!r} of {base}; versions: {', '.join(known) or 'none'}")
        return str(folder)
    if Path(name).is_dir() or HUB_ID.fullmatch(name):
        return name
    known = known_models(built_in)
    raise ModelError(f"no network {name!r}: not built in ({known}), no such folder, and no hub id (owner/name)")
