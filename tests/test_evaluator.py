"""The evaluator against a double loop written with the pipeline's own parts."""

import diffusers
import numpy as np
import pytest
import torch
from tiny import save_tiny_sd
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from diffclf.evaluator import LOSSES, Evaluator, NonFiniteError
from diffclf.models import load_model
from diffclf.schedule import NoiseSchedule, variational_terms
from diffclf.trials import Trials, uniform

PLAIN = ("l2", "l1", "huber")
PROMPTS = ["a photo of a red sneaker", "a bag", "the blue coat to the left of the green shirt"]
PIPELINES = {
    "epsilon": {},
    "v_prediction": {"prediction_type": "v_prediction"},
    "euler": {"scheduler": diffusers.EulerDiscreteScheduler},
    "pndm": {"scheduler": diffusers.PNDMScheduler},
    "dpm": {"scheduler": diffusers.DPMSolverMultistepScheduler, "prediction_type": "v_prediction"},
}


class NaiveLoop:
    """A Stable Diffusion pipeline, one evaluation at a time."""

    def __init__(self, folder, dtype=torch.float32):
        self.pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
        self.dtype = dtype
        self.pipeline.unet.to(dtype)
        self.pipeline.text_encoder.to(dtype)
        # The process that a network was trained with is DDPM's, whichever sampler the pipeline came with.
        self.trained = diffusers.DDPMScheduler.from_config(self.pipeline.scheduler.config)
        self.trained.alphas_cumprod = self.trained.alphas_cumprod.double()

    @torch.no_grad()
    def losses(self, pixels, prompt, timestep, eps):
        """The three losses of one image (3, 32, 32), prompt, timestep and noise (1, 4, 8, 8)."""
        latent = self.pipeline.vae.encode(pixels[None]).latent_dist.mean * self.pipeline.vae.config.scaling_factor
        embedding = self.pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)[0]
        t = torch.tensor([timestep])
        x_t = self.trained.add_noise(latent.double(), eps.double(), t)
        eps_hat = self.pipeline.unet(x_t.to(self.dtype), t, encoder_hidden_states=embedding).sample.double()
        if self.pipeline.scheduler.config.prediction_type == "v_prediction":
            bar = self.trained.alphas_cumprod[timestep]
            eps_hat = bar.sqrt() * eps_hat + (1 - bar).sqrt() * x_t
        return [float(loss(eps_hat, eps.double())) for loss in (mse_loss, l1_loss, huber_loss)]

    def errors(self, n_images=2):
        """Errors of every image, prompt and trial, in the order of `all_triples`."""
        rows = [
            self.losses(image, prompt, timestep, trials.noise([index]))
            for image, trials in zip(images(n_images), trials_of(n_images), strict=True)
            for prompt in PROMPTS
            for index, timestep in enumerate(trials.timesteps)
        ]
        return np.array(rows)


def images(n, seed=0):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trials_of(n_images, timesteps=None, seed=0):
    timesteps = [0, 1, 999, *uniform(5)] if timesteps is None else timesteps
    return [Trials(timesteps, seed, key=100 + i, latent_shape=(4, 8, 8)) for i in range(n_images)]


def all_triples(n_images, n_prompts, n_trials):
    return np.argwhere(np.ones((n_images, n_prompts, n_trials)))


def evaluate(model, losses=PLAIN, batch_size=7, n_images=2, prompts=PROMPTS, triples=None, trials=None):
    trials = trials_of(n_images) if trials is None else trials
    triples = all_triples(n_images, len(prompts), len(trials[0])) if triples is None else triples
    evaluator = Evaluator(model, losses, batch_size)
    return evaluator.errors(model.encode_images(images(n_images)), model.encode_prompts(prompts), trials, triples)


class Wrapped:
    """A model with other attributes or methods in place of some of its own."""

    def __init__(self, model, **others):
        self._model = model
        self.__dict__.update(others)

    def __getattr__(self, name):
        return getattr(self._model, name)


# Against the naive double loop


