"""Notebook 08 at the paper profile, with stand-ins for Stable Diffusion, the CLIPs and Winoground."""

import pandas as pd
import pytest
import yaml
from test_compositional import save_winoground
from test_paper_profile import judged, listener, run_alone, with_solutions  # noqa: F401 (a fixture)

from diffclf.mini.clip import Size, build_clip
from diffclf.mini.export import export_clip
from diffclf.mini.tokenizer import build_tokenizer
from diffclf.workbook.claims import read_claims
from diffclf.workbook.results import read_run

NAME = "08_compositionality"
OPPONENTS = ("CLIP ViT-L/14", "OpenCLIP ViT-H/14")


@pytest.fixture
def notebooks(tiny_sd_folder, tmp_path):
    """A copy of the notebooks whose paper profile has the stand-ins."""
    folder, clip = with_solutions(tmp_path), tmp_path / "clip"
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    size = Size(patch=8, width=16, depth=1, text_width=16, text_depth=1)
    export_clip(build_clip(size, len(tokenizer), tokenizer.eos_token_id, tokenizer.model_max_length), clip)
    path = folder / f"{NAME}.yaml"
    content = yaml.safe_load(path.read_text())
    content["settings"]["paper"] |= {
        "model": str(tiny_sd_folder),
        "dataset": str(save_winoground(tmp_path / "winoground", n=30)),
        "opponents": dict.fromkeys(OPPONENTS, str(clip)),
        **{"n_images": 27, "n_trials": 3, "n_checked": 2},
    }
    path.write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.slow
def test_the_notebook_of_table_3(notebooks, listener, tmp_path):  # noqa: F811
    folder = run_alone(notebooks, "8", listener, tmp_path)
    assert read_run(folder)[NAME]["error"] == "" and judged(folder, NAME).keys() == read_claims(NAME).keys()
    assert judged(folder, NAME)["above-the-larger-clip"]["n"] == 27
    table = (folder / "tables" / f"{NAME}-table3.csv").read_text()
    assert table.splitlines()[0].split(",")[:2] == ["model", "source"] and ",relation" in table.splitlines()[0]
    answers = pd.read_parquet(folder / "predictions" / f"{NAME}-table3.parquet")
    assert len(answers) == 27 * 2 * 3 and set(answers["task"]) == {"object", "relation", "both"}
    svg = (folder / "figures" / f"{NAME}-figure5.svg").read_text()
    assert "<image" not in svg, "Winoground's images must not be published"
