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

Otherwise the claim is undecided. A failed analogue says nothing against the paper.
"""

from dataclasses import asdict, dataclass
from typing import Any

from diffclf.stats import Estimate
from diffclf.workbook.settings import read_notebook_file

__all__ = ["DIRECTIONS", "VERDICTS", "Claim", "claim_record", "judge", "read_claims"]

DIRECTIONS = ("greater", "less", "no difference", "not worse")
KINDS = ("test", "analogue")
VERDICTS = ("holds", "does not hold", "undecided")
COVERS = ("images", "noise", "training")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper; the module's docstring describes the fields.

    Raises:
        ValueError: a field is out of range.
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
    n_claims: int
    paper: float | None = None
    paper_note: str = ""

    def __post_init__(self) -> None:
        """Check the fields."""
        where = f"{self.notebook}.yaml, {self.id}"
        fields = [("direction", self.direction, DIRECTIONS), ("kind", self.kind, KINDS)]
        for name, value, allowed in [*fields, *(("covers", part, COVERS) for part in self.covers or ("",))]:
            if value not in allowed:
                raise ValueError(f"{where}: {name} must be one of {', '.join(allowed)}, got {value!r}")
        if self.direction in ("no difference", "not worse") and self.margin <= 0:
            raise ValueError(f"{where}: margin must be above 0 for {self.direction!r}, got {self.margin}")

    @property
    def level(self) -> float:
        """Coverage that the claim's two-sided interval must have."""
        return 0.9 if self.direction == "not worse" else 1 - 0.05 / self.n_claims


def read_claims(notebook: str) -> dict[str, Claim]:
    """Return the claims of a notebook by id, in the order of its file.

    Raises:
        ValueError: a field is missing, unknown or out of range, or an id occurs twice.
    """
    entries = read_notebook_file(notebook)["claims"]
    claims: dict[str, Claim] = {}
    for entry in entries:
        fields = {name: " ".join(value.split()) if isinstance(value, str) else value for name, value in entry.items()}
        fields["covers"] = tuple(entry.get("covers", ()))
        try:
            claim = Claim(**fields, notebook=notebook, n_claims=len(entries))
        except TypeError as error:  # a field is missing or unknown
            raise ValueError(f"{notebook}.yaml, {entry.get('id', 'no id')}: {error}") from None
        if claim.id in claims:
            raise ValueError(f"{notebook}.yaml: id must be unique, got {claim.id!r} twice")
        claims[claim.id] = claim
    return claims


def judge(claim: Claim, estimate: Estimate) -> str:
    """Return the verdict of the rule, one of VERDICTS.

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


def claim_record(
    claim: Claim, estimate: Estimate, *, profile: str, world: str = "", verdicts: bool = True, detail: str = ""
) -> dict[str, Any]:
    """Return a claim with what a run found, as plain values for the claims file.

    Args:
        claim: the claim.
        estimate: the number with its interval at the claim's level.
        profile: name of the profile.
        world: where the verdict holds, such as "the mini world"; "" for the paper's own models.
        verdicts: False: the profile judges nothing, the verdict is None.
        detail: one more sentence.

    Returns:
        the claim's fields and `estimate`, `low`, `high` (None: unbounded), `level`, `n`, `verdict`, `words` (the
        verdict, with where it holds), `profile`, `world`, `detail`.

    Raises:
        ValueError: the interval is of another level, or its ends are out of order.
    """
    if abs(estimate.level - claim.level) > 1e-9:
        raise ValueError(
            f"interval of {claim.id} must be at level {claim.level:.6g} (wb.level({claim.id!r})), "
            f"got {estimate.level:.6g}"
        )
    verdict = judge(claim, estimate) if verdicts else None
    words = f"{verdict} in {world}" if world else verdict
    low, high = (None if abs(end) == float("inf") else end for end in (estimate.low, estimate.high))
    return {
        **asdict(claim),
        "estimate": estimate.value,
        "low": low,
        "high": high,
        "level": estimate.level,
        "n": estimate.n,
        "verdict": verdict,
        "words": words if verdicts else f"not judged at the {profile} profile",
        "profile": profile,
        "world": world,
        "detail": " ".join(detail.split()),
    }
