"""Sets of images: labels that are true, subsets that are prefixes, splits that never meet, clear errors."""

import hashlib
import os
import types

import numpy as np
import pytest
from PIL import Image

from diffclf.baselines.nearest_mean import learn_nearest_mean
from diffclf.datasets import ImageSet, load_dataset
from diffclf.datasets.embedded import CAPTION_SETS, CLASS_SETS, ITEM_SETS, PAIR_SETS
from diffclf.datasets.folder import ClassFolder, unreadable
from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import COLOURS, HELD_OUT, ITEMS, OPPOSITE, held_out_mask
from diffclf.images import load_images, to_pixels

NAMES = list(COLOURS)
TINTS = np.array(list(COLOURS.values()), dtype=float)
SOME_ITEMS = (*ITEM_SETS, "mini-held-out", "mini-bag-pairs")  # sets that leave out images of some items
RESAMPLED = ("mini-v2", "mini-o")  # their last bits may depend on the release of Pillow


def colour_of(part):
    """The tint whose direction the mean colour of an image part has."""
    mean = part.reshape(-1, 3).mean(axis=0)
    return NAMES[(TINTS @ mean / np.linalg.norm(TINTS, axis=1) / np.linalg.norm(mean)).argmax()]


@pytest.mark.parametrize("split", ["tune", "test"])
def test_items_are_single_photographs_of_their_class(split):
    images = load_dataset("mini-items", split, 200)
    photos, labels = load_photos(split)
    assert len(images) == len(images.images) == 200 and images.name == "mini-items"
    assert images.classnames == tuple(images.prompts) == ITEMS and images.captions is None
    np.testing.assert_array_equal(images.labels, labels[images.groups])
    assert len(set(images.groups.tolist())) == 200, "no photograph twice"
    mask = held_out_mask()
    for picture, label, photo in zip(images.images, images.labels, images.groups, strict=True):
        assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
        assert abs(picture.max(axis=2)[2:30, 2:30].astype(int) - photos[photo]).max() <= 15, "tints of 240 to 255"
        assert not mask[NAMES.index(colour_of(picture)), label], "colours seen with the item in training only"


def test_coloured_items_ask_for_colour_and_item():
    images = load_dataset("mini-coloured-items", n_images=400)
    assert len(images.classnames) == len(set(images.prompts.values())) == 60
    assert images.prompts["red bag"] == "a photo of a red bag"
    _, labels = load_photos("test")
    mask, held_out = held_out_mask(), 0
    for picture, label, photo in zip(images.images, images.labels, images.groups, strict=True):
        colour, item = images.classnames[label].split(" ")
        assert (colour_of(picture), ITEMS[labels[photo]]) == (colour, item)
        held_out += mask[NAMES.index(colour), ITEMS.index(item)]
    assert 20 < held_out < 60, "about a tenth"


def test_the_first_colour_caption_is_true_and_the_others_are_false():
    data = load_dataset("mini-colour", "tune", 30)
    for image, captions in zip(data.images, data.captions, strict=True):
        named = [caption.split()[4] for caption in captions]
        assert named[0] == colour_of(image) and sorted(named) == sorted(COLOURS)
        assert len({" ".join(caption.split()[5:]) for caption in captions}) == 1


@pytest.mark.parametrize("name", ["mini-binding", "mini-relation"])
def test_the_first_pair_caption_is_true_and_the_second_is_false(name):
    low, high, every = slice(0, 16), slice(16, 32), slice(None)
    halves = {"left": (every, low), "right": (every, high), "above": (low, every), "below": (high, every)}
    data = load_dataset(name, "tune", 40)
    assert not data.labels.any() and data.classnames == ()
    for image, captions in zip(data.images, data.captions, strict=True):
        true, false = (caption.replace("to the ", "").replace(" of", "").split() for caption in captions)
        _, first, _, side, _, second, _ = true
        assert colour_of(image[halves[side]]) == first and colour_of(image[halves[OPPOSITE[side]]]) == second
        swapped = {first: second, second: first} if name == "mini-binding" else {side: OPPOSITE[side]}
        assert false == [swapped.get(word, word) for word in true]


