"""The miniature world: what is drawn is what the caption says, and what is held out stays out."""

import gzip
import re
import struct
import sys

import numpy as np
import pytest
from torch import from_numpy
from torch.nn.functional import adaptive_avg_pool2d

from diffclf.datasets import world
from diffclf.datasets.photos import SPLITS, load_photos
from diffclf.datasets.world import COLOURS, LAYOUTS, OPPOSITE, held_out_mask, render

LABELS = np.random.default_rng(0).integers(0, 10, 500)
PHOTOS = np.random.default_rng(1).integers(0, 256, (500, 28, 28), dtype=np.uint8)
NAMES = list(COLOURS)


def scenes(n_single=300, n_pair=300, seed=0):
    return world.sample_scenes(LABELS, n_single, n_pair, rng=np.random.default_rng(seed))


def one(layout=-1, photo=(3, 4), colour=(0, 2)):
    code = -1 if layout == -1 else LAYOUTS.index(layout)
    return world.make_scenes(np.array([photo]), LABELS, np.array([colour]), np.array([code]))


@pytest.mark.parametrize("colour", NAMES)
def test_a_single_is_the_tinted_photograph_in_the_middle(colour):
    picture = render(one(colour=(NAMES.index(colour),) * 2), PHOTOS)[0]
    expected = np.zeros((32, 32, 3))
    expected[2:30, 2:30] = PHOTOS[3][..., None] / 255 * np.array(COLOURS[colour])
    np.testing.assert_allclose(picture, expected, atol=0.51)


@pytest.mark.parametrize(("layout", "first", "second"), [("left", (8, 0), (8, 16)), ("below", (16, 8), (0, 8))])
def test_a_pair_lies_as_its_layout_says(layout, first, second):
    picture = render(one(layout), PHOTOS)[0]
    expected = np.zeros((32, 32, 3))
    for photo, colour, (row, column) in ((3, "red", first), (4, "blue", second)):
        small = adaptive_avg_pool2d(from_numpy(PHOTOS[photo].astype(np.float32))[None], 16)[0].numpy()
        expected[row : row + 16, column : column + 16] = small[..., None] / 255 * np.array(COLOURS[colour])
    np.testing.assert_allclose(picture, expected, atol=0.51)


def test_scenes_are_drawn_each_by_itself():
    mixed = scenes(20, 30)
    together = render(mixed, PHOTOS)
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(render(mixed[order], PHOTOS), together[order])
    np.testing.assert_array_equal(render(mixed[7:8], PHOTOS)[0], together[7])
    assert together.dtype == np.uint8 and render(mixed[:0], PHOTOS).shape == (0, 32, 32, 3)


def test_held_out_combinations_occur_in_no_training_scene():
    mask = held_out_mask()
    assert mask.sum() == len(world.HELD_OUT) == 6 and mask.shape == (6, 10)
    assert (mask.sum(axis=1) == 1).all(), "one of each colour"
    training = scenes(5000, 5000)
    seen = np.zeros_like(mask)
    seen[training["colour"], training["item"]] = True
    np.testing.assert_array_equal(seen, ~mask)


def test_pairs_differ_in_item_and_in_colour():
    pairs = scenes(0, 4000)
    assert all((pairs[column][:, 0] != pairs[column][:, 1]).all() for column in ("item", "colour"))
    counts = np.bincount(pairs["layout"], minlength=4)
    assert (abs(counts - 1000) < 5 * 750**0.5).all()


def test_scenes_are_consistent_and_repeatable():
    drawn = scenes()
    assert (drawn["layout"][:300] == -1).all() and (drawn["layout"][300:] >= 0).all()
    np.testing.assert_array_equal(drawn["item"], LABELS[drawn["photo"]])
    for column in ("photo", "colour"):
        np.testing.assert_array_equal(drawn[column][:300, 0], drawn[column][:300, 1])
    assert len(set(drawn["photo"][:300, 0].tolist())) == 300, "no photograph twice before all were used"
    np.testing.assert_array_equal(scenes()["colour"], drawn["colour"])
    assert (scenes(seed=1)["photo"] != drawn["photo"]).any()
    assert (np.bincount(scenes(1000, 0)["photo"][:, 0], minlength=500) == 2).all()


def test_colours_of_an_item_are_equally_frequent_among_those_allowed():
    drawn = scenes(30_000, 0)
    for item in range(10):
        counts = np.bincount(drawn["colour"][drawn["item"][:, 0] == item, 0], minlength=6)
        allowed = ~held_out_mask()[:, item]
        expected = counts.sum() / allowed.sum()
        assert (counts[~allowed] == 0).all()
        assert (abs(counts[allowed] - expected) < 5 * expected**0.5).all()


PAIR = re.compile(r"a (\w+) ([\w-]+) (to the left of|to the right of|above|below) a (\w+) ([\w-]+)")


