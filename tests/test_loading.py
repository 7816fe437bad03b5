"""From names, directories and hub ids to models, and every way in which that can go wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import add_text_prefix, edit_json, save_tiny_dit, save_tiny_sd

from diffclf.models import ModelError, UnsupportedModelError, load_model
from diffclf.models.loading import built_in_models
from diffclf.models.stable_diffusion import StableDiffusionModel

PROMPTS = ["a photo of a red sneaker", "a blue bag"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with a tiny Stable Diffusion and a tiny DiT, not to be changed."""
    root = tmp_path_factory.mktemp("saved")
    save_tiny_sd(root / "sd")
    save_tiny_dit(root / "dit")
    return root


@pytest.fixture
def sd_path(saved, tmp_path):
    """A directory of a tiny Stable Diffusion, to be changed at will."""
    return Path(shutil.copytree(saved / "sd", tmp_path / "sd"))


@pytest.fixture
def data(saved, tmp_path, monkeypatch):
    """A data folder with a built-in model that has versions 2 and 10 along its training."""
    model = tmp_path / "data" / "models" / "mini-sd"
    shutil.copytree(saved / "sd", model)
    for version in (2, 10):
        save_tiny_sd(tmp_path / f"v{version}", seed=version)
        for part in ("unet", "text_encoder"):
            shutil.copytree(tmp_path / f"v{version}" / part, model / "versions" / str(version) / part)
    monkeypatch.setenv("DIFFCLF_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, with no network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def cached(hub, path, repository="owner/tiny-sd"):
    """Put a directory into the cache of the hub as a repository; return its folder there."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(path, folder / "snapshots" / COMMIT))


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# What can be loaded


def test_directory_as_text_or_path(saved):
    for given in (saved / "sd", str(saved / "sd")):
        model = load_model(given)
        assert isinstance(model, StableDiffusionModel) and model.name == str(saved / "sd")


def test_device_and_dtype(saved):
    for dtype in ("float16", "torch.float16", torch.float16):
        model = load_model(saved / "sd", device="cpu", dtype=dtype)
        assert {p.dtype for p in model.network.parameters()} == {torch.float16}
        assert {p.dtype for p in model.text_encoder.parameters()} == {torch.float16}
        assert {p.dtype for p in model.vae.parameters()} == {torch.float32}


def test_default_precision_is_half_on_cuda_and_single_on_cpu():
    from diffclf.models.loading import _dtype

    assert _dtype(None, torch.device("cuda")) == torch.float16
    assert _dtype(None, torch.device("cpu")) == torch.float32


def test_weights_stored_in_half_precision_load_in_single(sd_path):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(sd_path).to(torch.float16)
    pipeline.save_pretrained(sd_path)
    model = load_model(sd_path)
    for part in (model.network, model.text_encoder, model.vae):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    weight = pipeline.unet.conv_in.weight
    assert weight.dtype == torch.float16 and torch.equal(model.network.conv_in.weight, weight.float())


def test_built_in_and_its_versions(data, saved, tmp_path):
    assert built_in_models() == {"mini-sd": ["2", "10"]}
    final, second = load_model("mini-sd"), load_model("mini-sd@2")
    assert (final.name, second.name) == ("mini-sd", "mini-sd@2")
    assert final.fingerprint == load_model(saved / "sd").fingerprint
    of_version = load_model(tmp_path / "v2")
    assert same_weights(second.network, of_version.network) and not same_weights(second.network, final.network)
    assert same_weights(second.text_encoder, of_version.text_encoder)
    assert same_weights(second.vae, final.vae) and not same_weights(second.vae, of_version.vae)
    assert len({final.fingerprint, second.fingerprint, load_model("mini-sd@10").fingerprint}) == 3


def test_built_in_name_wins_over_a_directory(data, saved, tmp_path, monkeypatch):
    shutil.copytree(saved / "dit", tmp_path / "here" / "mini-sd")
    monkeypatch.chdir(tmp_path / "here")
    assert load_model("mini-sd").labels is None
    assert load_model("./mini-sd").labels is not None
    assert load_model(Path("mini-sd")).labels is not None


def test_text_encoder_of_either_transformers_loads_alike(saved, sd_path, capfd):
    file = sd_path / "text_encoder" / "model.safetensors"
    assert all(key.startswith("text_model.") for key in load_file(file))
    weights = {key.removeprefix("text_model."): value for key, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    old, new = load_model(saved / "sd"), load_model(sd_path)
    assert torch.equal(old.encode_prompts(PROMPTS), new.encode_prompts(PROMPTS))
    assert old.fingerprint == new.fingerprint
    add_text_prefix(file)
    again = load_model(sd_path)
    assert torch.equal(old.encode_prompts(PROMPTS), again.encode_prompts(PROMPTS))
    assert capfd.readouterr() == ("", "")


def test_tokenizer_of_either_transformers_loads_alike(saved, sd_path):
    load_model(sd_path).tokenizer.save_pretrained(sd_path / "tokenizer")
    assert (sd_path / "tokenizer" / "tokenizer.json").is_file()
    for name in ("vocab.json", "merges.txt"):
        (sd_path / "tokenizer" / name).unlink(missing_ok=True)
    old, new = load_model(saved / "sd"), load_model(sd_path)
    assert torch.equal(old.encode_prompts(PROMPTS), new.encode_prompts(PROMPTS))
    assert old.fingerprint == new.fingerprint


def test_pipeline_with_a_safety_checker_loads_without_it(saved, sd_path):
    edit_json(
        sd_path / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    model = load_model(sd_path)
    assert model.pipeline.safety_checker is None
    assert model.fingerprint == load_model(saved / "sd").fingerprint


def test_first_published_form_of_dit(saved, tmp_path):
    path = Path(shutil.copytree(saved / "dit", tmp_path / "dit"))
    edit_json(path / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edit_json(path / "transformer" / "config.json", _class_name="Transformer2DModel", num_vector_embeds=None)
    assert load_model(path).fingerprint == load_model(saved / "dit").fingerprint


def test_dit_without_names_of_classes_numbers_them(saved, tmp_path):
    path = Path(shutil.copytree(saved / "dit", tmp_path / "dit"))
    edit_json(path / "model_index.json", id2label=None)
    assert load_model(path).labels == ("0", "1", "2")


def test_hub_id_in_the_cache(saved, hub):
    cached(hub, saved / "sd")
    for name in ("owner/tiny-sd", f"owner/tiny-sd@{COMMIT}"):
        model = load_model(name)
        assert model.name == name
        assert model.fingerprint == load_model(saved / "sd").fingerprint


def test_only_needed_files_are_asked_of_the_hub(saved, hub, monkeypatch):
    cached(hub, saved / "sd")
    asked = {}
    original = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.update(k) or original(*a, **k))
    load_model("owner/tiny-sd")
    needed = {str(path.relative_to(saved / "sd")) for path in (saved / "sd").rglob("*") if path.is_file()}
    kept = huggingface_hub.utils.filter_repo_objects(
        [*needed, "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "v1.safetensors"]
        + ["safety_checker/model.safetensors", "unet/diffusion_pytorch_model-00001-of-00002.safetensors"],
        allow_patterns=asked["allow_patterns"],
    )
    assert set(kept) == needed | {"unet/diffusion_pytorch_model-00001-of-00002.safetensors"}


def test_loading_is_silent_and_leaves_the_libraries_as_they_were(saved):
    """In an interpreter of its own, where nothing has been imported; also: the import itself is light."""
    script = (
        "import sys\n"
        "import diffclf.models\n"
        "heavy = {'diffusers', 'transformers', 'huggingface_hub', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"for name in ('sd', 'dit'): diffclf.models.load_model({str(saved)!r} + '/' + name)\n"
        "from transformers.utils import logging as a\n"
        "from diffusers.utils import logging as b\n"
        "assert a.get_verbosity() == a.WARNING and b.get_verbosity() == b.WARNING\n"
        "assert a.is_progress_bar_enabled() and b.is_progress_bar_enabled()\n"
    )
    root = Path(__file__).resolve().parent.parent
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_VERBOSITY")}
    environment = {**inherited, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# What cannot


@pytest.mark.parametrize("name", ["nothing", "nothing@2", "./nothing", "/nowhere/at/all", "a b/c", "runs/2026/x"])
def test_unknown_name(data, name):
    with pytest.raises(ModelError, match=f"no model '{name}'.*built in: mini-sd.*no such directory.*hub id"):
        load_model(name)


def test_unknown_name_without_a_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_DATA", str(tmp_path / "none"))
    with pytest.raises(ModelError, match="no model 'mini-sd'.*data folder"):
        load_model("mini-sd")


@pytest.mark.parametrize("name", ["mini-sd@9", "mini-sd@", "mini-sd@../2"])
def test_unknown_version(data, name):
    with pytest.raises(ModelError, match=r"no version .* of mini-sd; versions: mini-sd@2, mini-sd@10"):
        load_model(name)


@pytest.mark.parametrize("name", ["", "  "])
def test_empty_name(name):
    with pytest.raises(ModelError, match="empty"):
        load_model(name)


def test_a_name_that_is_no_text():
    with pytest.raises(ModelError, match="model must be a built-in name, a directory or a hub id, got 3"):
        load_model(3)


def test_file_instead_of_a_directory(sd_path):
    with pytest.raises(ModelError, match="must be a directory .* got the file"):
        load_model(sd_path / "model_index.json")


def test_directory_that_is_no_pipeline(tmp_path):
    with pytest.raises(ModelError, match=r"has no model_index.json .* supported: StableDiffusionPipeline, DiTPipeline"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", b"\xff\xfe"])
def test_damaged_index(sd_path, content):
    (sd_path / "model_index.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=r"model_index.json of .* (cannot be read|must hold an object)"):
        load_model(sd_path)


@pytest.mark.parametrize("kind", ["StableDiffusionXLPipeline", "FluxPipeline", ["pipeline", "Mine"], None])
def test_other_kinds_of_pipeline_are_refused_before_weights_are_read(sd_path, kind):
    for file in sd_path.rglob("*.safetensors"):
        file.unlink()
    edit_json(sd_path / "model_index.json", _class_name=kind)
    name = kind if isinstance(kind, str) else "is a "
    with pytest.raises(UnsupportedModelError, match=f"{name}.*supported: StableDiffusionPipeline, DiTPipeline"):
        load_model(sd_path)


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("unet", ["my_code", "UNet2DConditionModel"]),
        ("unet", ["diffusers", "UNet3DConditionModel"]),
        ("vae", ["diffusers", "AutoencoderTiny"]),
        ("text_encoder", ["transformers", "T5EncoderModel"]),
        ("text_encoder", [None, None]),
        ("scheduler", ["my_scheduler", "DDIMScheduler"]),
        ("scheduler", ["diffusers", "AutoencoderKL"]),
        ("scheduler", ["diffusers", "Nothing"]),
        ("unet", None),
    ],
)
def test_other_parts_and_remote_code_are_refused(sd_path, part, entry):
    edit_json(sd_path / "model_index.json", **{part: entry})
    with pytest.raises(UnsupportedModelError, match=f"{part} of .* must be .*, got"):
        load_model(sd_path)


def test_weights_in_pickle_files_only(sd_path):
    unet = sd_path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(unet), unet.with_suffix(".bin"))
    unet.unlink()
    with pytest.raises(ModelError, match="unet of .* safetensors file, got only diffusion_pytorch_model.bin"):
        load_model(sd_path)


def test_no_weights(sd_path):
    (sd_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="vae of .* safetensors file, got no weights"):
        load_model(sd_path)


def test_missing_part(sd_path):
    shutil.rmtree(sd_path / "text_encoder")
    with pytest.raises(ModelError, match="has no text_encoder"):
        load_model(sd_path)


def test_missing_part_of_a_version(data):
    shutil.rmtree(data / "models" / "mini-sd" / "versions" / "2" / "unet")
    with pytest.raises(ModelError, match="mini-sd@2 has no unet"):
        load_model("mini-sd@2")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_weight_that_is_not_in_the_file_is_an_error(sd_path, part):
    (file,) = (sd_path / part).glob("*.safetensors")
    weights = load_file(file)
    lost = sorted(weights)[3]
    del weights[lost]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{part} of .* lacks 1 of its weights: .*{lost.removeprefix('text_model.')}"):
        load_model(sd_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_of_another_shape_are_an_error(sd_path, part):
    (file,) = (sd_path / part).glob("*.safetensors")
    weights = load_file(file)
    key = sorted(weights)[3]
    weights[key] = torch.zeros(*weights[key].shape, 2)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{part} of .* {key.removeprefix('text_model.')}"):
        load_model(sd_path)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_truncated_weights(sd_path, part):
    (file,) = (sd_path / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=f"{part} of .* cannot be read"):
        load_model(sd_path)


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"])
def test_missing_small_files(sd_path, file):
    (sd_path / file).unlink()
    with pytest.raises(ModelError, match=file.split("/")[0] if "tokenizer" not in file else "StableDiffusionPipeline"):
        load_model(sd_path)


def test_unet_that_does_not_fit_the_autoencoder(sd_path):
    unet = diffusers.UNet2DConditionModel.from_config(
        json.loads((sd_path / "unet" / "config.json").read_text()) | {"in_channels": 9}
    )
    unet.save_pretrained(sd_path / "unet")
    with pytest.raises(UnsupportedModelError, match="4 channels to 4 or 8, got 9 to 4"):
        load_model(sd_path)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 1.5])
def test_unknown_device(saved, device):
    with pytest.raises(ModelError, match=f"device must be .* got .*{device}"):
        load_model(saved / "sd", device=device)


@pytest.mark.parametrize("dtype", ["int8", "half precision", torch.float64, 16])
def test_unknown_dtype(saved, dtype):
    with pytest.raises(ModelError, match=f"dtype must be one of float32, float16, bfloat16, got {dtype!r}"):
        load_model(saved / "sd", dtype=dtype)


def test_hub_id_offline_and_not_in_the_cache(hub):
    with pytest.raises(ModelError, match=r"no model 'owner/nothing' here.*cache.*HF_HUB_OFFLINE is set"):
        load_model("owner/nothing")


def test_kind_of_a_hub_model_is_checked_before_its_weights_are_asked_for(saved, hub, monkeypatch):
    snapshot = cached(hub, saved / "sd", "owner/flux")
    edit_json(snapshot / "model_index.json", _class_name="FluxPipeline")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked for weights"))
    with pytest.raises(UnsupportedModelError, match="owner/flux is a FluxPipeline"):
        load_model("owner/flux")


def test_hub_model_with_pickled_weights_only(saved, hub):
    snapshot = cached(hub, saved / "dit", "owner/dit")
    weights = snapshot / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="transformer of owner/dit must have weights in a safetensors file"):
        load_model("owner/dit")
