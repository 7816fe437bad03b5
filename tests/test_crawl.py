"""The crawl of the miniature world: quality, attributes, reduction, the filter, and the arms that select from it."""

import numpy as np
import pytest

from diffclf.datasets import crawl, load_dataset
from diffclf.mini.crawl import ARMS, select

CHECKS = 255 * np.indices((8, 8)).sum(axis=0)[..., None].repeat(3, axis=2) % 510


def attributes(*rows):
    return np.array(list(rows), crawl.ATTRIBUTES)


def test_quality_of_known_images():
    half = np.zeros((8, 8, 3))
    half[:, 4:] = 255
    quality = crawl.image_quality([CHECKS, half, np.full((8, 8, 3), 200)])
    assert quality == pytest.approx([1 * 0.5, (0 + 1 / 7) / 2 * 0.5, 0])
    assert crawl.image_quality([half * 0.5])[0] == pytest.approx(quality[1] / 4), "sharpness and contrast both halve"


def test_quality_does_not_depend_on_the_tint():
    grey = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1))
    assert crawl.image_quality(grey * [1.0, 0.2, 0.2]) == pytest.approx(crawl.image_quality(grey * [0.3, 1.0, 1.0]))


def test_attributes_have_their_shares_and_a_shorter_list_has_the_same():
    images = np.zeros((20_000, 2, 2, 3))
    found = crawl.draw_attributes(images, seed=4)
    assert [np.mean(found["resolution"] == side) for side in (32, 16, 8)] == pytest.approx([0.5, 0.3, 0.2], abs=0.015)
    assert found["flag"].mean() == pytest.approx(0.02, abs=0.005)
    assert found["flag"][found["resolution"] == 8].mean() == pytest.approx(0.02, abs=0.01), "independent"
    assert (crawl.draw_attributes(images[:7], seed=4) == found[:7]).all()
    assert (crawl.draw_attributes(images, seed=5)["resolution"] != found["resolution"]).mean() > 0.5


def test_quality_is_that_of_the_image_before_it_is_reduced():
    data = load_dataset("mini-items", "tune", 30)
    images = np.stack(data.images)
    found, own = crawl.crawled(data, seed=3)
    assert (own == crawl.draw_attributes(images, 3)).all() and (own["quality"] == crawl.image_quality(images)).all()
    assert (np.stack(found.images) == crawl.reduce_resolution(images, own["resolution"])).all()
    assert found.labels is data.labels and found.prompts is data.prompts and found.name != data.name
    same = [(a == b).all() for a, b in zip(found.images, data.images, strict=True)]
    assert (np.array(same) == (own["resolution"] == 32)).all()


@pytest.mark.parametrize(("side", "border"), [(16, 1), (8, 2)])
def test_a_reduced_ramp_is_a_ramp_but_for_its_border(side, border):
    ramp = np.broadcast_to(8 * np.arange(32)[:, None, None], (32, 32, 3)).astype(np.uint8)
    reduced = crawl.reduce_resolution([ramp, ramp], [32, side])
    assert reduced.dtype == np.uint8 and (reduced[0] == ramp).all()
    inner = slice(border, -border)
    assert (reduced[1, inner] == ramp[inner]).all()
    assert (reduced[1, :border] == 8 * (32 / side - 1) / 2).all(), "the first average, not the first value"


def test_a_reduced_image_keeps_nothing_finer_than_its_pixels():
    checks = np.tile(CHECKS, (4, 4, 1)).astype(np.uint8)
    assert (crawl.reduce_resolution([checks], [16])[0] == 128).all()


def test_each_part_of_the_filter_removes_its_own():
    good, low = crawl.MIN_QUALITY + 0.001, crawl.MIN_QUALITY
    own = attributes((32, good, False), (16, good, False), (32, low, False), (32, good, True), (8, low, True))
    found = {name: crawl.passes(own, parts).tolist() for name, parts in crawl.FILTERS.items()}
    assert found == {
        "R": [True, False, True, True, False],
        "Q": [True, True, False, True, False],
        "F": [True, True, True, False, False],
        "Q+F": [True, True, False, False, False],
        "R+Q+F": [True, False, False, False, False],
    }
    assert crawl.passes(own).tolist() == found["R+Q+F"]
    assert crawl.passes(own, resolution=16, quality=0).tolist() == [True, True, True, False, False]


@pytest.fixture
def many():
    """Attributes of which 70% have enough quality."""
    own = crawl.draw_attributes(np.zeros((1000, 2, 2, 3)), seed=0)
    own["quality"] = np.where(np.arange(1000) % 10 < 7, 1.0, 0.0)
    return own


def test_arms_select_what_they_say(many):
    filtered, everything, random = (select(many, arm, seed=1) for arm in ARMS)
    assert (filtered == np.flatnonzero(crawl.passes(many))).all() and (everything == np.arange(1000)).all()
    assert len(random) == len(filtered) == len(set(random.tolist())) and (np.diff(random) > 0).all()
    assert crawl.passes(many[random]).mean() == pytest.approx(crawl.passes(many).mean(), abs=0.1), "no matter which"
    assert select(many, "random", seed=2).tolist() != random.tolist() == select(many, "random", seed=1).tolist()


def test_other_arms_and_another_quality_are_refused(many):
    with pytest.raises(ValueError, match="arm must be one of .*'random'.*, got 'best'"):
        select(many, "best", seed=1)
    many["quality"] = np.where(np.arange(1000) % 10 < 6, 1.0, 0.0)
    with pytest.raises(ValueError, match="must keep 70% of the training images, got 60.0%"):
        select(many, "filtered", seed=1)
