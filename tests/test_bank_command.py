"""`diffclf bank`: what is in banks, merged to the union of their errors, and every damage found."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from test_bank import EIGHT, IMAGES
from test_cli import fails, run
from test_search import pixels_of

from diffclf.bank import ErrorBank, write_entry
from diffclf.search import ErrorSource
from diffclf.trials import image_key

KEYS = [image_key(pixels) for pixels in pixels_of(IMAGES, 1)]


@pytest.fixture
def make(gaussian, tmp_path):
    """Open a bank of the Gaussian model in a folder of banks: 2 prompts, 8 trials, one loss."""
    return lambda folder, **more: ErrorBank(tmp_path / folder, gaussian, [0, 1], EIGHT, **{"losses": ("l2",), **more})


def test_show_says_what_is_in_a_bank(capsys, make, gaussian, tmp_path):
    bank, other = make("banks"), make("banks", seed=3, losses=("l2", "l1"))
    bank.errors(IMAGES)
    captions = ErrorBank(tmp_path / "banks", gaussian, [[0, 1], [1, 0], [0, 1], [1, 0]], EIGHT)
    captions.errors(IMAGES)
    status, text, _ = run(capsys, "bank", "show", tmp_path / "banks", "--json")
    found = {row["bank"]: row for row in json.loads(text)}
    assert status == 0 and found.keys() == {bank.path.name, other.path.name, captions.path.name}
    row = found[bank.path.name]
    assert row.items() >= {"weights": gaussian.fingerprint, "prompts": 2, "trials": 8, "seed": 0, "images": 4}.items()
    assert row["MB"] == round(4 * (16 + 2 * 8 * 4) / 1e6, 3) and f"numpy {np.__version__}" in row["versions"]
    assert (found[other.path.name]["losses"], found[other.path.name]["images"]) == ("l2 l1", 0)
    assert (found[captions.path.name]["prompts"], found[captions.path.name]["images"]) == ("own", 4)
    text = run(capsys, "bank", "show", bank.path)[1]
    assert len(text.splitlines()) == 2 and bank.path.name in text


def test_verify_finds_every_damage(capsys, make, gaussian, tmp_path, monkeypatch):
    bank, captions = make("banks"), ErrorBank(tmp_path / "banks", gaussian, [[0, 1]] * 4, EIGHT)
    bank.errors(IMAGES)
    captions.errors(IMAGES)
    verify = partial(run, capsys, "bank", "verify", tmp_path / "banks")
    assert verify()[:2] == (0, "8 entries read, 0 damaged\n")
    for path in [*sorted(bank.path.glob("*.errors")), *captions.path.glob("*.errors")]:
        whole = path.read_bytes()
        for content in (b"", whole[:-1], whole[:-4], whole + b"\0" * 4, whole[:20] + b"x" + whole[21:]):
            path.write_bytes(content)
            status, text, _ = verify()
            assert status == 1 and f"{path} is damaged" in text and text.endswith("8 entries read, 1 damaged\n")
        path.write_bytes(whole)
    monkeypatch.chdir(bank.path)
    assert run(capsys, "bank", "verify", ".")[:2] == (0, "4 entries read, 0 damaged\n")
    description = (bank.path / "bank.json").read_text()
    for content in ("", "[]", "{}", description.replace('"seed": 0', '"seed": 1')):
        (bank.path / "bank.json").write_text(content)
        status, text, _ = verify()
        assert status == 1 and "bank.json" in text and "4 entries read, 1 damaged" in text


def test_merge_makes_the_union(capsys, make, tmp_path):
    """Image 0 is in both with other prompts, 1 in the first, 2 in the second, 3 in both with other numbers."""
    first, second, unknown = make("first"), make("second"), np.full((2, 8, 1), np.nan, dtype=np.float32)
    for bank, number, numbers in [(first, 1, (0, 1, 3)), (second, 2, (0, 2, 3))]:
        for image in numbers:
            errors = unknown.copy()
            errors[slice(None) if image == 3 else number - 1 if image == 0 else 0] = number
            bank.save(KEYS[image], [0, 1], errors)
    make("second", seed=1).errors(IMAGES)
    status, text, _ = run(capsys, "bank", "merge", tmp_path / "first", tmp_path / "second")
    assert (status, text) == (0, "2 banks: entries 5 new, 1 completed, 1 unchanged, 0 damaged\n")
    merged = np.stack([first.load(key, [0, 1])[:, 0, 0] for key in KEYS])
    np.testing.assert_array_equal(merged, [[1, 2], [1, np.nan], [2, np.nan], [1, 1]])
    assert run(capsys, "bank", "merge", tmp_path / "first", tmp_path / "second")[1].startswith(
        "2 banks: entries 0 new, 0 completed, 7 unchanged"
    )
    again = make("first", seed=1)
    again.errors(IMAGES)
    assert again.n_evaluations == 0 and run(capsys, "bank", "verify", tmp_path / "first")[0] == 0


def test_merge_into_a_new_folder_leaves_out_what_is_damaged(capsys, make, tmp_path):
    bank = make("first")
    errors = bank.errors(IMAGES)
    (bank.path / f"{KEYS[0]:016x}.errors").write_bytes(b"x" * 80)
    (bank.path / "other.errors").write_bytes(b"x")
    status, text, _ = run(capsys, "bank", "merge", tmp_path / "new", bank.path)
    assert (status, text) == (1, "1 bank: entries 3 new, 0 completed, 0 unchanged, 1 damaged\n")
    new = make("new")
    np.testing.assert_allclose(new.errors(IMAGES), errors, rtol=1e-5)
    assert new.n_evaluations == 16
    damaged = new.path / f"{KEYS[1]:016x}.errors"
    damaged.write_bytes(b"")
    assert run(capsys, "bank", "merge", tmp_path / "new", bank.path)[0] == 1
    np.testing.assert_array_equal(new.load(KEYS[1], [0, 1]), bank.load(KEYS[1], [0, 1]))


def test_merge_refuses_before_it_writes(capsys, make, tmp_path):
    first, second = make("first"), make("second", seed=1)
    first.errors(IMAGES)
    second.errors(IMAGES)
    renamed = tmp_path / "third" / first.path.name
    shutil.copytree(second.path, renamed)
    message = fails(capsys, "bank", "merge", tmp_path / "first", tmp_path / "second", tmp_path / "third")
    assert f"bank.json must describe bank {first.path.name}, got that of {second.path.name}" in message
    assert [path.name for path in (tmp_path / "first").iterdir()] == [first.path.name]
    assert "must not be merged into itself" in fails(capsys, "bank", "merge", tmp_path / "first", first.path)


def test_bad_folders_are_named(capsys, make, tmp_path):
    for action in ("show", "verify"):
        assert "got no bank.json in it" in fails(capsys, "bank", action, tmp_path)
        assert "got no such folder" in fails(capsys, "bank", action, tmp_path / "missing")
        assert "got a file" in fails(capsys, "bank", action, __file__)
        assert "arguments are required: PATH (see" in fails(capsys, "bank", action)
    assert "got no bank.json in it" in fails(capsys, "bank", "merge", tmp_path / "new", tmp_path)
    make("results/bank")
    message = fails(capsys, "bank", "show", tmp_path / "results")
    assert f"no bank.json in it; did you mean {tmp_path / 'results' / 'bank'}?" in message
    assert "merge needs the folders" in fails(capsys, "bank", "merge", tmp_path)
    assert "show and verify take PATH alone" in fails(capsys, "bank", "show", tmp_path, tmp_path)


def test_an_entry_of_another_size_is_computed_anew(make):
    bank = make("banks")
    expected = bank.errors(IMAGES[:1])
    wide = ErrorSource.load(make("banks", losses=("l2", "l1")), KEYS[0], [0, 1])
    write_entry(bank.path / f"{KEYS[0]:016x}.errors", wide)
    with pytest.warns(UserWarning, match="is damaged"):
        np.testing.assert_allclose(make("banks").errors(IMAGES[:1]), expected, rtol=1e-5)
