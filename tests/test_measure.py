"""What the card of an embedded model rests on: measurement and calibration."""

import json

from diffclf.datasets import load_dataset
from diffclf.mini.calibrate import calibrate_model
from diffclf.mini.measure import measure
from diffclf.pruning import Racing
from diffclf.search import ErrorSource, compute_errors
from diffclf.trials import TrialList, uniform


def test_measuring_goes_on_where_it_stopped_and_the_lowest_error_is_right(tmp_path, tiny_sd):
    path = tmp_path / "measures.json"
    first = measure(tiny_sd, path, n_images=4, n_exhaustive=0)
    assert {"reconstruction", "item", "colour", "binding", "relation", "coloured item, staged"} < set(first)
    assert first["item"]["n"] == 4 and "coloured item, exhaustive" not in first
    data = load_dataset("mini-relation", n_images=4)
    errors = compute_errors(ErrorSource(tiny_sd, data.captions, TrialList(uniform(100)), losses=("l2",)), data.images)
    hits = errors[:, 0].mean(axis=1) < errors[:, 1].mean(axis=1)
    relation = first["relation"]
    assert relation["accuracy"] == hits.mean()
    assert sum(relation[axis]["n"] for axis in ("left/right", "above/below") if axis in relation) == 4
    kept = json.loads(path.read_text())
    kept["item"]["accuracy"] = 0.123
    path.write_text(json.dumps(kept))
    assert measure(tiny_sd, path, n_images=4, n_exhaustive=0)["item"]["accuracy"] == 0.123  # not measured again
    path.write_text(json.dumps(kept | {"fingerprint": "another model"}))
    assert measure(tiny_sd, path, n_images=4, n_exhaustive=0) == first  # measured again, with the same result


def test_calibration_is_chosen_on_tune_and_reported_on_test(tmp_path, tiny_sd):
    race, sizes = Racing(trials=9), {"n_tune": 299, "n_test": 20}
    stored = calibrate_model(tiny_sd, tmp_path, **sizes, race=race)
    assert stored["fingerprint"] == tiny_sd.fingerprint and stored["trials"] == 9
    tune, test = stored["tune"], stored["test"]
    assert (tune["n_images"], tune["n_dropped"], test["n_images"]) == (299, 0, 20) and tune["bound"] <= 0.01
    assert 80 <= test["n_evaluations"] <= 90 and 0 <= test["n_dropped"] <= 20
    assert calibrate_model(tiny_sd, tmp_path, **sizes, race=race) == stored
    json.dumps(stored)
