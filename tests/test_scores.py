"""What the models of an experiment answer is stored in the order of their names, with a card."""

import numpy as np
import pytest

from diffclf.baselines.contrastive import load_contrastive
from diffclf.commands.main import main
from diffclf.datasets.compositional import TAGS, load_examples
from diffclf.mini import scores
from diffclf.mini.crawl import ARMS
from diffclf.mini.sd import OBJECTIVES, SEEDS
from diffclf.models import load_model
from diffclf.paths import data_dir


def test_answers_lie_in_the_order_of_the_names(tmp_path, monkeypatch):
    asked = []

    def answer(folder):
        asked.append(folder.parent.name)
        return {"x": np.full(2, len(asked))}

    monkeypatch.setitem(scores.EXPERIMENTS, "crawl", ((("a", "b"), (1, 2)), answer, lambda: {"labels": np.arange(2)}))
    for name in ("crawl-a-1", "crawl-a-2", "crawl-b-1", "crawl-b-2"):
        (tmp_path / name / "pipeline").mkdir(parents=True)
    found = scores.score_arms("crawl", tmp_path)
    assert asked == ["crawl-a-1", "crawl-a-2", "crawl-b-1", "crawl-b-2"]
    assert found["x"].tolist() == [[[1, 1], [2, 2]], [[3, 3], [4, 4]]] and found["labels"].tolist() == [0, 1]
    scores.score_arms("crawl", tmp_path)
    assert len(asked) == 4  # kept beside the models
    (tmp_path / "crawl-b-2" / "pipeline").rmdir()
    with pytest.raises(
        FileNotFoundError, match=r"no model .*crawl-b-2/pipeline: train it with `diffclf train crawl-b-2`"
    ):
        scores.score_arms("crawl", tmp_path)


def test_answers_of_a_model_are_those_of_the_classifier(tiny_sd_folder, tmp_path, monkeypatch):
    for name, value in {"N_CRAWLED": 3, "N_TEST": 3, "N_TUNE": 2, "N_CRAWL_TRIALS": 4, "N_RELATION_TRIALS": 4}.items():
        monkeypatch.setattr(scores, name, value)
    errors = scores._crawl(tiny_sd_folder)["errors"]
    relation = scores._relation(tiny_sd_folder)
    assert errors.shape == (3, 10) and relation["differences"].shape == (3, 4) and relation["tune"].shape == (2, 4)
    from diffclf import DiffusionClassifier, Exhaustive
    from diffclf.datasets import load_dataset
    from diffclf.datasets.crawl import crawled

    data, _ = crawled(load_dataset("mini-items", "test", 3))
    classifier = DiffusionClassifier(load_model(tiny_sd_folder), data.prompts, pruning=Exhaustive(4))
    np.testing.assert_allclose(-errors, classifier.decision_function(data.images), rtol=1e-5)


def test_command_writes_the_answers_and_their_card(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    rng, n = np.random.default_rng(0), 0
    for objective in OBJECTIVES:
        for seed in SEEDS:
            folder = tmp_path / "runs" / f"relation-{objective}-{seed}"
            (folder / "pipeline").mkdir(parents=True)
            differences = rng.random((4, 2)) * np.where(np.arange(4)[:, None] < n % 5, 1, -1)
            np.savez(folder / "scores.npz", differences=differences, tune=differences[:1])
            n += 1
    monkeypatch.setattr(scores, "N_TEST", 4)
    monkeypatch.setenv("DIFFCLF_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(scores.EXPERIMENTS, "relation", (*scores.EXPERIMENTS["relation"][:2], dict))
    assert main(["score", "relation", "--models", str(tmp_path / "runs")]) == 0
    with np.load(tmp_path / "data" / "scores" / "relation.npz") as file:
        assert file["differences"].shape == (3, 5, 4, 2) and file["differences"].dtype == np.float32
    card = (tmp_path / "data" / "scores" / "README.md").read_text()
    assert "| epsilon | 0.0 | 25.0 | 50.0 | 75.0 | 100.0 |" in card and "| late | 0.0 | 25.0 |" in card


def test_stored_clip_of_the_usual_recipe_is_mini_clip_small():
    with np.load(data_dir() / "scores" / "clip.npz") as file:
        stored = file["similarity"]
    assert stored.shape == (2, 2, len(TAGS), 400, 2, 2) and (np.abs(stored) <= 1 + 1e-6).all()
    assert len({own.tobytes() for by_captions in stored for own in by_captions}) == 4, "of four networks"
    found = load_contrastive("mini-clip-small").similarities(load_examples(n=3)).reshape(len(TAGS), 3, 2, 2)
    np.testing.assert_allclose(stored[1, 0, :, :3], found, atol=1e-4)  # batch size 256, full captions


def test_arms_are_those_of_the_recipes():
    from diffclf.mini.recipes import RECIPES

    names = {
        f"{experiment}-{one}-{two}"
        for experiment, ((first, second), *_) in scores.EXPERIMENTS.items()
        for one in first
        for two in second
    }
    assert names <= RECIPES.keys() and {f"crawl-{arm}-2" for arm in ARMS} <= names
