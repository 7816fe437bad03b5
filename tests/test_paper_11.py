"""Notebook 11 at the paper profile, with stand-ins for Stable Diffusion, the pets and BLIP."""

import pandas as pd
import pytest
import yaml
from test_paper_profile import CLASSES, judged, listener, run_alone, with_solutions  # noqa: F401 (a fixture)
from tiny import save_class_folder
from tiny_blip import save_tiny_blip

from diffclf.workbook.claims import read_claims
from diffclf.workbook.results import read_run

NAME = "11_interpretability"


@pytest.mark.slow
def test_round_trips_and_maps_on_photographs_with_captions_of_a_blip(tiny_sd_folder, listener, tmp_path):  # noqa: F811
    folder = with_solutions(tmp_path)
    stand_ins = {"model": str(tiny_sd_folder), "captioner": str(save_tiny_blip(tmp_path / "blip"))}
    stand_ins["dataset"] = str(save_class_folder(tmp_path / "images", CLASSES))
    sizes = {"n_classes": 4, "n_images": 5, "n_trials": 3, "n_map": 12, "n_judge": 2, "n_invert": 4, "n_steps": 2}
    content = yaml.safe_load((folder / f"{NAME}.yaml").read_text())
    assert content["settings"]["paper"].keys() >= {"captioner", "fill"}
    content["settings"]["paper"] |= stand_ins | sizes
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(content))
    reports = run_alone(folder, "11", listener, tmp_path)
    assert read_run(reports)[NAME]["error"] == ""
    assert judged(reports, NAME).keys() == read_claims(NAME).keys()
    assert {claim["n"] for claim in judged(reports, NAME).values()} == {4, 5}
    answers = pd.read_parquet(reports / "predictions" / f"{NAME}-reconstruction.parquet")
    assert len(answers) == 2 * 4 and set(answers["method"]) == {"diffusion classifier", "reconstruction"}
    for figure in ("figure7", "maps", "altered", "curves"):
        assert (reports / "figures" / f"{NAME}-{figure}.png").stat().st_size > 5000, figure
