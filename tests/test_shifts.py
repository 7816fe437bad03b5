"""The shifts of the miniature world: images differ from the originals as stated, labels stay."""

import numpy as np
import pytest

from diffclf.datasets import load_dataset
from diffclf.datasets.imageset import ImageSet
from diffclf.datasets.photos import load_photos
from diffclf.datasets.shifts import CORRUPTIONS, SEVERITIES, adversarial, corrupt, place, recollect
from diffclf.datasets.world import COLOURS, OWN_COLOURS

ITEMS = load_dataset("mini-items", "tune", 40)
TINTS = np.array(list(COLOURS.values()), dtype=float) / 255


def distance(data):
    """Mean absolute change of the pixels of mini-items, in 0..255."""
    return np.abs(np.stack(data.images).astype(int) - np.stack(ITEMS.images)).mean()


def single(image):
    """One made-up image as a set."""
    return ImageSet("one", [image], np.zeros(1, dtype=np.int64), ("a", "b"), {}, np.zeros(1, dtype=np.int64))


def tint_of(image):
    """The position of the tint of an image's brightest pixels."""
    bright = image.reshape(-1, 3)[image.max(axis=2).ravel() > 100].mean(axis=0)
    return int((TINTS @ bright / np.linalg.norm(TINTS, axis=1)).argmax())


@pytest.mark.parametrize(("name", "least", "most"), [("mini-v2", 3, 15), ("mini-o", 30, 60)])
def test_rendered_anew_with_the_same_photographs_and_labels(name, least, most):
    data = load_dataset(name, "tune", 40)
    assert least < distance(data) < most
    assert (data.labels == ITEMS.labels).all() and (data.groups == ITEMS.groups).all()
    assert data.prompts == ITEMS.prompts and data.classnames == ITEMS.classnames
    assert [tint_of(image) for image in data.images] == [tint_of(image) for image in ITEMS.images]


def test_v2_has_photographs_of_its_own():
    data, (photos, labels) = load_dataset("mini-v2", n_images=30), load_photos("v2")
    assert (data.labels == labels[data.groups]).all()
    grey = np.stack(data.images).max(axis=3)[:, 2:30, 2:30].astype(float)
    for image, photo in zip(grey, data.groups, strict=True):
        assert np.corrcoef(image.ravel(), photos[photo].ravel())[0, 1] > 0.75


def test_v2_is_brighter_and_half_a_pixel_away():
    flat = np.full((32, 32, 3), 100, dtype=np.uint8)
    expected = 255 * (100 / 255) ** 0.85
    assert np.abs(recollect([flat])[0][8:24, 8:24] - expected).max() <= 2
    ramp = np.repeat(np.arange(32, dtype=np.uint8)[None, :, None] * 6, 32, axis=0).repeat(3, axis=2)
    got = recollect([ramp])[0][16, 8:24, 0].astype(float)
    assert np.abs(got - 255 * ((np.arange(8, 24) + 0.5) * 6 / 255) ** 0.85).max() < 5


def test_o_has_a_textured_background_and_the_item_is_smaller_turned_and_moved():
    placed = place(ITEMS.images)
    corners = np.stack(placed)[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1, 3)
    assert corners.max() <= 120 and corners.std() > 15, "dim and not flat"
    for image, item in zip(placed, ITEMS.images, strict=True):
        ring = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(float)
        ring = ring[(ring.max(axis=1) > 40) & (ring.max(axis=1) <= 90)]
        near = (ring @ TINTS.T / np.linalg.norm(TINTS, axis=1)).argmax(axis=1)
        assert np.mean(near == tint_of(item)) < 0.05, "other colours than the item's"
    few = load_dataset("mini-items", "tune", 3).images
    assert all((a == b).all() for a, b in zip(place(few), placed, strict=False)), "a prefix"
    assert (place(few, seed=1)[0] != placed[0]).any()
    disc = ((np.indices((32, 32)) - 15.5) ** 2).sum(axis=0) < 13**2
    areas, centres = [], []
    for image in place([255 * np.repeat(disc[..., None], 3, axis=2).astype(np.uint8)] * 60):
        there = image.min(axis=2) > 180
        areas.append(there.sum() / disc.sum())
        centres.append(np.argwhere(there).mean(axis=0))
    assert 0.33 < min(areas) < 0.5 < 0.7 < max(areas) < 0.85, "squares of 0.6 to 0.9"
    assert np.std(centres, axis=0).min() > 1 and np.abs(np.mean(centres, axis=0) - 15.5).max() < 1
    bar = np.zeros((32, 32, 3), dtype=np.uint8)
    bar[4:28, 14:18] = 255
    slopes = [np.polyfit(*np.argwhere(image.min(axis=2) > 180).T, 1)[0] for image in place([bar] * 60)]
    angles = np.rad2deg(np.arctan(slopes))
    assert np.abs(angles).max() < 33 and angles.std() > 10 and angles.min() < 0 < angles.max()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_keeps_the_labels(name):
    data = [corrupt(ITEMS, name, severity) for severity in SEVERITIES]
    changes = [distance(each) for each in data]
    assert 0.3 < changes[0] and (np.diff(changes) > 0).all() and changes[-1] < 60
    assert all((each.labels == ITEMS.labels).all() and (each.groups == ITEMS.groups).all() for each in data)
    assert all(image.dtype == np.uint8 and image.shape == (32, 32, 3) for image in data[-1].images)
    few = corrupt(load_dataset("mini-items", "tune", 5), name, 4).images
    assert all((a == b).all() for a, b in zip(few, data[3].images, strict=False)), "a prefix"
    again = corrupt(ITEMS, name, 5, seed=1)
    assert (distance(again) != changes[-1]) == (name == "noise"), "only the noise is random"


