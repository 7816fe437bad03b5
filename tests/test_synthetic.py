"""The baseline of synthetic data, and the command that runs all baselines on a folder."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_class_folder

from diffclf.baselines.fitting import Fit
from diffclf.baselines.supervised import load_supervised
from diffclf.baselines.synthetic import augment, build_resnet, sample_images, train_on_images
from diffclf.commands.main import main
from diffclf.datasets import load_dataset

# Samples


def test_samples_are_those_of_the_pipeline_whatever_the_batch(tiny_sd):
    prompts = ["a photo of a bag", "a photo of a boot"]
    images, labels = sample_images(tiny_sd.pipeline, prompts, 3, n_steps=2, seed=5)
    assert images.shape == (6, 32, 32, 3) and images.dtype == np.uint8 and labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len({image.tobytes() for image in images}) == 6
    again, _ = sample_images(tiny_sd.pipeline, prompts, 3, n_steps=2, seed=5, batch_size=4)
    assert np.abs(again.astype(int) - images).max() <= 1
    fewer, _ = sample_images(tiny_sd.pipeline, prompts, 2, n_steps=2, seed=5)
    assert np.abs(fewer[2:].astype(int) - images[3:5]).max() <= 1
    number = int(np.random.SeedSequence([5, 1, 2]).generate_state(1)[0])
    alone = tiny_sd.pipeline(
        prompts[1], height=32, width=32, num_inference_steps=2, guidance_scale=1.0,
        generator=torch.Generator().manual_seed(number), output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs((alone * 255).round() - images[5]).max() <= 1


def test_augmentation_moves_and_mirrors_and_without_a_generator_nothing():
    images = torch.zeros(300, 32, 32, 3, dtype=torch.uint8)
    images[:, 10, 12] = 255
    plain = augment(images, None)
    assert plain.shape == (300, 3, 32, 32) and plain.min() == -1 and plain[0, 0, 10, 12] == 1
    moved = augment(images, torch.Generator().manual_seed(0))
    _, rows, columns = (moved[:, 0] == 1).nonzero().T
    assert len(rows) == 300 and set(rows.tolist()) == {8, 9, 10, 11, 12}
    straight, mirrored = {10, 11, 12, 13, 14}, {31 - c for c in (10, 11, 12, 13, 14)}
    assert set(columns.tolist()) == straight | mirrored
    assert 0.4 < np.mean([c in straight for c in columns.tolist()]) < 0.6


def test_a_network_learns_what_the_samples_show():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = rng.integers(0, 60, (120, 32, 32, 3)).astype(np.uint8)
    images[np.arange(120), :, :, labels] += 150
    torch.manual_seed(0)
    network = build_resnet(["red", "green", "blue"], 32)
    epochs = train_on_images(network, images, labels, Fit(n_epochs=6, batch_size=20))
    with torch.no_grad():
        chosen = network(augment(torch.from_numpy(images), None)).logits.argmax(dim=1).numpy()
    assert (chosen == labels).mean() > 0.95 and epochs[-1].loss < epochs[0].loss
    assert network.config.id2label == {0: "red", 1: "green", 2: "blue"}


def test_large_images_get_a_resnet_50():
    with torch.device("meta"):
        network = build_resnet(["a", "b"], 512)
    assert list(network.config.depths) == [3, 4, 6, 3] and network.config.layer_type == "bottleneck"


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_class_folder(tmp_path_factory.mktemp("photos"), ("bag", "boot"))


def test_clip_on_a_folder(folder, tmp_path, capsys):
    out = tmp_path / "predictions.csv"
    assert main(["baseline", "clip", str(folder), "--model", "mini-clip-small", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert len(rows) == 6 and {row["image"] for row in rows} >= {"bag/L.png", "boot/RGB.png"}
    assert said.startswith(f"accuracy {right / 6:.2%}, 95% interval") and f"(Wilson; {right} of 6 images)" in said


@pytest.mark.parametrize("name", ["synthetic", "features"])
def test_baselines_that_learn_on_a_folder(name, folder, tiny_sd_folder, tmp_path, capsys):
    train = tmp_path / "train"
    for number in range(24):
        place = train / ("bag", "boot")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 9, 0, 0)).save(place / f"{number}.png")
    options = ["--train", str(train)] if name == "features" else ["--samples", "8", "--steps", "2"]
    words = ["baseline", name, str(folder), "--model", str(tiny_sd_folder), "--epochs", "2", "--json", *options]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["baseline"] == name and first["n_images"] == 6 and 0 <= first["accuracy"]["value"] <= 1
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["features", "FOLDER"], "--train is for features, which need it, got features with --train None"),
        (["clip", "FOLDER", "--train", "FOLDER"], "--train is for features"),
        (["clip", "nowhere"], "folder not found: nowhere"),
        (["clip", "FOLDER", "--template", "a"], "template must contain {}"),
        (["clip", "FOLDER", "--model", "nothing"], "no CLIP 'nothing'"),
        (["synthetic", "FOLDER", "--model", "mini-dit"], "synthetic needs a model of text with a U-Net"),
        (["features", "FOLDER", "--train", "OTHER"], "classes of .* must be those of .*, got boot, coat"),
    ],
)
def test_the_command_says_what_is_wrong(words, message, folder, tmp_path, capsys):
    other = save_class_folder(tmp_path / "other", ("boot", "coat"))
    places = {"FOLDER": str(folder), "OTHER": str(other)}
    assert main(["baseline", *(places.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1, error


@pytest.mark.parametrize("name", ["synthetic-items", "synthetic-coloured-items"])
def test_shipped_networks_know_the_classes_of_their_data_set(name):
    data = load_dataset("mini-" + name.removeprefix("synthetic-"), "tune", 5)
    assert load_supervised(name).labels == data.classnames