@pytest.mark.parametrize("name", PAIR_SETS)
def test_a_pair_is_named_from_left_to_right(name):
    data = load_dataset(name, "tune", 40)
    assert len(data.classnames) == (3600 if name == "mini-pairs" else 360)
    for image, label in zip(data.images, data.labels, strict=True):
        left, right = data.classnames[label].split(", ")
        assert (colour_of(image[:, :16]), colour_of(image[:, 16:])) == (left.split()[0], right.split()[0])
        assert data.prompts[data.classnames[label]] == f"a {left} to the left of a {right}"
        assert name == "mini-pairs" or right.endswith(" bag")


def test_a_label_tree_has_every_class_once():
    for name, n_nodes, n_below in (("mini-coloured-items", 10, 6), ("mini-bag-pairs", 60, 6), ("mini-pairs", 60, 60)):
        data = load_dataset(name, "tune", 1)
        assert len(data.tree) == n_nodes and {len(below) for below in data.tree.values()} == {n_below}
        assert sorted(c for below in data.tree.values() for c in below) == sorted(data.classnames)
        for node, below in data.tree.items():
            kind = node.removeprefix("a photo of a ").removeprefix("a ").removesuffix(" to the left of a")
            assert all(kind in name.split(", ")[0] for name in below), node
    assert load_dataset("mini-items", "tune", 1).tree == {}


@pytest.mark.parametrize("name", [*CLASS_SETS, *CAPTION_SETS])
def test_a_smaller_set_is_a_prefix_and_a_seed_another_choice(name):
    whole, small = load_dataset(name), load_dataset(name, n_images=7)
    n = len(whole) if name in SOME_ITEMS else {"mini-v2": 1000}.get(name, 2000)
    assert len(whole) == len(whole.images) == n > 100
    for column in ("labels", "images", "groups", "captions"):
        if getattr(whole, column) is not None:
            np.testing.assert_array_equal(getattr(whole, column)[:7], getattr(small, column))
    assert (load_dataset(name, n_images=50, seed=1).groups != whole.groups[:50]).any()
    if name in set(CLASS_SETS) - set(PAIR_SETS):
        assert len(set(whole.groups)) == n
        assert name in SOME_ITEMS or sorted(whole.groups.tolist()) == list(range(n))


def test_sets_of_similar_items_have_all_their_images_and_classes_only():
    photos, labels = load_photos("test")
    for name, items in ITEM_SETS.items():
        data = load_dataset(name)
        assert data.classnames == items and set(data.labels) == set(range(len(items)))
        assert [data.classnames[label] for label in data.labels] == [ITEMS[labels[group]] for group in data.groups]
        assert len(data) == np.isin(labels, [ITEMS.index(item) for item in items]).sum()
        assert data.prompts == {item: f"a photo of a {item}" for item in items}


def test_sets_of_colours_and_of_held_out_combinations():
    colours, both = load_dataset("mini-colours", "tune", 50), load_dataset("mini-coloured-items", "tune", 50)
    np.testing.assert_array_equal(colours.images, both.images)
    assert [colours.classnames[c] for c in colours.labels] == [both.classnames[b].split()[0] for b in both.labels]
    held_out = load_dataset("mini-held-out", "tune")
    assert {held_out.classnames[label] for label in held_out.labels} == {" ".join(pair) for pair in HELD_OUT}
    assert held_out.prompts == both.prompts and held_out.tree == both.tree


