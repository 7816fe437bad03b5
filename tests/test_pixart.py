"""PixArt: the loss it is trained with, its learned variance, and the sizes that only one of its models reads."""

import diffusers
import pytest
import torch
from tiny import save_tiny_pixart, tiny_scheduler
from torch.nn.functional import mse_loss

from diffclf.evaluator import Evaluator
from diffclf.models import load_model
from diffclf.schedule import variational_terms
from diffclf.trials import Trials

PROMPTS = ["a red sneaker", "a blue bag", "a coat"]


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny_alpha", "tiny_sigma"])
def test_the_mean_error_is_the_training_loss(name, request):
    """Squared error of the first half of the output, text masked, sizes of the training image; and the bound's term."""
    model = request.getfixturevalue(name)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(request.getfixturevalue(f"{name}_folder"))
    trials, t = Trials([900, 500, 100], seed=0, key=1, latent_shape=(4, 8, 8)), torch.tensor([900, 500, 100])
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).expand(3, -1, -1, -1)
    eps = trials.noise([0, 1, 2])
    length = {"tiny_alpha": 120, "tiny_sigma": 300}[name]
    tokens = pipeline.tokenizer(PROMPTS, max_length=length, padding="max_length", truncation=True, return_tensors="pt")
    states = pipeline.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    sizes = {"resolution": torch.tensor([[32.0, 32.0]] * 3), "aspect_ratio": torch.ones(3, 1)}
    x_t = tiny_scheduler(diffusers.DDPMScheduler).add_noise(x0, eps, t)
    output = pipeline.transformer(
        x_t,
        encoder_hidden_states=states,
        encoder_attention_mask=tokens.attention_mask,
        timestep=t,
        added_cond_kwargs=sizes if name == "tiny_alpha" else {"resolution": None, "aspect_ratio": None},
    ).sample
    triples = [(0, 0, 0), (0, 1, 1), (0, 2, 2)]
    errors = Evaluator(model, ["l2", "vlb"]).errors(x0[:1], model.encode_prompts(PROMPTS), [trials], triples)
    eps_hat, variance = output.chunk(2, dim=1)
    assert errors[:, 0].mean() == pytest.approx(float(mse_loss(eps_hat, eps)), rel=1e-5)
    terms = variational_terms(x0, x_t, eps_hat, variance, t, model.schedule)
    torch.testing.assert_close(torch.from_numpy(errors[:, 1]), terms, rtol=1e-4, atol=1e-5)
    assert model.learns_variance and output.shape == (3, 8, 8, 8)


@torch.no_grad()
def test_sizes_are_read_by_the_network_that_was_trained_with_them_alone(tiny_alpha, tmp_path):
    plain = load_model(save_tiny_pixart(tmp_path / "m", sizes=False), device="cpu")
    assert tiny_alpha.network.use_additional_conditions and not plain.network.use_additional_conditions
    x_t, t = torch.zeros(1, 4, 8, 8), torch.tensor([400])
    for model, changes in ((tiny_alpha, True), (plain, False)):
        cond = model.encode_prompts(["a bag"])
        before, model._sizes = (
            model.denoise(x_t, t, cond),
            {**(own := model._sizes), "resolution": own["resolution"] * 2},
        )
        after, model._sizes = model.denoise(x_t, t, cond), own
        assert torch.equal(before, after) != changes


def test_padding_is_not_seen(tiny_sigma):
    cond = tiny_sigma.encode_prompts(["a bag"])
    n = int(cond.tensors["mask"].sum())
    assert n == 3 and cond.tensors["hidden_states"].shape == (1, 300, 48)
    x_t, t = torch.zeros(1, 4, 8, 8), torch.tensor([400])
    before = tiny_sigma.denoise(x_t, t, cond)
    cond.tensors["hidden_states"][:, n:] = 7.0
    torch.testing.assert_close(tiny_sigma.denoise(x_t, t, cond), before)
