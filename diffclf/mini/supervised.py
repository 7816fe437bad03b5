"""The discriminative networks: small ResNets and ViTs, trained with labels on the images that a mini-dit sees.

    L = -log softmax(logits)[label]

Augmentation: half of the scenes are mirrored, as for mini-dit, and nothing else. Regularisation: weight decay 0.05 and
an average of the weights.

References:
    He et al. 2016, "Deep residual learning for image recognition", arXiv 1512.03385.
    Dosovitskiy et al. 2021, "An image is worth 16x16 words", arXiv 2010.11929.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from diffclf.baselines.synthetic import small_resnet
from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import ITEMS, render
from diffclf.mini.autoencoder import to_pixels
from diffclf.mini.export import export_classifier
from diffclf.mini.scenes import draw_scenes
from diffclf.mini.training import Job, Plan, train

__all__ = ["NETWORKS", "Network", "build_resnet", "build_vit", "train_supervised"]

N_SCENES, N_SAMPLES, BATCH_SIZE = 300_000, 1_000_000, 128
VERSIONS = {n: f"{number}" for number, n in enumerate((10_000, 30_000, 100_000, 300_000), 1)}
"""Samples after which a version along the training is kept, of the networks that have them."""

LABELS = {"id2label": dict(enumerate(ITEMS)), "label2id": {item: number for number, item in enumerate(ITEMS)}}


def build_resnet(widths: Sequence[int], depth: int = 1) -> ResNetForImageClassification:
    """Return an untrained ResNet with a stage of `depth` basic blocks for each width, on 32x32 images."""
    return small_resnet(widths, ITEMS, depth)


def build_vit(patch: int, width: int, depth: int) -> ViTForImageClassification:
    """Return an untrained ViT of `depth` blocks on patches of a 32x32 image, without dropout."""
    config = ViTConfig(
        image_size=32,
        patch_size=patch,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=4,
        intermediate_size=2 * width,
        **LABELS,
    )
    return ViTForImageClassification(config)


@dataclass(frozen=True)
class Network:
    """What is trained: an architecture, its seed, and its world.

    Attributes:
        build: returns the untrained network.
        seed: of the weights and the batches; networks of all seeds see the same scenes.
        shortcut: whether an item's colour is a shortcut in its training scenes.
        versions: whether versions along the training are kept.
    """

    build: partial[PreTrainedModel]
    seed: int = 0
    shortcut: bool = False
    versions: bool = False


_ARCHITECTURES = {
    "resnet-xs": partial(build_resnet, (8, 16)),
    "resnet-s": partial(build_resnet, (8, 16, 32)),
    "resnet-m": partial(build_resnet, (16, 32, 64)),
    "resnet-l": partial(build_resnet, (24, 48, 96)),
    "vit-xs-8": partial(build_vit, 8, 24, 2),
    "vit-s-8": partial(build_vit, 8, 40, 3),
    "vit-m-8": partial(build_vit, 8, 64, 4),
    "vit-l-8": partial(build_vit, 8, 96, 4),
}
_WITH_VERSIONS = ("resnet-m", "vit-m-8")
_IN_THE_SHORTCUT_WORLD = ("resnet-m", "resnet-l", "vit-s-8", "vit-m-8")

NETWORKS = {
    **{f"mini-{name}": Network(build, versions=name in _WITH_VERSIONS) for name, build in _ARCHITECTURES.items()},
    "filter-resnet": Network(_ARCHITECTURES["resnet-m"], seed=1),
    "filter-vit": Network(_ARCHITECTURES["vit-m-8"], seed=1),
    **{
        f"shortcut-{name}-{seed}": Network(_ARCHITECTURES[name], seed, shortcut=True)
        for seed in (1, 2, 3)
        for name in _IN_THE_SHORTCUT_WORLD
    },
}
"""All discriminative networks by name. A filter has the architecture of an evaluated network and another seed."""


def train_supervised(job: Job, network: Network) -> None:
    """Train a network on the scenes of its world and export it."""
    photos, labels = load_photos("train", job.photo_folder)
    scenes, flip = draw_scenes(labels, int(N_SCENES * job.scale), job.seed, network.shortcut)
    items = scenes["item"][:, 0]

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        index = np.random.default_rng([job.seed, 7, network.seed, step]).integers(len(scenes), size=BATCH_SIZE)
        images = render(scenes[index], photos)
        images[flip[index]] = images[flip[index], :, ::-1]
        return to_pixels(images), torch.from_numpy(items[index])

    torch.manual_seed(job.seed * 1000 + network.seed)
    if job.start_from is None:
        module = network.build()
    else:
        module = type(network.build()).from_pretrained(job.start_from, dtype=torch.float32)
    versions = {
        n: partial(export_classifier, folder=job.out / "versions" / version)
        for n, version in VERSIONS.items()
        if network.versions
    }
    n_samples = job.n_samples or (N_SAMPLES // 2 if network.shortcut else N_SAMPLES)  # as of the two kinds of DiT
    plan = Plan("classifier", n_samples, BATCH_SIZE, learning_rate=2e-3, weight_decay=0.05)
    export_classifier(train(module, draw, _loss, plan, job.work, versions), job.out)


def _loss(module: PreTrainedModel, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the cross-entropy of pixels (b, 3, 32, 32) with labels (b,)."""
    pixels, labels = batch
    return cross_entropy(module.train()(pixels).logits, labels)
