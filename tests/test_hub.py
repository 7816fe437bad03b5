"""Data sets of the hub: stand-ins in its cache's layout with the real counts, columns and class names."""

import types
from collections import Counter

import numpy as np
import pytest
from hub_cache import COMMIT, own_names, put, save_hub, shown_label
from huggingface_hub import constants

from diffclf import DiffusionClassifier, Staged
from diffclf.datasets import download, hub, load_dataset
from diffclf.datasets.hub import HUB, lacking
from diffclf.datasets.imagenet import IMAGENET_A, OBJECTNET
from diffclf.images import load_images
from diffclf.paths import data_dir
from diffclf.prompts import read_prompts
from diffclf.pruning.staged import Fixed
from diffclf.search import ErrorSource, search

TWICE = ["missile (657)", "missile (744)", "sunglasses (836)", "sunglasses (837)"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub; nobody is logged in."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    for module in (download, hub):
        monkeypatch.setattr(module, "get_token", lambda: None)
    datasets.disable_progress_bars()
    return tmp_path / "hub"


@pytest.fixture
def fewer(monkeypatch):
    """Return a function that lowers the number of images that a data set must have, for speed."""

    def lower(name, n):
        source = HUB[name]
        splits = {split: (hub_split, n) for split, (hub_split, _) in source.splits.items()}
        monkeypatch.setitem(HUB, name, source._replace(splits=splits))

    return lower


@pytest.mark.parametrize(("split", "n"), [("test", 3669), ("tune", 3680)])
def test_pets(cache, split, n):
    save_hub(cache, "pets", split)
    whole, images = load_dataset("pets", split), load_dataset("pets", split, n_images=74)
    assert len(whole) == n and images.groups.tolist() == whole.groups[:74].tolist()
    assert images.source == f"timm/oxford-iiit-pet@{COMMIT}"
    assert images.classnames[20] == "maine coon" and len(images.classnames) == 37
    assert images.prompts["maine coon"] == "a photo of a Maine Coon cat, a type of pet."
    assert np.bincount(images.labels).tolist() == [2] * 37
    assert [shown_label(image) for image in images.images] == images.labels.tolist()
    assert load_images(images.images)[0].size == (3, 2)


@pytest.mark.parametrize(
    ("name", "classname", "prompt"),
    [
        ("food101", "club sandwich", "a photo of club sandwich, a type of food."),
        ("cifar10", "automobile", "a blurry photo of a automobile."),
        ("aircraft", "F-16A/B", "a photo of a F-16A/B, a type of aircraft."),
        ("flowers", "colt's foot", "a photo of a colt's foot, a type of flower."),
        ("stl10", "monkey", "a photo of a monkey."),
    ],
)
def test_other_sets_of_table_1(cache, fewer, name, classname, prompt):
    fewer(name, 3 * HUB[name].n_classes)
    save_hub(cache, name)
    n_classes = HUB[name].n_classes
    images = load_dataset(name, n_images=2 * n_classes)
    assert images.prompts[classname] == prompt and (np.bincount(images.labels, minlength=n_classes) == 2).all()
    assert shown_label(images.images[5]) == images.labels[5]


def test_each_file_of_prompts_has_a_prompt_for_each_class():
    files = sorted((data_dir() / "prompts").glob("*.csv"))
    assert [file.stem for file in files] == ["aircraft", "cifar10", "flowers", "food101", "pets", "stl10"]
    for file in files:
        pairs = read_prompts(file)
        assert len(pairs) == len(dict(map(reversed, pairs))) == HUB[file.stem].n_classes
        assert all(prompt.endswith(".") and prompt.startswith(("a photo of ", "a blurry ")) for prompt, _ in pairs)


def test_the_two_parts_of_imagenet_are_shards_of_its_validation_images(cache, fewer):
    fewer("imagenet", 6006)
    names = own_names("imagenet")
    names[657] = names[744] = "missile"
    names[836] = names[837] = "sunglasses"
    names[517] = "construction crane"
    save_hub(cache, "imagenet", n_shards=6, listed=names)
    tune, test = parts = [load_dataset("imagenet", split) for split in ("tune", "test")]
    assert sorted(np.concatenate([part.groups for part in parts]).tolist()) == list(range(6006))
    for part in parts:
        assert len(part) == 3003 and part.indices == {index: index for index in range(1000)}
        assert (part.labels == part.groups % 1000).all() and shown_label(part.images[9]) == part.labels[9]
        assert [part.classnames[i] for i in (657, 744, 836, 837)] == TWICE and len(set(part.classnames)) == 1000
        assert part.classnames[517] == "construction crane" and len(set(part.prompts.values())) == 1000
        assert part.prompts["name 7"] == "a photo of a name 7."
    assert {1000, 2002} < set(test.groups) and {1001, 2001} < set(tune.groups)
    few, other = load_dataset("imagenet", n_images=2000), load_dataset("imagenet", n_images=2000, seed=1)
    assert (np.bincount(few.labels) == 2).all() and (np.bincount(other.labels) == 2).all()
    assert (
        few.groups.tolist()
        == test.groups[:2000].tolist()
        == load_dataset("imagenet", n_images=2500).groups[:2000].tolist()
    )
    assert set(other.groups) < set(test.groups) and set(other.groups) != set(few.groups)
    with pytest.raises(ValueError, match=r"n_images must lie in 1\.\.3003, got 3004"):
        load_dataset("imagenet", n_images=3004)


def test_one_image_is_classified_among_imagenets_thousand_classes_in_stages(cache, fewer, tiny_sd):
    """The kept classes and the winner are those of the complete table of errors; nothing else is evaluated."""
    fewer("imagenet", 2000)
    save_hub(cache, "imagenet", n_shards=2)
    data, staged = load_dataset("imagenet", n_images=1), Staged(trials=(1, 2, 4), keep=(30, 5, 1), grid="nested")
    classifier = DiffusionClassifier(tiny_sd, data.prompts, pruning=staged)
    assert classifier.classes_.tolist() == list(data.classnames)
    table = classifier.errors(load_images(data.images)[0])
    whole = ErrorSource(tiny_sd, list(data.prompts.values()), staged.trial_list(), losses=("l2",))
    (complete,) = (full.errors for full in search(whole, data.images, Fixed(whole.trials)))
    known = ~np.isnan(table.errors)
    np.testing.assert_allclose(table.errors[known], complete[known], rtol=1e-5)
    assert known[:, 0].all() and table.n_evaluations == known.sum() == 1000 + 30 + 5 * 2
    for n, before, kept in ((1, known[:, 0], known[:, 1]), (2, known[:, 1], known[:, 3])):
        means = complete[:, :n].mean(axis=1)  # neighbours in rank differ by about 1e-6
        assert means[kept].max() <= means[before & ~kept].min() * (1 + 1e-5)
    assert (known[:, 3] == known[:, 2]).all() and len(np.unique(complete[:, 0])) > 900
    best = complete.mean(axis=1)[known[:, 3]].min()
    assert complete[data.classnames.index(table.predicted)].mean() <= best * (1 + 1e-5)


def test_a_part_of_imagenet_needs_a_part_of_its_shards(cache, fewer, monkeypatch):
    """Each shard has every class once."""
    fewer("imagenet", 6006)
    complete = save_hub(cache.parent / "remote", "imagenet", n_shards=6)
    asked = []

    def fetch(repo, name, *, repo_type, revision):
        assert (repo_type, revision) == ("dataset", COMMIT)
        asked.append(name)
        folder = complete.parents[2] / f"datasets--{repo.replace('/', '--')}" / "snapshots" / COMMIT
        return str(put(cache, repo, {name: (folder / name).read_bytes()}) / name)

    siblings = [types.SimpleNamespace(rfilename=f"data/{file.name}") for file in (complete / "data").iterdir()]
    with monkeypatch.context() as online:
        online.setattr(download, "hf_hub_download", fetch)
        online.setattr(download, "get_token", lambda: "a token")
        online.setattr(constants, "is_offline_mode", lambda: False)
        found = types.SimpleNamespace(sha=COMMIT, siblings=siblings)
        online.setattr(download.HfApi, "dataset_info", lambda *args, **options: found)
        few = load_dataset("imagenet", n_images=2000)
        assert asked[0] == "classnames.txt" and len(asked) == 3
        load_dataset("imagenet", n_images=2001)
        assert len(set(asked)) == 4 and all(int(name[16:21]) % 2 == 0 for name in set(asked[1:]) - {asked[0]})
        assert set(load_dataset("imagenet", "tune", n_images=1000).groups).isdisjoint(few.groups)
        assert len(set(asked)) == 5 and int(asked[-1][16:21]) % 2 == 1
    again = load_dataset("imagenet", n_images=2000)  # offline, with what has been downloaded
    assert again.groups.tolist() == few.groups.tolist() and again.images[3] == few.images[3]
    assert lacking("imagenet") == ""
    with pytest.raises(ConnectionError, match=r"cannot be had: data/validation-000\d\d-of-00006.parquet: "):
        load_dataset("imagenet", "tune")


def test_class_names_in_a_file_and_indices_of_imagenet(cache, fewer):
    fewer("imagenet-a", 500)
    save_hub(cache, "imagenet-a", n_shards=2)
    data = load_dataset("imagenet-a", n_images=400)
    assert data.classnames[7] == "name 7" and data.prompts["name 7"] == "a photo of a name 7."
    assert np.bincount(data.labels).tolist() == [2] * 200
    labels = [f"label {i}" for i in range(1000)]
    assert data.positions(labels) == data.prompts_for(types.SimpleNamespace(labels=labels)) == list(IMAGENET_A)
    with pytest.raises(ValueError, match="network for imagenet-a must have ImageNet's 1000 labels, got 10"):
        data.positions(labels[:10])


def test_objectnet_has_113_classes_for_a_text_and_125_for_a_network_of_imagenets_classes(cache, fewer):
    fewer("objectnet", 300)
    save_hub(cache, "objectnet")
    data, labels = load_dataset("objectnet"), [f"label {i}" for i in range(1000)]
    text, network = types.SimpleNamespace(labels=None), types.SimpleNamespace(labels=labels)
    assert len(data.prompts_for(text)) == len(data.classnames) == 113 and data.owners(None).tolist() == list(range(113))
    positions, owners = data.prompts_for(network), data.owners(labels).tolist()
    assert len(positions) == len(set(positions)) == 125 and sorted(set(owners)) == list(range(113))
    assert (positions[:3], owners[:3]) == ([409, 530, 414], [0, 0, 1]), (
        "analog and digital clock: alarm clock; backpack"
    )
    assert [shown_label(image) for image in data.images] == data.labels.tolist() and len(data) == 300
    assert (np.bincount(load_dataset("objectnet", n_images=226).labels) == 2).all()
    with pytest.raises(ValueError, match=r"split of 'objectnet' must be one of \['test'\], got 'tune'"):
        load_dataset("objectnet", "tune")


def test_other_content_is_said_clearly(cache):
    save_hub(cache, "stl10", image="picture")
    with pytest.raises(
        ValueError, match=r"'stl10' \(tanganke/stl10\) must have columns image and label, got \['picture'"
    ):
        load_dataset("stl10")
    save_hub(cache, "stl10", labels=[i % 10 for i in range(7999)])
    with pytest.raises(ValueError, match="must hold 8000 images in test, got 7999 in 1 files"):
        load_dataset("stl10")
    save_hub(cache, "stl10", labels=[i % 9 for i in range(8000)])
    with pytest.raises(ValueError, match="must be 0 to 9, each of them at least once, got 0 to 8, 9 different"):
        load_dataset("stl10")
    save_hub(cache, "stl10", names=own_names("stl10")[:9], labels=[0] * 8000)
    with pytest.raises(ValueError, match="must have 10 classes, got 9"):
        load_dataset("stl10")
    put(cache, "uoft-cs/cifar10", {"README.md": b"nothing else"})
    with pytest.raises(
        ConnectionError, match="cifar10, none stated, cannot be had: it must have files .*test-.*, got none"
    ):
        load_dataset("cifar10")


def test_labels_must_be_in_the_order_of_the_prompts(cache):
    names = [name.upper() for name in own_names("flowers")]
    names[26], names[84] = "Prince of Wales' feather", "desert rose"  # spelt in another way
    save_hub(cache, "flowers", names=names)
    assert load_dataset("flowers", n_images=102).classnames[26] == "prince of wales feathers"
    names[3], names[5] = names[5], names[3]
    save_hub(cache, "flowers", names=names)
    with pytest.raises(ValueError, match=r"label 3 of .*flowers102\) must be 'sweet pea' .*got 'TIGER_LILY'"):
        load_dataset("flowers")


def test_what_is_not_here_says_what_to_do(cache, monkeypatch):
    with pytest.raises(
        ConnectionError, match=r"CC-BY-SA-4.0, cannot be had: HF_HUB_OFFLINE is set.*`hf download timm/"
    ):
        load_dataset("pets")
    gated = r"token of a user.*accept the terms at \S+/datasets/ILSVRC/imagenet-1k and log in \(`hf auth login`\)"
    with pytest.raises(ConnectionError, match=gated):
        load_dataset("imagenet")
    assert lacking("pets") == "it is not in the cache" and "accept the terms" in lacking("imagenet")
    save_hub(cache, "flowers", n_shards=3, shards=[0, 2])
    assert lacking("flowers") == "1 of 3 files are not in the cache"
    with pytest.raises(ConnectionError, match="data/test-00001-of-00003.parquet"):
        load_dataset("flowers")
    save_hub(cache, "stl10")
    assert lacking("stl10") == ""
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="needs the package `datasets`"):
        load_dataset("stl10")


def test_the_indices_of_imagenet():
    """Classes that are known by name: stingray, scorpion, corn; backpack, banana, beer bottle, wok; chairs, ties."""
    assert len(IMAGENET_A) == 200 and IMAGENET_A == tuple(sorted(set(IMAGENET_A)))
    assert {6, 71, 987} <= set(IMAGENET_A) and len(OBJECTNET) == 125 and set(OBJECTNET) <= set(range(1000))
    assert (OBJECTNET[414], OBJECTNET[954], OBJECTNET[440], OBJECTNET[909]) == (1, 2, 5, 112)
    members = {owner: [index for index in OBJECTNET if OBJECTNET[index] == owner] for owner in range(113)}
    assert members[17] == [423, 559, 765] and members[94] == [457, 906]
    assert Counter(map(len, members.values())) == {1: 104, 2: 6, 3: 3}
