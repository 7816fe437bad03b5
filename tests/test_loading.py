"""From names, folders and hub ids to models, and every way in which that can go wrong."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from tiny import edit_json, save_tiny_sd

from diffclf.models import ModelError, UnsupportedModelError, load_model
from diffclf.models.loading import built_in_models
from diffclf.models.mirrors import MIRRORS
from diffclf.models.stable_diffusion import StableDiffusionModel
from diffclf.workbook.run.cost import local_place

httpx = import_module(errors.HTTPError.__module__.partition(".")[0])  # httpx2 in version 2 of huggingface_hub
DEVICES = ("gpu", "", "cuda:99", 1.5, "mps", "xpu", "meta", "cpu:x", "hip:0", 2**70, -1, ["cpu"])
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def sd_path(tiny_sd_folder, tmp_path):
    """A folder of a tiny Stable Diffusion that a test may change."""
    return Path(shutil.copytree(tiny_sd_folder, tmp_path / "sd"))


@pytest.fixture
def data(tiny_sd_folder, tmp_path, monkeypatch):
    """A data folder with a built-in model that has versions 2 and 10 along its training."""
    model = tmp_path / "data" / "models" / "mini-sd"
    shutil.copytree(tiny_sd_folder, model)
    for version in (2, 10):
        save_tiny_sd(tmp_path / f"v{version}", seed=version)
        for part in ("unet", "text_encoder"):
            shutil.copytree(tmp_path / f"v{version}" / part, model / "versions" / str(version) / part)
    monkeypatch.setenv("DIFFCLF_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put a folder into an empty cache of the hub, with no network; returns its folder there."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(path, repository="owner/tiny"):
        folder = cache / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        return Path(shutil.copytree(path, folder / "snapshots" / COMMIT))

    return put


def same_weights(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def same_text_model(a, b):
    prompts = ["a photo of a red sneaker", "a blue bag"]
    a_states, b_states = (model.encode_prompts(prompts).tensors["hidden_states"] for model in (a, b))
    return torch.equal(a_states, b_states) and a.fingerprint == b.fingerprint


# What can be loaded


def test_folder_device_and_dtype(tiny_sd, tiny_sd_folder):
    assert isinstance(tiny_sd, StableDiffusionModel)
    for dtype in ("float16", "torch.float16", torch.float16):
        model = load_model(str(tiny_sd_folder), device="cpu", dtype=dtype)
        assert model.name == tiny_sd.name == str(tiny_sd_folder)
        assert {p.dtype for p in model.network.parameters()} == {torch.float16}
        assert {p.dtype for p in model.text_encoder.parameters()} == {torch.float16}
        assert {p.dtype for p in model.vae.parameters()} == {torch.float32}
    assert tiny_sd.dtype == torch.float32


def test_weights_stored_in_half_precision_load_in_single(sd_path):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(sd_path).to(torch.float16)
    pipeline.save_pretrained(sd_path)
    model = load_model(sd_path, device="cpu")
    for part in (model.network, model.text_encoder, model.vae):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    weight = pipeline.unet.conv_in.weight
    assert weight.dtype == torch.float16 and torch.equal(model.network.conv_in.weight, weight.float())


def test_built_in_and_its_versions(data, tiny_sd, tmp_path):
    assert built_in_models() == {"mini-sd": ["2", "10"]}
    final, second = load_model("mini-sd"), load_model("mini-sd@2")
    assert (final.name, second.name) == ("mini-sd", "mini-sd@2")
    assert final.fingerprint == tiny_sd.fingerprint
    of_version = load_model(tmp_path / "v2")
    assert same_weights(second.network, of_version.network) and not same_weights(second.network, final.network)
    assert same_weights(second.text_encoder, of_version.text_encoder)
    assert same_weights(second.vae, final.vae) and not same_weights(second.vae, of_version.vae)
    assert len({final.fingerprint, second.fingerprint, load_model("mini-sd@10").fingerprint}) == 3
    folder = data / "models" / "mini-sd"
    for model, place in ((final, folder), (second, folder / "versions" / "2")):
        (place / "racing.json").write_text(json.dumps({"fingerprint": model.fingerprint, "of": model.name}))
    assert [load_model(name).calibration["of"] for name in ("mini-sd", "mini-sd@2")] == ["mini-sd", "mini-sd@2"]
    assert load_model("mini-sd@10").calibration is None


def test_a_version_may_have_a_scheduler_of_its_own(data):
    folder = data / "models" / "mini-sd"
    shutil.copytree(folder / "scheduler", folder / "versions" / "2" / "scheduler")
    path = folder / "versions" / "2" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    assert load_model("mini-sd@2").schedule.prediction_type == "v_prediction"
    assert load_model("mini-sd").schedule.prediction_type == load_model("mini-sd@10").schedule.prediction_type
    assert load_model("mini-sd").schedule.prediction_type == "epsilon"


def test_built_in_name_wins_over_a_folder(data, tiny_dit_folder, tmp_path, monkeypatch):
    shutil.copytree(tiny_dit_folder, tmp_path / "here" / "mini-sd")
    monkeypatch.chdir(tmp_path / "here")
    assert load_model("mini-sd").labels is None
    assert load_model("./mini-sd").labels is not None
    assert load_model(Path("mini-sd")).labels is not None


def test_calibration_is_that_of_exactly_these_weights(tiny_sd, sd_path, mini_sd):
    assert tiny_sd.calibration is None and mini_sd.calibration["threshold"] == 2.2
    file = sd_path / "racing.json"
    file.write_text(json.dumps({"fingerprint": tiny_sd.fingerprint, "threshold": 2.3}))
    assert load_model(sd_path).calibration["threshold"] == 2.3
    assert load_model(sd_path, dtype="bfloat16").calibration is None
    file.write_text(json.dumps({"threshold": 2.3}))
    assert load_model(sd_path).calibration is None
    file.write_text("{")
    with pytest.raises(ModelError, match="racing.json of .* cannot be read"):
        load_model(sd_path)


def test_files_of_either_transformers_load_alike(tiny_sd, sd_path, capfd):
    file = sd_path / "text_encoder" / "model.safetensors"
    assert all(key.startswith("text_model.") for key in load_file(file))
    weights = {key.removeprefix("text_model."): value for key, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    model = load_model(sd_path)
    assert same_text_model(tiny_sd, model) and capfd.readouterr() == ("", "")
    model.tokenizer.save_pretrained(sd_path / "tokenizer")
    assert (sd_path / "tokenizer" / "tokenizer.json").is_file()
    for name in ("vocab.json", "merges.txt"):
        (sd_path / "tokenizer" / name).unlink(missing_ok=True)
    assert same_text_model(tiny_sd, load_model(sd_path))


def test_pipeline_with_a_safety_checker_loads_without_it(tiny_sd, sd_path):
    edit_json(
        sd_path / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    model = load_model(sd_path)
    assert model.pipeline.safety_checker is None
    assert model.fingerprint == tiny_sd.fingerprint


def test_first_published_form_of_dit_and_one_without_names_of_classes(tiny_dit, tiny_dit_folder, tmp_path):
    dit_path = shutil.copytree(tiny_dit_folder, tmp_path / "dit")
    edit_json(dit_path / "model_index.json", transformer=["diffusers", "Transformer2DModel"], id2label=None)
    edit_json(dit_path / "transformer" / "config.json", _class_name="Transformer2DModel", num_vector_embeds=None)
    model = load_model(dit_path)
    assert model.fingerprint == tiny_dit.fingerprint and model.labels == ("0", "1", "2")


def test_hub_id_in_the_cache_of_which_only_needed_files_are_asked(tiny_sd, tiny_sd_folder, hub, monkeypatch):
    hub(tiny_sd_folder)
    asked, original = {}, huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.update(k) or original(*a, **k))
    for name in ("owner/tiny", f"owner/tiny@{COMMIT}"):
        model = load_model(name)
        assert model.name == name and model.fingerprint == tiny_sd.fingerprint
    needed = {str(path.relative_to(tiny_sd_folder)) for path in tiny_sd_folder.rglob("*") if path.is_file()}
    needed |= {"racing.json", "unet/diffusion_pytorch_model-00001-of-00002.safetensors"}
    others = ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "v1.safetensors"]
    others += ["unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "safety_checker/model.safetensors"]
    allowed = asked["allow_patterns"]
    assert set(huggingface_hub.utils.filter_repo_objects([*needed, *others], allow_patterns=allowed)) == needed


def test_loading_is_silent_and_leaves_the_libraries_as_they_were(tiny_sd_folder, tiny_dit_folder):
    """In an interpreter of its own, where nothing has been imported; also: the import itself is light."""
    script = (
        "import sys\n"
        "import diffclf.models\n"
        "heavy = {'diffusers', 'transformers', 'huggingface_hub', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"for path in {[str(tiny_sd_folder), str(tiny_dit_folder)]}: diffclf.models.load_model(path)\n"
        "from transformers.utils import logging as a\n"
        "from diffusers.utils import logging as b\n"
        "assert a.get_verbosity() == a.WARNING and b.get_verbosity() == b.WARNING\n"
        "assert a.is_progress_bar_enabled() and b.is_progress_bar_enabled()\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_VERBOSITY")}
    run = subprocess.run([sys.executable, "-c", script], env=inherited, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# What cannot be loaded


@pytest.mark.parametrize("name", ["nothing", "nothing@2", "./nothing", "/nowhere/at/all", "a b/c", "runs/2026/x"])
def test_unknown_name(data, name, monkeypatch):
    with pytest.raises(ModelError, match=f"no model '{name}': not built in .mini-sd.*no such directory.*hub id"):
        load_model(name)
    monkeypatch.setenv("DIFFCLF_DATA", str(data / "none"))
    with pytest.raises(ModelError, match=f"no model '{name}'.*data folder"):
        load_model(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [(name, "no version .* of mini-sd; versions: mini-sd@2, mini-sd@10") for name in ("mini-sd@9", "mini-sd@../2")]
    + [(name, f"model must be a built-in name, .* hub id, got {name!r}") for name in ("", "  ", 3, None)],
)
def test_unknown_version_and_name_that_is_no_name(data, name, message):
    with pytest.raises(ModelError, match=message):
        load_model(name)


def test_file_or_folder_that_is_no_pipeline(sd_path, tmp_path):
    for path in (sd_path / "model_index.json", tmp_path):
        with pytest.raises(ModelError, match=r"has no model_index.json .* supported: StableDiffusionPipeline, DiTPip"):
            load_model(path)


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
        ("_class_name", "StableDiffusionXLImg2ImgPipeline"),
        ("_class_name", ["pipeline", "Mine"]),
        ("_class_name", None),
    ],
)
def test_other_kinds_and_parts_and_remote_code_are_refused_before_weights_are_read(sd_path, part, entry):
    for file in sd_path.rglob("*.safetensors"):
        file.write_bytes(b"")
    edit_json(sd_path / "model_index.json", **{part: entry})
    of_kind = r"is a .* not supported; supported: StableDiffusionPipeline, DiTPipeline"
    with pytest.raises(UnsupportedModelError, match=of_kind if part[0] == "_" else f"{part} of .* must be .*, got"):
        load_model(sd_path)


def test_missing_parts_and_weights_in_pickle_files(sd_path, data):
    unet = sd_path / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_suffix(".bin"))
    with pytest.raises(ModelError, match="unet of .* safetensors file, got .*diffusion_pytorch_model.bin"):
        load_model(sd_path)
    shutil.rmtree(sd_path / "text_encoder")
    unet.with_suffix(".bin").rename(unet)
    with pytest.raises(ModelError, match="has no text_encoder"):
        load_model(sd_path)
    shutil.rmtree(data / "models" / "mini-sd" / "versions" / "2" / "unet")
    with pytest.raises(ModelError, match="mini-sd@2 has no unet"):
        load_model("mini-sd@2")


@pytest.mark.parametrize("weights", [{"a": "model.safetensors", "b": "x.bin"}, "x.bin", None])
def test_an_index_may_not_name_other_files_than_safetensors(sd_path, weights):
    (sd_path / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(ModelError, match="model.safetensors.index.json of .* must name safetensors files only, got"):
        load_model(sd_path)


def run_advice(error, folder):
    """Run the command that an error's message advises."""
    (command,) = re.findall(r"give FOLDER as the model: (.*)", str(error))
    command = f"{shlex.quote(sys.executable)} -W ignore {command.removeprefix('python')}"
    run = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("parts", [("transformer", "vae"), ("transformer",)])