def test_the_test_images_are_fixed():
    """Reported numbers rest on these images; a change of the random streams would silently change them."""
    digests = {}
    for name in set(CLASS_SETS + CAPTION_SETS) - set(RESAMPLED):
        data = load_dataset(name, n_images=200 if name in (*PAIR_SETS, *SOME_ITEMS) else 1000)
        content = data.labels.tobytes() + data.groups.tobytes() + repr(data.captions).encode()
        content += b"" if data.captions else np.stack(data.images).tobytes()
        digests[name] = hashlib.sha256(content).hexdigest()[:12]
    assert digests == {
        "mini-items": "2daa7928d84d",
        "mini-pairs": "244f2c8f9317",
        "mini-bag-pairs": "c6ac56b23ace",
        "mini-coloured-items": "0f62d587e5a0",
        "mini-colours": "eeac598ba487",
        "mini-held-out": "7e01a214ed4b",
        "mini-footwear": "6cf63946d241",
        "mini-tops": "2661f82e7384",
        "mini-own-colour": "bea1b95d9c82",
        "mini-other-colour": "fc326e632f11",
        "mini-colour": "f950ef1e4bfc",
        "mini-binding": "50ef45bd13ca",
        "mini-relation": "ce08b44d50ce",
    }


def test_prompts_for_a_model_are_texts_or_class_indices():
    data = load_dataset("mini-items", n_images=2)
    assert data.prompts_for(types.SimpleNamespace(labels=None))[7] == "a photo of a sneaker"
    assert data.prompts_for(types.SimpleNamespace(labels=ITEMS[::-1])) == list(range(10))[::-1]
    with pytest.raises(ValueError, match="label must be one of .* got 'trouser'"):
        data.prompts_for(types.SimpleNamespace(labels=ITEMS[:1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist"}, "one of .*'mini-items'.*'mini-relation'.*'pets'.* or a folder, got 'mnist'"),
        ({"name": "mini-items", "split": "train"}, r"split of mini-items must be one of \['tune', .*\], got 'train'"),
        ({"name": "mini-items", "n_images": 2001}, r"n_images must lie in 1\.\.2000, got 2001"),
        ({"name": "mini-relation", "n_images": 0}, r"n_images must lie in 1\.\.2000, got 0"),
        ({"name": "pets", "split": "pool"}, r"split of 'pets' must be one of \['tune', 'test'\], got 'pool'"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**arguments)


def make_folder(path, **counts):
    for number, (name, count) in enumerate(counts.items()):
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (number, i, 0)).save(path / name / f"{i:02}.png")
    return path


def test_a_folder_with_a_sub_folder_per_class(tmp_path):
    folder = make_folder(tmp_path, maine_coon=3, beagle=5)
    for name in ("beagle/notes.txt", "beagle/._00.png", "readme.txt"):
        (folder / name).write_text("not an image")
    (folder / ".git").mkdir()
    Image.new("RGB", (4, 4)).save(folder / ".git" / "hidden.png")
    (folder / "empty").mkdir()
    images = load_dataset(str(folder), "all")
    assert images.classnames == ("beagle", "empty", "maine coon"), "a class without images is still asked about"
    assert images.prompts == {name: f"a photo of a {name}" for name in images.classnames}
    assert np.bincount(images.labels).tolist() == [5, 0, 3] and len(set(images.groups.tolist())) == 8
    for path, label in zip(images.images, images.labels, strict=True):
        assert path.parent.name.replace("_", " ") == images.classnames[label]
        assert np.asarray(Image.open(path))[0, 0, 0] == (0 if label else 1)


def test_the_halves_of_a_folder_do_not_depend_on_the_seed(tmp_path):
    folder = str(make_folder(tmp_path, a=12, b=11, c=1))
    parts = {split: load_dataset(folder, split) for split in ("tune", "test", "all")}
    assert [np.bincount(part.labels).tolist() for part in parts.values()] == [[6, 5], [6, 6, 1], [12, 11, 1]]
    assert sorted([*parts["tune"].images, *parts["test"].images]) == sorted(parts["all"].images)
    again = load_dataset(folder, "tune", seed=1)
    assert sorted(again.images) == sorted(parts["tune"].images) and again.images != parts["tune"].images
    with pytest.raises(ValueError, match="split of a folder must be 'tune', 'test' or 'all', got 'v2'"):
        load_dataset(folder, "v2")


def test_a_folder_with_one_image_per_class_has_no_tune_images(tmp_path):
    folder = str(make_folder(tmp_path, a=1, b=1))
    assert len(load_dataset(folder)) == 2
    with pytest.raises(
        ValueError, match="must have a class of two images or more for the split 'tune', got one of each"
    ):
        load_dataset(folder, "tune")


def test_a_part_of_a_folder_is_a_prefix_and_balanced_as_long_as_there_are_images(tmp_path):
    folder = str(make_folder(tmp_path, a=4, b=25, c=10))
    whole = load_dataset(folder)
    for n in range(1, 21):
        part = load_dataset(folder, n_images=n)
        assert part.images == whole.images[:n]
        counts = np.bincount(part.labels, minlength=3)
        assert (counts[counts < [2, 13, 5]] >= counts.max() - 1).all(), "classes with images left are nearly equal"
    with pytest.raises(ValueError, match=r"n_images must lie in 1\.\.20, got 21"):
        load_dataset(folder, n_images=21)


def test_folders_whose_letters_are_composed_in_another_way_are_one_class(tmp_path):
    whole, parts = "caf\u00e9", "cafe\u0301"
    folder = ClassFolder(make_folder(tmp_path, **{whole: 2, parts: 3, "cafeteria": 1}))
    assert folder.classnames == ("cafeteria", whole)
    assert [image.label for image in folder.images] == ["cafeteria"] + [whole] * 5


def test_what_is_no_image_in_an_accepted_format_is_found_and_not_left_out(tmp_path):
    folder = make_folder(tmp_path, a=1, b=1)
    (folder / "b" / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    os.mkfifo(folder / "b" / "y.png")
    (folder / "b" / "z.png").symlink_to(folder / "gone.png")
    images = ClassFolder(folder).images
    found = unreadable((image.path, str(image.path)) for image in images)
    assert [images[position].path.name for position in found] == ["x.heic", "y.png", "z.png"]
    for reason, word in zip(found.values(), ["pillow-heif", "is a pipe", "image not found"], strict=True):
        assert word in reason


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        load_dataset(str(make_folder(tmp_path / "one", a=2)))
    with pytest.raises(ValueError, match="'a b'"):
        load_dataset(str(make_folder(tmp_path / "same", a_b=1, **{"a b": 1})))


def test_the_nearest_mean_wins_and_its_distance_is_zero():
    images = [np.full((4, 4, 3), value, dtype=np.uint8) for value in (0, 20, 200, 220)]
    data = ImageSet("grey", images, np.array([0, 0, 1, 1]), ("dark", "light"), {}, np.arange(4))
    scorer = learn_nearest_mean(data, image_size=4)
    pixels = to_pixels(load_images(np.full((4, 4, 3), 10, dtype=np.uint8))[0], 4)
    np.testing.assert_allclose(scorer(pixels), [0, -48 * (200 / 127.5) ** 2], rtol=1e-5, atol=1e-9)
    with pytest.raises(ValueError, match="an image of each class, got none of mid"):
        learn_nearest_mean(ImageSet("grey", images, data.labels, ("dark", "light", "mid"), {}, data.groups), 4)


def test_some_images_of_a_set_keep_all_that_belongs_to_them():
    data = load_dataset("mini-colour", n_images=6)
    few = data.take([4, 1], "two")
    assert few.name == "two" and len(few) == len(few.images) == 2 and few.classnames == data.classnames
    assert few.captions == [data.captions[4], data.captions[1]] and few.groups.tolist() == data.groups[[4, 1]].tolist()
    assert few.images[0] is data.images[4] and few.images[1] is data.images[1]
    assert repr(few) == "ImageSet('two', 2 images, 6 captions each)"
    assert repr(load_dataset("mini-items", n_images=5)) == "ImageSet('mini-items', 5 images, 10 classes)"
    assert data.first(3).groups.tolist() == data.groups[:3].tolist() and len(data.first(99)) == 6
