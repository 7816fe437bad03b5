"""What the card of an embedded model rests on: caption tasks, measurement."""

import json

import numpy as np
import pytest
from tiny import save_tiny_sd

from diffclf.mini.calibrate import calibrate_model
from diffclf.mini.measure import caption_accuracy, measure
from diffclf.mini.tasks import caption_task
from diffclf.mini.world import COLOURS
from diffclf.models import load_model
from diffclf.racing import Racing


def main_colour(part: np.ndarray) -> str:
    """Name the tint whose direction the mean colour of an image part has."""
    mean = part.reshape(-1, 3).mean(axis=0)
    tints = np.array(list(COLOURS.values()), dtype=float)
    cosine = tints @ mean / np.linalg.norm(tints, axis=1) / np.linalg.norm(mean)
    return list(COLOURS)[cosine.argmax()]


def test_first_colour_caption_is_true_and_the_others_are_false():
    task = caption_task("colour", "tune", 30)
    for image, captions in zip(task.images, task.captions, strict=True):
        named = [caption.split()[4] for caption in captions]
        assert named[0] == main_colour(image)
        assert sorted(named) == sorted(COLOURS)
        assert len({" ".join(caption.split()[5:]) for caption in captions}) == 1


@pytest.mark.parametrize("name", ["binding", "relation"])
def test_first_pair_caption_is_true_and_the_second_is_false(name):
    task = caption_task(name, "tune", 40)
    halves = {
        "left": (slice(None), slice(0, 16)),
        "right": (slice(None), slice(16, 32)),
        "above": (slice(0, 16), slice(None)),
        "below": (slice(16, 32), slice(None)),
    }
    for image, (true, false) in zip(task.images, task.captions, strict=True):
        words = true.split()
        side = next(word for word in words if word in halves)
        opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[side]
        first, second = words[1], words[words.index("a", 2) + 1]
        assert main_colour(image[halves[side]]) == first
        assert main_colour(image[halves[opposite]]) == second
        swapped = {first: second, second: first} if name == "binding" else {side: opposite}
        told = false.replace("to the left of", "left").replace("to the right of", "right").split()
        asked = true.replace("to the left of", "left").replace("to the right of", "right").split()
        assert told == [swapped.get(word, word) for word in asked]


def test_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task must be one of"):
        caption_task("shape")


def test_measure_goes_on_where_it_stopped(tmp_path):
    save_tiny_sd(tmp_path / "model")
    model = load_model(tmp_path / "model")
    path = tmp_path / "measures.json"
    first = measure(model, path, n_images=2, n_exhaustive=0)
    assert first["item"]["n"] == 2 and "coloured item, exhaustive" not in first
    kept = json.loads(path.read_text())
    kept["item"]["accuracy"] = 0.123
    path.write_text(json.dumps(kept))
    assert measure(model, path, n_images=2, n_exhaustive=0)["item"]["accuracy"] == 0.123  # not measured again
    path.write_text(json.dumps(kept | {"fingerprint": "another model"}))
    assert measure(model, path, n_images=2, n_exhaustive=0) == first  # measured again, with the same result


def test_caption_accuracy_of_an_untrained_model_is_chance(tmp_path):
    save_tiny_sd(tmp_path / "model")
    result = caption_accuracy(load_model(tmp_path / "model"), "binding", 40, split="tune")
    assert result["n"] == 40 and result["low"] < 0.5 < result["high"]


def test_calibration_is_chosen_on_tune_and_reported_on_test(tmp_path):
    save_tiny_sd(tmp_path / "model")
    model, race = load_model(tmp_path / "model"), Racing(trials=9)
    stored = calibrate_model(model, tmp_path / "bank", n_tune=299, n_test=20, race=race)
    assert stored["fingerprint"] == model.fingerprint and stored["trials"] == 9
    tune, test = stored["tune"], stored["test"]
    assert (tune["n_images"], tune["n_dropped"], test["n_images"]) == (299, 0, 20) and tune["bound"] <= 0.01
    assert 80 <= test["n_evaluations"] <= 90 and 0 <= test["n_dropped"] <= 20
    assert calibrate_model(model, tmp_path / "bank", n_tune=299, n_test=20, race=race) == stored
