"""Stable Diffusion 3: the loss that diffusers trains it with, and a noise schedule that no sampling changes."""

import math
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from tiny import save_tiny_sd3

from diffclf import DiffusionClassifier, Exhaustive
from diffclf.evaluator import Evaluator
from diffclf.models import ModelError, UnsupportedModelError, load_model
from diffclf.models.sd3 import SD3Model, flow_schedule
from diffclf.trials import Trials

PROMPTS = ["a red sneaker", "a blue bag", "a coat"]
DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 64}


@pytest.fixture
def pipeline(tiny_sd3_folder):
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(tiny_sd3_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
@pytest.mark.parametrize("precondition", [False, True])
def test_the_mean_error_is_the_training_loss(tiny_sd3, pipeline, precondition):
    """The loss of train_dreambooth_sd3.py with the weighting scheme "none", from the scheduler's own tables."""
    indices, trials = torch.tensor([100, 500, 900]), Trials([899, 499, 99], seed=0, key=1, latent_shape=(4, 8, 8))
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    eps, scheduler = trials.noise([0, 1, 2]), pipeline.scheduler
    states, _, pooled, _ = pipeline.encode_prompt(
        PROMPTS, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=256
    )
    sigmas, timesteps = scheduler.sigmas[indices].view(-1, 1, 1, 1), scheduler.timesteps[indices]
    x_t = (1 - sigmas) * x0 + sigmas * eps
    output = pipeline.transformer(
        x_t, timestep=timesteps, encoder_hidden_states=states, pooled_projections=pooled, return_dict=False
    )[0]
    output, target = (output * -sigmas + x_t, x0) if precondition else (output, eps - x0)
    expected = (output - target).square().flatten(1).mean(1).numpy()
    triples = [(0, 0, 0), (0, 1, 1), (0, 2, 2)]
    l2, velocity = (
        Evaluator(tiny_sd3, ["l2", "velocity"]).errors(x0, tiny_sd3.encode_prompts(PROMPTS), [trials], triples).T
    )
    sigma = sigmas.flatten().numpy()
    np.testing.assert_allclose(velocity * (sigma**2 if precondition else 1), expected, rtol=1e-4)
    np.testing.assert_allclose(l2, velocity * (1 - sigma) ** 2, rtol=1e-3)


def test_sampling_changes_neither_fingerprint_nor_errors(tiny_sd3, pipeline):
    fresh = pipeline.scheduler.sigmas.clone()
    pipeline("a bag", num_inference_steps=3, guidance_scale=1.0, output_type="latent")
    pipeline.scheduler.set_shift(5.0)
    pipeline.scheduler.set_timesteps(1000)
    assert not torch.allclose(pipeline.scheduler.sigmas[:1000], fresh)  # shifted twice
    sampled = SD3Model(pipeline, tiny_sd3.name)
    assert sampled.fingerprint == tiny_sd3.fingerprint
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    prompts = {prompt: prompt for prompt in PROMPTS}
    tables = [DiffusionClassifier(each, prompts, pruning=Exhaustive(4)).errors(image) for each in (sampled, tiny_sd3)]
    np.testing.assert_array_equal(tables[0].errors, tables[1].errors)


@pytest.mark.parametrize("settings", [{}, {"shift": 3.0}, {"shift": 1.5, "num_train_timesteps": 40}])
def test_sigmas_equal_those_of_a_new_scheduler(settings):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    sigma, schedule = flow_schedule(scheduler.config, "m")
    torch.testing.assert_close(sigma.float(), scheduler.sigmas.flip(0))
    assert len(schedule) == len(scheduler.sigmas) and schedule.prediction_type == "flow_prediction"
    torch.testing.assert_close(schedule.alpha + schedule.sigma, torch.ones_like(sigma))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_dynamic_shifting_is_the_pipelines_for_the_models_size(kind, tmp_path):
    settings = {**DYNAMIC, "time_shift_type": kind}
    model = load_model(save_tiny_sd3(tmp_path / "m", t5=False, **settings), device="cpu")
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "m", text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    calls = []
    pipeline.transformer.register_forward_hook(
        lambda _, args, kwargs, out: calls.append(kwargs["timestep"]), with_kwargs=True
    )
    images = pipeline.encode_prompt("a bag", None, None, device="cpu", do_classifier_free_guidance=False)
    pipeline(
        prompt_embeds=images[0],
        pooled_prompt_embeds=images[2],
        guidance_scale=1.0,
        sigmas=[0.9, 0.4, 0.1],
        output_type="latent",
    )
    expected = 1000 * model.schedule.sigma[[899, 399, 99]].float()
    torch.testing.assert_close(torch.cat(calls), expected, rtol=1e-5, atol=1e-3)
    still = load_model(save_tiny_sd3(tmp_path / "still", t5=False), device="cpu")
    assert model.fingerprint != still.fingerprint


def test_schedulers_that_are_none_are_refused():
    with pytest.raises(UnsupportedModelError, match="must have invert_sigmas false, got true"):
        flow_schedule({"invert_sigmas": True}, "m")
    for shift in (0, -1.0, math.inf, math.nan, "x", None, [3]):
        with pytest.raises(ModelError, match="shift of the scheduler of m must be a finite number above 0, got"):
            flow_schedule({"shift": shift}, "m")
    with pytest.raises(ModelError, match="shift of the scheduler of m"):
        flow_schedule({"use_dynamic_shifting": True, "base_image_seq_len": 64, "max_image_seq_len": 64}, "m")
    with pytest.raises(UnsupportedModelError, match="must be FlowMatchEuler.*, got DDIMScheduler"):
        SD3Model.read_schedule(diffusers.DDIMScheduler(), "m")


def test_t5_is_left_out_on_request_and_need_not_be_there(tiny_sd3, tiny_sd3_folder, tiny_sd_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_sd3_folder, tmp_path / "sd3"))
    shutil.rmtree(folder / "text_encoder_3")
    shutil.rmtree(folder / "tokenizer_3")
    with pytest.raises(
        ModelError, match=r"no text_encoder_3: .*without=\['text_encoder_3'\].*or --without text_encoder_3"
    ):
        load_model(folder)
    model = load_model(folder, device="cpu", without=["text_encoder_3"])
    cond, with_t5 = (each.encode_prompts(["a red bag"]).tensors["hidden_states"] for each in (model, tiny_sd3))
    n_clip = cond.shape[1] - model.t5_length
    assert (
        torch.equal(cond[:, :n_clip], with_t5[:, :n_clip]) and not cond[:, n_clip:].any() and with_t5[:, n_clip:].any()
    )
    assert model.fingerprint != tiny_sd3.fingerprint
    for name, part in ((folder, "text_encoder_2"), (tiny_sd_folder, "text_encoder_3")):
        with pytest.raises(ModelError, match=f"without must name parts that .* can do without, .*, got {part}"):
            load_model(name, without=[part])
