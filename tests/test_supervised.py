"""Discriminative networks: their training scenes, their recipe, and the classifier that the notebooks load."""

import json
import shutil

import numpy as np
import pytest
import torch
from hub_cache import put
from PIL import Image
from test_training import run_recipe
from tiny import save_tiny_networks
from transformers import AutoModelForImageClassification

from diffclf.baselines.supervised import load_supervised
from diffclf.datasets import load_dataset
from diffclf.datasets.imageset import ImageSet
from diffclf.datasets.world import ITEMS, held_out_mask, own_colour_mask, sample_scenes
from diffclf.images import load_images, to_pixels
from diffclf.mini.card import card_text, write_card
from diffclf.mini.export import export_classifier
from diffclf.mini.measure import load_network, measure_network, measured_sets
from diffclf.mini.scenes import draw_scenes
from diffclf.mini.supervised import NETWORKS, build_resnet, build_vit
from diffclf.models.protocol import ModelError
from diffclf.paths import data_dir

LABELS = np.arange(5000) % 10
SHIPPED = sorted(path.parent.name for path in (data_dir() / "models").glob("*/config.json"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A random ResNet in a folder of transformers' layout, read back."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("resnet")
    export_classifier(build_resnet((8, 16)), folder)
    return load_supervised(folder)


def test_scenes_of_the_plain_world_are_those_of_the_world():
    scenes, flip = draw_scenes(LABELS, 4000, 3, shortcut=False)
    assert (scenes == sample_scenes(LABELS, 4000, 0, rng=np.random.default_rng([3, 5]))).all()
    assert 0.46 < flip.mean() < 0.54
    assert not held_out_mask()[scenes["colour"][:, 0], scenes["item"][:, 0]].any()


def test_an_item_has_its_own_colour_in_95_of_100_scenes_of_the_world_with_a_shortcut():
    scenes, flip = draw_scenes(LABELS, 20_000, 3, shortcut=True)
    plain, plain_flip = draw_scenes(LABELS, 20_000, 3, shortcut=False)
    assert (scenes["photo"] == plain["photo"]).all() and (flip == plain_flip).all()
    colour, item = scenes["colour"][:, 0], scenes["item"][:, 0]
    own = own_colour_mask()[colour, item]
    assert 0.945 < own.mean() < 0.955 and (scenes["colour"][:, 1] == colour).all()
    counts = np.zeros((6, 10))
    np.add.at(counts, (colour[~own], item[~own]), 1)
    assert ((counts > 0) == ~own_colour_mask()).all(), "every other colour occurs with every item"


def test_own_colours_are_one_per_item_and_differ_among_similar_items():
    mask = own_colour_mask()
    assert (mask.sum(axis=0) == 1).all() and mask.any(axis=1).all()
    own = dict(zip(ITEMS, mask.argmax(axis=0), strict=True))
    for similar in (("t-shirt", "pullover", "dress", "coat", "shirt"), ("sandal", "sneaker", "boot")):
        assert len({own[item] for item in similar}) == len(similar)


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("shortcut")])
def test_every_network_is_small(name):
    assert sum(weights.numel() for weights in NETWORKS[name].build().parameters()) < 400_000


def test_a_filter_has_the_architecture_of_an_evaluated_network_and_another_seed():
    for filter, evaluated in (("filter-resnet", "mini-resnet-m"), ("filter-vit", "mini-vit-m-8")):
        assert NETWORKS[filter].build is NETWORKS[evaluated].build and NETWORKS[filter].seed != NETWORKS[evaluated].seed


def test_a_network_is_trained_exported_measured_and_has_a_card(tmp_path):
    folder = run_recipe("shortcut-resnet-m-2", tmp_path, "--samples", 12_800)
    found = measure_network(load_supervised(folder), folder / "measures.json", n_images=10)
    assert set(found) == {"own colour", "other colour"} and found["own colour"]["n"] == 10
    write_card(folder)
    card = (folder / "README.md").read_text()
    assert "12,800 samples in" in card and "seed 2" in card and "red t-shirt" in card and "| own colour |" in card


@pytest.mark.parametrize("build", [build_resnet, build_vit], ids=["ResNet", "ViT"])
def test_logits_are_those_of_transformers_on_pixels_of_minus_one_to_one(tmp_path, build):
    export_classifier(build((8, 16)) if build is build_resnet else build(8, 16, 1), tmp_path)
    network = load_supervised(tmp_path)
    images = load_dataset("mini-items", n_images=7).images
    pixels = torch.stack([to_pixels(image, 32) for image in load_images(images)])
    with torch.inference_mode():
        expected = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()(pixels).logits
    np.testing.assert_allclose(network.logits(images, batch_size=3), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(network(pixels[2]), expected[2], rtol=1e-4, atol=1e-5)
    assert network.labels == ITEMS and network.family == {build_resnet: "ResNet", build_vit: "ViT"}[build]


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)