def test_the_advice_for_pickle_files_converts_the_model(tiny_dit, tiny_dit_folder, tmp_path, parts):
    folder = Path(shutil.copytree(tiny_dit_folder, tmp_path / "a dit"))
    pipeline = diffusers.DiTPipeline.from_pretrained(tiny_dit_folder)
    for part in parts:
        shutil.rmtree(folder / part)
        getattr(pipeline, part).save_pretrained(folder / part, safe_serialization=False)
    message = (
        "transformer of .* got .*diffusion_pytorch_model.bin. If you trust its author .* convert it, .*: python -c"
    )
    with pytest.raises(ModelError, match=message) as refused:
        load_model(folder)
    assert "\n" not in str(refused.value)
    run_advice(refused.value, tmp_path)
    model = load_model(tmp_path / "FOLDER")
    assert model.labels == tiny_dit.labels and same_weights(model.network, tiny_dit.network)


def test_a_checkpoint_in_a_single_file_gets_the_command_that_converts_it(tmp_path):
    for name in ("v1.ckpt", "model.safetensors"):
        folder = tmp_path / name / "my models"
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"")
        for path in (folder, folder / name):
            message = rf"but {name}, a checkpoint in a single file.* from_single_file\('{folder / name}'\)"
            with pytest.raises(ModelError, match=message.replace("from_s", "P.from_s")) as refused:
                load_model(path)
            (code,) = re.findall(r'python -c "(.*)"$', str(refused.value))
            compile(code, "advice", "exec")


