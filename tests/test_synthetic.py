"""The baseline of synthetic data, and the command that runs all baselines on a folder."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_training import run_recipe
from tiny import save_class_folder, save_tiny_sd

from diffclf.baselines.contrastive import load_contrastive
from diffclf.baselines.features import load_features
from diffclf.baselines.fitting import Fit, usual_fit
from diffclf.baselines.supervised import load_supervised
from diffclf.baselines.synthetic import (
    augment,
    build_processor,
    build_resnet,
    crop_boxes,
    random_crop,
    sample_images,
    small_resnet,
    train_on_images,
)
from diffclf.commands.main import main
from diffclf.datasets import load_dataset
from diffclf.datasets.folder import load_folder
from diffclf.images import to_pixels
from diffclf.mini.card import write_card
from diffclf.mini.measure import measure_network
from diffclf.mini.tasks import TASKS
from diffclf.models import load_model

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


def test_a_killed_sampling_goes_on_with_the_batch_it_stopped_at(tiny_sd, tmp_path, monkeypatch):
    prompts, options = ["a photo of a bag", "a photo of a boot"], {"n_steps": 2, "batch_size": 2}
    whole, _ = sample_images(tiny_sd.pipeline, prompts, 3, **options)
    calls, decode = [], tiny_sd.pipeline.vae.decode

    def dies(*args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(*args, **kwargs)

    monkeypatch.setattr(tiny_sd.pipeline.vae, "decode", dies)
    with pytest.raises(KeyboardInterrupt):
        sample_images(tiny_sd.pipeline, prompts, 3, **options, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    with open(file, "ab") as stopped:  # in the middle of a batch
        stopped.write(bytes(5000))
    again, labels = sample_images(tiny_sd.pipeline, prompts, 3, **options, folder=tmp_path)
    assert len(calls) == 4 and labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(again, whole)
    assert isinstance(again, np.memmap), "read from the file when needed"
    sample_images(tiny_sd.pipeline, prompts, 3, **options, folder=tmp_path)
    assert len(calls) == 4, "all are there"
    other, _ = sample_images(tiny_sd.pipeline, prompts, 3, **options, seed=1, folder=tmp_path)
    assert len(calls) == 7 and (other != whole).any()


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


def test_crops_have_the_areas_ratios_and_places_of_szegedy():
    left, upper, right, lower = crop_boxes(4000, 400, torch.Generator().manual_seed(0)).T.double().numpy()
    width, height = right - left, lower - upper
    assert min(left.min(), upper.min()) >= 0 and max(right.max(), lower.max()) <= 400
    assert 0.079 < (width * height / 400**2).min() < 0.09 and (width * height).max() / 400**2 > 0.95
    ratio = np.log(width / height)
    assert abs(ratio).max() < np.log(4 / 3) + 0.01 and abs(ratio.mean()) < 0.01
    assert ratio.std() == pytest.approx(np.log(4 / 3) / np.sqrt(3), rel=0.1), "uniform but for what does not fit"
    small = width * height < 0.5 * 400**2  # none of these is rejected
    assert (width * height)[small].mean() == pytest.approx(0.29 * 400**2, rel=0.02)
    assert (left[small] / (400 - width[small])).mean() == pytest.approx(0.5, abs=0.02)


def test_large_images_are_cropped_and_mirrored_and_at_the_test_resized_to_256_and_cropped():
    images = torch.randint(256, (40, 96, 96, 3), generator=torch.Generator().manual_seed(0)).byte()
    found, generator = random_crop(images, torch.Generator().manual_seed(3)), torch.Generator().manual_seed(3)
    boxes, flips = crop_boxes(40, 96, generator), torch.rand(40, generator=generator) < 0.5
    assert 10 < flips.sum() < 30
    for image, box, flip, pixels in zip(images, boxes, flips, found, strict=True):
        left, upper, right, lower = box
        cut = Image.fromarray(image[upper:lower, left:right].numpy()).resize((224, 224), Image.Resampling.BICUBIC)
        values = np.asarray(cut)[:, ::-1] if flip else np.asarray(cut)
        np.testing.assert_array_equal(pixels.numpy(), np.float32(values.transpose(2, 0, 1)) / np.float32(127.5) - 1)
    (plain,) = random_crop(images[:1], None)
    whole = np.asarray(Image.fromarray(images[0].numpy()).resize((256, 256), Image.Resampling.BICUBIC))
    expected = whole[16:240, 16:240].transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(plain, expected, atol=1e-6)


def test_large_images_are_trained_on_by_crops():
    images = np.random.default_rng(0).integers(0, 256, (20, 96, 96, 3), dtype=np.uint8)
    seen = []
    network = small_resnet((4, 4), ["a", "b"])
    network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    train_on_images(network, images, np.arange(20) % 2, Fit(n_epochs=1, batch_size=9), seed=1)
    assert [tuple(pixels.shape) for pixels in seen] == [(9, 3, 224, 224), (9, 3, 224, 224), (2, 3, 224, 224)]
    generator = torch.Generator().manual_seed(1)
    held_out = torch.randperm(20, generator=generator)[:2].sort().values
    kept = torch.tensor([i for i in range(20) if i not in held_out])
    first = torch.from_numpy(images)[kept[torch.randperm(18, generator=generator)][:9]]
    torch.testing.assert_close(seen[0], random_crop(first, generator))
    torch.testing.assert_close(seen[2], random_crop(torch.from_numpy(images)[held_out], None))


def test_the_processor_is_the_diffusion_models_preprocessing():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8))
    found = build_processor(32)([image], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(found, to_pixels(image, 32))


# The recipe


def test_a_network_of_samples_is_trained_exported_measured_and_has_a_card(tmp_path):
    folder = run_recipe("synthetic-items", tmp_path)
    network = load_supervised(folder)
    assert network.labels == load_dataset("mini-items", "tune", 1).classnames
    found = measure_network(network, folder / "measures.json", n_images=10)
    assert list(found) == ["items", "footwear", "tops"] and all(entry["n"] == 10 for entry in found.values())
    write_card(folder)
    card = (folder / "README.md").read_text()
    assert "1000 of each class" in card and "| tops |" in card and "load_supervised" in card


@pytest.mark.parametrize("name", [f"synthetic-{task}" for task in TASKS])
def test_shipped_networks_know_the_classes_of_their_data_set(name):
    data = load_dataset("mini-" + name.removeprefix("synthetic-"), "tune", 5)
    assert load_supervised(name).labels == data.classnames


# The command


def save_reds(path, n_images, names=("bag", "boot")):
    """Save n plain red images, in turn into each class's folder."""
    for number in range(n_images):
        place = path / names[number % len(names)]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 9, 0, 0)).save(place / f"{number}.png")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_class_folder(tmp_path_factory.mktemp("photos"), ("bag", "boot"))


