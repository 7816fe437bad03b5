"""A wrong prediction type or noise schedule is noticed, and a right or an untrained model is left alone."""

import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler
from tiny import SCHEDULE, edit_json, save_tiny_dit, save_tiny_pixart, save_tiny_sd, save_tiny_sd3, save_tiny_sdxl

from diffclf.models import load_model
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.models.loading import built_in_models
from diffclf.models.sanity import few_steps, mid_range_error, read_output, warn_if_wrong
from diffclf.paths import data_dir
from diffclf.schedule import NoiseSchedule

PIPELINES = [f"{name}@{version}".rstrip("@") for name, own in built_in_models().items() for version in ("", *own)]
OTHER_BETAS = {
    "stable-diffusion": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "beta_end": {"beta_end": 0.012},
    "larger beta_end": {"beta_end": 0.03},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
LINEAR = NoiseSchedule.linear()
SCHEDULES = {
    "linear": LINEAR,
    "linear, v": NoiseSchedule.linear(prediction_type="v_prediction"),
    "40 steps": NoiseSchedule.variance_preserving(LINEAR.alpha[::25].square()),
    "zero terminal SNR, v": NoiseSchedule.variance_preserving(torch.linspace(1, 0, 1001)[1:], "v_prediction"),
    "flow": NoiseSchedule.flow(torch.linspace(0, 1, 1001)[1:]),
}


def smooth_model(schedule):
    """An exact model of smooth images: 4 x 8 x 8 latents of variance 1 that differ little between neighbours."""
    distance = torch.cdist(*[torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))] * 2)
    covariance = torch.block_diag(*[torch.exp(-distance.square() / 18)] * 4).double() + 1e-3 * torch.eye(256)
    return GaussianMixtureModel(torch.zeros(1, 256), covariance[None], latent_shape=(4, 8, 8), schedule=schedule)


def stated(model, schedule):
    """Return a model whose network is another's and whose schedule is a given one."""
    names = ("name", "latent_shape", "device", "labels", "encode_prompts", "denoise")
    return SimpleNamespace(schedule=schedule, **{name: getattr(model, name) for name in names})


def copy_with(tmp_path, name, **changes):
    """Return the folder of a built-in model with other entries in its scheduler's configuration."""
    folder = shutil.copytree(data_dir() / "models" / name, tmp_path / name, ignore=shutil.ignore_patterns("versions"))
    edit_json(folder / "scheduler" / "scheduler_config.json", **changes)
    return folder


@pytest.mark.parametrize("name", PIPELINES)
def test_embedded_models_are_right(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(name, device="cpu")
    types = ("epsilon", "v_prediction")
    own, other = sorted(
        read_output(model, types), key=lambda read: read.prediction_type != model.schedule.prediction_type
    )
    assert own.prediction_type == model.schedule.prediction_type and own.misfit < other.misfit / 2
    if name == "mini-sd":
        assert own.noise_ratio == pytest.approx(1, abs=0.04) and own.misfit < 0.1


@pytest.mark.parametrize("name", ["mini-sd", "mini-dit"])
def test_epsilon_network_stated_as_v(name, tmp_path):
    with pytest.warns(UserWarning, match="seems to predict epsilon, not v_prediction: .*check prediction_type in"):
        load_model(copy_with(tmp_path, name, prediction_type="v_prediction"), device="cpu")


@pytest.mark.parametrize("name", ["mini-sd", "mini-dit"])
def test_other_betas_in_a_folder(name, tmp_path):
    with pytest.warns(UserWarning, match=r"another noise schedule: .* about 1\.1\d times .*check beta_start"):
        load_model(copy_with(tmp_path, name, **OTHER_BETAS["stable-diffusion"]), device="cpu")


@pytest.mark.parametrize("betas", OTHER_BETAS.values(), ids=OTHER_BETAS)
def test_other_betas(betas, mini_sd):
    table = DDIMScheduler(**SCHEDULE | betas).alphas_cumprod
    with pytest.warns(UserWarning, match="another noise schedule"):
        warn_if_wrong(stated(mini_sd, NoiseSchedule.variance_preserving(table)))


def test_v_network_stated_as_epsilon(mini_sd):
    def denoise(x_t, t, cond):
        """Return v of the predicted noise; x0_hat is bounded, as a network that learned v bounds it."""
        eps_hat = mini_sd.denoise(x_t, t, cond)
        return v_schedule.target(mini_sd.schedule.predict_x0(eps_hat, x_t, t).clamp(-3.5, 3.5), eps_hat, t)

    v_schedule = NoiseSchedule.linear(prediction_type="v_prediction")
    v_model = stated(mini_sd, v_schedule)
    v_model.denoise = denoise
    warn_if_wrong(v_model)
    with pytest.warns(UserWarning, match="seems to predict v_prediction, not epsilon"):
        warn_if_wrong(stated(v_model, mini_sd.schedule))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_an_exact_model_is_right(schedule):
    model = smooth_model(schedule)
    warn_if_wrong(model)
    (reading,) = read_output(model, (schedule.prediction_type,))
    assert reading.noise_ratio == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("network", "other"), [("linear", "linear, v"), ("linear, v", "linear")])