def as_variant(folder, variant, keep=False):
    """Give the files of a part's weights the name of a variant."""
    for file in [path for path in folder.glob("*.safetensors") if "." not in path.stem]:
        (shutil.copy if keep else shutil.move)(file, file.with_suffix(f".{variant}.safetensors"))


@pytest.mark.parametrize("parts", [("unet", "vae", "text_encoder"), ("unet",)])
def test_the_only_variant_is_read_where_it_differs_in_precision_alone(tiny_sd, sd_path, parts):
    for part in parts:
        as_variant(sd_path / part, "fp16")
    model = load_model(sd_path)
    assert model.fingerprint == tiny_sd.fingerprint and model.dtype == torch.float32


def test_shards_of_a_variant_are_read(tiny_sd, sd_path):
    unet = diffusers.UNet2DConditionModel.from_pretrained(sd_path / "unet")
    shutil.rmtree(sd_path / "unet")
    unet.save_pretrained(sd_path / "unet", variant="fp16", max_shard_size="20kB")
    assert len(list((sd_path / "unet").glob("*.fp16-0000?-of-*.safetensors"))) > 1
    assert load_model(sd_path).fingerprint == tiny_sd.fingerprint


def test_the_main_variant_wins_over_all_others(tiny_sd, sd_path):
    for variant in ("fp16", "non_ema"):
        as_variant(sd_path / "unet", variant, keep=True)
    for file in sd_path.glob("unet/*.*.safetensors"):
        file.write_bytes(b"")
    assert load_model(sd_path).fingerprint == tiny_sd.fingerprint


