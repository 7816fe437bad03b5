"""The rule that judges claims, and the claims themselves."""

import json
import re

import numpy as np
import pytest
import yaml
from notebook_maker import make_claim

from diffclf.stats import Estimate, non_inferior, paired_difference
from diffclf.workbook import Workbook
from diffclf.workbook.claims import (
    Claim,
    claim_record,
    factor_to_decide,
    judge,
    n_to_decide,
    plain_interval,
    plain_verdict,
    read_claims,
)
from diffclf.workbook.display import answer, claims_table, lean
from diffclf.workbook.run.plan import choose
from diffclf.workbook.settings import reports_dir


def claim(direction, margin=0.0, n_claims=1):
    return Claim("id", "01_x", "Figure 1", "It is so.", "a", direction, margin, "test", "points", ("images",), n_claims)


@pytest.mark.parametrize(
    ("direction", "margin", "low", "high", "verdict"),
    [
        ("greater", 2, 2.1, 5, "holds"),
        ("greater", 2, 2.0, 5, "undecided"),
        ("greater", 2, -1, 1.9, "does not hold"),
        ("less", 2, -5, 1.9, "holds"),
        ("less", 2, 2.1, 5, "does not hold"),
        ("less", 2, 1, 3, "undecided"),
        ("no difference", 2, -1.9, 1.9, "holds"),
        ("no difference", 2, -2.1, 1, "undecided"),
        ("no difference", 2, 2.1, 3, "does not hold"),
        ("no difference", 2, -9, -2.1, "does not hold"),
        ("not worse", 2, -1.9, 9, "holds"),
        ("not worse", 2, -2.1, 9, "undecided"),
        ("not worse", 2, -9, -2.1, "does not hold"),
        ("greater", 0, float("-inf"), float("inf"), "undecided"),
    ],
)
def test_rule(direction, margin, low, high, verdict):
    assert judge(claim(direction, margin), Estimate((low + high) / 2, low, high)) == verdict


INF = float("inf")
# direction, margin, estimate, low, high; how many times as many observations decide, and what
FACTORS = [
    ("greater", 2, 3, 1, 4, 4, "holds"),
    ("greater", 2, 1, -9, 4, 9, "does not hold"),
    ("greater", 2, 2, 1, 4, INF, None),
    ("greater", 2, 3, -INF, INF, INF, None),
    ("less", 0, -1, -INF, 1, 4, "holds"),
    ("less", 0, 2, -1, INF, 2.25, "does not hold"),
    ("no difference", 2, 1, -3, 4, 9, "holds"),
    ("no difference", 2, 3, 0, 9, 9, "does not hold"),
    ("no difference", 2, -4, -9, 0, 4, "does not hold"),
    ("no difference", 2, -2, -9, 0, INF, None),
    ("not worse", 2, 0, -3, INF, 2.25, "holds"),
    ("not worse", 2, -3, -9, 0, 9, "does not hold"),
]


@pytest.mark.parametrize(("direction", "margin", "value", "low", "high", "factor", "verdict"), FACTORS)
def test_number_of_images_that_decides(direction, margin, value, low, high, factor, verdict):
    """With the least number that decides, the narrower interval decides; with one image less, it does not."""
    one, estimate = claim(direction, margin), Estimate(value, low, high, claim(direction, margin).level, 100)
    record = claim_record(one, estimate, profile="mini")
    assert record["verdict"] == "undecided"
    assert factor_to_decide(record) == pytest.approx(factor)
    n = n_to_decide(record)
    assert n == (INF if verdict is None else 100 * factor + 1)
    for images, then in ((n, verdict), (n - 1, "undecided")) if verdict else ():
        low_then, high_then = (value + (end - value) * (100 / images) ** 0.5 for end in (low, high))
        assert judge(one, Estimate(value, low_then, high_then)) == then


