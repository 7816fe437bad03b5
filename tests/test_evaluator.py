"""The evaluator against a double loop written with the pipeline's own parts."""

import diffusers
import numpy as np
import pytest
import torch
from test_schedule import textbook_terms
from tiny import save_tiny_dit, save_tiny_sd

from diffclf.evaluator import LOSSES, Evaluator, NonFiniteError
from diffclf.models import load_model
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


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The folder of a pipeline, made when first asked for."""
    made = {}

    def path(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("models") / kind
            made[kind] = save_tiny_dit(folder) if kind == "dit" else save_tiny_sd(folder, **PIPELINES[kind])
        return made[kind]

    return path


@pytest.fixture(scope="module")
def sd(paths):
    return load_model(paths("epsilon"))


@pytest.fixture(scope="module")
def dit(paths):
    return load_model(paths("dit"))


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
    """A model with another `denoise`."""

    def __init__(self, model, denoise):
        self._model, self._denoise = model, denoise

    def __getattr__(self, name):
        return getattr(self._model, name)

    def denoise(self, x_t, t, cond):
        return self._denoise(x_t, t, cond)


# Against the naive double loop


@torch.no_grad()
def naive_errors(path, dtype=torch.float32, n_images=2):
    """Errors of every image, prompt and trial, one at a time, in the order of `all_triples`."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(path)
    pipeline.unet.to(dtype)
    pipeline.text_encoder.to(dtype)
    # The process that a network was trained with is DDPM's, whichever sampler the pipeline came with.
    trained = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    trained.alphas_cumprod = trained.alphas_cumprod.double()
    embeddings = [pipeline.encode_prompt(p, "cpu", 1, do_classifier_free_guidance=False)[0] for p in PROMPTS]
    rows = []
    for image, trials in zip(images(n_images), trials_of(n_images), strict=True):
        latent = pipeline.vae.encode(image[None]).latent_dist.mean * pipeline.vae.config.scaling_factor
        for embedding in embeddings:
            for index, timestep in enumerate(trials.timesteps):
                t, eps = torch.tensor([timestep]), trials.noise([index])
                x_t = trained.add_noise(latent.double(), eps.double(), t)
                output = pipeline.unet(x_t.to(dtype), t, encoder_hidden_states=embedding).sample.double()
                if pipeline.scheduler.config.prediction_type == "v_prediction":
                    bar = trained.alphas_cumprod[timestep]
                    output = bar.sqrt() * output + (1 - bar).sqrt() * x_t
                pair = (output, eps.double())
                rows.append(
                    [
                        torch.nn.functional.mse_loss(*pair),
                        torch.nn.functional.l1_loss(*pair),
                        torch.nn.functional.huber_loss(*pair, delta=1.0),
                    ]
                )
    return np.array(rows, dtype=np.float64)


