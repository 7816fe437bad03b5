"""The rule by which a run judges the paper's claims.

A claim names a number to estimate, a direction and a margin m, written down before the run. With k claims in a
notebook its interval is two-sided at 1 - 0.05 / k, so that all intervals of one notebook hold together 95 times of 100.

    direction        holds when the interval    does not hold when it
    greater          lies above m               lies below m
    less             lies below m               lies above m
    no difference    lies inside (-m, m)        lies outside [-m, m]
    not worse        has its low end above -m   lies below -m

Otherwise the claim is undecided. For `not worse` (non-inferiority) the low end is a one-sided 95% bound, that is, the
interval is two-sided at 90%. A claim of kind `test` is about the method; one of kind `analogue` is about particular
models, whose counterparts a small world can only imitate, and its failure says nothing against the paper.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffclf.stats import Estimate
from diffclf.workbook.settings import notebooks_dir

__all__ = ["DIRECTIONS", "KINDS", "VERDICTS", "Claim", "Judged", "judge", "read_claims", "required_level"]

DIRECTIONS = ("greater", "less", "no difference", "not worse")
KINDS = ("test", "analogue")
VERDICTS = ("holds", "does not hold", "undecided")
COVERS = ("images", "noise", "training")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, as claims.yaml states it.

    Attributes:
        id: short name, unique among all notebooks.
        notebook: the notebook that judges it.
        place: where the paper makes it.
        sentence: the claim, in our words.
        estimates: what number is estimated.
        direction: one of DIRECTIONS.
        margin: in the unit of the estimate; not negative for "no difference" and "not worse".
        kind: "test" or "analogue".
        unit: of estimate and margin.
        covers: what the interval varies over: images, noise, training.
        paper: the paper's number in the same unit, None where it gives none.
        paper_note: where that number comes from.
        n_claims: claims of the same notebook.
    """

    id: str
    notebook: str
    place: str
    sentence: str
    estimates: str
    direction: str
    margin: float
    kind: str
    unit: str
    covers: tuple[str, ...]
    paper: float | None
    paper_note: str
    n_claims: int


@dataclass(frozen=True)
class Judged:
    """A claim and what a run found.

    Attributes:
        claim: what was claimed.
        estimate: the number with its interval.
        verdict: one of VERDICTS; None in a profile that judges nothing.
        n: observations behind the estimate.
        profile: name of the profile.
        world: where the verdict holds, such as "the mini world"; "" for the paper's own models.
        detail: one more sentence.
    """

    claim: Claim
    estimate: Estimate
    verdict: str | None
    n: int | None
    profile: str
    world: str
    detail: str = ""

    @property
    def words(self) -> str:
        """The verdict, with where it holds."""
        if self.verdict is None:
            return f"not judged at the {self.profile} profile"
        return f"{self.verdict} in {self.world}" if self.world else self.verdict

    def as_record(self) -> dict[str, Any]:
        """Return what is written to the claims file; an unbounded end of the interval becomes None."""
        ends = {"low": self.estimate.low, "high": self.estimate.high}
        return {
            **asdict(self.claim),
            "estimate": self.estimate.value,
            **{name: end if abs(end) != float("inf") else None for name, end in ends.items()},
            "level": self.estimate.level,
            "n": self.n,
            "verdict": self.verdict,
            "words": self.words,
            "profile": self.profile,
            "world": self.world,
            "detail": self.detail,
        }


def _one_of(value: str, allowed: tuple[str, ...], name: str, where: str) -> str:
    if value not in allowed:
        raise ValueError(f"{where}: {name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _parse(entry: dict[str, Any], notebook: str, n_claims: int) -> Claim:
    where = f"claims.yaml, {notebook}, {entry.get('id', 'no id')}"
    required = {"id", "place", "sentence", "estimates", "direction", "margin", "kind", "unit", "covers"}
    missing, unknown = required - set(entry), set(entry) - required - {"paper", "paper_note"}
    if missing or unknown:
        raise ValueError(f"{where}: fields missing {sorted(missing)}, unknown {sorted(unknown)}")
    margin = float(entry["margin"])
    direction = _one_of(entry["direction"], DIRECTIONS, "direction", where)
    if direction in ("no difference", "not worse") and margin <= 0:
        raise ValueError(f"{where}: margin must be above 0 for {direction!r}, got {margin}")
    covers = entry["covers"] if isinstance(entry["covers"], list) else [entry["covers"]]
    return Claim(
        id=entry["id"],
        notebook=notebook,
        place=entry["place"],
        sentence=" ".join(entry["sentence"].split()),
        estimates=" ".join(entry["estimates"].split()),
        direction=direction,
        margin=margin,
        kind=_one_of(entry["kind"], KINDS, "kind", where),
        unit=entry["unit"],
        covers=tuple(_one_of(part, COVERS, "covers", where) for part in covers),
        paper=None if entry.get("paper") is None else float(entry["paper"]),
        paper_note=" ".join(entry.get("paper_note", "").split()),
        n_claims=n_claims,
    )


def read_claims(path: Path | None = None) -> dict[str, Claim]:
    """Return all claims by id, in the order of the file.

    Args:
        path: the file; None: claims.yaml beside the notebooks.

    Raises:
        ValueError: a field is missing, unknown or out of range, or an id stands twice.
    """
    import yaml

    sections = yaml.safe_load((path or notebooks_dir() / "claims.yaml").read_text(encoding="utf-8")) or {}
    claims: dict[str, Claim] = {}
    for notebook, entries in sections.items():
        for entry in entries or []:
            claim = _parse(entry, notebook, len(entries))
            if claim.id in claims:
                raise ValueError(f"claims.yaml: id must be unique, got {claim.id!r} twice")
            claims[claim.id] = claim
    return claims


def required_level(claim: Claim) -> float:
    """Return the coverage that the claim's two-sided interval must have."""
    return 0.9 if claim.direction == "not worse" else 1 - 0.05 / claim.n_claims


def judge(claim: Claim, estimate: Estimate) -> str:
    """Return the verdict of the rule.

    Raises:
        ValueError: the ends of the interval are not numbers or in the wrong order.
    """
    low, high, m = estimate.low, estimate.high, claim.margin
    if not low <= high:
        raise ValueError(f"interval of {claim.id} must have low <= high, got [{low}, {high}]")
    holds, fails = {
        "greater": (low > m, high < m),
        "less": (high < m, low > m),
        "no difference": (low > -m and high < m, low > m or high < -m),
        "not worse": (low > -m, high < -m),
    }[claim.direction]
    return VERDICTS[0] if holds else VERDICTS[1] if fails else VERDICTS[2]
