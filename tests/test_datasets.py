"""Sets of images: labels that are true, subsets that are prefixes, clear errors."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from diffclf.datasets import load_dataset
from diffclf.datasets.embedded import single_scenes
from diffclf.datasets.folder import balanced_order
from diffclf.images import load_images
from diffclf.mini.photos import load_photos
from diffclf.mini.world import COLOURS, ITEMS, held_out_mask

NAMES = list(COLOURS)


def colour_of(image):
    """The colour of the brightest pixel, up to its brightness."""
    pixel = image.reshape(-1, 3)[image.sum(axis=2).argmax()].astype(float)
    tints = np.array(list(COLOURS.values()), dtype=float)
    return (tints @ pixel / np.linalg.norm(tints, axis=1)).argmax()


# Embedded sets


@pytest.mark.parametrize("split", ["tune", "test"])
def test_items_are_single_photographs_of_their_class(split):
    images = load_dataset("mini-items", split, 200)
    photos, labels = load_photos(split)
    assert len(images) == len(images.images) == 200 and images.name == "mini-items"
    assert images.classnames == ITEMS and list(images.prompts) == list(ITEMS)
    assert images.prompts["sneaker"] == "a photo of a sneaker"
    np.testing.assert_array_equal(images.labels, labels[images.groups])
    assert len(set(images.groups.tolist())) == 200, "no photograph twice"
    mask = held_out_mask()
    for picture, label, photo in zip(images.images, images.labels, images.groups, strict=True):
        assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
        assert abs(picture.max(axis=2)[2:30, 2:30].astype(int) - photos[photo]).max() <= 15, "tints of 240 to 255"
        assert not mask[colour_of(picture), label], "colours seen with the item in training only"


def test_coloured_items_ask_for_colour_and_item():
    images = load_dataset("mini-coloured-items", n_images=400)
    assert len(images.classnames) == len(set(images.prompts.values())) == 60
    assert images.prompts["red bag"] == "a photo of a red bag"
    _, labels = load_photos("test")
    mask, held_out = held_out_mask(), 0
    for picture, label, photo in zip(images.images, images.labels, images.groups, strict=True):
        colour, item = images.classnames[label].split(" ")
        assert (NAMES[colour_of(picture)], ITEMS[labels[photo]]) == (colour, item)
        held_out += mask[NAMES.index(colour), ITEMS.index(item)]
    assert 20 < held_out < 60, "about a tenth"


@pytest.mark.parametrize("name", ["mini-items", "mini-coloured-items"])
def test_a_smaller_set_is_a_prefix_and_a_seed_another_choice(name):
    large, small = load_dataset(name, n_images=50), load_dataset(name, n_images=7)
    np.testing.assert_array_equal(large.labels[:7], small.labels)
    np.testing.assert_array_equal(large.images[:7], small.images)
    np.testing.assert_array_equal(large.groups[:7], small.groups)
    other = load_dataset(name, n_images=50, seed=1)
    assert (other.groups != large.groups).any()
    whole = load_dataset(name)
    assert len(whole) == 2000 and sorted(whole.groups.tolist()) == list(range(2000))
    np.testing.assert_array_equal(whole.labels[:50], large.labels)


def test_images_are_ready_for_the_classifier():
    images = load_dataset("mini-items", n_images=3)
    np.testing.assert_array_equal(np.stack([np.asarray(i) for i in load_images(images.images)]), images.images)


def test_scenes_of_held_out_combinations_only():
    labels = np.arange(100) % 10
    mask = held_out_mask()
    scenes = single_scenes(labels, None, 0, held_out=True)
    assert len(scenes) == 60 and mask[scenes.colour[:, 0], scenes.item[:, 0]].all()
    np.testing.assert_array_equal(scenes.item[:, 0], labels[scenes.photo[:, 0]])
    with pytest.raises(ValueError, match=r"n_images must lie in 1\.\.60, got 61"):
        single_scenes(labels, 61, 0, held_out=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist"}, "data set must be one of .*'mini-items'.*'pets'.* or a folder, got 'mnist'"),
        ({"name": "mini-items", "split": "val"}, "split must be one of .*, got 'val'"),
        ({"name": "mini-items", "n_images": 2001}, r"n_images must lie in 1\.\.2000, got 2001"),
        ({"name": "mini-items", "n_images": 0}, r"n_images must lie in 1\.\.2000, got 0"),
        ({"name": "pets", "split": "tune"}, "split of 'pets' must be 'test', got 'tune'"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**arguments)


# Folders


def make_folder(path, **counts):
    for number, (name, count) in enumerate(counts.items()):
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (number, i, 0)).save(path / name / f"{i:02}.png")
    return path


def test_a_folder_with_a_sub_folder_per_class(tmp_path):
    folder = make_folder(tmp_path, maine_coon=3, beagle=5)
    (folder / "beagle" / "notes.txt").write_text("not an image")
    (folder / "beagle" / "._00.png").write_text("nor this one")
    (folder / "readme.txt").write_text("nor this one")
    (folder / ".git").mkdir()
    Image.new("RGB", (4, 4)).save(folder / ".git" / "hidden.png")
    (folder / "empty").mkdir()
    images = load_dataset(str(folder))
    assert images.classnames == ("beagle", "empty", "maine coon"), "a class without images is still asked about"
    assert images.prompts == {name: f"a photo of a {name}" for name in images.classnames}
    assert np.bincount(images.labels).tolist() == [5, 0, 3] and len(set(images.groups.tolist())) == 8
    for path, label in zip(images.images, images.labels, strict=True):
        assert path.parent.name.replace("_", " ") == images.classnames[label]
        assert np.asarray(Image.open(path))[0, 0, 0] == (0 if label else 1)


def test_a_part_of_a_folder_is_balanced_and_a_prefix(tmp_path):
    folder = str(make_folder(tmp_path, a=6, b=6, c=6))
    whole = load_dataset(folder)
    for n in range(1, 19):
        part = load_dataset(folder, n_images=n)
        assert part.images == whole.images[:n]
        counts = np.bincount(part.labels, minlength=3)
        assert counts.max() - counts.min() <= 1
    assert load_dataset(folder, seed=1).images != whole.images
    with pytest.raises(ValueError, match=r"n_images must lie in 1\.\.18, got 19"):
        load_dataset(folder, n_images=19)


def test_order_is_balanced_as_long_as_there_are_images():
    labels = np.repeat([0, 1, 2], [2, 50, 5])
    order = balanced_order(labels, 0)
    assert sorted(order.tolist()) == list(range(57))
    assert np.bincount(labels[order[:6]]).tolist() == [2, 2, 2]
    assert np.bincount(labels[order[:12]]).tolist() == [2, 5, 5]


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        load_dataset(str(make_folder(tmp_path / "one", a=2)))
    with pytest.raises(ValueError, match="'a b'"):
        load_dataset(str(make_folder(tmp_path / "same", a_b=1, **{"a b": 1})))


# The hub


class Table(list):
    def __init__(self, n, names):
        super().__init__({"image": Image.new("RGB", (4, 4), (i % 37, 0, 0)), "label": i % 37} for i in range(n))
        self.features = {"label": types.SimpleNamespace(names=names)}

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in of the package `datasets`."""
    module = types.ModuleType("datasets")
    module.exceptions = types.SimpleNamespace(DatasetNotFoundError=type("DatasetNotFoundError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "datasets", module)

    def serve(table):
        def load(repo, split):
            assert (repo, split) == ("timm/oxford-iiit-pet", "test")
            if isinstance(table, Exception):
                raise table
            return table

        module.load_dataset = load

    return serve


def test_pets_of_the_hub(hub):
    hub(Table(3669, [f"maine_coon_{i}" for i in range(37)]))
    images = load_dataset("pets", n_images=74)
    assert images.classnames[3] == "maine coon 3"
    assert images.prompts["maine coon 3"] == "a photo of a maine coon 3, a type of pet"
    assert np.bincount(images.labels).tolist() == [2] * 37
    assert all(image.getpixel((0, 0))[0] == label for image, label in zip(images.images, images.labels, strict=True))


def test_another_table_than_expected_is_refused(hub):
    hub(Table(3669, ["cat"] * 36))
    with pytest.raises(ValueError, match="must hold 3669 images of 37 classes, got 3669 of 36"):
        load_dataset("pets")


def test_no_network_and_no_package_are_said_clearly(hub, monkeypatch):
    hub(OSError("offline mode is enabled"))
    with pytest.raises(ConnectionError, match=r"'pets' \(timm/oxford-iiit-pet, CC-BY-SA-4.0\) could not be loaded"):
        load_dataset("pets")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="needs the package `datasets`"):
        load_dataset("pets")
