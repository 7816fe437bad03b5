"""The paper's claims, and the rule by which a run judges them.

Claims are written down before the run, under `claims` in notebooks/NN_name.yaml. Each has these fields:

    id           short name, unique among all notebooks
    place        where the paper makes the claim
    sentence     the claim, in our words
    estimates    which number is estimated
    direction    greater, less, no difference, or not worse
    margin       m, in the claim's unit; above 0 for "no difference" and "not worse"
    kind         test: about the method; analogue: about particular models, which a small world can only imitate
    unit         of estimate and margin; accuracies are in points (0 to 100)
    covers       list of what the interval varies over: images, noise, training
    paper        the paper's number in that unit, or null
    paper_note   where that number comes from (optional)

With k claims in a notebook the interval is two-sided at 1 - 0.05 / k, so that all intervals of one notebook hold
together 95 times of 100. "Not worse" (non-inferiority) has a one-sided 95% bound: two-sided at 90%. Paired contrasts
are bootstrapped over base photographs.

    direction        holds when the interval    does not hold when the interval
    greater          lies above m               lies below m
    less             lies below m               lies above m
    no difference    lies inside (-m, m)        lies outside [-m, m]
    not worse        has its low end above -m   lies below -m

Otherwise the claim is undecided; so it is with fewer than 8 photographs, whose interval is unbounded. A failed analogue
says nothing against the paper. Two functions say more about an undecided claim: which side the plain 95% interval
supports, and how many images would decide.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import floor, inf
from statistics import NormalDist
from typing import Any

from diffclf.stats import MIN_GROUPS, Estimate
from diffclf.workbook.settings import read_notebook_file

__all__ = ["VERDICTS", "Claim", "claim_record", "ends", "factor_to_decide", "judge", "n_to_decide", "plain_interval"]
__all__ += ["plain_verdict", "range_of", "read_claims", "too_few"]

KINDS = dict.fromkeys(("id", "place", "sentence", "estimates", "direction", "kind", "unit", "paper_note"), str)
KINDS |= {"margin": int | float, "paper": int | float | None}
VERDICTS = ("holds", "does not hold", "undecided")
ALLOWED = {
    "direction": ("greater", "less", "no difference", "not worse"),
    "kind": ("test", "analogue"),
    "covers": ("images", "noise", "training"),
}


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, with the module docstring's fields; raise ValueError if one is out of range."""

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
    n_claims: int
    paper: float | None = None
    paper_note: str = ""

    def __post_init__(self) -> None:
        """Check the fields."""
        where = f"{self.notebook}.yaml, {self.id}"
        for name, kind in {**KINDS, "covers": tuple | list}.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or value != value:  # NaN
                raise ValueError(
                    f"{where}: {name} must be of type {getattr(kind, '__name__', kind)}, got {value!r:.80}"
                )
        given = {"direction": {self.direction}, "kind": {self.kind}, "covers": self.covers or {""}}
        for name, allowed in ALLOWED.items():
            for value in (value for value in given[name] if value not in allowed):
                raise ValueError(f"{where}: {name} must be one of {', '.join(allowed)}, got {value!r}")
        if self.direction in ("no difference", "not worse") and self.margin <= 0:
            raise ValueError(f"{where}: margin must be above 0 for {self.direction!r}, got {self.margin}")

    @property
    def level(self) -> float:
        """Coverage that the claim's two-sided interval must have."""
        return 0.9 if self.direction == "not worse" else 1 - 0.05 / self.n_claims


def read_claims(notebook: str) -> dict[str, Claim]:
    """Return the claims of a notebook by id, in the order of its file.

    Raises ValueError if a field is missing, unknown or out of range, or an id occurs twice.
    """
    entries = read_notebook_file(notebook)["claims"]
    claims: dict[str, Claim] = {}
    for entry in entries:
        fields = {name: " ".join(value.split()) if isinstance(value, str) else value for name, value in entry.items()}
        covers = entry.get("covers")
        fields["covers"] = tuple(covers) if isinstance(covers, list) else covers
        try:
            claim = Claim(**fields, notebook=notebook, n_claims=len(entries))
        except TypeError as error:  # a field is missing or unknown
            raise ValueError(f"{notebook}.yaml, {entry.get('id', 'no id')}: {error}") from None
        if claim.id in claims:
            raise ValueError(f"{notebook}.yaml: id must be unique, got {claim.id!r} twice")
        claims[claim.id] = claim
    return claims


def range_of(direction: str, margin: float) -> tuple[float, float]:
    """Return the two ends of the numbers for which a claim is true; the ends themselves do not belong to them."""
    return {
        "greater": (margin, inf),
        "less": (-inf, margin),
        "no difference": (-margin, margin),
        "not worse": (-margin, inf),
    }[direction]


