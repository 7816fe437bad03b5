"""Every family of models of text against its own pipeline of diffusers, end to end, and its ways of going wrong."""

import json
import logging
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import edit_json, tiny_scheduler

from diffclf import DiffusionClassifier, Exhaustive, Racing
from diffclf.commands.main import main
from diffclf.models import ModelError, load_model

FAMILIES = ["tiny_sdxl", "tiny_sd3", "tiny_sd3_without_t5", "tiny_alpha", "tiny_sigma"]
PROMPTS = {"sneaker": "A photo of a Red sneaker", "bag": "a blue bag", "coat": "a coat"}
LONG = "a photo of the red sneaker to the left of the blue bag to the right of the coat"
TIMESTEPS = (3, 400, 999)


@pytest.fixture(params=FAMILIES)
def family(request):
    """A model, its folder, and a pipeline of its own that diffusers has read, with a sampler that leaves x_t alone."""
    folder = request.getfixturevalue(f"{request.param}_folder")
    lacks = dict.fromkeys(["text_encoder_3", "tokenizer_3"]) if "without_t5" in request.param else {}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **lacks)
    pipeline.set_progress_bar_config(disable=True)
    if not isinstance(pipeline, diffusers.StableDiffusion3Pipeline):
        pipeline.scheduler = tiny_scheduler(diffusers.DDPMScheduler)
    if request.param == "tiny_alpha":  # the size at which the pipeline gives its network the sizes
        pipeline.transformer.register_to_config(sample_size=128)
    return request.getfixturevalue(request.param), folder, pipeline


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def called_with(pipeline, prompt, x_t, t):
    """Let the pipeline take one step from x_t at timestep t; return what its network gave."""
    calls = []
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    hook = network.register_forward_hook(
        lambda _, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
    )
    flow = isinstance(pipeline, diffusers.StableDiffusion3Pipeline)
    options = {"sigmas": [(t + 1) / 1000]} if flow else {"timesteps": [t]}
    if "PixArt" in type(pipeline).__name__:
        options |= {"use_resolution_binning": False, "clean_caption": False}
    options |= {"guidance_scale": 1.0, "height": 32, "width": 32, "output_type": "latent"}
    pipeline(prompt, latents=x_t, **options)
    hook.remove()
    ((_, _, output),) = calls
    return output[0]


@torch.no_grad()
@pytest.mark.parametrize("t", TIMESTEPS)
def test_outputs_are_those_of_the_pipelines_own_step(family, t):
    """Text states, pooled embeddings, masks, sizes and times: all as the pipeline itself passes them to its network."""
    model, _, pipeline = family
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(t))
    for prompt in (PROMPTS["sneaker"], "", "zebra"):
        expected = called_with(pipeline, prompt, x_t, t)
        output = model.denoise(x_t, torch.tensor([t]), model.encode_prompts([prompt]))
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_entries_of_the_error_table_equal_a_naive_computation(family):
    model, _, pipeline = family
    image = picture()
    table = DiffusionClassifier(model, PROMPTS, pruning=Exhaustive(2), loss="velocity").errors(image)
    vae, flow = pipeline.vae, isinstance(pipeline, diffusers.StableDiffusion3Pipeline)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    x0 = (vae.encode(pixels).latent_dist.mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    for trial, t in enumerate(table.timesteps):
        eps = table.noise([trial])
        sigma = 3 * (t + 1) / (1000 + 2 * (t + 1)) if flow else (1 - pipeline.scheduler.alphas_cumprod[t]) ** 0.5
        x_t = (1 - sigma if flow else pipeline.scheduler.alphas_cumprod[t] ** 0.5) * x0 + sigma * eps
        for row, prompt in enumerate(PROMPTS.values()):
            output = called_with(pipeline, prompt, x_t, int(t))[:, :4]
            eps_hat = x_t + (1 - sigma) * output if flow else output
            l2, velocity = (eps_hat - eps).square().mean(), (output - (eps - x0 if flow else eps)).square().mean()
            assert table.losses["l2"][row, trial] == pytest.approx(float(l2), rel=1e-4)
            assert table.errors[row, trial] == pytest.approx(float(velocity), rel=1e-4)


def test_a_race_and_the_command_line_end_to_end(family, tmp_path, capsys):
    model, folder, _ = family
    picture().save(tmp_path / "image.png")
    clf = DiffusionClassifier(model, PROMPTS, pruning=Racing(trials=16, confidence=0.5))
    table = clf.errors(picture())
    assert table.predicted in PROMPTS and 3 * 8 <= table.n_evaluations <= 3 * 16
    full = DiffusionClassifier(model, PROMPTS, pruning=Exhaustive(16)).errors(picture())
    assert np.isfinite(full.errors).all() and np.unique(full.errors).size == full.errors.size
    rows = [f'"{prompt}",{name},{i}' for i, (name, prompt) in enumerate(PROMPTS.items())]
    (tmp_path / "prompts.csv").write_text("\n".join(["prompt,classname,classidx", *rows]) + "\n")
    options = ["--prompts", str(tmp_path / "prompts.csv"), "--model", str(folder), "--trials", "16", "--json"]
    assert main(["classify", str(tmp_path / "image.png"), *options]) == 0
    (found,) = json.loads(capsys.readouterr().out)["images"]
    assert found["label"] == full.predicted and found["n_evaluations"] == 3 * 16


# Prompts


def test_a_long_prompt_is_cut_where_the_pipeline_cuts_it(family, caplog):
    model, _, pipeline = family
    with caplog.at_level(logging.WARNING, logger="diffclf"):
        cond = model.encode_prompts([LONG])
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("diffclf")]
    clip = any("clip" in encoder.config.model_type for encoder in model.text_encoders.values())
    assert messages == ([f"prompt has 21 tokens; {model.name} uses the first 16: {LONG!r}"] if clip else [])
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = called_with(pipeline, LONG, x_t, 400)
        torch.testing.assert_close(model.denoise(x_t, torch.tensor([400]), cond), expected, rtol=1e-4, atol=1e-5)