def test_plain_interval_is_that_of_a_single_claim():
    """The normal quantiles at 95% and at 99% are 1.960 and 2.576."""
    record = {"direction": "greater", "margin": 0.1, "estimate": 2.0, "low": 0.0, "high": None, "level": 0.99}
    low, high = plain_interval(record)
    assert low == pytest.approx(2 - 2 * 1.959964 / 2.575829, rel=1e-6) and high == INF
    assert plain_verdict(record) == "holds" and plain_verdict({**record, "margin": 0.5}) == "undecided"
    assert plain_interval({**record, "level": 0.9, "direction": "not worse"}) == (0, INF)


def record_of(verdict, kind="test", **facts):
    """Return a claim with this verdict as a run records it."""
    value, low, high = {"holds": (3, 1, 5), "does not hold": (-3, -5, -1), "undecided": (1, -1, 3)}[verdict]
    made = claim("greater", n_claims=5)
    record = claim_record(made, Estimate(value, low, high, made.level, 100), profile="mini", world="the mini world")
    assert record["verdict"] == verdict
    return {**record, "kind": kind, **facts}


def test_an_undecided_claim_says_how_it_leans():
    undecided = record_of("undecided")
    then = "If the estimate stayed as it is, at most about {} would decide that the claim {}."
    neither = "The plain 95% interval, about [−0.522, 2.52], neither supports nor contradicts the claim. "
    assert lean(undecided) == neither + then.format("401 images instead of 100", "holds")
    assert lean({**undecided, "n": None}).endswith(then.format("4 times as many images", "holds"))
    against = lean({**undecided, "estimate": -2.0, "low": -4.2, "high": 0.2})
    assert "[−3.67, −0.326], contradicts the claim" in against
    assert against.endswith(then.format("122 images instead of 100", "does not hold"))
    assert "supports the claim" in lean({**undecided, "estimate": 2.0, "low": -0.2})
    trainings = lean({**undecided, "covers": ["images", "training"]})
    assert trainings == (
        "The interval covers other trainings, too, so that more images alone need not decide the claim."
    )
    assert lean({**undecided, "estimate": 0.0}).endswith("would decide: the estimate equals the margin.")
    assert lean({**undecided, "low": None, "high": None}).endswith("would decide: the interval is unbounded.")
    assert lean({**undecided, "low": None, "high": None, "n": 7}).endswith("the claim. 7 are too few for an interval.")
    assert lean({**undecided, "direction": "not worse", "level": 0.9}).startswith("The one-sided 95% bound neither ")
    assert lean(record_of("holds")) == lean({**undecided, "verdict": None}) == ""


@pytest.mark.parametrize(
    ("direction", "margin", "n_claims"), [("no difference", 2, 10), ("not worse", 2, 1), ("less", 2, 7)]
)
def test_where_no_image_differs_the_interval_shrinks_with_the_number_of_images(direction, margin, n_claims):
    """The number that is named decides with intervals of `stats`, and one image less does not."""
    one = claim(direction, margin, n_claims)

    def record_of_none(n):
        return claim_record(one, 100 * paired_difference([1.0] * n, [1.0] * n, level=one.level), profile="mini")

    assert record_of_none(40)["verdict"] == "undecided"
    said = lean(record_of_none(40))
    pattern = r"No image shows a difference\. If the estimate stayed as it is, about (\d+) images instead of 40 would "
    least = int(re.search(pattern, said)[1])
    assert said.endswith("decide that the claim holds.")
    assert [record_of_none(n)["verdict"] for n in (least - 1, least)] == ["undecided", "holds"]
    assert n_to_decide(record_of_none(40)) > least, "the root law takes too many"


