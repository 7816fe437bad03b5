"""A diffusion classifier among networks trained to classify: accuracy, cost, shared errors, on made-up answers."""

import numpy as np
import pytest
import torch

from diffclf import Exhaustive, Racing
from diffclf.baselines.supervised import load_supervised
from diffclf.datasets import load_dataset
from diffclf.experiments.e09_supervised import (
    Member,
    accuracy_rows,
    confusion,
    confusion_rows,
    cost_rows,
    dit_member,
    evaluations,
    kappa_by_kind,
    kappas,
    majority,
    multiply_adds,
    network_member,
    overlap_rows,
    paper_accuracies,
    roles,
    strategy,
)
from diffclf.experiments.field import Field, network_field, whole_field
from diffclf.experiments.sweep import Outcome
from diffclf.mini.export import export_classifier
from diffclf.mini.supervised import build_resnet
from diffclf.models import load_model

RACE = {"pruning": "race", "n_images": 4, "n_seeds": 3, "n_classes": 10, "race_trials": 16, "n_trials": 25}
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
CHOSEN = {
    "dit": np.array([0, 0, 1, 1, 1, 1, 0, 2, 2, 2]),  # wrong at 2, 3, 6
    "a": np.array([0, 0, 1, 2, 1, 1, 1, 2, 2, 0]),  # wrong at 2, 3, 9
    "b": np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2]),
}
FIELD = Field(LABELS, np.arange(10), CHOSEN)
MEMBERS = [
    Member("dit", "DiT", 1000, 250, 5e9),
    Member("a", "ResNet", 300, 1, 2e6),
    Member("b", "ResNet", 200, 1, 4e6),
    Member("mini-vit-s-8", "ViT", 400, 1, 1e6),
]


def linear_and_convolution_count(network, call):
    """Count with hooks: weights of each convolution and linear layer times the positions of its output."""
    counts = []

    def count(layer, _, output):
        positions = output.numel() / (layer.weight.shape[0])
        counts.append(layer.weight.numel() * positions)

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    call()
    for hook in hooks:
        hook.remove()
    return sum(counts)


def test_the_budget_and_the_strategy_are_those_of_the_settings():
    assert evaluations(RACE) == 4 * 3 * (10 * 8 + 2 * 8)
    assert evaluations(RACE | {"pruning": "exhaustive"}) == 4 * 3 * 10 * 25
    assert strategy(RACE) == Racing(trials=16)
    assert strategy(RACE | {"pruning": "exhaustive"}) == Exhaustive(25)
    with pytest.raises(ValueError, match="pruning must be race or exhaustive, got 'none'"):
        strategy(RACE | {"pruning": "none"})


def test_multiply_adds_are_weights_times_positions():
    convolution, linear = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Linear(8, 5, bias=False)
    assert multiply_adds(lambda: convolution(torch.zeros(1, 3, 16, 16))) == 3 * 8 * 9 * 256
    assert multiply_adds(lambda: linear(torch.zeros(2, 7, 8))) == 8 * 5 * 14


def test_a_network_costs_one_pass_and_a_dit_one_encoding_and_its_evaluations(tmp_path, tiny_dit_folder):
    export_classifier(build_resnet((8, 16)), tmp_path / "mini-resnet-tiny")
    network = load_supervised(tmp_path / "mini-resnet-tiny", "cpu")
    member = network_member(network)
    counted = linear_and_convolution_count(network.network, lambda: network(torch.zeros(3, 32, 32)))
    assert (member.passes, member.multiply_adds, member.tag) == (1, counted, "tiny")
    dit = load_model(str(tiny_dit_folder), device="cpu")
    none, some = dit_member(dit, np.array([0, 0])), dit_member(dit, np.array([1, 5]))
    latent, t = torch.zeros(1, *dit.latent_shape), torch.zeros(1, dtype=torch.int64)
    once = linear_and_convolution_count(dit.network, lambda: dit.denoise(latent, t, dit.encode_prompts([0])))
    assert some.passes == 3 and none.multiply_adds > 0
    assert some.multiply_adds - none.multiply_adds == 3 * once
    decoder = sum(w.numel() for module in (dit.vae.decoder, dit.vae.post_quant_conv) for w in module.parameters())
    everything = sum(w.numel() for module in (dit.network, dit.vae) for w in module.parameters())
    assert some.n_parameters == everything - decoder
    data = load_dataset("mini-items", n_images=3)
    assert (
        network_field({"mini-resnet-tiny": network}, data).chosen["mini-resnet-tiny"].tolist()
        == network.predict(data).tolist()
    )


def test_names_lose_owner_and_revision_and_the_first_images_are_repeated_for_each_seed():
    run, other = (Outcome(np.array(chosen), np.ones(2), np.ones(2)) for chosen in ([1, 2], [2, 1]))
    networks = Field(np.array([2, 2, 0]), np.array([5, 6, 7]), {"resnet-18": np.array([2, 0, 1])})
    field = whole_field("facebook/DiT-XL-2-256@refs/pr/1", [run, other], networks)
    assert {name: chosen.tolist() for name, chosen in field.chosen.items()} == {
        "DiT-XL-2-256": [1, 2, 2, 1],
        "resnet-18": [2, 0, 2, 0],
    }
    assert field.labels.tolist() == [2, 2, 2, 2] and field.groups.tolist() == [5, 6, 5, 6]