def test_prompts_are_the_same_if_all_text_encoders_read_them_as_the_same(family):
    model, _, _ = family
    if "text_encoder_3" in model.text_encoders:  # T5 sees the case, and the words after CLIP's last
        assert len(model.encode_prompts(["A Bag", "a bag", LONG, f"{LONG} dress"])) == 4
    else:
        with pytest.raises(ValueError, match="these are the same: 'a bag' and 'A Bag '"):
            model.encode_prompts(["a bag", "a coat", "A Bag "])
    with pytest.raises(TypeError, match="must be a string, got 3"):
        model.encode_prompts(["a bag", 3])


# Loading


def test_fingerprints_tell_weights_tokenizers_and_text_settings_apart(family):
    model, folder, _ = family
    own = model.fingerprint
    assert load_model(folder, device="cpu").fingerprint == own
    for part, encoder in model.text_encoders.items():
        changed = load_model(folder, device="cpu")
        with torch.no_grad():
            list(changed.text_encoders[part].parameters())[-1].view(-1)[-1] += 1e-3
        assert changed.fingerprint != own
        key = "num_heads" if encoder.config.model_type == "t5" else "num_attention_heads"
        changed = load_model(folder, device="cpu")
        setattr(changed.text_encoders[part].config, key, 1)
        assert changed.fingerprint != own
        changed = load_model(folder, device="cpu")
        changed.tokenizers[part].pad_token = "a" if encoder.config.model_type == "t5" else "#"
        assert changed.fingerprint != own


@pytest.mark.parametrize("name", ["tiny_sdxl", "tiny_sd3", "tiny_alpha"])
def test_half_precision_leaves_schedule_and_latents_alone(name, request):
    model, folder = request.getfixturevalue(name), request.getfixturevalue(f"{name}_folder")
    half = load_model(folder, device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and torch.equal(half.schedule.sigma, model.schedule.sigma)
    x_t, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 400, 999])
    output = half.denoise(x_t, t, half.encode_prompts(list(PROMPTS.values())))
    assert output.dtype == torch.bfloat16
    expected = model.denoise(x_t, t, model.encode_prompts(list(PROMPTS.values())))
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)


def test_in_float16_t5_keeps_in_float32_what_overflows(tiny_alpha_folder):
    encoder = load_model(tiny_alpha_folder, device="cpu", dtype="float16").text_encoders["text_encoder"]
    kinds = {name.split(".")[-2]: weight.dtype for name, weight in encoder.named_parameters()}
    assert kinds.pop("wo") == torch.float32 and set(kinds.values()) == {torch.float16}


@pytest.mark.parametrize(("name", "part"), [("tiny_sd3", "text_encoder_3"), ("tiny_sdxl", "text_encoder_2")])
def test_damaged_parts_are_named(name, part, request, tmp_path):
    folder = Path(shutil.copytree(request.getfixturevalue(f"{name}_folder"), tmp_path / "m"))
    weights = sorted((folder / part).glob("*.safetensors"))[-1]
    weights.rename(weights.with_suffix(".kept"))
    with pytest.raises(ModelError, match=f"{part} of .*"):
        load_model(folder)
    weights.with_suffix(".kept").rename(weights)
    shutil.rmtree(folder / part)
    advice = r" \(to do without it: load_model\(..., without=\['text_encoder_3'\]\), or --without text_encoder_3\)"
    with pytest.raises(ModelError, match=f"has no {part}: .* is missing{advice if name == 'tiny_sd3' else '$'}"):
        load_model(folder)


def test_t5_needs_its_pieces_and_the_packages_that_read_them(tiny_alpha_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_alpha_folder, tmp_path / "m"))
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer of .* must have up to 256 pieces of words .*, got \d+ tokens"):
        load_model(folder)
    (folder / "tokenizer" / "spiece.model").write_bytes(b"")
    with pytest.raises(ModelError, match=r"needs .*sentencepiece.* to read spiece.model: pip install 'diffclf\[t5\]'"):
        load_model(folder)


def test_t5_may_be_left_out(tiny_sd3_without_t5, tiny_sd3, tiny_sd3_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_sd3_folder, tmp_path / "m"))
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / part)
    edit_json(folder / "model_index.json", text_encoder_3=[None, None])
    model = load_model(folder, device="cpu")
    assert list(model.text_encoders) == ["text_encoder", "text_encoder_2"] and model.fingerprint != tiny_sd3.fingerprint
    cond, whole = (each.encode_prompts(["a bag"]).tensors for each in (model, tiny_sd3))
    assert torch.equal(cond["hidden_states"][:, :16], whole["hidden_states"][:, :16])
    assert cond["hidden_states"].shape == whole["hidden_states"].shape == (1, 16 + 256, 48)
    assert not cond["hidden_states"][:, 16:].any() and whole["hidden_states"][:, 16:].any()
    assert torch.equal(cond["pooled"], whole["pooled"])