def _verdict(direction: str, margin: float, low: float, high: float) -> str:
    """Return the verdict of the rule on an interval."""
    above, below = range_of(direction, margin)
    if (low > above or above == -inf) and (high < below or below == inf):
        return "holds"
    return "does not hold" if high < above or low > below else "undecided"


def judge(claim: Claim, estimate: Estimate) -> str:
    """Return the verdict of the rule, one of VERDICTS; raise ValueError unless low <= high."""
    low, high = estimate.low, estimate.high
    if not low <= high:
        raise ValueError(f"interval of {claim.id} must have low <= high, got [{low}, {high}]")
    return _verdict(claim.direction, claim.margin, low, high)


def too_few(n: int | None, low: float | None, high: float | None) -> bool:
    """Return whether an interval is unbounded (each end infinite or None) because n observations are too few."""
    return n is not None and n < MIN_GROUPS and low in (None, -inf) and high in (None, inf)


def ends(record: Mapping[str, Any]) -> tuple[float, float]:
    """Return the interval of a claim's record; an end that is None is unbounded."""
    low, high = record["low"], record["high"]
    return -inf if low is None else low, inf if high is None else high


def plain_interval(record: Mapping[str, Any]) -> tuple[float, float]:
    """Return the 95% interval of a claim's record, as if its notebook had this claim alone.

    The record has an interval of a higher level; each end moves towards the estimate by the ratio of the normal
    quantiles. The interval of "not worse" has a one-sided 95% bound already and stays as it is.
    """
    quantiles = [NormalDist().inv_cdf((1 + level) / 2) for level in (0.95, max(0.95, record["level"]))]
    value, ratio = record["estimate"], quantiles[0] / quantiles[1]
    low, high = (value + (end - value) * ratio for end in ends(record))
    return low, high


def plain_verdict(record: Mapping[str, Any]) -> str:
    """Return the verdict of the rule on the plain 95% interval of a claim's record."""
    return _verdict(record["direction"], record["margin"], *plain_interval(record))


def factor_to_decide(record: Mapping[str, Any]) -> float:
    """Return how many times as many observations would decide a claim if its estimate stayed as it is.

    The interval's width shrinks like 1 / sqrt(n), or faster while few observations differ from the others: from more
    observations than the factor times n, the interval has the margin outside. inf where no number decides: the estimate
    equals the margin, or the interval is unbounded.
    """
    value, (low, high) = record["estimate"], ends(record)
    above, below = range_of(record["direction"], record["margin"])
    if value in (above, below):
        return inf
    if above < value < below:
        widths, gaps = (value - low, high - value), (value - above, below - value)
    else:
        widths, gaps = ((high - value,), (above - value,)) if value < above else ((value - low,), (value - below,))
    return max(width / gap for width, gap in zip(widths, gaps, strict=True) if gap < inf) ** 2


def n_to_decide(record: Mapping[str, Any]) -> float:
    """Return the least number of observations that decides; inf: no number does. The record must have its own n."""
    factor = factor_to_decide(record)
    return inf if factor == inf else floor(factor * record["n"]) + 1


def claim_record(
    claim: Claim, estimate: Estimate, *, profile: str, world: str = "", verdicts: bool = True, detail: str = ""
) -> dict[str, Any]:
    """Return a claim with what a run found, as plain values for the claims file.

    These are the claim's fields, the estimate's (`estimate` is its value; an unbounded end is None), `verdict` (None
    where the profile has no verdicts), `words` (the verdict and the world in which it holds), and the arguments.
    Raises ValueError if the interval is of another level than the claim's, or its ends are out of order.
    """
    if abs(estimate.level - claim.level) > 1e-9:
        asked = f"{claim.level:.6g} (wb.level({claim.id!r}))"
        raise ValueError(f"interval of {claim.id} must be at level {asked}, got {estimate.level:.6g}")
    verdict = judge(claim, estimate) if verdicts else None
    words = f"{verdict} in {world}" if world else verdict
    words = words if verdicts else f"not judged at the {profile} profile"
    if verdict == "undecided" and too_few(estimate.n, estimate.low, estimate.high):
        words = f"{words}: {estimate.n} are too few"
    low, high = (None if abs(end) == inf else end for end in (estimate.low, estimate.high))
    found = {"estimate": estimate.value, "low": low, "high": high, "level": estimate.level, "n": estimate.n}
    found |= {"verdict": verdict, "words": words, "profile": profile, "world": world}
    return {**asdict(claim), **found, "detail": " ".join(detail.split())}