@pytest.mark.parametrize("variants", [("fp16", "non_ema"), ("non_ema",), ("fp16", "fp32")])
def test_variants_that_leave_a_doubt_are_refused_with_the_command_that_chooses(tiny_sd, sd_path, variants):
    for variant in variants[1:]:
        shutil.copy(*[sd_path / f"unet/diffusion_pytorch_model{v}.safetensors" for v in ("", f".{variant}")])
    as_variant(sd_path / "unet", variants[0])
    message = f"unet of .* got the variants {', '.join(variants)}; choose one, as: "
    with pytest.raises(ModelError, match=message) as refused:
        load_model(sd_path)
    subprocess.run(str(refused.value).partition("choose one, as: ")[2], shell=True, check=True)
    assert load_model(sd_path).fingerprint == tiny_sd.fingerprint


def test_on_the_hub_the_only_variant_is_asked_for(tiny_sd, tiny_sd_folder, hub, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(tiny_sd_folder, tmp_path / "fp16"))
    as_variant(folder / "unet", "fp16")
    hub(folder)
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    other = ["unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.safetensors", "v1.safetensors"]
    listed = SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in [*files, *other]])
    monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: listed)
    asked, original = {}, huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.update(k) or original(*a, **k))
    assert load_model("owner/tiny").fingerprint == tiny_sd.fingerprint
    chosen = huggingface_hub.utils.filter_repo_objects([*files, *other], allow_patterns=asked["allow_patterns"])
    assert set(chosen) == set(files)