def test_exact_models_with_the_other_prediction_type(network, other):
    with pytest.warns(UserWarning, match=f"not {SCHEDULES[other].prediction_type}"):
        warn_if_wrong(stated(smooth_model(SCHEDULES[network]), SCHEDULES[other]))


@pytest.mark.parametrize("power", [0.5, 2])
def test_noise_ratio_of_a_linear_network(power):
    """The network takes every x0 for 0: eps_hat = x_t / sigma'_t, and the ratio is sigma' sigma / E x_t^2."""
    own = NoiseSchedule.variance_preserving(LINEAR.alpha.square() ** power)
    model = stated(smooth_model(own), own)
    model.denoise = lambda x_t, t, cond: x_t / LINEAR.sigma[t].view(-1, 1, 1, 1)
    (reading,) = read_output(model, ("epsilon",))
    first, t = (own.log_snr + 3).abs().argmin(), (own.log_snr + 1).abs().argmin()
    x0_variance = ((1 - own.sigma[first] / LINEAR.sigma[first]) / own.alpha[first]).square()
    variance = own.sigma[t].square() + own.alpha[t].square() * x0_variance
    assert reading.t == t
    assert reading.noise_ratio == pytest.approx(float(LINEAR.sigma[t] * own.sigma[t] / variance), rel=0.05)
    assert reading.noise_ratio != pytest.approx(1, rel=0.1)


def test_untrained_models_are_left_alone(tmp_path):
    for seed, prediction_type in enumerate(("epsilon", "v_prediction") * 2):
        load_model(save_tiny_sd(tmp_path / f"sd{seed}", prediction_type, seed=seed), device="cpu")
    load_model(save_tiny_dit(tmp_path / "dit"), device="cpu")
    for save in (save_tiny_sdxl, save_tiny_sd3, save_tiny_pixart):
        load_model(save(tmp_path / save.__name__), device="cpu")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_networks_of_one_answer_are_left_alone(value, tiny_sd):
    model = stated(tiny_sd, tiny_sd.schedule)
    model.denoise = lambda x_t, t, cond: torch.full_like(x_t, value)
    warn_if_wrong(model)


def test_the_check_repeats_and_changes_nothing(tiny_sd):
    state, before = torch.get_rng_state(), {key: value.clone() for key, value in tiny_sd.network.state_dict().items()}
    first, second = (read_output(tiny_sd, ("epsilon", "v_prediction")) for _ in range(2))
    assert first == second != read_output(tiny_sd, ("epsilon", "v_prediction"), seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in tiny_sd.network.state_dict().items())