def test_corruptions_of_images_with_known_answers():
    grey = np.full((32, 32, 3), 128, dtype=np.uint8)
    for name in ("blur", "contrast", "pixelation"):
        assert (corrupt(single(grey), name, 5).images[0] == 128).all(), name
    noisy = corrupt(single(grey), "noise", 3).images[0].astype(float)
    assert noisy.std() / 255 == pytest.approx(0.08, abs=0.004) and abs(noisy.mean() - 128) < 2
    halves = grey.copy()
    halves[:16], halves[16:] = 28, 228
    assert set(np.unique(corrupt(single(halves), "contrast", 2).images[0])) == {78, 178}
    for severity, side, n_cells in ((4, 4, 24), (5, 8, 20)):
        n = 32 // side
        blocks = np.kron(np.arange(n * n).reshape(n, n), np.ones((side, side), dtype=np.uint8))
        blocks = blocks[..., None].repeat(3, axis=2).astype(np.uint8)
        assert (corrupt(single(blocks), "pixelation", severity).images[0] == blocks).all(), "whole cells of one value"
        ramp = np.indices((32, 32), dtype=np.uint8)[1][..., None].repeat(3, axis=2) * 8
        assert len(np.unique(corrupt(single(ramp), "pixelation", severity).images[0])) == n_cells
    point = np.zeros((32, 32, 3), dtype=np.uint8)
    point[16, 16] = 255
    blurred = corrupt(single(point), "blur", 5).images[0][..., 0].astype(float)
    assert blurred.argmax() == 16 * 32 + 16 and blurred.max() == pytest.approx(255 / (2 * np.pi), rel=0.15)


def test_the_adversarial_images_are_those_that_the_filter_gets_wrong_with_confidence():
    probabilities = np.full((40, 10), 0.02)
    probabilities[np.arange(40), ITEMS.labels] = 0.8
    wrong = (ITEMS.labels + 1) % 10
    for image, true in {3: 0.1, 7: 0.149, 11: 0.151, 20: 0.4}.items():
        probabilities[image, ITEMS.labels[image]], probabilities[image, wrong[image]] = true, 0.5
    found = adversarial(ITEMS, probabilities)
    assert (found.labels == ITEMS.labels[[3, 7]]).all() and (found.groups == ITEMS.groups[[3, 7]]).all()
    assert found.images[1] is ITEMS.images[7] and found.classnames == ITEMS.classnames
    assert len(adversarial(ITEMS, probabilities, threshold=0.5)) == 4
    with pytest.raises(ValueError, match="threshold must leave an image .*, got 0.05 and none of 40"):
        adversarial(ITEMS, probabilities, threshold=0.05)
    with pytest.raises(ValueError, match=r"must be of shape \(40, 10\), got \(10, 40\)"):
        adversarial(ITEMS, probabilities.T)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 0.2 to 8"):
        adversarial(ITEMS, 10 * probabilities)


def test_own_and_other_colours_are_of_the_same_photographs():
    own, other = (load_dataset(f"mini-{kind}-colour", "tune", 200) for kind in ("own", "other"))
    assert (own.labels == other.labels).all() and (own.groups == other.groups).all()
    index = np.array([list(COLOURS).index(colour) for colour in OWN_COLOURS])
    assert ([tint_of(image) for image in own.images] == index[own.labels]).all()
    others = np.array([tint_of(image) for image in other.images])
    assert (others != index[other.labels]).all() and len(set(others)) == 6
    for first, second in zip(own.images, other.images, strict=True):
        grey = [image.max(axis=2).astype(int) for image in (first, second)]
        assert np.abs(grey[0] - grey[1]).max() <= 15, "the same grey; tints reach 240 to 255"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("fog", 1), "corruption must be one of noise, .*, got 'fog'"), (("noise", 6), "severity .*, got 6")],
)
def test_unknown_corruptions_and_severities(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(ITEMS, *arguments)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"shape \(32, 32, 3\), got \(28, 28, 3\)"):
        corrupt(single(np.zeros((28, 28, 3), dtype=np.uint8)), "blur", 1)