def test_pickle_files_on_the_hub_are_refused_before_the_download(tiny_dit_folder, hub, monkeypatch):
    hub(tiny_dit_folder)
    files = ["model_index.json", "vae/diffusion_pytorch_model.safetensors", "transformer/x.bin"]
    listed = lambda *_, **__: SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "model_info", listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked for weights"))
    advice = rf"got x.bin. .*from_pretrained\('owner/tiny', revision='{COMMIT}'\)"
    download = f"hf download owner/tiny model_index.json --local-dir FOLDER --revision {COMMIT}"
    with pytest.raises(ModelError, match=rf"transformer of owner/tiny@{COMMIT} \(hub\) must .* {advice}.*{download}$"):
        load_model(f"owner/tiny@{COMMIT}")
    files.remove("transformer/x.bin")
    with pytest.raises(ModelError, match=r"safetensors file, got no file$"):
        load_model("owner/tiny")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_misshapen_and_truncated_weights_are_errors(sd_path, part):
    (file,) = (sd_path / part).glob("*.safetensors")
    weights = load_file(file)
    key = sorted(weights)[3]
    short, weight = key.removeprefix("text_model."), weights.pop(key)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{part} of .* lacks 1 of its weights: .*{short}"):
        load_model(sd_path)
    save_file(weights | {key: torch.zeros(*weight.shape, 2)}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{part} of .* {short}"):
        load_model(sd_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=f"{part} of .* cannot be read"):
        load_model(sd_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("model_index.json", content, "model_index.json of .* cannot be read") for content in (b"", b"{", b"\xff\xfe")]
    + [
        ("model_index.json", b"[]", "model_index.json of .* must hold an object, got list"),
        ("unet/config.json", None, "unet of .* has no config.json"),
        ("scheduler/scheduler_config.json", None, "has no scheduler_config.json"),
        ("tokenizer/vocab.json", None, "cannot be put together as a StableDiffusionPipeline"),
    ],
)
def test_damaged_and_missing_small_files(sd_path, file, content, message):
    (sd_path / file).unlink()
    if content is not None:
        (sd_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(sd_path)


ABSURD = [
    ("model_index.json", {"feature_extractor": []}, "cannot be put together"),
    ("model_index.json", {"scheduler": ["diffusers", "PNDMScheduler"]}, "must be of PNDMScheduler, .*'DDIMScheduler'"),
    ("scheduler/scheduler_config.json", {"_class_name": "EulerDiscreteScheduler"}, "must be of DDIMScheduler, which"),
    ("scheduler/scheduler_config.json", {"beta_end": 10**30}, "scheduler of .* cannot be read: OverflowError|too big"),
    ("scheduler/scheduler_config.json", {"beta_end": 7.0}, "alphas_cumprod .* fall from at most 1"),
    ("scheduler/scheduler_config.json", {"beta_start": float("nan")}, "alphas_cumprod .* fall from at most 1"),
    ("scheduler/scheduler_config.json", {"trained_betas": 3}, "alphas_cumprod of the scheduler .* got shape"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "whole number from 2 to 100000, got 10"),
    ("text_encoder/config.json", {"num_hidden_layers": 10**30}, "num_hidden_layers must be at most .*, got 1000"),
    ("text_encoder/config.json", {"hidden_size": 10**6}, "must fit the weights of .* bytes, got one of"),
    ("text_encoder/config.json", {"hidden_act": "x"}, "text_encoder of .* cannot be read"),
    ("text_encoder/config.json", {"layer_norm_eps": None}, "a part fails on an image or an empty prompt"),
    ("tokenizer/tokenizer_config.json", {"model_max_length": 10**30}, "model_max_length from 3 to .* 16 positions"),
    ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block must be at most"),
    ("unet/config.json", {"sample_size": 10**9}, "sample_size must be at most 2048, got 1000000000"),
    ("unet/config.json", {"sample_size": 0}, "with a sample_size from 1 to 256, got 4 to 4 with 0"),
    ("vae/config.json", {"scaling_factor": float("nan")}, "scaling_factor .* must be above 0, got nan"),
    ("vae/config.json", {"scaling_factor": "x"}, "scaling_factor .* must be above 0, got 'x'"),
    ("vae/config.json", {"shift_factor": "x"}, "must be finite, got .'x'."),
    ("vae/config.json", {"latents_mean": 3}, "latents_mean of .* must have 4 numbers, got 3"),
]


@pytest.mark.parametrize(("file", "changes", "message"), ABSURD)
def test_absurd_configurations(sd_path, file, changes, message):
    edit_json(sd_path / file, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(sd_path)


def test_json_nested_too_deeply(sd_path):
    (sd_path / "unet" / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="config.json of unet of .* cannot be read"):
        load_model(sd_path)


def test_unet_that_does_not_fit_the_autoencoder(sd_path):
    config = json.loads((sd_path / "unet" / "config.json").read_text()) | {"in_channels": 9}
    diffusers.UNet2DConditionModel.from_config(config).save_pretrained(sd_path / "unet")
    with pytest.raises(UnsupportedModelError, match="4 channels to 4 or 8, .*, got 9 to 4"):
        load_model(sd_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": device}, f"device must be .* got {re.escape(repr(device))}") for device in DEVICES]
    + [({"dtype": dtype}, f"must be .*, bfloat16, got {dtype!r}") for dtype in ("int8", "half", torch.float64, 16)],
)
def test_unknown_device_or_dtype(tiny_sd_folder, options, message):
    with pytest.raises(ModelError, match=message):
        load_model(tiny_sd_folder, **options)


def test_hub_id_not_in_the_cache_or_of_another_kind(tiny_sd_folder, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked for weights"))
    with pytest.raises(ModelError, match=r"no model 'owner/nothing' here.*cache.*HF_HUB_OFFLINE is set"):
        load_model("owner/nothing")
    edit_json(hub(tiny_sd_folder, "owner/flux") / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(UnsupportedModelError, match="owner/flux is a FluxPipeline"):
        load_model("owner/flux")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.GatedRepoError, "terms to be accepted: open https://huggingface.co/owner/tiny, then: hf auth login"),
        (
            errors.RepositoryNotFoundError,
            "no such model, or none for this user; if it is private, open https://.*login",
        ),
        (errors.RevisionNotFoundError, "no revision 'v2'"),
        (errors.RemoteEntryNotFoundError, "no model_index.json; supported: StableDiffusionPipeline"),
        (errors.LocalEntryNotFoundError, "cannot be reached; to download what is missing: .* python -c"),
        (httpx.ConnectError, "answers with ConnectError: broken"),
    ],
)
def test_answers_of_the_hub_are_explained(monkeypatch, error, reason):
    def fail(**_):
        answer = {"response": httpx.Response(404, request=httpx.Request("GET", "https://hub"))}
        raise error("broken", **answer if issubclass(error, errors.HfHubHTTPError) else {})

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelError, match=f"no model 'owner/tiny@v2' here.* and .*{reason}"):
        load_model("owner/tiny@v2")


