"""LoRA: the change of the weights against its formula and diffusers' own, and what is refused."""

import json

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffclf.commands.main import main
from diffclf.models import ModelError, UnsupportedModelError, load_model
from diffclf.models.lora import LORA_FILE

QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "text_model.encoder.layers.1.self_attn.q_proj"
LAYERS = {
    f"unet.{QUERY}": (16, 16),
    f"unet.{OUT}": (16, 16),
    f"unet.{CONV}": (8, 8, 3, 3),
    f"text_encoder.{TEXT}": (16, 16),
    f"text_encoder.{TEXT.replace('q_', 'out_')}": (16, 16),
}


def factors(shape, rank=2):
    """A and B of a layer, as its kind of layer has them."""
    kernel = shape[2:]
    return torch.randn(rank, *shape[1:]), torch.randn(shape[0], rank, *(1 for _ in kernel))


def as_new(layer, which):
    return f"{layer}.lora_{which}.weight"


def as_old(layer, which):
    """The names of 2023: attention's layers belong to a processor."""
    name = {"A": "down", "B": "up"}[which]
    if layer.startswith("text_encoder"):
        return f"{layer}.lora_linear_layer.{name}.weight"
    start, _, last = layer.removesuffix(".0").rpartition(".")
    return f"{start}.processor.{last}_lora.{name}.weight" if last.startswith("to_") else f"{layer}.lora.{name}.weight"


def as_kohya(layer, which):
    part, _, path = layer.partition(".")
    start = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}[part]
    return f"{start}_{path.replace('.', '_')}.lora_{ {'A': 'down', 'B': 'up'}[which] }.weight"


@pytest.fixture
def lora(tmp_path):
    """Return a function that saves a random LoRA; it returns the file, and what is added at scale 1 without alpha."""

    def save(name=as_new, layers=LAYERS, alpha=None, metadata=None, more=None):
        torch.manual_seed(0)
        weights, added = dict(more or {}), {}
        for layer, shape in layers.items():
            down, up = factors(shape)
            weights |= {name(layer, "A"): down, name(layer, "B"): up}
            if alpha is not None:
                weights[name(layer, "A").replace("lora_down.weight", "alpha")] = torch.tensor(float(alpha))
            added[layer] = torch.einsum("or,ri...->oi...", up.flatten(1), down)
        save_file(weights, tmp_path / LORA_FILE, metadata=metadata)
        return tmp_path / LORA_FILE, added

    return save


def weight(model, layer):
    part, _, path = layer.partition(".")
    network = getattr(model.pipeline, part)
    paths = [path, path.removeprefix("text_model.")]
    return next(value for name, value in network.state_dict().items() if name.removesuffix(".weight") in paths)


@pytest.mark.parametrize(("name", "alpha"), [(as_new, None), (as_old, None), (as_kohya, None), (as_kohya, 6)])
def test_each_layout_adds_the_product_of_its_factors(tiny_sd, tiny_sd_folder, lora, name, alpha):
    file, added = lora(name, alpha=alpha)
    model = load_model(tiny_sd_folder, lora=file.parent, lora_scale=0.5)
    for layer, product in added.items():
        expected = weight(tiny_sd, layer) + 0.5 * (1 if alpha is None else alpha / 2) * product
        torch.testing.assert_close(weight(model, layer), expected, rtol=1e-5, atol=1e-5)
    own = {
        key
        for key, value in model.network.state_dict().items()
        if not torch.equal(value, tiny_sd.network.state_dict()[key])
    }
    assert own == {f"{path}.weight" for path in (QUERY, OUT, CONV)}
    assert model.lora["name"] == file.name and model.lora["scale"] == 0.5 and len(model.lora["sha256"]) == 64


def test_alpha_of_the_files_metadata_counts(tiny_sd, tiny_sd_folder, lora):
    noted = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.r": 2})}
    file, added = lora(layers={f"unet.{QUERY}": (16, 16)}, metadata=noted)
    expected = weight(tiny_sd, f"unet.{QUERY}") + 4 * added[f"unet.{QUERY}"]
    torch.testing.assert_close(weight(load_model(tiny_sd_folder, lora=file), f"unet.{QUERY}"), expected)
    file, _ = lora(metadata={"lora_adapter_metadata": json.dumps({"unet.use_rslora": True})})
    with pytest.raises(ModelError, match="unet.use_rslora must not be set"):
        load_model(tiny_sd_folder, lora=file)


