"""One contract for all models; then Stable Diffusion and DiT against the pipelines' own parts, number for number."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from tiny import DIT_LABELS, SCHEDULE, edit_json, save_tiny_dit, save_tiny_sd, tiny_scheduler

from diffclf.evaluator import Evaluator
from diffclf.models import Conditioning, DiffusionModel, ModelError, UnsupportedModelError, load_model
from diffclf.models.dit import class_labels
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.models.latent import noise_schedule
from diffclf.models.operations import count_operations
from diffclf.models.stable_diffusion import StableDiffusionModel
from diffclf.schedule import NoiseSchedule
from diffclf.trials import Trials

SAMPLERS = ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"]
SAMPLERS += ["EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
TEXTS = ["a red sneaker", "a blue bag", "a coat"]
FLOW = NoiseSchedule.flow(torch.linspace(0.001, 0.999, 1000))


class TwoTensorModel(GaussianMixtureModel):
    """A model of another make: its prompts become two tensors, neither of which says enough by itself."""

    def encode_prompts(self, prompts):
        index = super().encode_prompts(prompts).tensors["class_index"]
        states = torch.nn.functional.one_hot(index // 2, 2).double()[:, None].expand(-1, 5, -1)
        return Conditioning({"hidden_states": states, "pooled": (index % 2).double()[:, None]})

    def denoise(self, x_t, t, cond):
        index = 2 * cond.tensors["hidden_states"][:, 0].argmax(1) + cond.tensors["pooled"][:, 0].long()
        return super().denoise(x_t, t, Conditioning({"class_index": index}))


def mixture(kind=GaussianMixtureModel, **options):
    means = np.random.default_rng(0).normal(scale=0.4, size=(4, 12))
    return kind(means, [0.05, 0.1, 0.05, 0.2], latent_shape=(3, 2, 2), **options)


FAMILIES = ["tiny_sd", "tiny_dit", "tiny_sdxl", "tiny_sd3", "tiny_alpha", "tiny_sigma"]


@pytest.fixture(params=[*FAMILIES, "gaussian", "flow", "two tensors"])
def model(request):
    if request.param.startswith("tiny"):
        return request.getfixturevalue(request.param)
    options = {"gaussian": {}, "flow": {"schedule": FLOW}, "two tensors": {"kind": TwoTensorModel, "schedule": FLOW}}
    return mixture(**options[request.param])


@pytest.fixture(scope="module")
def pipeline(tiny_sd_folder):
    return diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd_folder)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(n, size=32):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def three_prompts(model):
    return TEXTS if model.labels is None else [2, 0, 1]


def inputs(model):
    """Three noised latents, timesteps and conditionings."""
    return normal(3, *model.latent_shape), torch.tensor([0, 500, 999]), model.encode_prompts(three_prompts(model))


# The contract


def test_attributes(model):
    assert isinstance(model, DiffusionModel)
    assert isinstance(model.name, str) and model.device == torch.device("cpu")
    assert len(model.schedule) == 1000 and model.schedule.alpha.device.type == "cpu"
    assert model.schedule.alpha.dtype == model.schedule.sigma.dtype == torch.float64
    assert len(model.latent_shape) == 3 and model.image_size >= 1
    assert model.labels is None or len(set(model.labels)) == len(model.labels) >= 3
    assert model.calibration is None
    assert len(model.fingerprint) == 16 and int(model.fingerprint, 16) >= 0


def test_encoded_images(model):
    x = pixels(3, model.image_size)
    x0 = model.encode_images(x)
    assert x0.shape == (3, *model.latent_shape) and x0.dtype == torch.float32
    torch.testing.assert_close(model.encode_images(x[1:2]), x0[1:2], rtol=1e-5, atol=1e-6)
    for shape in ((1, 3, 64, 64), (3, model.image_size, model.image_size), (1, 1, model.image_size, model.image_size)):
        with pytest.raises(ValueError, match=r"pixels must have shape \(n, 3, (32, 32|2, 2)\), got"):
            model.encode_images(torch.zeros(shape))


def test_encoded_prompts(model):
    cond = model.encode_prompts(three_prompts(model))
    assert isinstance(cond, Conditioning) and len(cond) == 3
    first, others = model.encode_prompts(three_prompts(model)[:1]), cond[torch.tensor([2, 0, 0])]
    for name, tensor in cond.tensors.items():
        torch.testing.assert_close(first.tensors[name], tensor[:1], rtol=1e-5, atol=1e-5)
        assert torch.equal(others.tensors[name], tensor[[2, 0, 0]])


@torch.no_grad()
def test_outputs(model):
    """Outputs are deterministic, do not depend on the batch, and depend on the prompt."""
    x_t, t, cond = inputs(model)
    output = model.denoise(x_t, t, cond)
    channels, *sides = model.latent_shape
    assert output.shape == (3, channels * (1 + model.learns_variance), *sides) and output.dtype == model.dtype
    assert torch.equal(model.denoise(x_t, t, cond), output)
    one_by_one = torch.cat([model.denoise(x_t[i : i + 1], t[i : i + 1], cond[[i]]) for i in range(3)])
    torch.testing.assert_close(one_by_one, output, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.denoise(x_t, t, cond[[2, 1, 0]]), output)


def test_errors_follow_the_prompts_and_do_not_depend_on_the_batch(model):
    """The evaluator needs nothing but the protocol."""
    x0 = model.encode_images(pixels(2, model.image_size))
    trials = [Trials([900, 500, 100, 3], seed=0, key=key, latent_shape=model.latent_shape) for key in (1, 2)]
    triples = np.array([(image, prompt, trial) for image in range(2) for prompt in range(3) for trial in range(4)])

    def errors(prompts, batch_size):
        evaluator = Evaluator(model, ["l2"], batch_size)
        return evaluator.errors(x0, model.encode_prompts(prompts), trials, triples).reshape(2, 3, 4)

    a, b, c = three_prompts(model)
    expected = errors([a, b, c], 24)
    np.testing.assert_allclose(errors([a, b, c], 5), expected, rtol=1e-4)
    np.testing.assert_allclose(errors([c, a, b], 24), expected[:, [2, 0, 1]], rtol=1e-4)
    eps = trials[1].noise([2])
    t = torch.tensor([100])
    x_t = model.schedule.add_noise(x0[1:], eps, t)
    output = model.denoise(x_t, t, model.encode_prompts([c]))[:, : x0.shape[1]]
    assert expected[1, 2, 2] == pytest.approx(
        float((eps - model.schedule.predict_eps(output, x_t, t)).square().mean()), rel=1e-4
    )


def test_conditioning_refuses_tensors_of_different_lengths():
    for tensors in ({}, {"hidden_states": torch.zeros(3, 2), "pooled": torch.zeros(2)}):
        with pytest.raises(ValueError, match="tensors must have one row per prompt each"):
            Conditioning(tensors)


# Images


def test_latents_are_the_scaled_means_of_the_autoencoder(tiny_sd, pipeline, monkeypatch):
    x = pixels(5)
    with torch.no_grad():
        expected = pipeline.vae.encode(x).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert pipeline.vae.config.scaling_factor == 0.7
    torch.testing.assert_close(tiny_sd.encode_images(x), expected)
    assert tiny_sd.encode_images(x[:0]).shape == (0, 4, 8, 8)
    monkeypatch.setattr("diffclf.models.latent.AUTOENCODER_PIXELS", 2 * 32**2)
    two_at_once = StableDiffusionModel(pipeline).encode_images(x)
    torch.testing.assert_close(two_at_once, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_shift_of_the_latents_is_applied_before_the_scale(tmp_path):
    path = save_tiny_sd(tmp_path / "sd")
    edit_json(path / "vae" / "config.json", shift_factor=0.25)
    model = load_model(path)
    mean = model.pipeline.vae.encode(pixels(2)).latent_dist.mean
    torch.testing.assert_close(model.encode_images(pixels(2)), (mean - 0.25) * 0.7)
    torch.testing.assert_close(model.decode_latents((mean - 0.25) * 0.7), model.pipeline.vae.decode(mean).sample)


@torch.no_grad()
def test_means_and_deviations_of_the_latents_are_applied_per_channel(tmp_path):
    path, mean, std = save_tiny_sd(tmp_path / "sd"), [0.5, -1.0, 0.0, 2.0], [2.0, 1.0, 0.5, 4.0]
    edit_json(path / "vae" / "config.json", latents_mean=mean, latents_std=std)
    model = load_model(path)
    z = model.pipeline.vae.encode(pixels(2)).latent_dist.mean
    x0 = torch.stack([(z[:, c] - mean[c]) * 0.7 / std[c] for c in range(4)], dim=1)
    torch.testing.assert_close(model.encode_images(pixels(2)), x0)
    torch.testing.assert_close(model.decode_latents(x0), model.pipeline.vae.decode(z).sample, rtol=1e-4, atol=1e-5)
    edit_json(path / "vae" / "config.json", latents_mean=[0.5])
    with pytest.raises(UnsupportedModelError, match="latents_mean of .* must have 4 numbers, got \\[0.5\\]"):
        load_model(path)


# Prompts


def test_text_embeddings_equal_the_pipelines(tiny_sd, pipeline, monkeypatch):
    prompts = ["a photo of a red sneaker", "a bag", "", "zebra"]
    expected, _ = pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    states = tiny_sd.encode_prompts(prompts).tensors["hidden_states"]
    torch.testing.assert_close(states, expected)
    assert states.shape == (4, 16, 16)
    assert (states[0] - states[1]).abs().max() > 0.1
    monkeypatch.setattr("diffclf.models.text.PROMPTS_AT_ONCE", 3)
    torch.testing.assert_close(tiny_sd.encode_prompts(prompts).tensors["hidden_states"], expected)


def test_long_prompt_is_cut_with_a_warning_that_names_it(tiny_sd, pipeline, caplog):
    long = "a photo of the red sneaker to the left of the blue bag to the right of the coat"
    with caplog.at_level(logging.WARNING, logger="diffclf"):
        cond = tiny_sd.encode_prompts(["a bag", long])
    assert [record.getMessage() for record in caplog.records] == [
        f"prompt has 21 tokens; {tiny_sd.name} uses the first 16: {long!r}"
    ]
    expected, _ = pipeline.encode_prompt(["a bag", long], "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(cond.tensors["hidden_states"], expected)


@pytest.mark.parametrize("other", ["A  Photo of a BAG", "a photo of a bag "])
def test_prompts_that_are_the_same_to_the_model_are_refused(tiny_sd, other):
    with pytest.raises(ValueError, match=f"these are the same: 'a photo of a bag' and {other!r}"):
        tiny_sd.encode_prompts(["a photo of a bag", "a boot", other])
    long = "a photo of the red sneaker to the left of the blue bag to the right of the "
    with pytest.raises(ValueError, match="differ in the first 16 tokens"):
        tiny_sd.encode_prompts([f"{long}coat", f"{long}dress"])
    assert len(tiny_sd.encode_prompts(["a boot", "a boot"])) == 2


def test_prompts_of_the_wrong_kind_are_refused(tiny_sd, tiny_dit):
    for model in (tiny_sd, tiny_dit):
        for prompts in ("a bag", 3, None):
            with pytest.raises(TypeError, match="prompts must be a sequence"):
                model.encode_prompts(prompts)
        with pytest.raises(ModelError, match="at least one"):
            model.encode_prompts([])
    with pytest.raises(TypeError, match="must be a string, got 3"):
        tiny_sd.encode_prompts(["a bag", 3])


def test_classes_are_names_or_indices(tiny_dit):
    assert tiny_dit.labels == DIT_LABELS
    mixture = GaussianMixtureModel([[0.0], [1.0], [2.0]], [1.0] * 3, labels=DIT_LABELS)
    for prompts in ([2, 0, 1], ["pullover", "t-shirt", "trouser"], torch.tensor([2, 0, 1])):
        for model in (tiny_dit, mixture):
            index = model.encode_prompts(prompts).tensors["class_index"]
            assert index.tolist() == [2, 0, 1] and index.dtype == torch.int64
    assert tiny_dit.encode_prompts([tiny_dit.null_class]).tensors["class_index"].tolist() == [3]


@pytest.mark.parametrize("prompt", [-1, 4, 1000, "sneaker", 0.5, None, True])
def test_unknown_class_is_refused(tiny_dit, gaussian, prompt):
    for model in (tiny_dit, gaussian):
        with pytest.raises(ValueError, match=f"class must be one of .* or an index below [23], got {prompt!r}"):
            model.encode_prompts([0, prompt])


def test_labels_stand_in_index_order_and_differ():
    assert class_labels({"10": "k", "2": "c", **{str(i): f"x{i}" for i in (0, 1, *range(3, 10))}}, 1000, "m")[2] == "c"
    assert class_labels({"0": "crane", "1": "kite", "2": "crane"}, 3, "m") == ("crane (0)", "kite", "crane (2)")
    assert class_labels(None, 3, "m") == ("0", "1", "2")
    for wrong in ({"1": "a"}, {"0": "a", "2": "b"}, {str(i): str(i) for i in range(4)}, {"one": "a"}):
        with pytest.raises(ModelError, match="id2label of m must"):
            class_labels(wrong, 3, "m")


# The denoiser


@torch.no_grad()
def test_denoise_is_the_networks_output(tiny_sd, tiny_dit, pipeline, tiny_dit_folder):
    x_t, t, cond = inputs(tiny_sd)
    expected = pipeline.unet(x_t, t, encoder_hidden_states=cond.tensors["hidden_states"]).sample
    torch.testing.assert_close(tiny_sd.denoise(x_t, t, cond), expected)
    transformer = diffusers.DiTPipeline.from_pretrained(tiny_dit_folder).transformer
    expected = transformer(x_t, timestep=t, class_labels=torch.tensor([2, 0, 1])).sample
    torch.testing.assert_close(tiny_dit.denoise(*inputs(tiny_dit)), expected)


def test_networks_are_in_evaluation_mode_and_need_no_gradients(tmp_path, tiny_sd):
    without_variance = load_model(save_tiny_dit(tmp_path / "dit", learns_variance=False))
    assert without_variance.denoise(*inputs(without_variance)).shape == (3, 4, 8, 8)
    for model in (tiny_sd, without_variance):
        assert not (model.network.training or model.vae.training or model.learns_variance)
        assert not any(p.requires_grad for part in (model.network, model.vae) for p in part.parameters())
        assert model.name in repr(model)


@pytest.mark.parametrize("dtype", ["float16", torch.bfloat16])
def test_half_precision_keeps_schedule_and_latents_exact(tiny_sd, tiny_sd_folder, dtype):
    half = load_model(tiny_sd_folder, dtype=dtype)
    assert half.dtype in (torch.float16, torch.bfloat16)
    assert torch.equal(half.schedule.alpha, tiny_sd.schedule.alpha)
    assert torch.equal(half.encode_images(pixels(2)), tiny_sd.encode_images(pixels(2)))
    x_t, t, cond = inputs(half)
    output = half.denoise(x_t, t, cond)
    assert cond.tensors["hidden_states"].dtype == output.dtype == half.dtype
    torch.testing.assert_close(output.float(), tiny_sd.denoise(*inputs(tiny_sd)), rtol=0.1, atol=0.03)
    half.pipeline.set_progress_bar_config(disable=True)
    drawn = half.pipeline("a bag", num_inference_steps=2, output_type="latent").images
    assert half.decode_latents(drawn).shape == (1, 3, 32, 32)


# The noise schedule


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_schedule_is_the_same_whatever_the_sampler(sampler):
    scheduler = tiny_scheduler(getattr(diffusers, sampler), "v_prediction")
    table, schedule = noise_schedule(scheduler, "m")
    assert torch.equal(table, diffusers.DDPMScheduler(**SCHEDULE).alphas_cumprod.double())
    assert schedule.prediction_type == "v_prediction" and schedule.alpha.dtype == torch.float64
    torch.testing.assert_close(schedule.alpha.square(), table, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.sigma.square(), 1 - table, rtol=1e-12, atol=0)
    table.zero_()
    assert scheduler.alphas_cumprod.min() > 0 and schedule.alpha.min() > 0


def test_other_schedulers_are_refused():
    others = [tiny_scheduler(diffusers.DPMSolverMultistepScheduler, kind) for kind in ("sample", "flow_prediction")]
    for scheduler in (*others, diffusers.FlowMatchEulerDiscreteScheduler()):
        message = f"must have alphas_cumprod .* prediction_type .* got {type(scheduler).__name__}"
        with pytest.raises(UnsupportedModelError, match=message):
            noise_schedule(scheduler, "m")


# Fingerprints


def test_fingerprint_is_that_of_stored_results_wherever_the_files_are_and_with_any_sampler(mini_sd, tiny_sd, tmp_path):
    assert mini_sd.fingerprint == "9f2507b99e5edb98"
    euler = load_model(save_tiny_sd(tmp_path / "euler", scheduler=diffusers.EulerDiscreteScheduler))
    assert euler.fingerprint == tiny_sd.fingerprint
    assert load_model(tmp_path / "euler", dtype="bfloat16").fingerprint != tiny_sd.fingerprint


@pytest.mark.parametrize("part", ["network", "text_encoder", "vae"])
def test_any_changed_weight_changes_the_fingerprint(tiny_sd, tiny_sd_folder, part):
    model = load_model(tiny_sd_folder)
    with torch.no_grad():
        last = list(getattr(model, part).parameters())[-1].view(-1)
        last[-1] += 1e-6
    assert model.fingerprint != tiny_sd.fingerprint


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
def test_any_changed_setting_changes_the_fingerprint(tiny_sd, tiny_sd_folder, tmp_path, file, changes):
    path = Path(shutil.copytree(tiny_sd_folder, tmp_path / "sd"))
    edit_json(path / file, **changes)
    changed = load_model(path).fingerprint
    assert changed != tiny_sd.fingerprint
    merges = path / "tokenizer" / "merges.txt"
    merges.write_text(merges.read_text(encoding="utf-8").rstrip().rpartition("\n")[0] + "\n")
    assert load_model(path).fingerprint != changed


def test_fingerprint_of_a_mixture_is_that_of_all_its_settings():
    settings = [{}, {"schedule": FLOW}, {"schedule": NoiseSchedule.linear(1000, "v_prediction")}]
    settings += [{"schedule": NoiseSchedule.linear(500)}, {"classes": [0, 1, 1, 2]}]
    assert len({mixture(**each).fingerprint for each in settings}) == len(settings)


def test_a_multiply_add_counts_as_two_operations():
    layer = torch.nn.Linear(4, 8, bias=False)
    model = SimpleNamespace(latent_shape=(3, 4), device="cpu", dtype=torch.float32, labels=None)
    model.encode_prompts, model.denoise = len, lambda x_t, t, cond: layer(x_t)
    assert count_operations(model) == 2 * 3 * 4 * 8
