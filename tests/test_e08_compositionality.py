"""Notebook 08: Winoground's scores by hand, errors equal to the plain loop, the table's rows, the figures."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from diffclf.bank import ErrorBank
from diffclf.datasets.compositional import MINI, TAGS, Examples, load_examples
from diffclf.experiments import e08_compositionality as e08
from diffclf.images import load_images, to_pixels
from diffclf.stats import Estimate, holm, mean, paired_difference
from diffclf.trials import TrialList, Trials, image_key, uniform
from diffclf.workbook.plots import nb08
from diffclf.workbook.plots.style import PALETTE, PAPER

PAPER_POINTS = {
    "Random chance": {"object": 25.0, "relation": 25.0, "both": 25.0, "average": 25.0},
    e08.OURS: {"object": 46.1, "relation": 29.2, "both": 80.8, "average": 38.5},
    "CLIP": {"object": 27.0, "relation": 25.8, "both": 57.7, "average": 28.2},
}


def made(tags, groups=None):
    """Return examples without pictures."""
    n = len(tags)
    groups = np.arange(n) if groups is None else np.asarray(groups)
    captions = [(f"first {i}", f"second {i}") for i in range(n)]
    return Examples("made", np.array(tags), [], np.zeros((n, 2), dtype=int), captions, groups)


def winoground(n=12):
    """Return examples whose tags are those of the miniature world in turn; each scene has one of each tag."""
    return made([tag for tag in TAGS for _ in range(n)], np.tile(np.arange(n), len(TAGS)))


def test_scores_by_hand():
    #           c0 c1    c0 c1
    scores = [
        [[3, 1], [0, 2]],  # both right
        [[3, 1], [4, 5]],  # text right; caption 0 finds image 1
        [[3, 4], [0, 5]],  # image right; image 0 finds caption 1
        [[1, 2], [2, 1]],  # neither
        [[1, 1], [0, 2]],  # image 0 likes both: no text score
        [[2, 1], [2, 3]],
    ]  # caption 0 likes both: no image score
    assert e08.text_right(scores).tolist() == [True, True, False, False, False, True]
    assert e08.image_right(scores).tolist() == [True, False, True, False, True, False]
    np.testing.assert_array_equal(e08.text_right(np.array(scores).reshape(2, 3, 2, 2)).ravel(), e08.text_right(scores))
    prefers = np.array([[9, 1], [8, 2]])
    assert not e08.text_right(prefers), "a model with a favourite caption is right on one image only"


def test_guesses_have_the_scores_of_chance():
    scores = np.random.default_rng(0).normal(size=(40_000, 2, 2))
    text, image = e08.text_right(scores), e08.image_right(scores)
    for right, name in ((text, "text"), (image, "image"), (text & image, "group")):
        share = e08.CHANCE[name] / 100
        assert abs(right.mean() - share) < 5 * (share * (1 - share) / len(scores)) ** 0.5, name


def test_the_unconditional_error_changes_the_image_score_alone():
    errors = np.random.default_rng(0).random((200, 2, 2, 3)).astype(np.float32)
    empty = np.random.default_rng(1).random((200, 2, 3)).astype(np.float32)
    found = e08.without_unconditional(errors, empty)
    plain = -errors.mean(axis=3, dtype=np.float64)
    np.testing.assert_allclose(found[:, 1, 0], empty[:, 1].mean(axis=1) - errors[:, 1, 0].mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(e08.text_right(found), e08.text_right(plain))
    assert (e08.image_right(found) != e08.image_right(plain)).any()
    # The whole difference of two images is taken away.
    harder = errors + np.array([0.0, 7.0])[None, :, None, None]
    again = e08.without_unconditional(harder, empty + np.array([0.0, 7.0])[None, :, None])
    np.testing.assert_allclose(again, found, atol=1e-5)


@pytest.fixture
def bank(tmp_path):
    def open_bank(model, prompts, trials, **options):
        return ErrorBank(tmp_path / "bank", model, prompts, trials, **{"seed": 3, **options})

    return open_bank


def test_errors_are_those_of_the_plain_loop_and_as_many_as_said(tiny_sd, bank, monkeypatch):
    counted, denoise = [0], tiny_sd.denoise

    def count(x_t, t, cond):
        counted[0] += len(x_t)
        return denoise(x_t, t, cond)

    monkeypatch.setattr(tiny_sd, "denoise", count)
    examples = load_examples(n=2)
    errors, empty = e08.denoiser_errors(bank, tiny_sd, examples, 3)
    assert errors.shape == (8, 2, 2, 3) and empty.shape == (8, 2, 3)
    settings = {"dataset": MINI, "n_images": 2, "n_trials": 3, "n_checked": 0}
    assert counted[0] == e08.evaluations(settings) == 2 * 16 * 3
    schedule, trials = tiny_sd.schedule, TrialList(uniform(3, len(tiny_sd.schedule)))
    for place in (0, 3, 5, 7):
        for which in (0, 1):
            pixels = to_pixels(load_images([examples.images[examples.pair[place, which]]])[0], tiny_sd.image_size)
            x0 = tiny_sd.encode_images(pixels[None]).float()
            own = Trials(trials, 3, image_key(pixels), tiny_sd.latent_shape)
            for trial in range(3):
                eps, t = own.noise(np.array([trial])), torch.as_tensor(own.timesteps[[trial]])
                x_t = schedule.add_noise(x0, eps, t)
                for column, prompt in enumerate([*examples.captions[place], ""]):
                    with torch.inference_mode():
                        output = denoise(x_t, t, tiny_sd.encode_prompts([prompt])).float()
                    expected = float((schedule.predict_eps(output, x_t, t) - eps).square().mean())
                    found = empty[place, which, trial] if column == 2 else errors[place, which, column, trial]
                    assert found == pytest.approx(expected, rel=1e-4)


def test_evaluations_of_winoground_and_of_the_check():
    settings = {"dataset": "a folder", "n_images": 5, "n_trials": 7, "n_checked": 3}
    assert e08.evaluations(settings) == 5 * 6 * 7 + 3 * 2 * 2 * 40


def test_points_of_tags_are_proportions():
    examples = winoground()
    right = np.zeros(48, dtype=bool)
    right[[0, 1, 2, 12, 24, 25]] = True
    points = e08.tag_points(examples, right)
    assert list(points) == [*TAGS, "average"]
    assert [points[tag].value for tag in TAGS] == pytest.approx([25, 100 / 12, 200 / 12, 0])
    interval = binomtest(3, 12).proportion_ci(0.95, "wilson")
    assert tuple(points["object"])[1:] == pytest.approx((100 * interval.low, 100 * interval.high))
    assert points["average"] == 100 * mean(right, groups=examples.groups)


def test_rows_of_table_3_have_both_numbers():
    examples = winoground()
    points = {e08.OURS: e08.tag_points(examples, np.ones(48, dtype=bool))}
    ours, chance, theirs, _ = e08.text_rows(points, PAPER_POINTS)
    assert ours["model"] == theirs["model"] == e08.OURS and ours["source"] == "this run"
    assert ours.keys() == theirs.keys() and ours["relation (b): position"].value == 100
    assert (theirs["relation (a): colour"], theirs["relation (b): position"], theirs["average"]) == (29.2, 29.2, 38.5)
    assert chance["both"] == 25
    table = {"columns": ["object", "both"], "rows": {"x": [1, 2]}}
    assert e08.paper_points(table) == {"x": {"object": 1, "both": 2}}
    own = e08.tag_points(made(["object"] * 8 + ["relation"] * 8), np.ones(16, dtype=bool))
    assert e08.text_rows({e08.OURS: own}, PAPER_POINTS)[2]["relation"] == 29.2


def test_mcnemar_by_tag_with_holm():
    examples = winoground()
    ours, other = np.zeros(48, dtype=bool), np.zeros(48, dtype=bool)
    ours[:10], other[0] = True, True  # object: nine only ours
    other[12:15] = True  # colour: three only theirs
    rows = e08.mcnemar_rows(examples, {e08.OURS: ours, "CLIP": other})
    assert [row["tag"] for row in rows] == ["object", "relation (a): colour", "relation (b): position", "both"]
    assert [(row["only ours"], row["only theirs"]) for row in rows] == [(9, 0), (0, 3), (0, 0), (0, 0)]
    assert [row["p"] for row in rows] == pytest.approx([2 / 2**9, 2 / 2**3, 1, 1])
    assert [row["p, Holm"] for row in rows] == pytest.approx(holm([row["p"] for row in rows]).tolist())
    assert [row["ours minus theirs"].value for row in rows] == pytest.approx([75, -25, 0, 0])


def test_relation_minus_object_is_paired_where_scenes_are_shared():
    examples = winoground(40)
    right = np.zeros(160, dtype=bool)
    right[:30], right[40:70], right[80:90], right[120:] = True, True, True, True
    found = e08.relation_minus_object(examples, right, 0.99)
    assert found.value == pytest.approx(100 * (40 / 80 - 30 / 40)) and found.level == 0.99 and found.n == 40
    by_scene = (right[40:80].astype(float) + right[80:120]) / 2
    paired = 100 * paired_difference(by_scene, right[:40].astype(float), level=0.99)
    assert tuple(found) == pytest.approx(tuple(paired))
    alone = e08.relation_minus_object(made(["object"] * 10 + ["relation"] * 20 + ["both"] * 5), np.arange(35) < 15)
    assert alone.value == pytest.approx(25 - 100) and alone.n == 30


def test_answers_are_a_row_per_image():
    scores = {e08.OURS: np.array([[[2, 1], [0, 1]], [[1, 2], [1, 0]]]), "CLIP": np.array([[[1, 2], [0, 1]]] * 2)}
    table = e08.answer_table(made(["object", "both"], [5, 9]), scores)
    assert list(table.columns) == ["task", "method", "image", "group", "label", "predicted"] and len(table) == 8
    own = table[(table["method"] == e08.OURS) & (table["task"] == "both")]
    assert own["label"].tolist() == [0, 1] and own["predicted"].tolist() == [1, 0] and set(own["group"]) == {9}


def test_pictures_of_winoground_are_not_shown():
    mini = load_examples(n=2)
    scores = {e08.OURS: np.tile([[1.0, 0.5], [0.25, 0.0]], (8, 1, 1))}
    shown = e08.shown_examples(mini, scores)
    assert [each["tag"] for each in shown] == list(TAGS)
    assert shown[0]["margins"] == {e08.OURS: [0.5, -0.25]}
    np.testing.assert_array_equal(shown[2]["pictures"][1], mini.images[mini.pair[4, 1]])
    other = Examples("facebook/winoground", mini.tags, mini.images, mini.pair, mini.captions, mini.groups)
    hidden = e08.shown_examples(other, scores)
    assert all(each["pictures"] == [] for each in hidden) and hidden[0]["captions"] == mini.captions[0]


def test_the_reading_follows_the_numbers():
    def point(value):
        return Estimate(value, value - 5, value + 5)

    ours = {"object": point(90), "position": point(30), "average": point(60)}
    clip = {"object": point(92), "position": point(80), "average": point(86)}
    weak, against = e08.reading({e08.OURS: ours, "CLIP": clip}, PAPER_POINTS)
    assert weak.startswith(f"{e08.OURS}: weakest at relation (b): position, 30.0")
    assert "26.0 points below CLIP (paper: 10.3 above)" in against
    assert "above at no tag, below at relation (b): position." in against
    _, turned = e08.reading({e08.OURS: clip, "CLIP": ours}, PAPER_POINTS)
    assert "26.0 points above CLIP" in turned and "above at relation (b): position, below at no tag." in turned


def test_example_rows_with_and_without_pictures():
    example = {"tag": "position", "pictures": [np.zeros((4, 4, 3), np.uint8)] * 2, "captions": ("a b", "b a")}
    example |= {"margins": {"DC": [0.5, -0.25], "CLIP": [0.0, 1.0]}}
    fig = nb08.example_rows([example], e08.COLUMNS)
    *pictures, words = fig.axes
    assert len(pictures) == 2 and all(len(ax.images) == 1 for ax in pictures)
    said = [text.get_text() for text in words.texts]
    assert said == ["caption 0: a b\ncaption 1: b a", "DC: ✓ +0.5,  ✗ −0.25", "CLIP: ✗ +0,  ✓ +1"]
    alt = nb08.example_rows_alt([example], e08.COLUMNS)
    assert "relation (b): position: “a b” and “b a”. DC: image 0 right, image 1 wrong; CLIP: image 0 wrong" in alt
    bare = nb08.example_rows([example | {"pictures": []}], e08.COLUMNS)
    assert len(bare.axes) == 1 and not bare.axes[0].images
    fig.draw_without_rendering()


def test_the_papers_relation_is_drawn_between_both_kinds():
    run = {e08.OURS: {tag: Estimate(50, 40, 60) for tag in (*TAGS, "average")}}
    (ax,) = nb08.tag_points(run, PAPER_POINTS, e08.PAPER_TAGS, e08.COLUMNS).axes
    paper = next(line for line in ax.lines if line.get_color() == PAPER)
    assert paper.get_xdata().tolist() == [0, 1.5, 3, 4] and paper.get_ydata().tolist() == [46.1, 29.2, 80.8, 38.5]
    ours = next(line for line in ax.lines if line.get_color() == PALETTE[0] and line.get_marker() == "o")
    assert ours.get_ydata().tolist() == [50] * 5
    said = nb08.tag_points_alt(run, PAPER_POINTS, e08.COLUMNS)
    assert "relation (a): colour 50.0 [40.0, 60.0]" in said and "relation 29.2" in said and "Random" not in said


def test_stored_clips_are_compared_on_the_examples_they_share(tmp_path, monkeypatch):
    right = np.zeros((2, 2, 4, 10), dtype=bool)
    right[0, 1, 2, :3] = True  # batch size 16, short captions, position
    right[1, 0] = True
    (tmp_path / "scores").mkdir()
    similarity = np.where(right[..., None, None], np.eye(2), 1 - np.eye(2)).astype(np.float32)
    np.savez(tmp_path / "scores" / "clip.npz", similarity=similarity)
    monkeypatch.setattr(e08, "data_dir", lambda: tmp_path)

    seen, rights = e08.clip_rights(load_examples(n=8), np.arange(32) < 16)  # ours: object and colour
    assert len(seen) == 32 and [own.sum() for own in rights.values()] == [16, 0, 3, 32, 0]
    ours, *rows = e08.clip_rows(seen, rights)
    assert ours["model"] == e08.OURS and ours["object"].value == 100 and ours["average"].value == 50
    names = [f"CLIP, batch size {size}, {kind} captions" for size in (16, 256) for kind in ("full", "short")]
    assert [row["model"] for row in rows] == names
    assert [row["relation (b): position"].value for row in rows] == pytest.approx([0, 37.5, 100, 0])
    interval = binomtest(3, 8).proportion_ci(0.95, "wilson")
    assert tuple(rows[1]["relation (b): position"])[1:] == pytest.approx((100 * interval.low, 100 * interval.high))
    gaps = [row["ours minus theirs"] for row in rows]
    assert [gap.value for gap in gaps] == pytest.approx([50, 50 - 300 / 32, -50, 50])
    assert gaps[1] == 100 * paired_difference(rights[e08.OURS], rights[names[1]], seen.groups)
    by_size, by_captions = e08.clip_reading(seen, rights)
    assert "batch size 256 minus 16: 100.0 [" in by_size and ", -9.4 [" in by_size.replace("−", "-")
    assert "full minus short captions: -9.4 [" in by_captions.replace("−", "-") and ", 100.0 [" in by_captions

    more, rights = e08.clip_rights(load_examples(n=12), np.arange(48) % 12 >= 10)
    assert len(more) == 40 and not rights[e08.OURS].any(), "no more examples than are stored, the first of each tag"
    others, rights = e08.clip_rights(made(["object"] * 30), np.ones(30, dtype=bool))
    assert len(others) == 28 and list(rights) == names, "other examples than those of the miniature world"
    assert all("ours minus theirs" not in row for row in e08.clip_rows(others, rights))
