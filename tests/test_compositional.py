"""Examples of two images and two captions: each caption describes its image, and no two describe one scene."""

import json
import re
from zipfile import ZipFile

import numpy as np
import pytest
from hub_cache import put
from huggingface_hub import constants
from PIL import Image

from diffclf.datasets import download
from diffclf.datasets.compositional import REVISION, TAGS, WINOGROUND, load_examples
from diffclf.datasets.photos import load_photos
from diffclf.datasets.world import COLOURS, HELD_OUT, ITEMS, LAYOUTS, make_scenes, render

PAIR = re.compile(r"a (\w+) ([\w-]+) (to the left of|to the right of|above|below) a (\w+) ([\w-]+)")
PLACES = {
    "to the left of": ("left", "right"),
    "to the right of": ("right", "left"),
    "above": ("above", "below"),
    "below": ("below", "above"),
}
N = 60


@pytest.fixture(scope="module")
def examples():
    return load_examples(n=N)


def scene_of(caption):
    """Return the set of (colour, item, place) that a caption states."""
    first_colour, first_item, relation, second_colour, second_item = PAIR.fullmatch(caption).groups()
    here, there = PLACES[relation]
    return {(first_colour, first_item, here), (second_colour, second_item, there)}


def of_tag(examples, tag):
    return np.flatnonzero(examples.tags == tag)


def test_an_example_of_each_tag_by_hand():
    examples = load_examples(n=1)
    found = dict(zip(examples.tags.tolist(), examples.captions, strict=True))
    true = found["object"][0]
    assert {first for first, _ in found.values()} == {true}
    one, item, relation, other, second = PAIR.fullmatch(true).groups()
    back = {"above": "below", "below": "above"}
    back |= {"to the left of": "to the right of", "to the right of": "to the left of"}
    assert found["object"][1] == f"a {one} {second} {relation} a {other} {item}"
    assert found["colour"][1] == f"a {other} {item} {relation} a {one} {second}"
    assert found["position"][1] == f"a {one} {item} {back[relation]} a {other} {second}"
    assert found["both"][1] == f"a {one} {second} {back[relation]} a {other} {item}"


def test_no_two_captions_describe_the_same_scene(examples):
    for first, second in examples.captions:
        assert scene_of(first) != scene_of(second)
        if "left" in first or "right" in first:
            assert sorted(re.findall(r"[\w-]+", first.replace("left", "right"))) == sorted(
                re.findall(r"[\w-]+", second.replace("left", "right"))
            ), "the same words, but for the direction"


def test_each_caption_describes_its_image(examples):
    """An image has the two photographs of image 0, in the colours and at the places that its caption states."""
    photos, labels = load_photos("test")
    base = load_base()
    for place in range(len(examples)):
        scene = base[place % N]
        by_item = dict(zip((ITEMS[i] for i in scene["item"]), scene["photo"], strict=True))
        for which in (0, 1):
            stated = sorted(scene_of(examples.captions[place][which]))
            photo = np.array([[by_item[item] for _, item, _ in stated]])
            colour = np.array([[list(COLOURS).index(colour) for colour, _, _ in stated]])
            expected = render(make_scenes(photo, labels, colour, np.array([LAYOUTS.index(stated[0][2])])), photos)[0]
            np.testing.assert_array_equal(examples.images[examples.pair[place, which]], expected)


def load_base():
    from diffclf.datasets.compositional import _sample

    return _sample(load_photos("test")[1], N, 0)


def test_tags_share_their_images(examples):
    assert {tag: len(of_tag(examples, tag)) for tag in TAGS} == dict.fromkeys(TAGS, N)
    pairs = {tag: examples.pair[of_tag(examples, tag)] for tag in TAGS}
    for tag in TAGS:
        np.testing.assert_array_equal(pairs[tag][:, 0], pairs["object"][:, 0])
    np.testing.assert_array_equal(pairs["colour"], pairs["both"])
    for one, other in (("object", "colour"), ("object", "position"), ("colour", "position")):
        different = [
            (examples.images[i] != examples.images[j]).any()
            for i, j in zip(pairs[one][:, 1], pairs[other][:, 1], strict=True)
        ]
        assert all(different), (one, other)
    assert len(examples.images) == 4 * N and len(set(examples.groups[:N].tolist())) == N


def test_no_combination_is_held_out_and_both_axes_occur(examples):
    stated = [scene_of(caption) for captions in examples.captions for caption in captions]
    assert not {(colour, item) for scene in stated for colour, item, _ in scene} & set(HELD_OUT)
    places = [place for scene in stated for _, _, place in scene]
    assert 0.3 < places.count("left") / len(places) * 2 < 0.7
    assert places.count("left") == places.count("right") and places.count("above") == places.count("below")