def test_roles_go_by_the_number_of_parameters():
    assert roles(MEMBERS) == {"smallest ResNet": "b", "largest ResNet": "a", "largest ViT": "mini-vit-s-8"}
    assert [member.tag for member in MEMBERS] == ["dit", "a", "b", "s-8"]


def test_accuracy_difference_and_overlap():
    assert FIELD.accuracy("dit").value == pytest.approx(70)
    assert FIELD.difference("dit", "b").value == pytest.approx(-30)
    assert FIELD.difference("dit", "a", level=0.98).level == 0.98
    assert FIELD.overlap("dit", "a").value == pytest.approx(200 / 3) and FIELD.overlap("dit", "a").n == 3
    assert FIELD.overlap("b", "dit") is None
    first, second = overlap_rows(FIELD, [("dit", "a"), ("a", "b")])
    assert (first["number"], first["if independent"]) == (3, pytest.approx(30))
    assert first["same wrong class"].value == 50, "both take image 2 for class 1, but image 3 for classes 1 and 2"
    assert second["as well"].value == 0 and second["same wrong class"] is None


def test_a_row_per_classifier_with_the_dit_compared():
    rows = accuracy_rows(FIELD, Field(LABELS[:9], np.arange(9), {"a": CHOSEN["a"][:9]}), "dit")
    assert [row["network"] for row in rows] == ["dit", "a", "b"]
    assert rows[0]["DiT minus this"] is None and rows[2]["DiT minus this"].value == pytest.approx(-30)
    assert rows[1]["accuracy, 9 images"].value == pytest.approx(700 / 9) and rows[2]["accuracy, 9 images"] is None
    assert rows[1]["accuracy, 10 images"].value == pytest.approx(70)
    same = accuracy_rows(FIELD, Field(LABELS, np.arange(10), {"a": CHOSEN["a"]}), "dit")
    assert [row["accuracy, 10 images"] for row in same] == [FIELD.accuracy(name) for name in ("dit", "a", "b")]
    assert list(cost_rows(MEMBERS)[0].values()) == ["dit", 1000, 250, 5000]


def test_kappa_is_one_for_the_same_errors_and_zero_for_independent_ones():
    right = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]], dtype=bool)
    table = kappas(right)
    assert table[0, 2] == 1 and table[0, 1] == 0 and (table[3] == 0).all() and (table == table.T).all()


def test_kappa_equals_cohens_definition():
    right = np.random.default_rng(0).random((50, 3)) < [0.9, 0.8, 0.6]
    for i, j in ((0, 1), (1, 2)):
        a, b = right[:, i], right[:, j]
        same = np.mean(a == b)
        chance = a.mean() * b.mean() + (1 - a).mean() * (1 - b).mean()
        assert kappas(right)[i, j] == pytest.approx((same - chance) / (1 - chance))


def test_kappas_go_by_the_families_of_a_pair():
    found = kappa_by_kind(FIELD, MEMBERS[:3])
    assert list(found) == ["DiT and ResNet", "ResNet and ResNet"]
    pairs, estimate = found["DiT and ResNet"]
    assert pairs == pytest.approx([(0.8 - 0.58) / 0.42, 0]) and estimate.value == pytest.approx(np.mean(pairs))
    assert estimate.low < estimate.value < estimate.high


def test_confusions_are_shares_of_the_true_class():
    table = confusion(FIELD, ["dit", "a"], 4)
    assert table[0].tolist() == [50, 37.5, 12.5, 0] and np.isnan(table[3]).all()
    np.testing.assert_allclose(table[:3].sum(axis=1), 100)


def test_confused_pairs_are_ranked_by_both_and_compared():
    first, second = confusion_rows(FIELD, "dit", ["a", "b"], ["x", "y", "z"], n_rows=2)
    assert (first["classes"], first["images"]) == ("x, y", 7)
    assert first["DiT"] == pytest.approx(300 / 7) and first["networks"] == pytest.approx(50 / 7)
    assert first["difference"].value == pytest.approx(250 / 7)
    assert second["classes"] == "x, z" and second["difference"].value == pytest.approx(-100 / 7)


def test_the_majority_wins_and_the_first_breaks_a_tie():
    field = Field(
        LABELS[:3], np.arange(3), {"a": np.array([0, 1, 2]), "b": np.array([1, 0, 0]), "c": np.array([1, 2, 2])}
    )
    assert majority(field, ["a", "b", "c"]).tolist() == [1, 1, 2]


def test_the_papers_accuracies_have_wilson_intervals():
    found = paper_accuracies({"n": {"ImageNet": 10_000}, "rows": {"DC": [77.5, 64.6]}})
    assert found["DC"].value == 77.5 and found["DC"].n == 10_000
    assert 76.5 < found["DC"].low < 76.8 and 78.2 < found["DC"].high < 78.5
