"""The object that a notebook works with: settings, model and images in; figures, tables, numbers and claims out.

The results of notebook N at profile P are files in reports/P; `diffclf.workbook.results` lists them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from diffclf.bank import ErrorBank
    from diffclf.datasets import ImageSet
    from diffclf.models.protocol import DiffusionModel
    from diffclf.trials import TrialList

from diffclf.files import write_json
from diffclf.paths import data_dir
from diffclf.stats import Estimate
from diffclf.workbook import claims, display, provenance, results, settings

__all__ = ["Workbook"]

Item = TypeVar("Item")


class Workbook:
    """Settings, data and results of one notebook.

    A new object removes the results of an earlier run of the same notebook and sets the style of figures. Each setting
    is an attribute, such as `wb.n_images`.

    Args:
        notebook: name without suffix, such as "03_timestep_strategies".
        profile: "": $DIFFCLF_PROFILE, else mini.
        **parameters: values of the parameters cell; "", 0 and empty lists mean the profile's value.

    Raises:
        ValueError: unknown profile, notebook or parameter, or a parameter of the wrong type.
    """

    def __init__(self, notebook: str, profile: str = "", **parameters: object) -> None:
        self.notebook, self.profile = notebook, profile or settings.default_profile()
        self.settings: Mapping[str, Any] = MappingProxyType(settings.resolve(notebook, self.profile, parameters))
        if self.settings["offline"]:
            settings.go_offline()
        self._claims = claims.read_claims(notebook)
        self._judged: dict[str, dict[str, Any]] = {}
        self._metrics: dict[str, Any] = {}
        self._model: DiffusionModel | None = None
        self._started = time.monotonic()
        results.forget(self.folder, notebook)
        from diffclf.workbook.plots.style import set_style

        set_style()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (a setting may be anything)
        known = self.__dict__.get("settings", {})
        if name in known:
            return known[name]
        raise AttributeError(f"Workbook has no setting {name!r}; known: {', '.join(known)}")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"Workbook({self.notebook!r}, profile={self.profile!r}, {shown})"

    @property
    def folder(self) -> Path:
        """Where the results of this profile go."""
        return settings.reports_dir(self.profile)

    def model(self, name: str = "") -> DiffusionModel:
        """Return the model of the settings, loaded once, or another one by name."""
        from diffclf.models import load_model

        options = {key: self.settings[key] for key in ("device", "dtype", "compile") if self.settings.get(key)}
        if name and name != self.settings["model"]:
            return load_model(name, **options)
        if self._model is None:
            self._model = load_model(self.settings["model"], **options)
        return self._model

    def dataset(self, split: str = "", name: str = "", n_images: int = 0) -> ImageSet:
        """Return the first n_images of a split; "" and 0 mean the settings' values."""
        from diffclf.datasets import load_dataset

        n_images = n_images or self.settings["n_images"]
        return load_dataset(name or self.settings["dataset"], split=split or self.settings["split"], n_images=n_images)

    def bank(self, model: DiffusionModel, prompts: Sequence[Any], trials: TrialList, **options: object) -> ErrorBank:
        """Return the error bank that all notebooks and profiles share, with this run's seed; see `ErrorBank`."""
        from diffclf.bank import ErrorBank

        return ErrorBank(settings.reports_dir() / "bank", model, prompts, trials, **{"seed": self.seed, **options})

    def show(self, fig: Figure, alt: str, name: str) -> None:
        """Display a figure, save it as figures/NOTEBOOK-NAME.png and .svg, and close it; `alt` is it in words."""
        display.show_figure(fig, alt, self.folder / "figures" / f"{self.notebook}-{name}")

    def table(self, df: pd.DataFrame, name: str, caption: str = "") -> None:
        """Display a pandas table and save it as tables/NOTEBOOK-NAME.csv; cells may be estimates."""
        display.show_table(df, caption, self.folder / "tables" / f"{self.notebook}-{name}")

    def record(self, name: str, value: float | str | Estimate | Sequence[float] | Mapping[str, Any]) -> None:
        """Write a number, a text or an estimate into the run's metrics file."""
        if isinstance(value, Estimate):
            value = {key: getattr(value, key) for key in ("value", "low", "high", "level", "n")}
        elif hasattr(value, "tolist"):
            value = value.tolist()
        self._metrics[name] = value
        write_json(self.folder / "metrics" / f"{self.notebook}.json", self._metrics)

    def _claim(self, id_: str) -> claims.Claim:
        if id_ not in self._claims:
            known = ", ".join(self._claims) or "none"
            raise ValueError(f"id must be a claim of {self.notebook}.yaml ({known}), got {id_!r}")
        return self._claims[id_]

    def level(self, id: str) -> float:
        """Return the coverage that the interval of a claim must have: compute the estimate at this level."""
        return self._claim(id).level

    def claim(
        self, id: str, estimate: float | Estimate, low: float = nan, high: float = nan, *, n: int = 0, detail: str = ""
    ) -> None:
        """Judge a claim by the rule, display the verdict and write it to claims/NOTEBOOK.json.

        Args:
            id: of the claim in the notebook's .yaml.
            estimate: the number, in the claim's unit; an Estimate has its interval with it.
            low: lower end of the interval at `level(id)`, if the estimate is a plain number.
            high: upper end.
            n: observations behind the estimate; 0: the estimate's own number.
            detail: one more sentence to show.

        Raises:
            ValueError: unknown id, no interval, or an interval of another level than the rule asks for.
        """
        claim = self._claim(id)
        if not isinstance(estimate, Estimate):
            estimate = Estimate(float(estimate), float(low), float(high), claim.level)
        estimate = replace(estimate, n=n or estimate.n)
        where = {"profile": self.profile, "world": self.world, "verdicts": self.verdicts}
        self._judged[id] = claims.claim_record(claim, estimate, detail=detail, **where)
        content = {"notebook": self.notebook, "profile": self.profile, "seed": self.seed}
        write_json(self.folder / "claims" / f"{self.notebook}.json", {**content, "claims": [*self._judged.values()]})
        display.show_claim(self._judged[id])

    def paper(self, key: str) -> Any:  # noqa: ANN401 (the file's own structure)
        """Return an entry of data/paper/tables.json or figures.json; raise ValueError if there is none."""
        tables, figures = (
            json.loads((data_dir() / "paper" / f"{n}.json").read_text("utf-8")) for n in ("tables", "figures")
        )
        known = tables | figures
        if key not in known:
            raise ValueError(f"key must be one of {', '.join(name for name in known if name != 'note')}, got {key!r}")
        return known[key]

    def provenance(self) -> None:
        """Display what produced this notebook's numbers, and write it into the metrics file."""
        facts, seconds = provenance.environment(), time.monotonic() - self._started
        record = {"environment": facts, "settings": dict(self.settings), "seed": self.seed}
        if self._model is not None:
            record["model"] = provenance.model_facts(self._model)
        self.record("provenance", record)
        display.show_facts(provenance.notebook_facts(record, self.profile, seconds))

    def progress(self, iterable: Iterable[Item], total: int | None = None, desc: str = "") -> Iterator[Item]:
        """Iterate with a progress bar where somebody watches."""
        from diffclf.progress import progress

        return progress(iterable, total=total, desc=desc)