@pytest.mark.parametrize("kind", PIPELINES)
def test_errors_equal_the_naive_double_loop_in_any_batch(tmp_path, kind):
    expected = NaiveLoop(save_tiny_sd(tmp_path, **PIPELINES[kind])).errors()
    assert expected.shape == (2 * 3 * 8, 3) and expected.std(axis=0).min() > 1e-3
    model = load_model(tmp_path, device="cpu")
    for batch_size in (1, 7, 64):
        # At t = 999 the error of a v-prediction is 1e-6 and loses digits to the rounding of eps itself.
        np.testing.assert_allclose(evaluate(model, batch_size=batch_size), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_half_precision_equals_the_naive_loop_in_half_precision(tmp_path, kind):
    folder = save_tiny_sd(tmp_path, **PIPELINES[kind])
    errors = evaluate(load_model(folder, device="cpu", dtype="float16"))
    assert errors.dtype == np.float32
    np.testing.assert_allclose(errors, NaiveLoop(folder, torch.float16).errors(), rtol=3e-3)
    np.testing.assert_allclose(errors, NaiveLoop(folder).errors(), rtol=2e-2)


@torch.no_grad()
def test_dit_errors_equal_the_naive_double_loop(tiny_dit_folder, tiny_dit):
    pipeline = diffusers.DiTPipeline.from_pretrained(tiny_dit_folder)
    bars = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod.double()
    schedule = NoiseSchedule.variance_preserving(bars)
    expected = []
    for image, trials in zip(images(2), trials_of(2), strict=True):
        latent = pipeline.vae.encode(image[None]).latent_dist.mean * pipeline.vae.config.scaling_factor
        for label in (0, 1, 2):
            for index, timestep in enumerate(trials.timesteps):
                t, eps = torch.tensor([timestep]), trials.noise([index])
                x_t = bars[t].sqrt() * latent.double() + (1 - bars[t]).sqrt() * eps
                output = pipeline.transformer(x_t.float(), timestep=t, class_labels=torch.tensor([label])).sample
                eps_hat, v = output.double().chunk(2, dim=1)
                plain = [loss(eps_hat, eps.double()) for loss in (mse_loss, l1_loss, huber_loss)]
                vlb = variational_terms(latent.double(), x_t, eps_hat, v, t, schedule)[0]
                expected.append([*plain, plain[0], vlb, plain[0] + vlb])  # velocity is noise here
    expected = np.array(expected)
    vlb = expected[:, 4]
    assert vlb.std() > 1e-3 and vlb.max() > 0
    for batch_size in (1, 7, 64):
        errors = evaluate(tiny_dit, LOSSES, batch_size, prompts=[0, 1, 2])
        np.testing.assert_allclose(errors[:, :4], expected[:, :4], rtol=1e-5)
        np.testing.assert_allclose(errors[:, 4:], expected[:, 4:], rtol=1e-3, atol=1e-5)


# Against known errors


def evaluate_one(model, timesteps, **options):
    """The errors of one image under one prompt."""
    return evaluate(model, n_images=1, trials=trials_of(1, timesteps), **{"prompts": PROMPTS[:1], **options})


def test_losses_of_a_known_error(tiny_sd):
    """eps_hat - eps is 0.5 in half of the elements and 3 in the others."""
    offset = torch.full((4, 8, 8), 0.5)
    offset[2:] = -3
    eps = trials_of(1, [500])[0].noise([0])
    errors = evaluate_one(Wrapped(tiny_sd, denoise=lambda x_t, t, cond: eps + offset), [500])
    np.testing.assert_allclose(errors[0], [(0.25 + 9) / 2, (0.5 + 3) / 2, (0.125 + 2.5) / 2], rtol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow_prediction"])
def test_the_error_is_that_of_the_noise_whatever_the_network_predicts(tiny_sd, kind):
    """An offset of 0.5 in v or in the flow velocity is one of 0.5 alpha_t in eps."""
    flow = kind == "flow_prediction"
    schedule = NoiseSchedule.flow(torch.linspace(0.1, 1, 10)) if flow else NoiseSchedule.linear(10, kind)
    x0, eps = tiny_sd.encode_images(images(1)), trials_of(1, range(10))[0].noise(range(10))

    def denoise(x_t, t, cond):
        return schedule.target(x0.expand_as(x_t), eps[t], t) + 0.5

    scale = 1 if kind == "epsilon" else schedule.alpha.numpy()
    errors = evaluate_one(Wrapped(tiny_sd, denoise=denoise, schedule=schedule), range(10), losses=("l2", "velocity"))
    np.testing.assert_allclose(errors[:, 0], (0.5 * scale) ** 2 * np.ones(10), rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(errors[:, 1], 0.25, rtol=1e-4)


def test_prompts_share_timesteps_noise_and_noised_latent_and_have_their_own_conditioning(tiny_sd):
    latents, seen, rows = [], [], tiny_sd.encode_prompts(PROMPTS).tensors["hidden_states"]

    def denoise(x_t, t, cond):
        assert t.dtype == torch.int64
        latents.append(x_t)
        which = [int((rows == own).flatten(1).all(1).nonzero()) for own in cond.tensors["hidden_states"]]
        seen.extend(zip(t.tolist(), which, strict=True))
        return torch.zeros_like(x_t)

    errors = evaluate_one(Wrapped(tiny_sd, denoise=denoise), [999, 41], prompts=PROMPTS, batch_size=4).reshape(3, 2, 3)
    assert sorted(seen) == [(41, 0), (41, 1), (41, 2), (999, 0), (999, 1), (999, 2)]
    assert len(torch.cat(latents).unique(dim=0)) == 2
    assert (errors == errors[:1]).all() and (errors[0, 0] != errors[0, 1]).all()


# Batches, order, repetition


def test_order_of_triples_does_not_matter_and_two_runs_are_identical(tiny_sd):
    triples = all_triples(2, 3, 8)
    order = np.random.default_rng(0).permutation(len(triples))
    np.testing.assert_array_equal(evaluate(tiny_sd, triples=triples[order]), evaluate(tiny_sd, triples=triples)[order])


def test_images_may_have_trials_of_their_own_and_equal_the_image_alone(tiny_sd):
    trials = [trials_of(1, [5, 900])[0], Trials([700, 20, 300], 4, 77, (4, 8, 8))]
    triples = np.array([[1, 2, 2], [0, 0, 1], [1, 0, 0], [0, 2, 1], [1, 1, 2], [0, 1, 0]])
    errors = evaluate(tiny_sd, batch_size=4, trials=trials, triples=triples)
    evaluator = Evaluator(tiny_sd, batch_size=1)
    for (image, prompt, trial), error in zip(triples, errors, strict=True):
        x0, cond = tiny_sd.encode_images(images(2)[image : image + 1]), tiny_sd.encode_prompts([PROMPTS[prompt]])
        alone = evaluator.errors(x0, cond, [trials[image]], [[0, 0, trial]])
        np.testing.assert_allclose(alone, error[None], rtol=1e-5)


def test_evaluations_are_counted(tiny_sd):
    evaluator = Evaluator(tiny_sd, batch_size=5)
    x0, cond, trials = tiny_sd.encode_images(images(1)), tiny_sd.encode_prompts(PROMPTS[:2]), trials_of(1)
    evaluator.errors(x0, cond, trials, all_triples(1, 2, 8))
    assert evaluator.n_evaluations == 16
    evaluator.errors(x0, cond, trials, all_triples(1, 1, 3))
    assert evaluator.n_evaluations == 19
    none = evaluator.errors(x0, cond, trials, np.empty((0, 3)))
    assert none.shape == (0, 3) and none.dtype == np.float32 and evaluator.n_evaluations == 19


def test_losses_come_in_the_order_asked_for_from_one_pass(tiny_dit):
    every = evaluate(tiny_dit, LOSSES, prompts=[0, 1])
    some = evaluate(tiny_dit, ("vlb", "l1"), prompts=[0, 1])
    np.testing.assert_array_equal(some, every[:, [LOSSES.index("vlb"), LOSSES.index("l1")]])
    l2, vlb, both = (every[:, LOSSES.index(name)] for name in ("l2", "vlb", "l2+vlb"))
    np.testing.assert_allclose(both, l2 + vlb, rtol=1e-6)


# What goes wrong


@pytest.mark.parametrize(
    ("batch_size", "fails", "sizes"),
    [
        (64, lambda size, call: size > 8, [48, 24, 12, *[6] * 8]),
        (20, lambda size, call: call == 2, [20, 20, 10, 10, 8]),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(tiny_sd, batch_size, fails, sizes):
    seen = []

    def denoise(x_t, t, cond):
        seen.append(len(x_t))
        if fails(len(x_t), len(seen)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tiny_sd.denoise(x_t, t, cond)

    evaluator = Evaluator(Wrapped(tiny_sd, denoise=denoise), batch_size=batch_size)
    x0, cond = tiny_sd.encode_images(images(2)), tiny_sd.encode_prompts(PROMPTS)
    errors = evaluator.errors(x0, cond, trials_of(2), all_triples(2, 3, 8))
    assert seen == sizes and evaluator.n_evaluations == 48
    assert evaluator.batch_size == (6 if batch_size == 64 else 10)
    np.testing.assert_allclose(errors, evaluate(tiny_sd), rtol=1e-5)


def test_out_of_memory_with_a_single_triple_is_an_error(tiny_sd):
    def denoise(x_t, t, cond):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Wrapped(tiny_sd, denoise=denoise), batch_size=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_named_with_the_entry(tiny_sd, value):
    def denoise(x_t, t, cond):
        output = tiny_sd.denoise(x_t, t, cond).clone()
        output[t == 999, 0, 0, 0] = value
        return output

    with pytest.raises(NonFiniteError, match=r"must be finite, got .* image 0, prompt 0, timestep 999"):
        evaluate(Wrapped(tiny_sd, denoise=denoise))


@pytest.mark.parametrize(
    ("losses", "batch_size", "message"),
    [
        (("l3",), None, r"loss must be one of \('l2', .*, got 'l3'"),
        (("l2", "L1"), None, "got 'L1'"),
        (("l2", "vlb"), None, "loss 'vlb' needs a model that learns its variance"),
        (("l2+vlb",), None, r"loss 'l2\+vlb' needs a model that learns its variance"),
        (("l2",), 0, "batch_size must be at least 1, got 0"),
        (("l2",), -4, "batch_size must be at least 1, got -4"),
    ],
)
def test_impossible_evaluators_are_refused(tiny_sd, losses, batch_size, message):
    with pytest.raises(ValueError, match=message):
        Evaluator(tiny_sd, losses, batch_size)