def test_a_caption_of_a_pair_can_be_read_back_from_the_picture():
    """The colours lie where the caption says, read from the picture alone."""
    white = np.full((500, 28, 28), 255, dtype=np.uint8)
    drawn = scenes(0, 200)
    steps = {"to the left of": (0, 16), "to the right of": (0, -16), "above": (16, 0), "below": (-16, 0)}
    for scene, picture, (first, second) in zip(drawn, render(drawn, white), world.named_objects(drawn), strict=True):
        caption = world.caption_pair(first, LAYOUTS[scene["layout"]], second)
        colour, item, words, second_colour, second_item = PAIR.fullmatch(caption).groups()
        assert [world.ITEMS.index(item), world.ITEMS.index(second_item)] == scene["item"].tolist()
        start, end = (np.argwhere((picture == COLOURS[c]).all(axis=-1)).mean(axis=0) for c in (colour, second_colour))
        assert tuple(end - start) == steps[words]


def test_opposite_captions_describe_the_same_picture():
    for layout in LAYOUTS:
        there, back = one(layout), one(OPPOSITE[layout], photo=(4, 3), colour=(2, 0))
        np.testing.assert_array_equal(render(there, PHOTOS), render(back, PHOTOS))
        assert OPPOSITE[OPPOSITE[layout]] == layout != OPPOSITE[layout]


def write_idx(folder, part, n=10_000, n_labels=None, suffix=""):
    """A file in which the first pixels of a photograph are its index."""
    photos = np.zeros((n, 28, 28), dtype=np.uint8)
    photos[:, 0, 0], photos[:, 0, 1] = np.arange(n) // 256, np.arange(n) % 256
    labels = (np.arange(n_labels or n) % 10).astype(np.uint8)
    folder.mkdir(exist_ok=True, parents=True)
    contents = {
        f"{part}-images-idx3-ubyte": b"\x00\x00\x08\x03" + struct.pack(">3I", n, 28, 28) + photos.tobytes(),
        f"{part}-labels-idx1-ubyte": b"\x00\x00\x08\x01" + struct.pack(">I", len(labels)) + labels.tobytes(),
    }
    for name, content in contents.items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content, 1) if suffix else content)
    return folder


def index_of(photos):
    return photos[:, 0, 0].astype(int) * 256 + photos[:, 0, 1]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_splits_are_disjoint_complete_and_fixed(tmp_path, suffix):
    folder = write_idx(tmp_path, "t10k", suffix=suffix)
    found = {}
    for split in SPLITS:
        photos, labels = load_photos(split, folder)
        found[split] = index_of(photos)
        np.testing.assert_array_equal(labels, found[split] % 10)
        assert labels.dtype == np.int64 and photos.dtype == np.uint8 and photos.shape[1:] == (28, 28)
    assert np.sort(np.concatenate(list(found.values()))).tolist() == list(range(10_000))
    edges = {split: (indices[0], indices[-1]) for split, indices in found.items()}
    assert edges == {"tune": (0, 1999), "test": (2000, 3999), "v2": (4000, 4999), "pool": (5000, 9999)}


def test_the_embedded_test_file_is_fashion_mnists():
    photos, labels = load_photos("test")
    assert photos.shape == (2000, 28, 28) and set(labels.tolist()) == set(range(10))
    everything = np.concatenate([load_photos(split)[1] for split in SPLITS])
    assert np.bincount(everything).tolist() == [1000] * 10
    assert everything[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7], "the labels as published"
    assert 60 < np.mean(photos) < 85


def test_training_photographs_come_from_the_folder_named(tmp_path, monkeypatch):
    folder = write_idx(tmp_path / "train", "train", n=70)
    assert len(load_photos("train", folder)[1]) == 70
    monkeypatch.setenv("DIFFCLF_FASHION_MNIST", str(folder))
    assert index_of(load_photos("train")[0]).tolist() == list(range(70))
    assert len(load_photos("test")[1]) == 2000, "the embedded file, whatever the folder of the training file"


def test_missing_files_say_how_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*train-images-idx3-ubyte\[.gz\].*zalando"):
        load_photos("train", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte\[.gz\]"):
        load_photos("tune", tmp_path)
    monkeypatch.delenv("DIFFCLF_FASHION_MNIST", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FileNotFoundError, match="install `datasets` .*zalando-datasets/fashion_mnist"):
        load_photos("train")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("start", "kept"), [(b"", -100), (b"", 6), (b"PNG!", None)])
def test_damaged_files_are_named(tmp_path, start, kept, suffix):
    file = write_idx(tmp_path, "train", n=20, suffix=suffix) / f"train-images-idx3-ubyte{suffix}"
    file.write_bytes((start + file.read_bytes()[len(start) :])[:kept])
    with pytest.raises(ValueError, match=re.escape(str(file))):
        load_photos("train", tmp_path)


def test_a_file_with_other_contents_is_named(tmp_path):
    write_idx(tmp_path, "train", n=20, n_labels=19)
    with pytest.raises(ValueError, match="20 photographs, got 19 labels"):
        load_photos("train", tmp_path)
    write_idx(tmp_path, "t10k", n=3000)
    with pytest.raises(ValueError, match="10000 photographs, got 3000"):
        load_photos("tune", tmp_path)
