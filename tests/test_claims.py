"""The rule that judges claims, and the claims themselves."""

import json

import pytest

from diffclf.stats import Estimate
from diffclf.workbook import Workbook
from diffclf.workbook.claims import Claim, judge, read_claims, required_level
from diffclf.workbook.settings import profile_names, read_profile, reports_dir


def claim(direction, margin=0.0, n_claims=1):
    return Claim("id", "01_x", "Figure 1", "It is so.", "a", direction, margin, "test", "points", ("images",), 1.0, "",
                 n_claims)  # fmt: skip


@pytest.mark.parametrize(
    ("direction", "margin", "low", "high", "verdict"),
    [
        ("greater", 2, 2.1, 5, "holds"),
        ("greater", 2, 2.0, 5, "undecided"),
        ("greater", 2, -1, 1.9, "does not hold"),
        ("greater", -3, -2.9, 1, "holds"),
        ("less", 2, -5, 1.9, "holds"),
        ("less", 2, 2.1, 5, "does not hold"),
        ("less", 2, 1, 3, "undecided"),
        ("no difference", 2, -1.9, 1.9, "holds"),
        ("no difference", 2, -2.1, 1, "undecided"),
        ("no difference", 2, 1, 3, "undecided"),
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


def test_a_margin_is_in_the_claims_own_unit_and_sign_matters():
    """Turning estimate and direction round turns no verdict."""
    for low, high in ((1, 2), (-2, -1), (-1, 1)):
        up = judge(claim("greater", 0), Estimate(0, low, high))
        down = judge(claim("less", 0), -1 * Estimate(0, low, high))
        assert up == down


@pytest.mark.parametrize(
    ("direction", "k", "level"),
    [
        ("greater", 1, 0.95),
        ("less", 5, 0.99),
        ("no difference", 2, 0.975),
        ("not worse", 1, 0.9),
        ("not worse", 5, 0.9),
    ],
)
def test_level_shares_the_error_among_the_claims_of_a_notebook(direction, k, level):
    assert required_level(claim(direction, 1, k)) == pytest.approx(level)


def test_interval_must_be_one():
    with pytest.raises(ValueError, match=r"low <= high, got \[3, 1\]"):
        judge(claim("greater"), Estimate(2, 3, 1))
    with pytest.raises(ValueError, match="low <= high"):
        judge(claim("greater"), Estimate(2, float("nan"), float("nan")))


def test_committed_claims_are_complete():
    claims = read_claims()
    notebooks = {entry.notebook for entry in claims.values()}
    assert {"01_shared_noise", "02_timestep_sensitivity", "03_timestep_strategies", "04_adaptive_pruning"} <= notebooks
    for profile in profile_names():
        assert notebooks <= set(read_profile(profile))
    for entry in claims.values():
        assert entry.sentence.endswith(".") and entry.place
        assert entry.paper is None or entry.paper_note, entry.id
        assert entry.n_claims == sum(other.notebook == entry.notebook for other in claims.values())


ENTRY = """
  - {id: a, place: p, sentence: S., estimates: e, direction: greater, margin: 0, kind: test, unit: u, covers: images}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY.replace("greater", "bigger"), "direction must be one of .* got 'bigger'"),
        (ENTRY.replace("test", "guess"), "kind must be one of test, analogue, got 'guess'"),
        (ENTRY.replace("images", "luck"), "covers must be one of .* got 'luck'"),
        (ENTRY.replace("margin: 0, ", ""), r"missing \['margin'\]"),
        (ENTRY.replace("margin", "margn"), r"missing \['margin'\], unknown \['margn'\]"),
        (ENTRY.replace("greater", "not worse"), "margin must be above 0 for 'not worse', got 0.0"),
        (ENTRY + ENTRY, "id must be unique, got 'a' twice"),
    ],
)
def test_claims_file_is_checked(tmp_path, text, message):
    path = tmp_path / "claims.yaml"
    path.write_text("01_x:" + text)
    with pytest.raises(ValueError, match=message):
        read_claims(path)


@pytest.fixture
def workbook(monkeypatch):
    monkeypatch.delenv("DIFFCLF_PROFILE", raising=False)

    def make(profile="mini"):
        return Workbook("03_timestep_strategies", profile=profile)

    return make


def written(profile):
    return json.loads((reports_dir(profile) / "claims" / "03_timestep_strategies.json").read_text())


def id_of(workbook):
    return next(entry.id for entry in read_claims().values() if entry.notebook == workbook.notebook
                and entry.direction == "greater" and entry.margin == 0)  # fmt: skip


def test_workbook_judges_writes_and_shows(workbook, capsys):
    wb = workbook()
    name = id_of(wb)
    wb.claim(name, Estimate(5.5, 2.0, 9.0, wb.level(name), 100), detail="On 100 photographs.")
    (record,) = written("mini")["claims"]
    assert record["verdict"] == "holds" and record["words"] == "holds in the mini world"
    assert (record["estimate"], record["low"], record["high"], record["n"]) == (5.5, 2.0, 9.0, 100)
    assert record["level"] == wb.level(name) and record["profile"] == "mini" and record["covers"]
    assert record["paper"] == read_claims()[name].paper
    out = capsys.readouterr().out
    assert "holds in the mini world" in out and "5.50 [2, 9]" in out and "On 100 photographs." in out
    wb.claim(name, 0.5, -2.0, 3.0, n=100)
    assert [entry["verdict"] for entry in written("mini")["claims"]] == ["undecided"]


def test_paper_profile_claims_about_no_small_world(workbook):
    wb = workbook("paper")
    wb.claim(id_of(wb), 5.5, 2.0, 9.0)
    assert written("paper")["claims"][0]["words"] == "holds"


def test_smoke_gives_no_verdict(workbook, capsys):
    wb = workbook("smoke")
    wb.claim(id_of(wb), 5.5, 2.0, 9.0, n=4)
    assert written("smoke")["claims"][0]["verdict"] is None
    out = capsys.readouterr().out
    assert "not judged at the smoke profile" in out and "holds" not in out


def test_claims_of_an_earlier_run_are_forgotten(workbook):
    wb = workbook()
    wb.claim(id_of(wb), 5.5, 2.0, 9.0)
    workbook()
    assert not (reports_dir("mini") / "claims" / "03_timestep_strategies.json").exists()


def test_workbook_refuses_claims_that_break_the_rule(workbook):
    wb = workbook()
    with pytest.raises(ValueError, match="id must be a claim of 03_timestep_strategies .* got 'nonsense'"):
        wb.claim("nonsense", 1, 0, 2)
    with pytest.raises(ValueError, match=r"at level .* got 0.5"):
        wb.claim(id_of(wb), Estimate(1, 0, 2, 0.5))
    with pytest.raises(ValueError, match="low and high must be given"):
        wb.claim(id_of(wb), 1.0)


def test_unbounded_interval_is_written_as_null(workbook):
    wb = workbook()
    name = id_of(wb)
    wb.claim(name, Estimate(1, float("-inf"), float("inf"), wb.level(name), 1))
    (record,) = written("mini")["claims"]
    assert record["low"] is None and record["high"] is None and record["verdict"] == "undecided"
