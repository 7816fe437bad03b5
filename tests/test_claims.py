"""The rule that judges claims, and the claims themselves."""

import json

import pytest
import yaml
from notebook_maker import make_claim

from diffclf.stats import Estimate
from diffclf.workbook import Workbook
from diffclf.workbook.claims import Claim, judge, read_claims
from diffclf.workbook.display import claims_table
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


NAME, ID = "03_timestep_strategies", "uniform-beats-three"  # greater than 0, one of five


def written(profile):
    return json.loads((reports_dir(profile) / "claims" / f"{NAME}.json").read_text())["claims"]


def test_workbook_judges_writes_and_shows(capsys):
    wb = Workbook(NAME, "mini")
    wb.claim(ID, Estimate(5.5, 2.0, 9.0, wb.level(ID), 100), detail="On 100\nphotographs.")
    (record,) = written("mini")
    assert record["verdict"] == "holds" and record["words"] == "holds in the mini world"
    assert (record["estimate"], record["low"], record["high"], record["n"]) == (5.5, 2.0, 9.0, 100)
    assert record["level"] == wb.level(ID) == 0.99 and record["profile"] == "mini" and record["paper"] == 7.7
    out = capsys.readouterr().out
    assert "holds in the mini world" in out and "5.50 [2, 9]" in out and "On 100 photographs." in out
    assert "Holds if the interval lies above 0 points. 99% interval over images and noise, n = 100." in out
    wb.claim(ID, 0.5, -2.0, 3.0, n=100)
    wb.claim("uniform-beats-middle", Estimate(1, float("-inf"), float("inf"), 0.99))
    first, second = written("mini")
    assert first["verdict"] == second["verdict"] == "undecided" and first["n"] == 100
    assert second["low"] is second["high"] is second["n"] is None
    table = claims_table([first, second])
    assert "0.500 [−2, 3]" in table and "1 [−∞, ∞]" in table and "about the mini world. Undecided: the" in table


@pytest.mark.parametrize(("profile", "words"), [("paper", "holds"), ("smoke", "not judged at the smoke profile")])
def test_words_at_other_profiles(profile, words, capsys):
    Workbook(NAME, profile).claim(ID, 5.5, 2.0, 9.0)
    (record,) = written(profile)
    assert record["words"] == words and f"[{words}]" in capsys.readouterr().out
    assert record["verdict"] == ("holds" if profile == "paper" else None)


def test_wrong_claims_are_errors():
    wb = Workbook(NAME, "mini")
    with pytest.raises(ValueError, match=rf"claim of {NAME}.yaml \({ID}, .* got 'nothing'"):
        wb.level("nothing")
    with pytest.raises(ValueError, match=r"at level 0.99 \(wb.level\('uniform-beats-three'\)\), got 0.5"):
        wb.claim(ID, Estimate(1, 0, 2, 0.5))
    for ends in ((), (3, 1)):
        with pytest.raises(ValueError, match=r"low <= high, got \["):
            wb.claim(ID, 1.0, *ends)
    assert not (reports_dir("mini") / "claims").exists()
