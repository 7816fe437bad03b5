"""CLIP: the opponent that was trained to tell which text belongs to an image.

    logits[i, j] = scale * <image embedding i, text embedding j>,   embeddings of length 1
    p(text j | image i) = softmax_j logits[i, :]

Prompts are the same as those of a diffusion classifier: one per class, or the captions of each image.

Models in transformers' layout (`config.json`) are read by transformers. Those in OpenCLIP's layout alone
(`open_clip_config.json`), such as CLIP's ResNet-50, need the extra `diffclf[clip]`.

Reference:
    Radford et al. 2021, "Learning transferable visual models from natural language supervision", arXiv 2103.00020.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from diffclf.datasets.compositional import Examples
from diffclf.datasets.imageset import ImageSet
from diffclf.images import list_images, load_image
from diffclf.models.device import choose_device
from diffclf.models.image_network import load_image_network
from diffclf.models.layout import HUB_ID, READ_ERRORS, first_line, read_object
from diffclf.models.loading import quiet
from diffclf.models.protocol import ModelError
from diffclf.paths import embedded_models, known_models

__all__ = ["ContrastiveClassifier", "PromptScorer", "load_contrastive"]

OPEN_CLIP, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_EXTRA = "network {name} is in OpenCLIP's layout, which needs an extra: pip install 'diffclf[clip]'"


class ContrastiveClassifier:
    """A CLIP with its preprocessing and tokenizer.

    Attributes:
        name: as it was asked for.
        scale: factor of the inner products: 1 / the temperature that training ended with.
        n_parameters: number of weights.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        encode_images: Callable[[list[Image.Image]], torch.Tensor],
        encode_texts: Callable[[list[str]], torch.Tensor],
        name: str,
    ) -> None:
        self.name, self._encode_images, self._encode_texts = name, encode_images, encode_texts
        self.scale = float(network.logit_scale.detach().exp())
        self.n_parameters = sum(weights.numel() for weights in network.parameters())

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Return the embeddings of texts, (n, width), of length 1."""
        parts = [self._encode_texts(list(texts[i : i + batch_size])) for i in range(0, len(texts), batch_size)]
        return torch.nn.functional.normalize(torch.cat(parts).float().cpu(), dim=1)

    @torch.inference_mode()
    def embed_images(self, images: object, batch_size: int = 64) -> torch.Tensor:
        """Return the embeddings of images of any usual kind (`diffclf.images.load_images`), (n, width), of length 1."""
        items, parts = list_images(images), []
        for start in range(0, len(items), batch_size):
            parts.append(self._encode_images([load_image(*item) for item in items[start : start + batch_size]]))
        return torch.nn.functional.normalize(torch.cat(parts).float().cpu(), dim=1)

    def class_embeddings(self, prompts: Sequence[Sequence[str]]) -> torch.Tensor:
        """Return one embedding per class, (n_classes, width): the mean over the class's prompts, of length 1."""
        rows = [self.embed_texts(texts).mean(dim=0) for texts in prompts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    def logits(self, data: ImageSet) -> NDArray[np.float64]:
        """Return the logits of a data set, (n_images, n_classes) or (n_images, n_captions)."""
        images = self.embed_images(data.images)
        if data.captions is None:
            texts = self.embed_texts(list(data.prompts.values()))
            return self.scale * (images @ texts.T).double().numpy()
        return self.scale * torch.einsum("nd,ncd->nc", images, self._embed_captions(data.captions)).double().numpy()

    def similarities(self, examples: Examples) -> NDArray[np.float32]:
        """Return the cosine similarities of the images and captions of each example, (n, 2 images, 2 captions)."""
        images = self.embed_images(list(examples.images))[torch.from_numpy(examples.pair)]
        return torch.einsum("nid,ncd->nic", images, self._embed_captions(examples.captions)).numpy()

    def _embed_captions(self, captions: Sequence[Sequence[str]]) -> torch.Tensor:
        """Return the embeddings of n lists of k captions, (n, k, width); equal captions are encoded once."""
        different, which = np.unique(np.array(captions), return_inverse=True)
        return self.embed_texts(different.tolist())[torch.from_numpy(which).reshape(len(captions), -1)]

    def probabilities(self, data: ImageSet) -> NDArray[np.float64]:
        """Return the probabilities of a data set's classes, or of each image's captions; each row has the sum 1."""
        return softmax(self.logits(data), axis=1)

    def predict(self, data: ImageSet) -> NDArray[np.int64]:
        """Return the most probable class or caption of each image, (n_images,) positions."""
        return self.logits(data).argmax(axis=1)


class PromptScorer:
    """A `Scorer` by a CLIP's logits for fixed prompts, such as the scorer of a `Shortlist`."""

    def __init__(self, clip: ContrastiveClassifier, prompts: Sequence[str]) -> None:
        self.name, self._clip, self._texts = clip.name, clip, clip.embed_texts(prompts)

    def __call__(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Return the (n_prompts,) logits of pixels (3, S, S) in [-1, 1]."""
        values = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
        return self._clip.scale * (self._clip.embed_images([values.numpy()]) @ self._texts.T)[0].numpy()


def load_contrastive(
    name_or_path: str | os.PathLike[str], device: str | torch.device | None = None
) -> ContrastiveClassifier:
    """Load a CLIP.

    Args:
        name_or_path: a built-in name ("mini-clip-small"), a folder, or a hub id ("openai/clip-vit-base-patch32",
            "timm/resnet50_clip.openai").
        device: by default "cuda" if there is one, else "cpu".

    Raises:
        ModelError: there is no such network, it is no CLIP, its files are incomplete, or an extra is missing.
    """
    name, device = os.fspath(name_or_path), choose_device(device)
    place = _locate(name)
    with quiet():
        try:
            return (_load_transformers if _is_transformers(place) else _load_open_clip)(place, name, device)
        except ModelError:
            raise
        except READ_ERRORS as error:
            raise ModelError(f"network {name} cannot be read: {first_line(error)}") from error


def _load_transformers(place: str, name: str, device: torch.device) -> ContrastiveClassifier:
    from transformers import AutoTokenizer, CLIPModel

    network, processor = load_image_network(CLIPModel, place, f"network {name}", device, {"clip": "CLIP"})
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)

    def encode_images(images: list[Image.Image]) -> torch.Tensor:
        pixels = processor(images, return_tensors="pt")["pixel_values"].to(device)
        return network.visual_projection(network.vision_model(pixel_values=pixels).pooler_output)

    def encode_texts(texts: list[str]) -> torch.Tensor:
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").to(device)
        return network.text_projection(network.text_model(input_ids=tokens.input_ids).pooler_output)

    return ContrastiveClassifier(network, encode_images, encode_texts, name)


def _is_transformers(place: str) -> bool:
    """Return whether a model is in transformers' layout; a `config.json` beside OpenCLIP's files may be timm's."""
    from transformers.utils import cached_file

    if not _has_file(place, "config.json"):
        return False
    return "model_type" in read_object(Path(cached_file(place, "config.json")), place) or not _has_file(
        place, OPEN_CLIP
    )


def _has_file(place: str, file: str) -> bool:
    """Return whether a folder or a hub repository has a file."""
    if Path(place).is_dir():
        return (Path(place) / file).is_file()
    from huggingface_hub import file_exists, try_to_load_from_cache

    return isinstance(try_to_load_from_cache(place, file), str) or file_exists(place, file)


def _load_open_clip(place: str, name: str, device: torch.device) -> ContrastiveClassifier:
    for file in (OPEN_CLIP, OPEN_CLIP_WEIGHTS):
        if not _has_file(place, file):
            raise ModelError(f"network {name} must have config.json, or {OPEN_CLIP} and {OPEN_CLIP_WEIGHTS}; no {file}")
    try:
        open_clip = import_module("open_clip")
    except ModuleNotFoundError as error:
        raise ModelError(_EXTRA.format(name=name)) from error
    source = f"local-dir:{place}" if Path(place).is_dir() else f"hf-hub:{place}"
    network, preprocess = open_clip.create_model_from_pretrained(source, device=device)
    tokenizer = open_clip.get_tokenizer(source)

    def encode_images(images: list[Image.Image]) -> torch.Tensor:
        return network.encode_image(torch.stack([preprocess(image) for image in images]).to(device))

    def encode_texts(texts: list[str]) -> torch.Tensor:
        return network.encode_text(tokenizer(texts).to(device))

    return ContrastiveClassifier(network.eval(), encode_images, encode_texts, name)


def _locate(name: str) -> str:
    """Return the folder of a CLIP, or its hub id."""
    built_in = embedded_models("config.json")
    if name in built_in:
        return str(built_in[name])
    if Path(name).is_dir() or HUB_ID.fullmatch(name):
        return name
    known = known_models(clip for clip in built_in if "-clip-" in clip)
    raise ModelError(f"no CLIP {name!r}: not built in ({known}), no such folder, and no hub id (owner/name)")