@pytest.mark.parametrize(("better", "worse"), [(0, 1), (1, 0), (1, 1), (0, 2)])
def test_where_few_images_differ_as_many_images_as_are_named_are_enough(better, worse):
    one = claim("not worse", 2)

    def record_of(times):
        right = np.repeat([1.0, -1.0, 0.0], np.array([better, worse, 140 - better - worse]) * times)
        return claim_record(one, 100 * paired_difference(right, 0 * right, level=one.level), profile="mini")

    assert record_of(1)["verdict"] == "undecided"
    named = int(re.search(r"at most about ([\d,]+) images instead of 140 ", lean(record_of(1)))[1].replace(",", ""))
    assert record_of(-(-named // 140))["verdict"] == "holds"


def test_answers_that_differ_and_cancel_are_not_taken_for_equal_ones():
    a, one = [1.0, 0.0] * 40, claim("no difference", 2)
    changed, same = (100 * paired_difference(a, b, level=one.level) for b in (a[::-1], a))
    assert changed.value == 0 and "No image shows" not in lean(claim_record(one, changed, profile="mini"))
    record = claim_record(claim("less"), same, profile="mini")
    none = "No image shows a difference. No number of images would decide: the estimate equals the margin."
    assert lean(record).endswith(none)
    assert "No image shows" not in lean({**record, "unit": "times"}), "the bound for 0 of n is that of a share"


def test_a_claim_about_too_few_images_is_undecided_for_that_reason():
    made, ties = claim("not worse", margin=0.5), np.zeros(8)
    few, enough = (non_inferior(ties[:n], ties[:n]) for n in (7, 8))
    records = [claim_record(made, found, profile="mini", world="the mini world") for found in (few, enough)]
    assert records[0]["verdict"] == "undecided" and records[1]["verdict"] == "holds"
    assert records[0]["words"] == "undecided in the mini world: 7 are too few"


H, D, U = "holds", "does not hold", "undecided"
ANSWERS = {
    "the only test of the method holds.": ([H], []),
    "the only test of the method is undecided.": ([U], []),
    "of 2 tests of the method, 2 hold, none is contradicted and none is undecided; the only analogue about particular "
    "models does not hold.": ([H, H], [D]),
    "of 4 tests of the method, 1 holds, 1 does not hold and 2 are undecided; the clearest contradiction is of the "
    "claim “It is so” (−3 points against a margin of 0).": ([D, U, H, U], []),
    "of 3 analogues about particular models, none holds, 2 do not hold and 1 is undecided.": ([], [D, D, U]),
}


@pytest.mark.parametrize(("words", "verdicts"), ANSWERS.items())
def test_answer_in_one_sentence(words, verdicts):
    tests, analogues = verdicts
    records = [*map(record_of, tests), *(record_of(verdict, "analogue") for verdict in analogues)]
    assert answer(records) == f"In the mini world, {words}"
    assert answer([{**record, "world": ""} for record in records]) == words[0].upper() + words[1:]
    assert answer([{**record, "verdict": None} for record in records]) == answer([]) == ""


def test_answer_names_the_clearest_contradiction():
    clear = record_of(D, sentence="The clear one.", high=-2.9)
    assert "claim “The clear one” (" in answer([record_of(D), clear, record_of(D)])


LEVELS = [("greater", 1, 0.95), ("less", 5, 0.99), ("no difference", 2, 0.975), ("not worse", 5, 0.9)]


@pytest.mark.parametrize(("direction", "k", "level"), LEVELS)
def test_level_shares_the_error_among_the_claims_of_a_notebook(direction, k, level):
    assert claim(direction, 1, k).level == pytest.approx(level)


def test_committed_claims_are_complete():
    claims = [claim for path in choose() for claim in read_claims(path.stem).values()]
    assert {claim.notebook for claim in claims} >= {path.stem for path in choose()}
    assert len({claim.id for claim in claims}) == len(claims)
    for entry in claims:
        assert entry.sentence.endswith(".") and entry.place
        assert entry.paper is None or entry.paper_note, entry.id
        assert entry.n_claims == sum(other.notebook == entry.notebook for other in claims)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direction": "bigger"}, "01_x.yaml, a: direction must be one of .* got 'bigger'"),
        ({"kind": "guess"}, "kind must be one of test, analogue, got 'guess'"),
        ({"covers": ["images", "luck"]}, "covers must be one of .* got 'luck'"),
        ({"margin": None}, "01_x.yaml, a: .* missing .* 'margin'"),
        ({"margn": 0}, "01_x.yaml, a: .* unexpected .* 'margn'"),
        ({"direction": "not worse"}, "margin must be above 0 for 'not worse', got 0"),
        ({"id": "b"}, "id must be unique, got 'b' twice"),
    ],
)
def test_claims_are_checked(tmp_path, monkeypatch, changes, message):
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path))
    (tmp_path / "common.yaml").write_text("mini: {}\n")
    changed = {name: value for name, value in {**make_claim("a"), **changes}.items() if value is not None}
    (tmp_path / "01_x.yaml").write_text(yaml.safe_dump({"claims": [changed, make_claim("b")]}))
    with pytest.raises(ValueError, match=message):
        read_claims("01_x")