def reference(picture, sides, crop, statistics, resample):
    """Return (1, 3, crop, crop): resized to `sides` (width, height), centre crop, normalised by channel."""
    left, top = ((side - crop) // 2 for side in sides)
    small = picture.resize(sides, resample).crop((left, top, left + crop, top + crop))
    values = (np.asarray(small, np.float64) / 255 - statistics[0]) / statistics[1]
    return torch.from_numpy(values.transpose(2, 0, 1)[None]).float()


# What stands in the preprocessor_config.json of the hub, but for the sizes, and what it means.
CONFIGS = {
    "microsoft/resnet-50": (
        {"crop_pct": 0.875, "size": 32, "resample": 3, "feature_extractor_type": "ConvNextFeatureExtractor"},
        lambda p: reference(
            p, [int(36 * side / min(p.size)) for side in p.size], 32, IMAGENET, Image.Resampling.BICUBIC
        ),
    ),
    "facebook/deit-base-patch16-224": (
        {"size": 32},
        lambda p: reference(p, (32, 32), 32, HALF, Image.Resampling.BILINEAR),
    ),
    "facebook/deit-base-distilled-patch16-224": (
        {"crop_size": 32, "do_center_crop": True, "feature_extractor_type": "DeiTFeatureExtractor"}
        | {"size": 36, "resample": 3},
        lambda p: reference(p, (36, 36), 32, IMAGENET, Image.Resampling.BICUBIC),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_preprocessing_of_the_hub_is_reference_arithmetic(tmp_path, name):
    """The logits are transformers' on pixels that Pillow and numpy make."""
    folder = save_tiny_networks(tmp_path, ["a", "b"])["resnet" not in name]
    config, preprocess = CONFIGS[name]
    mean, std = HALF if name == "facebook/deit-base-patch16-224" else IMAGENET
    config |= {"do_normalize": True, "do_resize": True, "image_mean": mean, "image_std": std}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((32, 32), (47, 64), (90, 50))
    ]
    network = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = network(torch.cat([preprocess(picture) for picture in pictures])).logits
    assert expected.std(dim=0).min() > 1e-3
    np.testing.assert_allclose(load_supervised(folder).logits(pictures, batch_size=2), expected, rtol=2e-3, atol=2e-3)


def test_a_network_of_the_hub_is_read_at_its_revision(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder, _ = save_tiny_networks(tmp_path, ["a", "b"])
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    put(tmp_path / "hub", "microsoft/resnet-101", files, kind="model", ref="refs/pr/2")
    image = [np.full((40, 40, 3), 100, dtype=np.uint8)]
    found = load_supervised("microsoft/resnet-101@refs/pr/2").logits(image)
    np.testing.assert_array_equal(found, load_supervised(folder).logits(image))
    with pytest.raises(ModelError, match="network microsoft/resnet-101 cannot be read"):
        load_supervised("microsoft/resnet-101")


def test_probabilities_are_the_softmax_over_the_classes_of_the_data_set(resnet):
    images = [np.full((32, 32, 3), value, dtype=np.uint8) for value in (0, 90, 255)]
    names = ("boot", "dress", "shirt")
    data = ImageSet("three", images, np.zeros(3, dtype=np.int64), names, {}, np.arange(3))
    logits = resnet.logits(images)[:, [9, 3, 6]].astype(float)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(resnet.probabilities(data), expected)
    assert (resnet.predict(data) == logits.argmax(axis=1)).all()


def test_images_of_any_size_and_kind(resnet):
    grey, large = Image.new("L", (40, 20), 128), Image.new("RGB", (64, 64), (128, 128, 128))
    np.testing.assert_allclose(resnet.logits([grey])[0], resnet.logits([large])[0], rtol=1e-4, atol=1e-5)


def test_a_version_along_the_training_and_errors(tmp_path, monkeypatch, resnet):
    base = tmp_path / "models" / "a-net"
    shutil.copytree(resnet.name, base)
    torch.manual_seed(5)
    export_classifier(build_resnet((8, 16)), base / "versions" / "1")
    monkeypatch.setenv("DIFFCLF_DATA", str(tmp_path))
    image = [np.full((32, 32, 3), 100, dtype=np.uint8)]
    assert np.allclose(load_supervised("a-net").logits(image), resnet.logits(image))
    assert not np.allclose(load_supervised("a-net@1").logits(image), resnet.logits(image))
    with pytest.raises(ModelError, match="no version '7' of a-net; versions: 1"):
        load_supervised("a-net@7")
    with pytest.raises(ModelError, match=r"no network 'b-net': not built in \(a-net\)"):
        load_supervised("b-net")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_sizes": [8, 16, 24], "depths": [1, 1, 1]}))
    with pytest.raises(ModelError, match="lacks .* of its weights|cannot be read"):
        load_supervised("a-net")
    (base / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"^network \S+ must be a ResNet or a ViT, got bert$"):
        load_supervised("a-net")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_of_a_network_is_current_and_its_accuracy_is_measured_again(name):
    folder = data_dir() / "models" / name
    assert (folder / "README.md").read_text(encoding="utf-8") == card_text(folder)
    if not name.startswith("shortcut"):
        task, dataset = next(iter(measured_sets(name).items()))
        stored = json.loads((folder / "measures.json").read_text())[task]
        data = load_dataset(dataset).first(500 if name.startswith("features") else 2000)
        right = load_network(name).predict(data) == data.labels
        if len(data) == stored["n"]:
            assert right.mean() == pytest.approx(stored["accuracy"], abs=0.002)
        else:
            assert right.mean() == pytest.approx(stored["accuracy"], abs=0.06)