def test_each_mirror_is_found_by_its_name_with_its_commit_and_says_whose_copy_it_is(tiny_sd, tiny_sd_folder, hub):
    for name, (original, source) in MIRRORS.items():
        repository, _, commit = source.partition("@")
        folder = hub(tiny_sd_folder, repository)
        if commit:
            folder.rename(folder.parent / commit)  # the branch's own commit is another one
        model = load_model(name)
        assert (model.name, model.fingerprint) == (name, tiny_sd.fingerprint)
        assert model.source == f"{repository}@{commit or COMMIT}, a copy of the withdrawn {original}"
    with pytest.raises(ModelError, match=f"copies of withdrawn models: {', '.join(MIRRORS)}"):
        load_model("sd-2-base@main")


def test_a_model_of_which_only_the_needed_files_were_downloaded_counts_as_here(tiny_sd_folder, hub):
    name, (_, source) = next(iter(MIRRORS.items()))
    repository, _, commit = source.partition("@")
    assert local_place("model", name) is None
    folder = hub(tiny_sd_folder, repository)
    folder = folder.rename(folder.parent / commit)
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    tree = pytest.importorskip("huggingface_hub._tree_cache")  # version 2 of the library notes all files there are
    listed = {file: tree.TreeCacheEntry(1, "a" * 40) for file in [*files, "v1.ckpt"]}
    tree.write_tree_cache(str(folder.parents[1]), commit, listed)  # what a download by the hub's library leaves behind
    assert local_place("model", name) == str(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert local_place("model", name) is None


def test_a_withdrawn_model_names_its_copy_and_an_old_download_of_it_still_loads(
    tiny_sd, tiny_sd_folder, hub, monkeypatch
):
    withdrawn = "stabilityai/stable-diffusion-2-1-base"
    hub(tiny_sd_folder, withdrawn)
    model = load_model(withdrawn)
    assert (model.source, model.fingerprint) == (f"{withdrawn}@{COMMIT}", tiny_sd.fingerprint)

    def fail(**_):
        raise errors.RepositoryNotFoundError(
            "no", response=httpx.Response(404, request=httpx.Request("GET", "https://h"))
        )

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelError, match="its owner has withdrawn it; load 'sd-2-1-base', a copy"):
        load_model(withdrawn)