def test_smaller_sets_are_beginnings_and_splits_never_meet(examples):
    few = load_examples(n=7)
    for tag in TAGS:
        a, b = of_tag(few, tag), of_tag(examples, tag)[:7]
        assert [few.captions[i] for i in a] == [examples.captions[i] for i in b]
        for i, j in zip(few.pair[a].ravel(), examples.pair[b].ravel(), strict=True):
            np.testing.assert_array_equal(few.images[i], examples.images[j])
    many = load_examples(n=1200)  # of two blocks
    assert many.captions[:N] == examples.captions[:N] and len(many) == 4800
    assert load_examples(n=7, seed=1).captions != few.captions
    own = {image.tobytes() for image in examples.images}
    assert not own & {image.tobytes() for image in load_examples(split="tune", n=N).images}


def test_wrong_requests(tmp_path):
    with pytest.raises(ValueError, match="examples must be .*, got 'mini-items'"):
        load_examples("mini-items")
    with pytest.raises(ValueError, match=r"n_images must lie in 1..2000, got 0"):
        load_examples(n=0)
    with pytest.raises(ValueError, match="split must be one of"):
        load_examples(split="all")
    with pytest.raises(ValueError, match=r"got no examples.jsonl"):
        load_examples(str(tmp_path))
    with pytest.raises(ValueError, match="must be 'test', got 'tune'"):
        load_examples("facebook/winoground", split="tune")


def save_winoground(folder, n=3, missing=""):
    """Save Winoground's two files with pictures of one colour; the tags take turns."""
    (folder / "data").mkdir(parents=True)
    tags = ("Object", "Relation", "Both")
    with ZipFile(folder / "data" / "images.zip", "w") as archive:
        for number in range(n):
            for which in (0, 1):
                stem = f"ex_{number}_img_{which}"
                if stem != missing:
                    with archive.open(f"images/{stem}.png", "w") as file:
                        Image.new("RGB", (20 + number, 24), (40 * number, 200 * which, 7)).save(file, "PNG")
    rows = [
        {"id": number, "image_0": f"ex_{number}_img_0", "image_1": f"ex_{number}_img_1", "tag": "Adjective-Age"}
        | {"caption_0": f"a red bag left of boot {number}", "caption_1": f"a boot left of red bag {number}"}
        | {"secondary_tag": "", "num_main_preds": 1, "collapsed_tag": tags[number % 3]}
        for number in range(n)
    ]
    (folder / "data" / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def test_winoground_is_read_from_its_two_files(tmp_path):
    folder = save_winoground(tmp_path / "winoground")
    examples = load_examples(str(folder))
    assert examples.tags.tolist() == ["object", "relation", "both"]
    assert examples.captions[2] == ("a red bag left of boot 2", "a boot left of red bag 2")
    assert examples.pair.tolist() == [[0, 1], [2, 3], [4, 5]] and examples.groups.tolist() == [0, 1, 2]
    assert examples.images[3].size == (21, 24) and examples.images[3].getpixel((0, 0)) == (40, 200, 7)
    assert len(load_examples(str(folder), n=2)) == 2 and len(load_examples(str(folder), n=2).images) == 4
    with pytest.raises(ValueError, match="n_images must lie in 1..3, got 4"):
        load_examples(str(folder), n=4)


def test_an_image_that_is_missing_is_named(tmp_path):
    folder = save_winoground(tmp_path / "winoground", missing="ex_1_img_0")
    with pytest.raises(ValueError, match=r"images.zip must have the images of all examples, got none named ex_1_img_0"):
        load_examples(str(folder))


def test_winoground_is_read_from_the_cache_at_one_revision(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(download, "get_token", lambda: None)
    with pytest.raises(ConnectionError, match=r"winoground, research only, cannot be had: its terms must be accepted"):
        load_examples(WINOGROUND)
    place = save_winoground(tmp_path / "winoground")
    files = {name: (place / name).read_bytes() for name in ("data/examples.jsonl", "data/images.zip")}
    put(tmp_path / "hub", WINOGROUND, files, REVISION)
    examples = load_examples(WINOGROUND, n=1)
    assert examples.name == WINOGROUND and examples.images[1].size == (20, 24)
    put(tmp_path / "other", WINOGROUND, {"README.md": b""}, REVISION)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    with pytest.raises(ConnectionError, match=f"data/examples.jsonl: .*accept the terms .* --revision {REVISION}"):
        load_examples(WINOGROUND)
