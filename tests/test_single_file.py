"""Checkpoints in a single file: a tiny one, its weights renamed from diffusers' names to the original ones."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffclf.models import ModelError, load_model

PARTS = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model.transformer."}
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
RESNET |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
UNET = {  # of two levels with one layer each
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet(name):
    start = next(key for key in sorted(UNET, key=len, reverse=True) if name.startswith(f"{key}."))
    rest = name.removeprefix(f"{start}.")
    layer, _, last = rest.partition(".")
    return f"{UNET[start]}.{RESNET[layer]}.{last}" if ".resnets." in f".{start}." else f"{UNET[start]}.{rest}"


def original_vae(name):
    """The levels of the decoder count from the other end; there are three."""
    name = re.sub(r"encoder.down_blocks.(\d).resnets.(\d)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"down_blocks.(\d).downsamplers.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks.(\d).resnets.(\d)", lambda m: f"up.{2 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks.(\d).upsamplers.0", lambda m: f"up.{2 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block.resnets.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        start, _, layer = name.partition("mid_block.attentions.0.")
        layer, _, last = layer.rpartition(".")
        return f"{start}mid.attn_1.{ATTENTION[layer]}.{last}"
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


@pytest.fixture
def checkpoint(tiny_sd_folder, tmp_path):
    """A tiny Stable Diffusion in one file, beside a folder with its small files."""
    renamed, weights = {"unet": original_unet, "vae": original_vae, "text_encoder": str}, {}
    for part, start in PARTS.items():
        (file,) = (tiny_sd_folder / part).glob("*.safetensors")
        for name, value in load_file(file).items():
            new = start + renamed[part](name)
            if "attn_1" in new and value.ndim == 2:
                value = value[:, :, None, None]  # attention was made of convolutions
            weights[new] = value.contiguous()
    save_file(weights, tmp_path / "tiny.safetensors")
    config = Path(shutil.copytree(tiny_sd_folder, tmp_path / "config"))
    for file in config.rglob("*.safetensors"):
        file.unlink()
    return tmp_path / "tiny.safetensors", config


def test_it_is_the_same_model_as_the_folder(tiny_sd, checkpoint):
    file, config = checkpoint
    model = load_model(file, device="cpu", config=config)
    assert model.fingerprint == tiny_sd.fingerprint and model.name == str(file)
    assert model.source == f"{file}, configured as {config}"
    half = load_model(str(file), device="cpu", dtype="float16", config=str(config))
    assert half.dtype == torch.float16 and {p.dtype for p in half.vae.parameters()} == {torch.float32}
    assert {p.dtype for p in half.text_encoder.parameters()} == {torch.float16}


def test_weights_beside_the_configuration_are_not_read(checkpoint):
    file, config = checkpoint
    weights = {name: value for name, value in load_file(file).items() if not name.startswith("cond_stage")}
    save_file(weights, file)
    (config / "text_encoder" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"tiny.safetensors cannot be read: .*missing in the checkpoint"):
        load_model(file, config=config)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_weight_is_an_error(checkpoint, part):
    file, config = checkpoint
    weights = load_file(file)
    names = [name for name in weights if name.startswith(PARTS[part]) and name.endswith("bias")]
    del weights[names[3]]
    save_file(weights, file)
    with pytest.raises(ModelError, match=rf"(lacks 1 weights of {part}: |cannot be read: )"):
        load_model(file, config=config)


def test_what_goes_wrong_says_what_to_do(checkpoint, tiny_sd_folder, tmp_path):
    file, config = checkpoint
    with pytest.raises(
        ModelError, match=rf"Give a model of its kind as config=, as: load_model\('{file}', config='sd-2-base'\)"
    ):
        load_model(file)
    for name in (tmp_path / "none.safetensors", tiny_sd_folder, "mini-sd"):
        with pytest.raises(ModelError, match="config is for a checkpoint in a single .safetensors file, .* got"):
            load_model(name, config=config)
    file.rename(tmp_path / "tiny.ckpt")
    with pytest.raises(ModelError, match="a single .safetensors file"):
        load_model(tmp_path / "tiny.ckpt", config=config)
    save_file({"a": torch.zeros(3)}, file)
    with pytest.raises(ModelError, match="tiny.safetensors cannot be read"):
        load_model(file, config=config)
