"""The baseline of features, and the training that baselines share."""

import json
from tempfile import TemporaryFile

import numpy as np
import pytest
import torch
from test_training import run_recipe
from torch.nn.functional import cross_entropy

from diffclf.baselines.features import FeatureClassifier, Head, load_features, mid_features, save_head
from diffclf.baselines.fitting import Fit, fit
from diffclf.datasets import load_dataset
from diffclf.datasets.world import render, sample_scenes
from diffclf.images import load_images, to_pixels
from diffclf.mini.card import write_card
from diffclf.mini.features import _cached_features
from diffclf.mini.measure import measure_network
from diffclf.mini.tasks import TASKS
from diffclf.models.protocol import ModelError
from diffclf.trials import Trials, image_key

# Features and head


def pixels_of(data):
    return [to_pixels(image, 32) for image in load_images(data.images)]


def test_features_are_the_middle_blocks_output_whatever_the_batch(tiny_sd):
    pixels = pixels_of(load_dataset("mini-items", "tune", 3))
    found = mid_features(tiny_sd, pixels)
    assert found.shape == (3, 16, 4, 4)
    torch.testing.assert_close(mid_features(tiny_sd, pixels, batch_size=2), found)
    kept = []
    handle = tiny_sd.network.mid_block.register_forward_hook(lambda *a: kept.append(a[-1]))
    x0 = tiny_sd.encode_images(pixels[1][None])
    eps = Trials([100], 0, image_key(pixels[1]), tiny_sd.latent_shape).noise([0])
    x_t = tiny_sd.schedule.alpha[100] * x0 + tiny_sd.schedule.sigma[100] * eps
    empty = tiny_sd.pipeline.encode_prompt("", "cpu", 1, False)[0]
    with torch.no_grad():
        tiny_sd.network(x_t.float(), 100, empty)
    handle.remove()
    torch.testing.assert_close(found[1], kept[0][0], rtol=1e-4, atol=1e-5)
    assert (mid_features(tiny_sd, pixels, seed=1) != found).any()
    with TemporaryFile() as file:
        torch.testing.assert_close(mid_features(tiny_sd, pixels, batch_size=2, file=file), found)
        assert file.tell() == found.numel() * 4
    assert len(tiny_sd.network.mid_block._forward_hooks) == 0


def test_the_head_has_table_11s_layers():
    with torch.device("meta"):
        head = Head(1024, 5)
    wide = dict.fromkeys(("conv4 x2", "conv5 x2"), "3x3x2560")
    assert head.layers() == {"conv1": "3x3x1280", "conv3 x2": "3x3x1280", **wide}
    small = Head(16, 5).eval()
    assert small(torch.zeros(2, 16, 4, 4)).shape == (2, 5)
    sizes = []
    for name in ("conv1", "conv3", "conv4", "conv5"):
        getattr(small, name).register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape[1:])))
    small(torch.zeros(1, 16, 8, 8))
    assert sizes == [(20, 8, 8), (20, 8, 8), (40, 4, 4), (40, 2, 2)]


def test_a_head_comes_back_with_its_model_and_no_other(tiny_sd, mini_sd, tmp_path):
    data = load_dataset("mini-footwear", "tune", 4)
    torch.manual_seed(0)
    made = FeatureClassifier(tiny_sd, Head(16, 4), ("bag", "boot", "sneaker", "sandal"), "made")
    save_head(made.head, made.labels, tiny_sd, tmp_path)
    back = load_features(tmp_path, tiny_sd)
    np.testing.assert_allclose(back.logits(data.images), made.logits(data.images), atol=5e-3)  # half precision
    np.testing.assert_allclose(made(pixels_of(data)[2]), made.logits(data.images)[2], atol=1e-5)
    p = made.probabilities(data)  # among the data set's classes: sandal, sneaker, boot
    weights = np.exp(made.logits(data.images)[:, [3, 2, 1]])
    np.testing.assert_allclose(p, weights / weights.sum(axis=1, keepdims=True), rtol=1e-4)
    assert made.predict(data).tolist() == p.argmax(axis=1).tolist()
    with pytest.raises(ModelError, match="features of .*tiny-sd.*, weights .*, got mini-sd, weights"):
        load_features(tmp_path, mini_sd)
    (tmp_path / "config.json").write_text(json.dumps({"labels": ["a"]}))
    with pytest.raises(ModelError, match="cannot be read from .* KeyError: 'n_channels'"):
        load_features(tmp_path, tiny_sd)
    with pytest.raises(ModelError, match="head nothing cannot be read from nothing: FileNotFoundError"):
        load_features("nothing", tiny_sd)


