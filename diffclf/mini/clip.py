"""The miniature CLIPs: an image encoder and a text encoder whose embeddings of a scene and of its caption agree.

    logits[i, j] = scale * <image embedding i, caption embedding j>
    L = (mean_i H(p_i, softmax_j logits[i, :]) + mean_j H(p_j, softmax_i logits[:, j])) / 2

H is the cross-entropy. The target p is uniform over the pairs of the batch whose captions are equal: the miniature
world has few captions, and an equal caption is no wrong one.

Scenes and captions are those of mini-sd. Augmentation: single items are mirrored half of the time, and every scene is
shifted by up to two pixels. Both leave the caption true.

References:
    Radford et al. 2021, "Learning transferable visual models from natural language supervision", arXiv 2103.00020.
    Yang et al. 2022, "Unified contrastive learning in image-text-label space", arXiv 2204.03610 (the target).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import CLIPConfig, CLIPModel

from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import render, sample_scenes
from diffclf.mini.autoencoder import to_pixels
from diffclf.mini.export import export_clip
from diffclf.mini.sd import N_PAIR, N_SINGLE, draw_captions, tokenize
from diffclf.mini.tokenizer import build_tokenizer
from diffclf.mini.training import Job, Plan, train

__all__ = ["CLIPS", "STATED", "Size", "build_clip", "contrastive_loss", "shift", "train_arm", "train_clip"]

N_SAMPLES, BATCH_SIZE, LEARNING_RATE = 1_500_000, 256, 1e-3
STATED = {"full": 1.0, "short": 0.1}
"""Captions of an arm -> share of the pairs whose caption states both objects and their relation."""
MAX_SHIFT = 2


class Size(NamedTuple):
    """Size of a CLIP: patch, width and depth of its image encoder; width and depth of its text encoder."""

    patch: int
    width: int
    depth: int
    text_width: int
    text_depth: int


CLIPS: Mapping[str, Size] = {
    "mini-clip-small": Size(patch=8, width=64, depth=4, text_width=64, text_depth=2),
    "mini-clip-large": Size(patch=8, width=128, depth=5, text_width=96, text_depth=3),
}


def build_clip(size: Size, vocabulary: int, eos: int, max_length: int) -> CLIPModel:
    """Return an untrained CLIP for 32x32 images, with embeddings of 64 numbers.

    Args:
        size: of its two encoders.
        vocabulary: number of tokens.
        eos: token at the end of each caption, at which the caption's embedding is read.
        max_length: tokens of a caption.
    """
    text = {
        "vocab_size": vocabulary,
        "hidden_size": size.text_width,
        "intermediate_size": 4 * size.text_width,
        "num_hidden_layers": size.text_depth,
        "num_attention_heads": 4,
        "max_position_embeddings": max_length,
        "bos_token_id": eos - 1,
        "eos_token_id": eos,
        "pad_token_id": eos,
    }
    vision = {
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": size.patch,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def contrastive_loss(logits: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Return the symmetric loss of logits (b, b); which (b,) numbers the captions, equal captions alike."""
    same = (which[:, None] == which).float()
    target = same / same.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def shift(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return images (n, h, w, 3) moved by up to `MAX_SHIFT` pixels in both directions, black where nothing was."""
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT), (0, 0)))
    down, right = rng.integers(2 * MAX_SHIFT + 1, size=(2, n, 1, 1))
    rows = down + np.arange(height)[:, None]
    columns = right + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows, columns]


def train_arm(job: Job, batch_size: int, captions: str) -> None:
    """Train the small CLIP with another batch size and one of the captions of `STATED`."""
    train_clip(job, CLIPS["mini-clip-small"], batch_size, STATED[captions])


def train_clip(job: Job, size: Size, batch_size: int = BATCH_SIZE, stated: float = 1.0) -> None:
    """Train a CLIP on mini-sd's scenes and captions and export it.

    The learning rate grows with the square root of the batch size.

    Args:
        job: what was asked for.
        size: of the two encoders.
        batch_size: images and captions that are told apart at a time.
        stated: share of the pairs whose caption states both objects and their relation; the captions of the other
            pairs name one of the two objects.
    """
    photos, labels = load_photos("train", job.photo_folder)
    n_single, n_pair = int(N_SINGLE * job.scale), int(N_PAIR * job.scale)
    scenes = sample_scenes(labels, n_single, n_pair, rng=np.random.default_rng([job.seed, 3]))
    tokenizer = build_tokenizer(job.work / "tokenizer")

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([job.seed, 8, step])
        chosen = scenes[rng.integers(len(scenes), size=batch_size)]
        images = render(chosen, photos)
        single = chosen["layout"] < 0
        flip = single & (rng.random(batch_size) < 0.5)
        images[flip] = images[flip, :, ::-1]
        captions = draw_captions(chosen, rng, dropout=0.0)
        if stated < 1:
            short = ~single & (rng.random(batch_size) >= stated)
            captions = [_name_one(text, rng) if cut else text for text, cut in zip(captions, short, strict=True)]
        token_ids, which = tokenize(captions, tokenizer)
        return to_pixels(shift(images, rng)), token_ids, which

    torch.manual_seed(job.seed)
    if job.start_from is None:
        module = build_clip(size, len(tokenizer), tokenizer.eos_token_id, tokenizer.model_max_length)
    else:
        module = CLIPModel.from_pretrained(job.start_from, dtype=torch.float32)
    rate = LEARNING_RATE * (batch_size / BATCH_SIZE) ** 0.5
    plan = Plan("clip", job.n_samples or N_SAMPLES, batch_size, rate, decay="cosine", weight_decay=0.05)
    export_clip(train(module, draw, _loss, plan, job.work), job.out)


def _name_one(caption: str, rng: np.random.Generator) -> str:
    """Return "a photo of a red sneaker" or "a photo of a blue bag" for the caption of a pair of the two."""
    words = caption.split()
    return f"a photo of a {' '.join(words[1:3] if rng.random() < 0.5 else words[-2:])}"


def _loss(module: CLIPModel, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the loss of pixels (b, 3, 32, 32) and their captions: different token ids, and which each image has."""
    pixels, token_ids, which = batch
    out = module.train()(input_ids=token_ids, pixel_values=pixels)
    return contrastive_loss(out.logits_per_image[:, which], which)
