"""The one object a notebook talks to: its settings, its model and images, and the places where its results go.

Results of notebook N at profile P lie under reports/P: figures/N-NAME.png and .svg, tables/N-NAME.csv,
metrics/N.json, claims/N.json. Making the object forgets what an earlier run of the same notebook left there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from diffclf.bank import ErrorBank
    from diffclf.datasets import ImageSet
    from diffclf.models.protocol import DiffusionModel

from diffclf.stats import Estimate
from diffclf.workbook import claims, figures, settings
from diffclf.workbook.provenance import environment
from diffclf.workbook.results import write_json

__all__ = ["Workbook"]

Item = TypeVar("Item")


class Workbook:
    """Settings and results of one notebook.

    Args:
        notebook: name without suffix, such as "03_timestep_strategies".
        profile: "": $DIFFCLF_PROFILE, else mini.
        **parameters: the parameters cell's values; "", 0 and empty lists mean the profile's.

    Raises:
        ValueError: unknown profile, notebook or parameter, or a parameter of the wrong type.
    """

    def __init__(self, notebook: str, profile: str = "", **parameters: object) -> None:
        """Resolve the settings, forget an earlier run's results and set the style of figures."""
        self.notebook = notebook
        self.profile = profile or settings.default_profile()
        resolved = settings.resolve(notebook, self.profile, parameters)
        if resolved.get("offline"):
            settings.go_offline()
        self.settings: Mapping[str, Any] = MappingProxyType(resolved)
        self.seed: int = resolved["seed"]
        self._claims = {id_: claim for id_, claim in claims.read_claims().items() if claim.notebook == notebook}
        self._judged: dict[str, dict[str, Any]] = {}
        self._metrics: dict[str, Any] = {}
        self._model: DiffusionModel | None = None
        self._started = time.monotonic()
        self._forget()
        from diffclf.workbook.plots import set_style

        set_style()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the profile says)
        """Return a setting as an attribute: wb.n_images."""
        known = self.__dict__.get("settings", {})
        if name in known:
            return known[name]
        raise AttributeError(f"Workbook has no setting {name!r}; known: {', '.join(known)}")

    def __repr__(self) -> str:
        """Return notebook, profile and settings in one line."""
        shown = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"Workbook({self.notebook!r}, profile={self.profile!r}, {shown})"

    @property
    def folder(self) -> Path:
        """Where the results of this profile go."""
        return settings.reports_dir(self.profile)

    def _forget(self) -> None:
        """Remove results of an earlier run, so that the report never mixes two."""
        for path in (self.folder / "claims", self.folder / "metrics"):
            (path / f"{self.notebook}.json").unlink(missing_ok=True)
        for kind in ("figures", "tables"):
            for path in (self.folder / kind).glob(f"{self.notebook}-*"):
                path.unlink()

    def model(self, name: str = "") -> DiffusionModel:
        """Return the model named, or the settings' one, loaded once."""
        from diffclf.models import load_model

        options = {key: self.settings[key] for key in ("device", "dtype", "compile") if self.settings.get(key)}
        if name and name != self.settings["model"]:
            return load_model(name, **options)
        if self._model is None:
            self._model = load_model(self.settings["model"], **options)
        return self._model

    def dataset(self, split: str = "", name: str = "", n_images: int = 0) -> ImageSet:
        """Return the first n_images of a split; what is not given comes from the settings."""
        from diffclf.datasets import load_dataset

        return load_dataset(
            name or self.settings["dataset"],
            split=split or self.settings.get("split", "test"),
            n_images=n_images or self.settings.get("n_images"),
        )

    def bank(
        self,
        model: DiffusionModel,
        prompts: Mapping[str, Any] | Sequence[Any],
        timesteps: Sequence[int],
        **options: object,
    ) -> ErrorBank:
        """Return the error bank that all notebooks and profiles share, with this run's seed."""
        from diffclf.bank import ErrorBank

        return ErrorBank(settings.reports_dir() / "bank", model, prompts, timesteps, **{"seed": self.seed, **options})

    def show(self, fig: Figure, alt: str, name: str) -> None:
        """Display a figure, save it as figures/NOTEBOOK-NAME.png and .svg, and close it.

        Args:
            fig: a matplotlib figure.
            alt: the figure in words, for readers who cannot see it.
            name: such as "figure3".
        """
        figures.show_figure(fig, alt, self.folder / "figures" / f"{self.notebook}-{name}")

    def table(self, df: pd.DataFrame, name: str, caption: str = "") -> None:
        """Display a pandas table and save it as tables/NOTEBOOK-NAME.csv; cells may be estimates."""
        figures.show_table(df, caption, self.folder / "tables" / f"{self.notebook}-{name}")

    def record(self, name: str, value: float | str | Estimate | Sequence[float]) -> None:
        """Write a number, a text or an estimate into the run's metrics file."""
        if isinstance(value, Estimate):
            value = {key: getattr(value, key) for key in ("value", "low", "high", "level", "n")}
        elif hasattr(value, "tolist"):
            value = value.tolist()
        self._metrics[name] = value
        write_json(self.folder / "metrics" / f"{self.notebook}.json", self._metrics)

    def level(self, id: str) -> float:
        """Return the coverage that the interval of a claim must have: compute the estimate at this level."""
        return claims.required_level(self._claim(id))

    def _claim(self, id_: str) -> claims.Claim:
        if id_ not in self._claims:
            known = ", ".join(self._claims) or "none"
            raise ValueError(f"id must be a claim of {self.notebook} in claims.yaml ({known}), got {id_!r}")
        return self._claims[id_]

    def claim(
        self,
        id: str,
        estimate: float | Estimate,
        low: float | None = None,
        high: float | None = None,
        *,
        n: int | None = None,
        detail: str = "",
    ) -> None:
        """Judge a claim by the rule, display the verdict and write it to claims/NOTEBOOK.json.

        Args:
            id: of the claim in claims.yaml.
            estimate: the number, in the claim's unit; an Estimate brings its interval along.
            low: lower end of the interval at `level(id)`, where estimate is a plain number.
            high: upper end.
            n: observations behind it; None: the estimate's.
            detail: one more sentence to show.

        Raises:
            ValueError: unknown id, no interval, or an interval of another level than the rule asks for.
        """
        claim, level = self._claim(id), self.level(id)
        if not isinstance(estimate, Estimate):
            if low is None or high is None:
                raise ValueError(f"low and high must be given for {id}, got {low} and {high}")
            estimate = Estimate(float(estimate), float(low), float(high), level, n)
        if abs(estimate.level - level) > 1e-9:
            raise ValueError(
                f"interval of {id} must be at level {level:.6g} (wb.level({id!r})), got {estimate.level:.6g}"
            )
        verdict = claims.judge(claim, estimate)
        judged = claims.Judged(
            claim=claim,
            estimate=estimate,
            verdict=verdict if self.settings.get("verdicts", True) else None,
            n=estimate.n if n is None else n,
            profile=self.profile,
            world=self.settings.get("world", ""),
            detail=" ".join(detail.split()),
        )
        self._judged[id] = judged.as_record()
        content = {"notebook": self.notebook, "profile": self.profile, "seed": self.seed}
        write_json(self.folder / "claims" / f"{self.notebook}.json", {**content, "claims": list(self._judged.values())})
        figures.show_claim(judged)

    def paper(self, key: str) -> Any:  # noqa: ANN401 (the file's own structure)
        """Return an entry of data/paper/tables.json or figures.json.

        Raises:
            ValueError: there is no such entry.
        """
        from diffclf.paths import data_dir

        known: dict[str, Any] = {}
        for name in ("tables", "figures"):
            known |= json.loads((data_dir() / "paper" / f"{name}.json").read_text(encoding="utf-8"))
        if key not in known:
            raise ValueError(f"key must be one of {', '.join(name for name in known if name != 'note')}, got {key!r}")
        return known[key]

    def _model_facts(self) -> dict[str, str]:
        """Return what identifies the settings' model, and how it computes; nothing where it was not loaded."""
        model = self._model
        if model is None:
            return {}
        dtype = str(model.dtype).removeprefix("torch.")
        return {"name": model.name, "fingerprint": model.fingerprint, "dtype": dtype, "device": str(model.device)}

    def provenance(self) -> None:
        """Display and write what produced this notebook's numbers."""
        facts = environment()
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        commit = "no repository" if facts["commit"] is None else facts["commit"][:12]
        model = self._model_facts()
        rows = {
            "profile": self.profile,
            "seed": self.seed,
            "settings": ", ".join(f"{name} = {value}" for name, value in self.settings.items() if name != "seed"),
            "model": "{name}, weights {fingerprint}, {dtype} on {device}".format(**model) if model else "none",
            "commit": commit + (" with local changes" if facts["dirty"] else ""),
            "versions": ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version),
            "Python": f"{facts['python']}, {facts['platform']}",
            "hardware": ", ".join([f"{facts['cpu']}, {facts['cores']} cores", *facts["gpus"]]),
            "threads": facts["threads"],
            "wall time": f"{minutes} min {seconds} s",
        }
        record = {"environment": facts, "settings": dict(self.settings), "seed": self.seed}
        if model:
            record["model"] = model
        self._metrics["provenance"] = record
        write_json(self.folder / "metrics" / f"{self.notebook}.json", self._metrics)
        cells = "".join(
            f"<tr><th style='text-align:left;vertical-align:top'>{key}</th>"
            f"<td style='text-align:left;overflow-wrap:anywhere'>{value}</td></tr>"
            for key, value in rows.items()
        )
        text = "\n".join(f"{key}: {value}" for key, value in rows.items())
        figures.show_html(f"<table class='workbook-table'>{cells}</table>", text)

    def progress(self, iterable: Iterable[Item], total: int | None = None, desc: str = "") -> Iterator[Item]:
        """Iterate with a progress bar (rate, time left); without one where nobody watches."""
        from diffclf.progress import progress

        return progress(iterable, total=total, desc=desc)
