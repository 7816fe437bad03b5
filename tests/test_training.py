"""Training of the miniature models: resumable, reproducible, exported in the hub's layout."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file

from diffclf.mini.autoencoder import build_autoencoder, encode_scenes, scale_latents, train_autoencoder
from diffclf.mini.checkpoint import log_loss, trim_log
from diffclf.mini.denoiser import build_denoiser, build_scheduler, draw_captions, train_denoiser
from diffclf.mini.export import export_pipeline, export_version, import_denoiser
from diffclf.mini.tokenizer import build_tokenizer
from diffclf.mini.world import sample_scenes


@pytest.fixture
def photos() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40) % 10


@pytest.fixture
def latents(photos):
    scenes = sample_scenes(photos[1], 20, 12, rng=np.random.default_rng(1))
    return torch.randn(32, 4, 8, 8, generator=torch.Generator().manual_seed(0)), scenes


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Killed(Exception):
    pass


def kill(_: object) -> None:
    raise Killed


def test_autoencoder_resumes_where_it_was_killed(photos, tmp_path, monkeypatch):
    options = {"n_samples": 16, "batch_size": 4, "save_every": 2}
    whole = train_autoencoder(*photos, tmp_path / "whole", **options)
    from diffclf.mini import autoencoder

    calls = []

    def draw(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return sample_scenes(*args, **kwargs)

    monkeypatch.setattr(autoencoder, "sample_scenes", draw)
    with pytest.raises(Killed):
        train_autoencoder(*photos, tmp_path / "killed", **options)
    assert equal(whole, train_autoencoder(*photos, tmp_path / "killed", **options))
    assert len(calls) == 6  # steps 0, 1, 2, the killed 3, then 2 and 3 again


def test_denoiser_resumes_where_it_was_killed(latents, tmp_path):
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    options = {"n_samples": 32, "batch_size": 8, "save_every": 2}
    whole = train_denoiser(*latents, tokenizer, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train_denoiser(*latents, tokenizer, tmp_path / "killed", milestones={24: kill}, **options)
    assert equal(whole, train_denoiser(*latents, tokenizer, tmp_path / "killed", **options))


def test_training_lowers_the_loss(latents, tmp_path):
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    train_denoiser(*latents, tokenizer, tmp_path, n_samples=100 * 8, batch_size=8, learning_rate=0.01)
    rows = np.genfromtxt(tmp_path / "denoiser.csv", delimiter=",", names=True)
    assert rows["loss"] < 0.9  # mean over the steps; predicting no noise at all costs 1
    assert rows["samples"] == 800


def test_captions_are_dropped_one_time_in_ten(photos):
    scenes = sample_scenes(photos[1], 3000, 0, rng=np.random.default_rng(0))
    captions = draw_captions(scenes, np.random.default_rng(0))
    assert 0.08 < captions.count("") / 3000 < 0.12
    with_colour = sum(len(caption.split()) == 6 for caption in captions)  # a photo of a red sneaker
    assert 0.4 < with_colour / 3000 < 0.5


def test_scaled_latents_have_unit_deviation(photos):
    torch.manual_seed(0)
    vae = build_autoencoder().eval()
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    factor = scale_latents(vae, images)
    assert (encode_scenes(vae, images) * factor).std().item() == pytest.approx(1)
    assert AutoencoderKL.from_config(vae.config).config.scaling_factor == factor


def test_exported_pipeline_is_complete_and_loads_back(tmp_path):
    torch.manual_seed(0)
    vae = build_autoencoder()
    vae.register_to_config(scaling_factor=0.5)
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    denoiser = build_denoiser(tokenizer)
    export_pipeline(vae, denoiser, tmp_path / "pipe")
    assert next(denoiser.parameters()).dtype == torch.float32
    state = load_file(tmp_path / "pipe" / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in state)
    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= {p.name for p in (tmp_path / "pipe/tokenizer").iterdir()}
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe")
    assert pipe.vae.config.scaling_factor == 0.5
    assert torch.equal(pipe.scheduler.alphas_cumprod, build_scheduler().alphas_cumprod)
    for mine, theirs in ((denoiser.unet, pipe.unet), (denoiser.text_encoder, pipe.text_encoder)):
        theirs = dict(theirs.state_dict())
        for key, value in mine.state_dict().items():
            torch.testing.assert_close(theirs[key].float(), value, rtol=1e-3, atol=1e-5)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a photo of a red sneaker", height=32, width=32, num_inference_steps=2).images[0]
    assert image.size == (32, 32)


def test_training_continues_from_an_exported_pipeline(latents, tmp_path):
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    torch.manual_seed(0)
    denoiser = build_denoiser(tokenizer)
    export_version(denoiser, tmp_path / "version")
    again = import_denoiser(tmp_path / "version", tokenizer)
    assert torch.equal(
        again.text_encoder.state_dict()["final_layer_norm.weight"],
        denoiser.text_encoder.state_dict()["final_layer_norm.weight"],
    )
    torch.testing.assert_close(again.unet.conv_in.weight, denoiser.unet.conv_in.weight, rtol=1e-3, atol=1e-5)
    train_denoiser(*latents, tokenizer, tmp_path / "more", n_samples=8, batch_size=8, start_from=again)


def test_log_forgets_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "loss.csv"
    trim_log(path, 100)
    for step in (100, 200, 300):
        log_loss(path, step, 2 * step, 0.5, 1.0)
    trim_log(path, 200)
    log_loss(path, 300, 600, 0.25, 2.0)
    assert path.read_text().split() == [
        "step,samples,loss,seconds",
        "100,200,0.500000,1.0",
        "200,400,0.500000,1.0",
        "300,600,0.250000,2.0",
    ]
