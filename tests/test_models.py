"""Stable Diffusion and DiT pipelines behind the protocol: equal to the pipelines' own parts, number for number."""

import logging

import diffusers
import pytest
import torch
from tiny import DIT_LABELS, SCHEDULE, edit_json, save_tiny_dit, save_tiny_sd, tiny_scheduler

from diffclf.models import DiffusionModel, ModelError, UnsupportedModelError, load_model
from diffclf.models.dit import class_labels
from diffclf.models.latent import noise_schedule

SAMPLERS = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"]
SAMPLERS += ["EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]


@pytest.fixture(scope="module")
def sd_path(tmp_path_factory):
    return save_tiny_sd(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="module")
def dit_path(tmp_path_factory):
    return save_tiny_dit(tmp_path_factory.mktemp("models") / "dit")


@pytest.fixture(scope="module")
def sd(sd_path):
    return load_model(sd_path)


@pytest.fixture(scope="module")
def dit(dit_path):
    return load_model(dit_path)


@pytest.fixture(scope="module")
def pipeline(sd_path):
    return diffusers.StableDiffusionPipeline.from_pretrained(sd_path)


def pixels(n, size=32, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def latents(n, seed=1):
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["sd", "dit"])
def test_models_conform_to_the_protocol(kind, request):
    model = request.getfixturevalue(kind)
    assert isinstance(model, DiffusionModel)
    assert (model.image_size, model.latent_shape) == (32, (4, 8, 8))
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert model.prediction_type == "epsilon"
    assert model.learns_variance == (kind == "dit")
    assert model.labels == (DIT_LABELS if kind == "dit" else None)
    assert model.name.endswith(kind) and model.name in repr(model)
    assert not any(p.requires_grad for part in (model.network, model.vae) for p in part.parameters())
    assert not model.network.training and not model.vae.training


# Images


@torch.no_grad()
def test_latents_are_the_scaled_means_of_the_autoencoder(sd, pipeline):
    x = pixels(5)
    expected = pipeline.vae.encode(x).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert pipeline.vae.config.scaling_factor == 0.7
    torch.testing.assert_close(sd.encode_images(x), expected)


def test_latents_do_not_depend_on_the_batch(sd, monkeypatch):
    x = pixels(5)
    together = sd.encode_images(x)
    monkeypatch.setattr("diffclf.models.latent.AUTOENCODER_PIXELS", 2 * 32**2)
    torch.testing.assert_close(sd.encode_images(x), together, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sd.encode_images(x[3:4]), together[3:4], rtol=1e-5, atol=1e-6)
    assert sd.encode_images(x[:0]).shape == (0, 4, 8, 8)


@torch.no_grad()
def test_shift_of_the_latents_is_applied_before_the_scale(tmp_path):
    path = save_tiny_sd(tmp_path / "sd")
    edit_json(path / "vae" / "config.json", shift_factor=0.25)
    model = load_model(path)
    mean = model.pipeline.vae.encode(pixels(2)).latent_dist.mean
    torch.testing.assert_close(model.encode_images(pixels(2)), (mean - 0.25) * 0.7)
    torch.testing.assert_close(model.decode_latents((mean - 0.25) * 0.7), model.pipeline.vae.decode(mean).sample)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 32, 32), (1, 1, 32, 32)])
def test_pixels_of_another_shape_are_refused(sd, shape):
    with pytest.raises(ValueError, match=r"pixels must have shape \(n, 3, 32, 32\), got"):
        sd.encode_images(torch.zeros(shape))


# Prompts


def test_text_embeddings_equal_the_pipelines(sd, pipeline, monkeypatch):
    prompts = ["a photo of a red sneaker", "a bag", "", "zebra"]
    expected, _ = pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    cond = sd.encode_prompts(prompts)
    torch.testing.assert_close(cond, expected)
    assert cond.shape == (4, 16, 16)
    assert (cond[0] - cond[1]).abs().max() > 0.1
    monkeypatch.setattr("diffclf.models.stable_diffusion.PROMPTS_AT_ONCE", 3)
    torch.testing.assert_close(sd.encode_prompts(prompts), expected)