@pytest.mark.parametrize("lost", ["unet", "unet/diffusion_pytorch_model.safetensors"])
def test_a_download_that_was_broken_off_gets_the_command_that_completes_it(tiny_sd_folder, hub, lost):
    path = hub(tiny_sd_folder) / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = "unet.*; to download what is missing: HF_HUB_OFFLINE=0 python -c (.*)"
    with pytest.raises(ModelError, match=message) as refused:
        load_model("owner/tiny")
    (code,) = re.findall('python -c "(.*)"$', str(refused.value))
    assert code == "from diffclf import load_model; load_model('owner/tiny', device='cpu')"


def test_a_missing_shard_and_a_file_that_ends_early_are_named(sd_path):
    (file,) = (sd_path / "unet").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    message = f"{file.name}: .*damaged or half downloaded: rm {file}, then download or copy it again"
    with pytest.raises(ModelError, match=message):
        load_model(sd_path)
    unet = diffusers.UNet2DConditionModel(**json.loads((sd_path / "unet" / "config.json").read_text()))
    file.unlink()
    unet.save_pretrained(sd_path / "unet", max_shard_size="20kB")
    lost = sorted((sd_path / "unet").glob("*-of-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(
        ModelError, match=f"lacks {lost.name}, which diffusion_pytorch_model.safetensors.index.json names"
    ):
        load_model(sd_path)