@pytest.mark.parametrize("kind", PIPELINES)
def test_errors_equal_the_naive_double_loop_in_any_batch(paths, kind):
    expected = naive_errors(paths(kind))
    assert expected.shape == (2 * 3 * 8, 3) and expected.std(axis=0).min() > 1e-3
    model = load_model(paths(kind))
    for batch_size in (1, 7, 64):
        # At t = 999 the error of a v-prediction is 1e-6 and loses digits to the rounding of eps itself.
        np.testing.assert_allclose(evaluate(model, batch_size=batch_size), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_half_precision_equals_the_naive_loop_in_half_precision(paths, kind):
    model = load_model(paths(kind), dtype="float16")
    errors = evaluate(model)
    assert errors.dtype == np.float32
    np.testing.assert_allclose(errors, naive_errors(paths(kind), torch.float16), rtol=3e-3)
    np.testing.assert_allclose(errors, naive_errors(paths(kind)), rtol=2e-2)


@torch.no_grad()
def test_dit_errors_equal_the_naive_double_loop(paths, dit):
    pipeline = diffusers.DiTPipeline.from_pretrained(paths("dit"))
    trained = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    bars = trained.alphas_cumprod.double()
    betas = 1 - bars / torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    expected = []
    for image, trials in zip(images(2), trials_of(2), strict=True):
        latent = pipeline.vae.encode(image[None]).latent_dist.mean * pipeline.vae.config.scaling_factor
        for label in (0, 1, 2):
            for index, timestep in enumerate(trials.timesteps):
                t, eps = torch.tensor([timestep]), trials.noise([index])
                x_t = bars[t].sqrt() * latent.double() + (1 - bars[t]).sqrt() * eps
                output = pipeline.transformer(x_t.float(), timestep=t, class_labels=torch.tensor([label])).sample
                eps_hat, v = output.double().chunk(2, dim=1)
                pair = (eps_hat, eps.double())
                plain = [loss(*pair) for loss in (torch.nn.functional.mse_loss, torch.nn.functional.l1_loss)]
                vlb = textbook_terms(latent.double(), x_t, eps_hat, v, t, betas)[0]
                expected.append([*plain, torch.nn.functional.huber_loss(*pair), vlb, plain[0] + vlb])
    expected = np.array(expected)
    vlb = expected[:, 3]
    assert vlb.std() > 1e-3 and vlb.max() > 0
    for batch_size in (1, 7, 64):
        errors = evaluate(dit, LOSSES, batch_size, prompts=[0, 1, 2])
        np.testing.assert_allclose(errors[:, :3], expected[:, :3], rtol=1e-5)
        np.testing.assert_allclose(errors[:, 3:], expected[:, 3:], rtol=1e-3, atol=1e-5)


def test_losses_of_a_known_error():
    """eps_hat - eps is 0.5 in half of the elements and 3 in the others."""
    offset = torch.full((4, 8, 8), 0.5)
    offset[2:] = -3
    eps = trials_of(1, [500])[0].noise([0])
    model = Wrapped(exact_model(), lambda x_t, t, cond: eps + offset)
    errors = evaluate_plain(model, [500])
    np.testing.assert_allclose(errors[0], [(0.25 + 9) / 2, (0.5 + 3) / 2, (0.125 + 2.5) / 2], rtol=1e-6)


def exact_model():
    """A stand-in of one prompt in which images are latents; the true schedule, no network."""

    class Model:
        device, dtype = torch.device("cpu"), torch.float32
        latent_shape, prediction_type, learns_variance, labels = (4, 8, 8), "epsilon", False, None
        alphas_cumprod = torch.linspace(0.9999, 1e-4, 1000, dtype=torch.float64)

    return Model()


def evaluate_plain(model, timesteps, n_prompts=1, batch_size=None):
    triples = all_triples(1, n_prompts, len(timesteps))
    trials = trials_of(1, timesteps)
    evaluator = Evaluator(model, PLAIN, batch_size)
    return evaluator.errors(torch.zeros(1, 4, 8, 8), torch.arange(n_prompts), trials, triples)


def test_the_network_gets_timesteps_as_integers_and_its_own_conditioning():
    seen = []

    def denoise(x_t, t, cond):
        assert t.dtype == torch.int64
        seen.extend(zip(t.tolist(), cond.tolist(), strict=True))
        return torch.zeros_like(x_t)

    evaluate_plain(Wrapped(exact_model(), denoise), [0, 999, 41], n_prompts=2, batch_size=4)
    assert sorted(seen) == [(0, 0), (0, 1), (41, 0), (41, 1), (999, 0), (999, 1)]


# Batches, order, repetition


@pytest.mark.parametrize("kind", ["epsilon", "dit"])
def test_batches_of_1_7_and_64_agree(paths, kind):
    model = load_model(paths(kind))
    prompts = [0, 1, 2] if kind == "dit" else PROMPTS
    one, seven, many = (evaluate(model, batch_size=n, prompts=prompts) for n in (1, 7, 64))
    np.testing.assert_allclose(seven, one, rtol=1e-5)
    np.testing.assert_allclose(many, one, rtol=1e-5)


def test_two_runs_are_identical(sd):
    np.testing.assert_array_equal(evaluate(sd), evaluate(sd))


def test_order_of_triples_does_not_matter(sd):
    triples = all_triples(2, 3, 8)
    order = np.random.default_rng(0).permutation(len(triples))
    np.testing.assert_array_equal(evaluate(sd, triples=triples[order]), evaluate(sd, triples=triples)[order])


def test_an_image_alone_equals_the_image_in_a_list(sd):
    x0, cond, trials = sd.encode_images(images(3)), sd.encode_prompts(PROMPTS), trials_of(3)
    evaluator = Evaluator(sd, batch_size=16)
    together = evaluator.errors(x0, cond, trials, all_triples(3, 3, 8)).reshape(3, -1, 3)
    for i in range(3):
        alone = evaluator.errors(x0[i : i + 1], cond, trials[i : i + 1], all_triples(1, 3, 8))
        np.testing.assert_allclose(alone, together[i], rtol=1e-5)


def test_images_may_have_trials_of_their_own(sd):
    trials = [trials_of(1, [5, 900])[0], Trials([700, 20, 300], 4, 77, (4, 8, 8))]
    triples = np.array([[1, 2, 2], [0, 0, 1], [1, 0, 0], [0, 2, 1], [1, 1, 2], [0, 1, 0]])
    errors = evaluate(sd, batch_size=4, trials=trials, triples=triples)
    for triple, error in zip(triples, errors, strict=True):
        np.testing.assert_allclose(evaluate(sd, trials=trials, triples=triple[None]), error[None], rtol=1e-5)


def test_prompts_share_the_noise_and_the_noised_latent():
    seen = []

    def denoise(x_t, t, cond):
        seen.append(x_t)
        return torch.zeros_like(x_t)

    errors = evaluate_plain(Wrapped(exact_model(), denoise), [3, 500], n_prompts=5, batch_size=3).reshape(5, 2, 3)
    assert len(torch.cat(seen).unique(dim=0)) == 2
    assert (errors == errors[:1]).all() and (errors[0, 0] != errors[0, 1]).all()


def test_evaluations_are_counted_and_reported(sd):
    evaluator, told = Evaluator(sd, batch_size=5), []
    x0, cond, trials = sd.encode_images(images(1)), sd.encode_prompts(PROMPTS[:2]), trials_of(1)
    evaluator.errors(x0, cond, trials, all_triples(1, 2, 8), progress=told.append)
    assert told == [5, 5, 5, 1] and evaluator.n_evaluations == 16
    evaluator.errors(x0, cond, trials, all_triples(1, 1, 3))
    assert evaluator.n_evaluations == 19
    none = evaluator.errors(x0, cond, trials, np.empty((0, 3)))
    assert none.shape == (0, 3) and none.dtype == np.float32 and evaluator.n_evaluations == 19


def test_losses_come_in_the_order_asked_for_from_one_pass(dit):
    every = evaluate(dit, LOSSES, prompts=[0, 1])
    some = evaluate(dit, ("vlb", "l1"), prompts=[0, 1])
    np.testing.assert_array_equal(some, every[:, [LOSSES.index("vlb"), LOSSES.index("l1")]])
    np.testing.assert_allclose(every[:, 4], every[:, 0] + every[:, 3], rtol=1e-6)


# What goes wrong


def test_out_of_memory_halves_the_batch_and_goes_on(sd):
    sizes = []

    def denoise(x_t, t, cond):
        sizes.append(len(x_t))
        if len(x_t) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sd.denoise(x_t, t, cond)

    small = Wrapped(sd, denoise)
    evaluator = Evaluator(small, batch_size=64)
    x0, cond = sd.encode_images(images(2)), sd.encode_prompts(PROMPTS)
    errors = evaluator.errors(x0, cond, trials_of(2), all_triples(2, 3, 8))
    assert sizes == [48, 24, 12, *[6] * 8]
    assert evaluator.batch_size == 6 and evaluator.n_evaluations == 48
    np.testing.assert_array_equal(errors, evaluate(sd, batch_size=6))


def test_out_of_memory_in_the_middle_of_a_run(sd):
    calls = []

    def denoise(x_t, t, cond):
        calls.append(len(x_t))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sd.denoise(x_t, t, cond)

    errors = evaluate(Wrapped(sd, denoise), batch_size=20)
    assert calls == [20, 20, 10, 10, 8]
    np.testing.assert_allclose(errors, evaluate(sd), rtol=1e-5)


def test_out_of_memory_with_a_single_triple_is_an_error(sd):
    def denoise(x_t, t, cond):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Wrapped(sd, denoise), batch_size=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_named_with_the_entry(sd, value):
    def denoise(x_t, t, cond):
        output = sd.denoise(x_t, t, cond).clone()
        output[t == 999, 0, 0, 0] = value
        return output

    with pytest.raises(NonFiniteError, match=r"must be finite, got .* image 0, prompt 0, timestep 999"):
        evaluate(Wrapped(sd, denoise))


@pytest.mark.parametrize("losses", [("l3",), ("l2", "L1"), ("",)])
def test_unknown_losses_are_refused(sd, losses):
    with pytest.raises(ValueError, match=r"loss must be one of \('l2', .*, got"):
        Evaluator(sd, losses)


@pytest.mark.parametrize("loss", ["vlb", "l2+vlb"])
def test_variational_losses_need_a_learned_variance(sd, loss):
    with pytest.raises(ValueError, match="needs a model that learns its variance"):
        Evaluator(sd, ("l2", loss))


@pytest.mark.parametrize("batch_size", [0, -4])
def test_batches_hold_at_least_one(sd, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
        Evaluator(sd, batch_size=batch_size)