@pytest.mark.parametrize(("name", "alpha"), [(as_new, None), (as_old, None), (as_kohya, 6)])
def test_the_weights_are_those_of_diffusers_own_loading(tiny_sd_folder, lora, name, alpha):
    pytest.importorskip("peft")
    file, added = lora(name, alpha=alpha)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd_folder)
    pipeline.load_lora_weights(file)
    pipeline.fuse_lora(lora_scale=0.5)
    pipeline.unload_lora_weights()
    model = load_model(tiny_sd_folder, lora=file, lora_scale=0.5)
    for part in ("unet", "text_encoder"):
        theirs, own = getattr(pipeline, part).state_dict(), getattr(model.pipeline, part).state_dict()
        assert theirs.keys() == own.keys()
        for key, value in own.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-5, atol=1e-5)


def test_name_scale_and_content_are_in_the_fingerprint(tiny_sd, tiny_sd_folder, lora):
    file, _ = lora()
    prints = [load_model(tiny_sd_folder, lora=file, lora_scale=scale).fingerprint for scale in (1, 1.0, 0.5)]
    assert prints[0] == prints[1] and len({*prints, tiny_sd.fingerprint}) == 3
    other = file.rename(file.with_name("other.safetensors"))
    assert load_model(tiny_sd_folder, lora=other).fingerprint not in prints


def test_sd3_takes_one_and_dit_none(tiny_sd3, tiny_sd3_folder, tiny_dit_folder, lora):
    layer = "transformer.transformer_blocks.1.attn.to_k"
    file, added = lora(layers={layer: (16, 16)})
    model = load_model(tiny_sd3_folder, lora=file)
    torch.testing.assert_close(weight(model, layer), weight(tiny_sd3, layer) + added[layer])
    with pytest.raises(UnsupportedModelError, match="diffusers knows no LoRA for a DiTPipeline"):
        load_model(tiny_dit_folder, lora=file)


def test_what_does_not_fit_is_refused(tiny_sd_folder, tmp_path, lora):
    def refused(match, file, error=ModelError, scale=1.0):
        with pytest.raises(error, match=match):
            load_model(tiny_sd_folder, lora=file, lora_scale=scale)

    refused("got '.*none.safetensors'; from the hub: hf download", tmp_path / "none.safetensors")
    (tmp_path / "a.bin").write_bytes(b"")
    refused("must be a .safetensors file", tmp_path / "a.bin")
    refused("changes none of the 5 weights that it names", lora()[0], scale=0.0)
    refused("lora_scale must be a finite number, got nan", lora()[0], scale=float("nan"))
    refused("has no layer unet.nothing", lora(layers={"unet.nothing": (16, 16)})[0])
    refused("has no layer text_encoder_2.x", lora(layers={"text_encoder_2.x": (16, 16)})[0])
    refused(r"has weights \(16, 16\), got factors \(8, 2\) and \(2, 16\)", lora(layers={f"unet.{QUERY}": (8, 16)})[0])
    refused("each weight must be one of the two factors .* unet.x", lora(more={"unet.x": torch.zeros(1)})[0])
    dora = {f"unet.{QUERY}.lora_magnitude_vector": torch.ones(1)}
    refused("must be a plain LoRA, got .*magnitude", lora(more=dora)[0], error=UnsupportedModelError)
    file, _ = lora()
    file.write_bytes(file.read_bytes()[:100])
    refused("LoRA .* cannot be read", file)


def test_on_the_command_line(tiny_sd_folder, lora, tmp_path, capsys):
    file, _ = lora()
    picture = tmp_path / "x.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    command = [
        "classify",
        str(picture),
        "--labels",
        "bag,boot",
        "--trials",
        "2",
        "--model",
        str(tiny_sd_folder),
        "--json",
    ]
    found = []
    for more in ([], ["--lora", str(file)], ["--lora", str(file), "--lora-scale", "0.1"]):
        assert main(command + more) == 0
        found.append(capsys.readouterr().out)
    assert len(set(found)) == 3