NAME, ID = "03_timestep_strategies", "middle-plateau"  # greater than 0, one of four


def written(profile):
    return json.loads((reports_dir(profile) / "claims" / f"{NAME}.json").read_text())["claims"]


def test_workbook_judges_writes_and_shows(capsys):
    wb = Workbook(NAME, "mini")
    wb.claim(ID, Estimate(5.5, 2.0, 9.0, wb.level(ID), 100), detail="On 100\nphotographs.")
    (record,) = written("mini")
    assert record["verdict"] == "holds" and record["words"] == "holds in the mini world"
    assert (record["estimate"], record["low"], record["high"], record["n"]) == (5.5, 2.0, 9.0, 100)
    assert record["level"] == wb.level(ID) == 0.9875 and record["profile"] == "mini" and record["paper"] == 7.7
    out = capsys.readouterr().out
    assert "holds in the mini world" in out and "5.50 [2, 9]" in out and "On 100 photographs." in out
    assert "Holds if the interval lies above 0 points. 98.8% interval over images and noise, n = 100." in out
    wb.claim(ID, 0.5, -2.0, 3.0, n=100)
    wb.claim("crossover", Estimate(1, float("-inf"), float("inf"), 0.9875))
    first, second = written("mini")
    assert first["verdict"] == second["verdict"] == "undecided" and first["n"] == 100
    assert second["low"] is second["high"] is second["n"] is None
    table = claims_table([first, second])
    assert "0.500 [−2, 3]" in table and "1 [−∞, ∞]" in table and f"\n{ID}: {lean(first)}\n" in table
    assert "In the mini world, of 2 tests of the method, none holds, none is contradicted and 2 are undecided." in table
    assert lean(first) in capsys.readouterr().out


@pytest.mark.parametrize(("profile", "words"), [("paper", "holds"), ("smoke", "not judged at the smoke profile")])
def test_words_at_other_profiles(profile, words, capsys):
    Workbook(NAME, profile).claim(ID, 5.5, 2.0, 9.0)
    (record,) = written(profile)
    assert record["words"] == words and f"[{words}]" in capsys.readouterr().out
    assert record["verdict"] == ("holds" if profile == "paper" else None)


def test_wrong_claims_are_errors():
    wb = Workbook(NAME, "mini")
    with pytest.raises(ValueError, match=rf"claim of {NAME}.yaml .*{ID}, .* got 'nothing'"):
        wb.level("nothing")
    with pytest.raises(ValueError, match=r"at level 0.9875 \(wb.level\('middle-plateau'\)\), got 0.5"):
        wb.claim(ID, Estimate(1, 0, 2, 0.5))
    for ends in ((), (3, 1)):
        with pytest.raises(ValueError, match=r"low <= high, got \["):
            wb.claim(ID, 1.0, *ends)
    assert not (reports_dir("mini") / "claims").exists()
