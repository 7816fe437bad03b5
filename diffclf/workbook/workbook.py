"""The object that a notebook works with: settings, model and images in; figures, tables, numbers and claims out.

The results of notebook N at profile P are files in reports/P; `diffclf.workbook.results` lists them.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import nan
from types import MappingProxyType
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from diffclf.bank import ErrorBank
from diffclf.datasets import ImageSet, load_dataset
from diffclf.files import write_json, write_whole
from diffclf.models import load_model
from diffclf.models.protocol import DiffusionModel
from diffclf.paths import data_dir
from diffclf.stats import Estimate
from diffclf.trials import TrialList
from diffclf.workbook import claims, display, provenance, results, settings
from diffclf.workbook.plots.style import set_style

__all__ = ["Workbook"]


class Workbook:
    """Settings, data and results of one notebook.

    A new object removes the results of an earlier run of the same notebook and sets the style of figures. Each setting
    is an attribute, such as `wb.n_images`. Arguments and errors are those of `settings.resolve`; a loaded model may
    stand for its name, so that a cell that names it `model`, as its parameter, can be run again.
    """

    def __init__(self, notebook: str, profile: str = "", **parameters: object) -> None:
        self.notebook, self.profile = notebook, settings.chosen_profile(profile)
        loaded = {name: value for name, value in parameters.items() if hasattr(value, "fingerprint")}
        parameters |= {name: value.name for name, value in loaded.items()}
        self.settings: Mapping[str, Any] = MappingProxyType(settings.resolve(notebook, self.profile, parameters))
        if self.settings["offline"]:
            settings.go_offline()
        self.folder = settings.reports_dir(self.profile)
        self._claims = claims.read_claims(notebook)
        self._judged: dict[str, dict[str, Any]] = {}
        self._metrics: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._models: dict[str, DiffusionModel] = {value.name: value for value in loaded.values()}
        self._started = time.monotonic()
        results.forget(self.folder, notebook)
        set_style()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (a setting may be anything)
        known = self.__dict__.get("settings", {})
        if name in known:
            return known[name]
        raise AttributeError(f"Workbook has no setting {name!r}; known: {', '.join(known)}")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"Workbook({self.notebook!r}, profile={self.profile!r}, {shown})"

    def model(self, name: str = "") -> DiffusionModel:
        """Return a model by name, loaded once; "" means that of the settings."""
        name = name or self.settings["model"]
        if name not in self._models:
            options = ("device", "dtype", "compile", "memory")
            options = {key: self.settings[key] for key in options if self.settings.get(key)}
            self._models[name] = load_model(name, **options)
        return self._models[name]

    def dataset(self, split: str = "", name: str = "", n_images: int = 0) -> ImageSet:
        """Return the first n_images of a split; "" and 0 mean the settings' values."""
        n_images = n_images or self.settings["n_images"]
        data = load_dataset(name or self.settings["dataset"], split=split or self.settings["split"], n_images=n_images)
        if data.source:
            self._sources[data.name] = data.source
        return data

    def bank(self, model: DiffusionModel, prompts: Sequence[Any], trials: TrialList, **options: object) -> ErrorBank:
        """Return the error bank that all notebooks and profiles share, with this run's seed; see `ErrorBank`."""
        return ErrorBank(settings.reports_dir() / "bank", model, prompts, trials, **{"seed": self.seed, **options})

    def show(self, fig: Figure, alt: str, name: str) -> None:
        """Display a figure, save it as figures/NOTEBOOK-NAME.png and .svg, and close it; `alt` is it in words."""
        display.show_figure(fig, alt, self.folder / "figures" / f"{self.notebook}-{name}")

    def table(self, df: pd.DataFrame, name: str, caption: str = "") -> None:
        """Display a pandas table and save it as tables/NOTEBOOK-NAME.csv; cells may be estimates."""
        display.show_table(df, caption, self.folder / "tables" / f"{self.notebook}-{name}")

    def predictions(self, df: pd.DataFrame, name: str) -> None:
        """Save what each method answers on each image (`Field.columns`) as predictions/NOTEBOOK-NAME.parquet."""
        write_whole(self.folder / "predictions" / f"{self.notebook}-{name}.parquet", df.to_parquet(index=False))

    def record(self, name: str, value: float | str | Estimate | Sequence[float] | Mapping[str, Any]) -> None:
        """Write a number, a text or an estimate into the run's metrics file."""
        value = asdict(value) if isinstance(value, Estimate) else value
        self._metrics[name] = value.tolist() if hasattr(value, "tolist") else value
        write_json(self.folder / "metrics" / f"{self.notebook}.json", self._metrics)

    def level(self, id: str) -> float:
        """Return the coverage that the interval of a claim must have: compute the estimate at this level."""
        if id not in self._claims:
            raise ValueError(f"id must be a claim of {self.notebook}.yaml ({', '.join(self._claims)}), got {id!r}")
        return self._claims[id].level

    def claim(
        self, id: str, estimate: float | Estimate, low: float = nan, high: float = nan, *, n: int = 0, detail: str = ""
    ) -> None:
        """Judge a claim by the rule, display the verdict and write it to claims/NOTEBOOK.json.

        The estimate, in the claim's unit, has its interval with it; a plain number needs the ends of the interval at
        `level(id)`. `n` are the observations behind it (0: the estimate's own number), `detail` is one more sentence.
        Raises ValueError: unknown id, no interval, or an interval of another level than the rule asks for.
        """
        level = self.level(id)
        if not isinstance(estimate, Estimate):
            estimate = Estimate(float(estimate), float(low), float(high), level)
        estimate = replace(estimate, n=n or estimate.n)
        where = {"profile": self.profile, "world": self.world, "verdicts": self.verdicts}
        self._judged[id] = claims.claim_record(self._claims[id], estimate, detail=detail, **where)
        content = {"notebook": self.notebook, "profile": self.profile, "seed": self.seed}
        write_json(self.folder / "claims" / f"{self.notebook}.json", {**content, "claims": [*self._judged.values()]})
        display.show_claim(self._judged[id])

    def paper(self, key: str) -> Any:  # noqa: ANN401 (the file's own structure)
        """Return an entry of data/paper/tables.json or figures.json; raise ValueError if there is none."""
        known: dict[str, Any] = {}
        for name in ("tables", "figures"):
            known |= json.loads((data_dir() / "paper" / f"{name}.json").read_text(encoding="utf-8"))
        if key not in known:
            raise ValueError(f"key must be one of {', '.join(name for name in known if name != 'note')}, got {key!r}")
        return known[key]

    def provenance(self) -> None:
        """Display what produced this notebook's numbers, and write it into the metrics file."""
        environment, used = provenance.environment(), self._models.get(self.settings["model"])
        model = used and {name: str(getattr(used, name)) for name in ("name", "fingerprint", "dtype", "device")}
        if model:
            model |= {"dtype": model["dtype"].removeprefix("torch."), "source": getattr(used, "source", "")}
        facts = {"environment": environment, "settings": dict(self.settings), "seed": self.seed, "model": model}
        facts |= {"data": self._sources} if self._sources else {}
        self.record("provenance", facts)
        shown = {
            "Profile": self.profile,
            "Settings": ", ".join(f"{name} = {value}" for name, value in self.settings.items()),
            "Model": "{name}, weights {fingerprint}, {dtype} on {device}; {source}".format(**model)
            if model
            else "none",
            **({"Data": ", ".join(self._sources.values())} if self._sources else {}),
            **provenance.describe(environment),
            "Wall time": provenance.duration(time.monotonic() - self._started),
        }
        display.show_facts(shown)