def test_long_prompt_is_cut_with_a_warning_that_names_it(sd, pipeline, caplog):
    long = "a photo of the red sneaker to the left of the blue bag to the right of the coat"
    with caplog.at_level(logging.WARNING, logger="diffclf"):
        cond = sd.encode_prompts(["a bag", long])
    assert [record.getMessage() for record in caplog.records] == [
        f"prompt has 21 tokens of which {sd.name} uses the first 16: {long!r}"
    ]
    expected, _ = pipeline.encode_prompt(["a bag", long], "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(cond, expected)


@pytest.mark.parametrize("prompts", ["a bag", 3, None])
def test_prompts_must_be_a_sequence(sd, dit, prompts):
    for model in (sd, dit):
        with pytest.raises(TypeError, match="prompts must be a sequence"):
            model.encode_prompts(prompts)


def test_prompts_of_the_wrong_kind_are_refused(sd):
    with pytest.raises(TypeError, match="must be a string, got 3"):
        sd.encode_prompts(["a bag", 3])
    with pytest.raises(ModelError, match="at least one"):
        sd.encode_prompts([])


def test_classes_are_names_or_indices(dit):
    for prompts in ([2, 0, 1], ["pullover", "t-shirt", "trouser"], torch.tensor([2, 0, 1])):
        cond = dit.encode_prompts(prompts)
        assert cond.tolist() == [2, 0, 1] and cond.dtype == torch.int64
    assert dit.encode_prompts([dit.null_class]).tolist() == [3]


@pytest.mark.parametrize("index", [-1, 4, 1000])
def test_class_index_out_of_range_is_refused(dit, index):
    with pytest.raises(ModelError, match=rf"class index of .* must lie in \[0, 3\), got {index}"):
        dit.encode_prompts([0, index])


@pytest.mark.parametrize("prompt", ["sneaker", 0.5, None, True])
def test_unknown_class_is_refused(dit, prompt):
    with pytest.raises(ModelError, match=f"got {prompt!r}"):
        dit.encode_prompts([prompt])


def test_labels_stand_in_index_order_and_differ():
    assert class_labels({"10": "k", "2": "c", **{str(i): f"x{i}" for i in (0, 1, *range(3, 10))}}, 1000, "m")[2] == "c"
    assert class_labels({"0": "crane", "1": "kite", "2": "crane"}, 3, "m") == ("crane (0)", "kite", "crane (2)")
    assert class_labels(None, 3, "m") == ("0", "1", "2")
    for wrong in ({"1": "a"}, {"0": "a", "2": "b"}, {str(i): str(i) for i in range(4)}, {"one": "a"}):
        with pytest.raises(ModelError, match="id2label of m must"):
            class_labels(wrong, 3, "m")


# The denoiser


@torch.no_grad()
def test_denoise_is_the_unets_output(sd, pipeline):
    x_t, t = latents(3), torch.tensor([0, 500, 999])
    cond = sd.encode_prompts(["a bag", "a red boot", "a coat"])
    expected = pipeline.unet(x_t, t, encoder_hidden_states=cond).sample
    torch.testing.assert_close(sd.denoise(x_t, t, cond), expected)
    one_by_one = torch.cat([sd.denoise(x_t[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(one_by_one, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(sd.denoise(x_t, t, cond.flip(0)), expected)


@torch.no_grad()
def test_denoise_is_the_transformers_output(dit, dit_path):
    transformer = diffusers.DiTPipeline.from_pretrained(dit_path).transformer
    x_t, t, cond = latents(3), torch.tensor([0, 500, 999]), torch.tensor([2, 0, 1])
    output = dit.denoise(x_t, t, cond)
    assert output.shape == (3, 8, 8, 8)
    torch.testing.assert_close(output, transformer(x_t, timestep=t, class_labels=cond).sample)
    assert not torch.allclose(dit.denoise(x_t, t, cond.flip(0)), output)


def test_dit_without_learned_variance(tmp_path):
    model = load_model(save_tiny_dit(tmp_path / "dit", learns_variance=False))
    assert not model.learns_variance
    assert model.denoise(latents(1), torch.tensor([3]), torch.tensor([0])).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("dtype", ["float16", torch.bfloat16])
def test_half_precision_keeps_schedule_and_latents_exact(sd, sd_path, dtype):
    half = load_model(sd_path, dtype=dtype)
    assert half.dtype in (torch.float16, torch.bfloat16)
    assert half.alphas_cumprod.dtype == torch.float64 and torch.equal(half.alphas_cumprod, sd.alphas_cumprod)
    assert torch.equal(half.encode_images(pixels(2)), sd.encode_images(pixels(2)))
    cond, t = half.encode_prompts(["a bag", "a coat"]), torch.tensor([100, 900])
    output = half.denoise(latents(2), t, cond)
    assert cond.dtype == output.dtype == half.dtype
    full = sd.denoise(latents(2), t, sd.encode_prompts(["a bag", "a coat"]))
    torch.testing.assert_close(output.float(), full, rtol=0.1, atol=0.03)


def test_sampling_in_half_precision_ends_in_decode_latents(sd_path):
    model = load_model(sd_path, dtype="bfloat16")
    model.pipeline.set_progress_bar_config(disable=True)
    drawn = model.pipeline("a bag", num_inference_steps=2, output_type="latent").images
    assert model.decode_latents(drawn).shape == (1, 3, 32, 32)


# The noise schedule


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_schedule_is_the_same_whatever_the_sampler(tmp_path, sampler):
    model = load_model(save_tiny_sd(tmp_path / "sd", "v_prediction", getattr(diffusers, sampler)))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    assert type(model.pipeline.scheduler).__name__ == sampler
    assert model.prediction_type == "v_prediction"
    assert model.alphas_cumprod.dtype == torch.float64
    assert torch.equal(model.alphas_cumprod, diffusers.DDPMScheduler(**SCHEDULE).alphas_cumprod.double())
    torch.testing.assert_close(model.alphas_cumprod, (1 - betas).cumprod(0), rtol=2e-5, atol=0)


def test_schedule_is_a_copy():
    scheduler = tiny_scheduler(diffusers.DDPMScheduler)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    table, _ = noise_schedule(scheduler, "m")
    table.zero_()
    assert scheduler.alphas_cumprod.min() > 0


def test_other_prediction_types_are_refused(tmp_path):
    path = save_tiny_sd(tmp_path / "sd", prediction_type="sample")
    with pytest.raises(UnsupportedModelError, match="prediction_type .* epsilon, v_prediction, got 'sample'"):
        load_model(path)


def test_scheduler_without_alphas_cumprod_is_refused(tmp_path):
    path = save_tiny_sd(tmp_path / "sd")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(path / "scheduler")
    edit_json(path / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    with pytest.raises(UnsupportedModelError, match="must have alphas_cumprod .* got FlowMatchEulerDiscreteScheduler"):
        load_model(path)


# Fingerprints


def test_fingerprint_is_that_of_the_numbers_not_of_the_place(sd, dit, tmp_path):
    assert len(sd.fingerprint) == 16 and int(sd.fingerprint, 16) >= 0
    assert sd.fingerprint != dit.fingerprint
    assert load_model(save_tiny_sd(tmp_path / "elsewhere")).fingerprint == sd.fingerprint
    euler = load_model(save_tiny_sd(tmp_path / "euler", scheduler=diffusers.EulerDiscreteScheduler))
    assert euler.fingerprint == sd.fingerprint
    assert load_model(tmp_path / "euler", dtype="bfloat16").fingerprint != sd.fingerprint


@pytest.mark.parametrize("part", ["network", "text_encoder", "vae"])
def test_any_changed_weight_changes_the_fingerprint(sd, sd_path, part):
    model = load_model(sd_path)
    with torch.no_grad():
        last = list(getattr(model, part).parameters())[-1].view(-1)
        last[-1] += 1e-6
    assert model.fingerprint != sd.fingerprint


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("vae/config.json", {"scaling_factor": 0.71}),
        ("unet/config.json", {"attention_head_dim": 4}),
        ("text_encoder/config.json", {"num_attention_heads": 4}),
        ("text_encoder/config.json", {"hidden_act": "gelu"}),
        ("scheduler/scheduler_config.json", {"beta_end": 0.021}),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 15}),
    ],
)
def test_any_changed_setting_changes_the_fingerprint(sd, tmp_path, file, changes):
    path = save_tiny_sd(tmp_path / "sd")
    edit_json(path / file, **changes)
    assert load_model(path).fingerprint != sd.fingerprint


def test_changed_merges_change_the_fingerprint(sd, tmp_path):
    merges = save_tiny_sd(tmp_path / "sd") / "tokenizer" / "merges.txt"
    merges.write_text("\n".join(merges.read_text(encoding="utf-8").splitlines()[:-1]) + "\n", encoding="utf-8")
    assert load_model(tmp_path / "sd").fingerprint != sd.fingerprint
