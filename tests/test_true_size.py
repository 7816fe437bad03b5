"""Models at their true size: their numbers of weights, and the measurement on shrunken ones."""

import re

import diffusers
import pytest
import torch
from tiny import save_class_folder

from diffclf.bench import true_size
from diffclf.bench.true_size import TRUE_SIZES, build_true_size, measure_true_size
from diffclf.commands.main import main

SMALL_UNET = {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 8}
SMALL = {
    "dit-xl-2-256": {"num_layers": 1, "num_attention_heads": 2, "sample_size": 4},
    "sd-2-base": SMALL_UNET | {"block_out_channels": (8, 8, 16, 16), "attention_head_dim": 2},
    "sdxl": SMALL_UNET
    | {"block_out_channels": (8, 16, 16), "transformer_layers_per_block": 1, "attention_head_dim": 2},
    "sd3-medium": {"num_layers": 1, "num_attention_heads": 2, "caption_projection_dim": 128, "sample_size": 4},
}


@pytest.mark.parametrize(
    ("name", "n_weights"),  # as their makers state them: DiT's Table 1, SDXL's Table 1, and the rest in their cards
    [("dit-xl-2-256", 675e6), ("sd-2-base", 866e6), ("sdxl", 2.57e9), ("sd3-medium", 2.03e9)],
)
def test_the_networks_have_the_published_numbers_of_weights(name, n_weights):
    entry = TRUE_SIZES[name]
    part = next(part for part in entry.kind.parts if part in ("unet", "transformer"))
    with torch.device("meta"):
        network = getattr(diffusers, entry.kind.parts[part][0])(**entry.network)
    # diffusers' DiT has the embeddings of time and class once per block, the original has them once
    own = [weight for key, weight in network.named_parameters() if not re.match(r"\w+\.[1-9]\d*\.norm1\.emb", key)]
    assert sum(weight.numel() for weight in own) == pytest.approx(n_weights, rel=0.005)


@pytest.mark.parametrize("name", TRUE_SIZES)
def test_each_kind_is_built_and_measured(name, monkeypatch, capsys):
    entry = TRUE_SIZES[name]
    texts = tuple(text | {"num_hidden_layers": 2} for text in entry.text_encoders)
    monkeypatch.setitem(TRUE_SIZES, name, entry._replace(network=entry.network | SMALL[name], text_encoders=texts))
    monkeypatch.setattr(true_size, "VOCABULARY", 1000)
    model = build_true_size(name, dtype=torch.bfloat16)
    assert model.image_size == 8 * SMALL[name]["sample_size"] and {p.dtype for p in model.network.parameters()} == {
        torch.bfloat16
    }
    assert {p.dtype for p in model.vae.parameters()} == {torch.float32} and torch.get_default_dtype() == torch.float32
    found = measure_true_size(name)
    assert found["peak, GB"] > 0.1 and found["s per evaluation"] > 0 and found["dtype"] == "float32"
    assert main(["bench", "--true-size", name, "--device", "cpu"]) == 0
    assert "s per evaluation" in capsys.readouterr().out


def test_an_unknown_name_is_refused():
    with pytest.raises(
        ValueError, match="true size must be one of dit-xl-2-256, sd-2-base, sdxl, sd3-medium, got 'sd'"
    ):
        build_true_size("sd")


@pytest.mark.parametrize("command", [["bench", "--true-size", "sdxl"], ["baseline", "clip"]])
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_said_before_anything_is_built(capsys, command, device, tmp_path, monkeypatch):
    save_class_folder(tmp_path, ["bag", "boot"])
    monkeypatch.setattr(true_size, "build_true_size", lambda *_: pytest.fail("a model was built"))
    assert main([*command, *([str(tmp_path)] if command[0] == "baseline" else []), "--device", device]) == 2
    assert f"device must be cpu, cuda, cuda:0, ..., got {device!r}; CUDA devices here: " in capsys.readouterr().err
