"""CLIPs: the loss, the augmentation, answers equal to transformers' own, and what a wrong folder says."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import save_tiny_clip
from torch.nn.functional import cross_entropy

from diffclf.baselines.contrastive import PromptScorer, load_contrastive
from diffclf.datasets import load_dataset
from diffclf.datasets.compositional import load_examples
from diffclf.images import load_images, to_pixels
from diffclf.mini.clip import CLIPS, _name_one, build_clip, contrastive_loss, shift
from diffclf.models.protocol import ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of an untrained CLIP."""
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return load_contrastive(folder)


# Training


def test_with_different_captions_the_loss_is_clips():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    diagonal = torch.arange(6)
    expected = (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2
    torch.testing.assert_close(contrastive_loss(logits, diagonal), expected)


def test_equal_captions_share_the_target():
    logits = torch.log(torch.tensor([[3.0, 3.0, 1.0], [3.0, 3.0, 1.0], [1.0, 1.0, 5.0]]))
    own, other = -np.log(3 / 7), -np.log(5 / 7)
    found = contrastive_loss(logits, torch.tensor([4, 4, 0])).item()
    assert found == pytest.approx((2 * own + other) / 3)


def test_a_shift_moves_and_adds_black_and_keeps_most_images_whole():
    images = np.zeros((400, 8, 8, 3), dtype=np.uint8)
    images[:, 3, 4] = 200
    moved = shift(images, np.random.default_rng(0))
    assert moved.shape == images.shape and (moved.sum(axis=(1, 2, 3)) == 600).all()
    _, rows, columns, _ = np.nonzero(moved[..., :1])
    assert sorted(set(rows)) == [1, 2, 3, 4, 5] and sorted(set(columns)) == [2, 3, 4, 5, 6]
    assert 0.03 < ((rows == 3) & (columns == 4)).mean() < 0.06  # 1 in 25
    gone = shift(np.full((1, 4, 4, 3), 9, np.uint8), np.random.default_rng(1))
    assert 12 <= gone.sum() / 9 <= 48


@pytest.mark.parametrize(("name", "patches"), [("mini-clip-small", 16), ("mini-clip-large", 16)])
def test_the_two_sizes(name, patches):
    network = build_clip(CLIPS[name], 500, 499, 16)
    assert network.vision_model.embeddings.num_patches == patches
    small = sum(weights.numel() for weights in network.parameters())
    assert 300_000 < small < 2_000_000


# Answers


@pytest.mark.parametrize("name", ["mini-items", "mini-relation"])
def test_answers_are_those_of_transformers(clip, folder, name):
    from transformers import CLIPModel, CLIPTokenizer

    data = load_dataset(name, "tune", 5)
    network = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    rows = []
    for place, image in enumerate(data.images):
        texts = list(data.prompts.values()) if data.captions is None else data.captions[place]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            rows.append(network(**tokens, pixel_values=pixels).logits_per_image[0].softmax(dim=0).numpy())
    np.testing.assert_allclose(clip.probabilities(data), rows, atol=1e-5)
    assert clip.predict(data).tolist() == np.argmax(rows, axis=1).tolist()


def test_a_scorer_gives_the_logits_of_an_image(clip):
    data = load_dataset("mini-items", "tune", 2)
    scorer = PromptScorer(clip, list(data.prompts.values()))
    pixels = [to_pixels(image, 32) for image in load_images(data.images)]
    np.testing.assert_allclose([scorer(each) for each in pixels], clip.logits(data), rtol=1e-4, atol=1e-5)


def test_one_prompt_per_class_makes_its_embedding_and_several_their_mean(clip):
    a, b = clip.embed_texts(["a bag", "a photo of a bag"])
    torch.testing.assert_close(clip.class_embeddings([["a bag"]])[0], a)
    both = clip.class_embeddings([["a bag", "a photo of a bag"]])[0]
    torch.testing.assert_close(both, (a + b) / (a + b).norm())


# Errors


def test_errors_name_what_is_wrong(folder, tmp_path):
    with pytest.raises(ModelError, match="no CLIP 'nothing': not built in"):
        load_contrastive("nothing")
    with pytest.raises(ModelError, match="must have config.json, or open_clip_config.json and .*; no open_clip_config"):
        load_contrastive(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match=r"^network \S+ must be a CLIP, got vit$"):
        load_contrastive(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelError, match="cannot be read: .*safetensors"):
        load_contrastive(tmp_path)


# The files of the hub


OPENAI = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
PICTURES = [
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    for height, width in ((32, 32), (47, 33), (50, 90))
]


def pixels_of(picture, size=32):
    """Return (1, 3, size, size): short side to `size`, bicubic, centre crop, normalised by channel as CLIP's are."""
    scale = size / min(picture.size)
    small = picture.resize([int(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in small.size)
    values = np.asarray(small.crop((left, top, left + size, top + size)), np.float64) / 255
    values = (values - OPENAI["image_mean"]) / OPENAI["image_std"]
    return torch.from_numpy(values.transpose(2, 0, 1)[None]).float()


def test_a_clip_as_on_the_hub_gives_transformers_logits_of_reference_pixels(folder, tmp_path):
    """The preprocessing is written as in openai/clip-vit-large-patch14, by a release of 2022."""
    from transformers import CLIPModel, CLIPTokenizer

    place = shutil.copytree(folder, tmp_path / "clip")
    steps = dict.fromkeys(("do_center_crop", "do_normalize", "do_resize"), True)
    config = {"crop_size": 32, "size": 32, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}
    (place / "preprocessor_config.json").write_text(json.dumps(config | steps | OPENAI))
    data = replace(load_dataset("mini-items", "tune", 3), images=PICTURES)
    tokens = CLIPTokenizer.from_pretrained(place)(list(data.prompts.values()), padding=True, return_tensors="pt")
    pixels = torch.cat([pixels_of(picture) for picture in PICTURES])
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(place, dtype=torch.float32)(**tokens, pixel_values=pixels).logits_per_image
    np.testing.assert_allclose(load_contrastive(place).logits(data), expected, rtol=1e-4, atol=1e-4)


def save_open_clip(place, vision, timm=None, weights=None):
    """Write a CLIP as OpenCLIP lays it out on the hub, its `config.json` of timm if there is one; return model_cfg."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    steps = {"mean": OPENAI["image_mean"], "std": OPENAI["image_std"]}
    steps |= {"interpolation": "bicubic", "resize_mode": "shortest"}
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": steps}))
    save_file(weights or {}, place / "open_clip_model.safetensors")
    if timm:
        (place / "config.json").write_text(json.dumps({"architecture": timm, "num_classes": 16, "pretrained_cfg": {}}))
    return config


RN50 = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}


@pytest.mark.parametrize("timm", [None, "resnet50_clip"])
def test_openclips_layout_without_the_extra_names_it(tmp_path, monkeypatch, timm):
    save_open_clip(tmp_path, RN50, timm)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModelError, match=r"OpenCLIP's layout, which needs an extra: pip install 'diffclf\[clip\]'"):
        load_contrastive(tmp_path)


@pytest.mark.parametrize(("vision", "timm"), [(RN50, None), (VIT, "vit_large_patch14_clip_224")], ids=["RN50", "ViT"])
def test_openclips_layout_gives_openclips_logits_of_reference_pixels(tmp_path, vision, timm):
    """As timm/resnet50_clip.openai and timm/vit_large_patch14_clip_224.openai; no tokenizer files are needed."""
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    network = open_clip.CLIP(**save_open_clip(tmp_path, vision)).eval()
    save_open_clip(tmp_path, vision, timm, {key: value.contiguous() for key, value in network.state_dict().items()})
    data = replace(load_dataset("mini-items", "tune", 3), images=PICTURES)
    with torch.no_grad():
        tokens = open_clip.get_tokenizer("RN50")(list(data.prompts.values()))
        images, texts, scale = network(torch.cat([pixels_of(picture) for picture in PICTURES]), tokens)
    expected = (scale * images @ texts.T).numpy()
    assert expected.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(load_contrastive(tmp_path).logits(data), expected, rtol=1e-4, atol=1e-4)


def test_a_short_caption_names_one_of_the_two_objects():
    rng = np.random.default_rng(0)
    found = {_name_one("a red sneaker to the left of a blue bag", rng) for _ in range(20)}
    assert found == {"a photo of a red sneaker", "a photo of a blue bag"}
    assert _name_one("a red sneaker above a blue bag", rng) in found


def test_similarities_are_those_of_the_embeddings():
    network = load_contrastive("mini-clip-small", device="cpu")
    found = network.similarities(load_examples(n=3)).reshape(4, 3, 2, 2)
    assert found.shape == (4, 3, 2, 2) and found.dtype == np.float32 and (abs(found) <= 1 + 1e-6).all()
    examples = load_examples(n=3)
    for tag, place in ((0, 2), (3, 1)):
        example = tag * 3 + place
        images = network.embed_images([examples.images[k] for k in examples.pair[example]])
        texts = network.embed_texts(list(examples.captions[example]))
        np.testing.assert_allclose(found[tag, place], (images @ texts.T).numpy(), atol=1e-5)
    np.testing.assert_array_equal(
        found[1, :, :, 0], found[3, :, :, 0]
    )  # colour and both: the same images and caption 0
