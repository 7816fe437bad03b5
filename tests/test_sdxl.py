"""Stable Diffusion XL against the loss that diffusers trains it with."""

import diffusers
import pytest
import torch
from tiny import save_tiny_sdxl, tiny_scheduler
from torch.nn.functional import mse_loss

from diffclf.evaluator import Evaluator
from diffclf.models import UnsupportedModelError, load_model
from diffclf.trials import Trials

PROMPTS = ["a red sneaker", "a blue bag", "a coat"]


def script_loss(pipeline, prediction_type, x0, eps, t):
    """The loss of the training script of diffusers (train_text_to_image_sdxl.py), without SNR weighting."""
    scheduler, states, pooled = tiny_scheduler(diffusers.DDPMScheduler, prediction_type), [], None
    for tokenizer, encoder in zip(
        (pipeline.tokenizer, pipeline.tokenizer_2), (pipeline.text_encoder, pipeline.text_encoder_2), strict=True
    ):
        ids = tokenizer(PROMPTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
        output = encoder(ids, output_hidden_states=True, return_dict=False)
        pooled = output[0]
        states.append(output[-1][-2])
    time_ids = torch.tensor([[32, 32, 0, 0, 32, 32]]).repeat(3, 1)  # original size, crop, target size
    x_t = scheduler.add_noise(x0, eps, t)
    added = {"text_embeds": pooled, "time_ids": time_ids}
    output = pipeline.unet(x_t, t, torch.cat(states, dim=-1), added_cond_kwargs=added, return_dict=False)[0]
    target = eps if prediction_type == "epsilon" else scheduler.get_velocity(x0, eps, t)
    return mse_loss(output, target)


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_mean_error_is_the_training_loss(prediction_type, tmp_path):
    model = load_model(save_tiny_sdxl(tmp_path / "m", prediction_type=prediction_type), device="cpu")
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path / "m")
    trials = Trials([900, 500, 100], seed=0, key=1, latent_shape=(4, 8, 8))
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = script_loss(
        pipeline, prediction_type, x0.expand(3, -1, -1, -1), trials.noise([0, 1, 2]), torch.tensor([900, 500, 100])
    )
    triples = [(0, 0, 0), (0, 1, 1), (0, 2, 2)]
    errors = Evaluator(model, ["velocity", "l2"]).errors(x0, model.encode_prompts(PROMPTS), [trials], triples)
    assert errors[:, 0].mean() == pytest.approx(float(expected), rel=1e-5)
    if prediction_type == "epsilon":
        assert (errors[:, 0] == errors[:, 1]).all()


@pytest.mark.parametrize("config", [{"time_cond_proj_dim": 8}, {"addition_embed_type": None}])
def test_networks_with_other_inputs_are_refused(tiny_sdxl, config):
    from diffclf.models.text import check_unet

    with pytest.raises(
        UnsupportedModelError, match=f"unet of m must be conditioned on text alone, got .*{[*config][0]}"
    ):
        check_unet({**tiny_sdxl.network.config, **config}, "m", added=("text_time",))