def test_clip_on_a_folder(folder, tmp_path, capsys):
    assert main(["baseline", "clip", str(folder), "--model", "mini-clip-small", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert len(rows) == 6 and {row["image"] for row in rows} >= {"bag/L.png", "boot/RGB.png"}
    assert said.startswith(f"accuracy {right / 6:.2%}, 95% interval") and f"(Wilson; {right} of 6 images)" in said
    data = load_folder(folder, "all")
    for place, p in zip(data.images, load_contrastive("mini-clip-small").probabilities(data), strict=True):
        row = next(row for row in rows if row["image"] == f"{place.parent.name}/{place.name}")
        assert row["predicted"] == data.classnames[p.argmax()] and float(row["probability"]) == pytest.approx(p.max())
        assert row["correct"] == str(row["label"] == row["predicted"])


@pytest.mark.parametrize("name", ["synthetic", "features"])
def test_a_baseline_that_learns_gives_the_same_twice_and_leaves_its_network(
    name, folder, tiny_sd_folder, tmp_path, capsys
):
    learned, test = save_reds(tmp_path / "data" / "train", 24), tmp_path / "data" / "test"
    shutil.copytree(folder, test)
    words = [str(folder), "--samples", "8", "--steps", "2"] if name == "synthetic" else [str(learned.parent)]
    words = ["baseline", name, *words, "--model", str(tiny_sd_folder), "--device", "cpu", "--epochs", "2", "--json"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["baseline"] == name and first["n_images"] == 6
    assert first["accuracy"]["value"] == first["n_correct"] / 6
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == first
    if name == "synthetic":
        network = load_supervised(tmp_path / "out")
    else:
        network = load_features(tmp_path / "out", load_model(tiny_sd_folder, device="cpu"))
    data = load_folder(folder, "all")
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    found = dict(zip([f"{path.parent.name}/{path.name}" for path in data.images], network.predict(data), strict=True))
    assert [row["predicted"] for row in rows] == [data.classnames[found[row["image"]]] for row in rows]


def test_samples_of_large_images_need_a_folder(folder, tiny_sd_folder, capsys, monkeypatch):
    monkeypatch.setattr("diffclf.commands.baseline.SMALL", 31)
    words = ["baseline", "synthetic", str(folder), "--model", str(tiny_sd_folder), "--samples", "10000"]
    assert main(words) == 2
    assert "synthetic needs a folder for 0.0614 GB of samples of" in (said := capsys.readouterr().err)
    assert "--out DIR, got none" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["features", "FOLDER"], "features need other images to test on: --test, or .*/train and .*/test"),
        (["clip", "nowhere"], "folder not found: nowhere"),
        (["clip", "EMPTY"], "has no sub-folders, expected one of images per class"),
        (["clip", "BROKEN"], "bag/L.png is empty"),
        (["clip", "FOLDER", "--out", "INSIDE"], "out must not lie inside the folder of images"),
        (["clip", "FOLDER", "--template", "a"], "template must contain {}"),
        (["clip", "FOLDER", "--model", "nothing"], "no CLIP 'nothing'"),
        (["synthetic", "FOLDER", "--model", "mini-dit"], "synthetic needs a model of text with a U-Net"),
        (["features", "FOLDER", "--test", "OTHER"], "classes of .* must be those of .*, got bag, boot"),
        (["features", "FEW", "--test", "FOLDER"], "must have at least 2 images each, got 1 of boot"),
    ],
)
def test_the_command_says_what_is_wrong(words, message, folder, tmp_path, capsys):
    places = {"FOLDER": folder, "OTHER": save_class_folder(tmp_path / "other", ("boot", "coat"))}
    places |= {"FEW": save_reds(tmp_path / "few", 3), "EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken"}
    places["INSIDE"] = folder / "results"
    places["EMPTY"].mkdir()
    shutil.copytree(folder, places["BROKEN"])
    (places["BROKEN"] / "bag" / "L.png").write_bytes(b"")
    assert main(["baseline", *(str(places.get(word, word)) for word in words)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1, error


def test_samples_of_another_model_are_not_taken_for_this_models(folder, tiny_sd_folder, tmp_path):
    other = save_tiny_sd(tmp_path / "other", seed=1)
    words = ["baseline", "synthetic", str(folder), "--samples", "8", "--steps", "1", "--epochs", "1", "--out"]
    for model in (tiny_sd_folder, other):
        assert main([*words, str(tmp_path / "out"), "--model", str(model)]) == 0
    first, second = (tmp_path / "out" / "samples").iterdir()
    drawn = [[path.read_bytes() for path in sorted(place.iterdir())] for place in (first, second)]
    assert len(drawn[0]) == len(drawn[1]) > 0 and drawn[0][0] != drawn[1][0]


def test_large_images_get_the_papers_settings():
    """Appendix F.4: batches of 256, AdamW, 0.1 with a cosine decay, 1e-4, a tenth held out; features 16 and 1e-4."""
    assert usual_fit("synthetic", 512, 90) == Fit(90, 256, 0.1, 1e-4, 0.1)
    assert usual_fit("features", 512, 7)[:3] == (7, 16, 1e-4)
    assert usual_fit("features", 32, 30) == usual_fit("synthetic", 64, 30) == Fit(30)