def test_evaluations(tiny_sd, tiny_dit):
    for model in (tiny_sd, tiny_dit):
        rows = []
        counting = stated(model, model.schedule)
        counting.denoise = lambda x_t, t, cond, model=model, rows=rows: (
            rows.append(len(x_t)) or model.denoise(x_t, t, cond)
        )
        warn_if_wrong(counting)
        assert sum(rows) == 24


# Worse than nothing at mid-range t


def test_latents_of_another_scale_and_times_of_another_scale(mini_sd):
    """What the other numbers cannot see: they are measured on latents of the network's own making."""
    image = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    x0 = mini_sd.encode_images(image)
    warn_if_wrong(mini_sd, x0)
    error, correlation = mid_range_error(mini_sd, x0)
    assert error < 0.7 and correlation > 0.5
    with pytest.warns(UserWarning, match=r"worse than zero does: .* at mid-range t is [1-9].*check .*scaling_factor"):
        warn_if_wrong(mini_sd, 5.5 * x0)


def test_the_check_on_an_image_runs_at_load(tmp_path):
    folder = copy_with(tmp_path, "mini-sd")
    edit_json(folder / "vae" / "config.json", scaling_factor=1.5)  # 2.6 times its own
    with pytest.warns(UserWarning, match="predicts the noise of an image worse than zero does"):
        load_model(folder, device="cpu")


def test_error_and_correlation_are_those_of_their_definitions(tiny_sd):
    x0, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)), (LINEAR.log_snr.abs()).argmin()
    model, seen = stated(tiny_sd, LINEAR), []
    model.denoise = lambda x_t, t, cond: seen.append((x_t, t)) or 0.5 * x_t
    error, correlation = mid_range_error(model, x0)
    ((x_t, times),) = seen
    eps = (x_t - LINEAR.alpha[t].float() * x0) / LINEAR.sigma[t].float()
    assert (times == t).all() and len(x_t) == 8
    assert error == pytest.approx(float((0.5 * x_t - eps).square().mean()), rel=1e-4)
    assert correlation == pytest.approx(
        float(torch.corrcoef(torch.stack([x_t.flatten(), eps.flatten()]))[0, 1]), abs=0.02
    )


# Models of few steps


@pytest.mark.parametrize(
    ("scheduler", "name", "reason"),
    [
        (EulerDiscreteScheduler(timestep_spacing="trailing"), "stabilityai/sd-turbo", "timestep_spacing trailing"),
        (LCMScheduler(), "PixArt-alpha/PixArt-LCM-XL-2-1024-MS", "its scheduler is LCMScheduler"),
        (FlowMatchEulerDiscreteScheduler(shift=3.0), "x/stable-diffusion-3.5-large-turbo@main", "its name says turbo"),
        (EulerDiscreteScheduler(), "./models/SDXL-Lightning/", "its name says lightning"),
        (EulerDiscreteScheduler(timestep_spacing="leading"), "stabilityai/stable-diffusion-xl-base-1.0", None),
        (EulerDiscreteScheduler(timestep_spacing="trailing", rescale_betas_zero_snr=True), "x/zero-snr", None),
        (DDIMScheduler(), "/home/turbo/mine", None),
        (FlowMatchEulerDiscreteScheduler(shift=3.0), "stabilityai/stable-diffusion-3.5-medium", None),
    ],
)
def test_models_distilled_for_few_steps_are_recognised(scheduler, name, reason):
    found = few_steps(scheduler, name)
    assert found is None if reason is None else reason in found


def test_a_distilled_model_loads_with_a_warning(tiny_sd_folder, tmp_path):
    folder = shutil.copytree(tiny_sd_folder, tmp_path / "sd-turbo")
    with pytest.warns(
        UserWarning, match=r"sd-turbo seems to be distilled .*name says turbo.*expect it to classify worse"
    ):
        load_model(folder, device="cpu")