def test_a_model_without_a_u_net_has_no_features(tiny_dit):
    with pytest.raises(ModelError, match="features need a Stable Diffusion, .* got .*dit"):
        mid_features(tiny_dit, [torch.zeros(3, 32, 32)])


def test_features_are_computed_again_for_other_scenes(tiny_sd, tmp_path):
    labels, path = np.arange(40) % 10, tmp_path / "features.pt"
    photos = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    scenes, others = (sample_scenes(labels, 6, 0, rng=np.random.default_rng(seed)) for seed in (1, 2))
    first = _cached_features(tiny_sd, scenes, photos, path)
    images = render(scenes, photos)
    mirrored = [images[0], images[1, :, ::-1]]
    naive = mid_features(tiny_sd, [to_pixels(image, 32) for image in load_images(mirrored)])
    torch.testing.assert_close(first[:2].float(), naive, rtol=2e-3, atol=2e-3)
    torch.save(first + 0.002, path)
    assert torch.equal(_cached_features(tiny_sd, scenes, photos, path), first + 0.002)  # read, not computed
    assert not torch.isclose(_cached_features(tiny_sd, others, photos, path), first).all()
    assert torch.equal(_cached_features(tiny_sd, scenes, photos, path), first)


def test_a_head_is_trained_exported_measured_and_has_a_card(mini_sd, tmp_path):
    folder = run_recipe("features-coloured-items", tmp_path)
    network = load_features(folder, mini_sd)
    assert network.labels == load_dataset("mini-coloured-items", "tune", 1).classnames
    found = measure_network(network, folder / "measures.json", n_images=10)
    assert list(found) == ["coloured items", "held out"] and found["held out"]["n"] == 10
    write_card(folder)
    card = (folder / "README.md").read_text()
    assert "Table 11" in card and "| held out |" in card and "load_features" in card


@pytest.mark.parametrize("task", TASKS)
def test_shipped_heads_know_the_classes_of_their_data_set(task, mini_sd):
    network = load_features(f"features-{task}", mini_sd)
    assert network.labels == load_dataset(f"mini-{task}", "tune", 1).classnames
    assert network.head.layers() == {
        "conv1": "3x3x80",
        "conv3 x2": "3x3x80",
        "conv4 x2": "3x3x160",
        "conv5 x2": "3x3x160",
    }


# Training


def separable(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    return torch.randn(n, 2, generator=generator) + 4 * labels[:, None], labels


def plain(part, generator):
    return part


def test_a_fit_learns_and_is_reproducible():
    inputs, labels = separable()
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(torch.nn.Linear(2, 2))
        epochs = fit(networks[-1], inputs, labels, plain, how=Fit(n_epochs=20, batch_size=20, learning_rate=0.05))
    torch.testing.assert_close(networks[0].weight, networks[1].weight, rtol=0, atol=0)
    assert (networks[0](inputs).argmax(dim=1) == labels).float().mean() > 0.97
    assert [epoch.samples for epoch in epochs] == list(range(180, 3601, 180))
    assert epochs[-1].held_out < epochs[0].held_out and not networks[0].training


def test_the_weights_are_those_of_the_best_epoch():
    """Labels without a pattern: further epochs fit the noise, and the held-out loss rises."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(100, 60, generator=generator), torch.randint(2, (100,), generator=generator)
    torch.manual_seed(0)
    network, seen = torch.nn.Linear(60, 2), []

    def watched(part, generator):
        if generator is None:
            seen.append(part)
        return part

    epochs = fit(network, inputs, labels, watched, how=Fit(30, 10, 0.1))
    losses = [epoch.held_out for epoch in epochs]
    held_out = seen[0]
    place = [int((inputs == row).all(dim=1).nonzero()) for row in held_out]
    with torch.no_grad():
        found = cross_entropy(network(held_out), labels[place]).item()
    assert found == pytest.approx(min(losses), rel=1e-5) and losses[-1] > 1.05 * min(losses)
    assert len(held_out) == 10 and epochs[0].samples == 90


def test_groups_are_held_out_whole():
    inputs, labels = separable(40)
    seen, trained = [], []

    def watched(part, generator):
        (seen if generator is None else trained).append(part)
        return part

    fit(torch.nn.Linear(2, 2), inputs, labels, watched, torch.arange(40) // 4, Fit(1, 40))
    apart = {tuple(row.tolist()) for row in seen[0]}
    place = [i for i, row in enumerate(inputs) if tuple(row.tolist()) in apart]
    assert len(place) == 4 and len({i // 4 for i in place}) == 1 and len(trained[0]) == 36


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="enough to hold 10% out, got 4"):
        fit(torch.nn.Linear(2, 2), *separable(4), plain)
