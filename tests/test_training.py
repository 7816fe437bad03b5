"""Training of the miniature models: resumable, reproducible, exported in the hub's layout."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTPipeline, StableDiffusionPipeline
from safetensors.torch import load_file
from test_world import write_idx

from diffclf.commands.main import main
from diffclf.datasets.world import COLOURS, ITEMS, LAYOUTS, caption_pair, caption_single, render, sample_scenes
from diffclf.mini import sd
from diffclf.mini.autoencoder import build_autoencoder, encode_scenes, scale_latents
from diffclf.mini.card import card_text, write_card
from diffclf.mini.dit import drop_labels, hybrid_loss
from diffclf.mini.export import export_version
from diffclf.mini.latents import SCHEDULE, LatentBatch, build_scheduler, cached_latents, draw_batch
from diffclf.mini.measure import measure
from diffclf.mini.tokenizer import MAX_LENGTH, WORDS, build_tokenizer
from diffclf.mini.training import Plan, train
from diffclf.models import load_model
from diffclf.models.loading import built_in_models
from diffclf.paths import data_dir
from diffclf.schedule import variational_terms

LABELS = np.arange(40) % 10
PHOTOS = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return build_autoencoder().eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def fit(folder, milestones=None, **options):
    """Fit a plane to its points, 450 steps."""

    def draw(step):
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))
        return x, x.sum(1, keepdim=True)

    def loss(line, batch):
        return (line(batch[0]) - batch[1]).square().mean()

    torch.manual_seed(0)
    plan = Plan("line", 3600, batch_size=8, learning_rate=0.1, warm_up=10, save_every=200, **options)
    return train(torch.nn.Linear(2, 1), draw, loss, plan, folder, milestones)


@pytest.mark.parametrize("average", [False, True])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, average):
    whole = fit(tmp_path / "whole", average=average)
    kill = Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", {310 * 8: kill}, average=average)  # last checkpoint: step 200
    again = fit(tmp_path / "killed", average=average)
    assert torch.equal(whole.weight, again.weight) and not again.training
    torch.testing.assert_close(again.weight, torch.ones(1, 2), atol=0.05, rtol=0)
    logs = [(tmp_path / name / "line.csv").read_text().splitlines() for name in ("whole", "killed")]
    assert logs[0][0] == "step,samples,loss,seconds" and len(logs[0]) == 5
    assert [row.rsplit(",", 1)[0] for row in logs[0]] == [row.rsplit(",", 1)[0] for row in logs[1]]


def test_the_rate_warms_up_and_decays():
    linear = Plan("a", 1000, 1, learning_rate=2.0, warm_up=10)
    assert [round(linear.rate(step), 6) for step in (0, 4, 9, 500, 1000)] == [0.2, 1.0, 2.0, 1.05, 0.0]
    assert [round(replace(linear, decay="cosine").rate(step), 6) for step in (500, 1000)] == [1.0, 0.0]


def test_latents_are_computed_once_for_the_same_images(tmp_path, vae):
    vae.register_to_config(scaling_factor=3.0)
    images = render(sample_scenes(LABELS, 5, 3, rng=np.random.default_rng(1)), PHOTOS)
    path = tmp_path / "latents.pt"
    first = cached_latents(vae, images.__getitem__, 8, path)
    assert first.dtype == torch.float16 and first.shape == (8, 4, 8, 8)
    torch.testing.assert_close(first, (encode_scenes(vae, images) * 3).half())
    torch.save(first + 0.001, path)
    assert torch.equal(cached_latents(vae, images.__getitem__, 8, path), first + 0.001)  # read, not computed
    mirrored = images[:, :, ::-1].copy()
    other = cached_latents(vae, mirrored.__getitem__, 8, path)  # other images: computed anew
    torch.testing.assert_close(other, (encode_scenes(vae, mirrored) * 3).half())
    assert len(cached_latents(vae, images.__getitem__, 3, path)) == 3


def test_scaled_latents_have_unit_deviation(vae):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    factor = scale_latents(vae, images)
    assert (encode_scenes(vae, images) * factor).std().item() == pytest.approx(1)
    assert AutoencoderKL.from_config(vae.config).config.scaling_factor == factor


def test_captions_and_labels_are_dropped_one_time_in_ten():
    scenes = sample_scenes(LABELS, 3000, 0, rng=np.random.default_rng(0))
    captions = sd.draw_captions(scenes, np.random.default_rng(0))
    assert 0.08 < captions.count("") / 3000 < 0.12
    with_colour = sum(len(caption.split()) == 6 for caption in captions)  # a photo of a red sneaker
    assert 0.4 < with_colour / 3000 < 0.5
    items = scenes["item"][:, 0]
    labels = drop_labels(items, np.random.default_rng(0)).numpy()
    assert 0.08 < (labels == 10).mean() < 0.12
    np.testing.assert_array_equal(labels[labels < 10], items[labels < 10])


def test_a_batch_is_the_same_whenever_it_is_drawn_and_noised_as_the_schedule_says():
    latents = torch.randn(32, 4, 8, 8)
    draw = partial(draw_batch, latents, lambda index, rng: (torch.from_numpy(index),), 16, (3, 2))
    one, again, other = draw(5), draw(5), draw(6)
    assert all(torch.equal(a, b) for a, b in zip(one[:4], again[:4], strict=True))
    assert not torch.equal(one.eps, other.eps) and torch.equal(one.x0, latents[one.cond[0]])
    assert (one.t // 62.5 == torch.arange(16)).all(), "one timestep in each sixteenth"
    x_t = SCHEDULE.alpha[one.t].view(-1, 1, 1, 1) * one.x0 + SCHEDULE.sigma[one.t].view(-1, 1, 1, 1) * one.eps
    torch.testing.assert_close(one.x_t, x_t.float())


def test_the_variational_bound_does_not_move_the_prediction_of_the_noise():
    x0, eps, output = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.randn(2, 8, 8, 8, requires_grad=True)
    t = torch.tensor([0, 500])
    batch = LatentBatch(x0, eps, SCHEDULE.add_noise(x0, eps, t), t, (torch.tensor([1, 2]),))
    network = SimpleNamespace(eval=lambda: lambda x_t, timestep, class_labels: SimpleNamespace(sample=output))
    loss = hybrid_loss(network, batch)
    bits = variational_terms(x0, batch.x_t, output[:, :4], output[:, 4:], t, SCHEDULE).mean()
    torch.testing.assert_close(loss, (output[:, :4] - eps).square().mean() + bits)
    loss.backward()
    torch.testing.assert_close(output.grad[:, :4], 2 * (output[:, :4] - eps).detach() / eps.numel())
    assert (output.grad[:, 4:] != 0).all()


def test_the_denoiser_learns_the_noise_given_the_captions(tokenizer):
    captions = ["a photo of a bag", "", "a photo of a boot", "a photo of a bag"]
    x_t, t, eps = torch.randn(4, 4, 8, 8), torch.tensor([0, 300, 600, 999]), torch.randn(4, 4, 8, 8)
    denoiser = sd.build_denoiser(tokenizer)
    loss = sd.denoising_loss(denoiser, LatentBatch(x_t, eps, x_t, t, sd.tokenize(captions, tokenizer)))
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    eps_hat = denoiser.unet(x_t, t, denoiser.text_encoder(ids).last_hidden_state).sample
    torch.testing.assert_close(loss, (eps_hat - eps).square().mean())


def test_objectives_differ_in_the_target_and_in_the_weights():
    t = torch.tensor([0, 300, 600])  # where 1 / alpha^2 is below the largest weight
    x0, eps, output = torch.randn(3, 3, 4, 8, 8)
    batch = LatentBatch(x0, eps, SCHEDULE.add_noise(x0, eps, t), t, ())
    alpha, sigma = (each[t].float()[:, None, None, None] for each in (SCHEDULE.alpha, SCHEDULE.sigma))
    v = alpha * eps - sigma * x0
    assert sd.denoising_loss(lambda *_: v, batch, "v") < 1e-12
    assert sd.denoising_loss(lambda *_: eps, batch, "late") == 0
    late = sd.denoising_loss(lambda *_: output, batch, "late")
    torch.testing.assert_close(late, ((output - eps).square() / alpha.square()).mean())
    as_v = (output - sigma * batch.x_t) / alpha  # the velocity that a predicted noise stands for
    torch.testing.assert_close(late, sd.denoising_loss(lambda *_: as_v, batch, "v"))
    last = LatentBatch(x0, eps, x0, torch.full((3,), 999), ())
    assert sd.denoising_loss(lambda *_: eps + 1, last, "late") == 100


@pytest.mark.filterwarnings("ignore:.*worse than zero")  # it has learned for a few steps only
def test_a_velocity_model_is_exported_as_one(tmp_path):
    folder = run_recipe("relation-v-1", tmp_path)
    model = load_model(folder)
    assert model.schedule.prediction_type == "v_prediction"
    assert StableDiffusionPipeline.from_pretrained(folder).scheduler.config.prediction_type == "v_prediction"


def run_recipe(name, folder, *options):
    photos = write_idx(folder / "photos", "train", n=40)
    arguments = ["--fashion-mnist", photos, "--work", folder / "work", "--out", folder / name, "--scale", "0.0005"]
    assert main(["train", name, *map(str, [*arguments, "--samples", 256, "--threads", 1, *options])]) == 0
    return folder / name


def test_mini_sd_is_complete_and_can_be_trained_on(tmp_path):
    folder = run_recipe("mini-sd", tmp_path)
    state = load_file(folder / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in state), "transformers 4 needs the prefix"
    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= {p.name for p in (folder / "tokenizer").iterdir()}
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    assert pipe.vae.config.scaling_factor not in (1, 0.18215)
    assert torch.equal(pipe.scheduler.alphas_cumprod, build_scheduler().alphas_cumprod)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a photo of a red sneaker", height=32, width=32, num_inference_steps=2).images[0]
    assert image.size == (32, 32)
    run_recipe("mini-sd", tmp_path / "more", "--start-from", folder)
    assert load_model(tmp_path / "more" / "mini-sd").labels is None


def test_a_version_loads_back(tmp_path, tokenizer):
    torch.manual_seed(0)
    denoiser = sd.build_denoiser(tokenizer)
    export_version(denoiser.unet, denoiser.text_encoder, tmp_path)
    again = sd.import_denoiser(tmp_path).state_dict()
    torch.testing.assert_close(again, dict(denoiser.state_dict()), rtol=1e-3, atol=1e-5)  # half precision
    assert denoiser.unet.dtype == torch.float32, "the original stays as it is"


def test_mini_dit_is_complete_and_has_a_card(tmp_path):
    folder = run_recipe("mini-dit", tmp_path)
    model = load_model(folder, device="cpu")
    assert model.labels == ITEMS and model.learns_variance and model.image_size == 32
    pipe = DiTPipeline.from_pretrained(folder)
    assert pipe.get_label_ids(["sneaker"]) == [7]
    found = measure(model, folder / "measures.json", n_images=1)
    assert set(found) == {"fingerprint", "n_trials", "reconstruction", "item"}
    (folder / "training" / "dit.csv").write_text("step,samples,loss,seconds\n100,12800,0.5,60\n200,25600,0.3,120\n")
    write_card(folder)
    card = (folder / "README.md").read_text()
    assert "| dit | 25,600 | 2 | 0.4000 |" in card and "| item (10 classes) |" in card
    assert {"samples.png", "loss.png"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", built_in_models())
def test_the_card_of_an_embedded_model_is_current(name):
    folder = data_dir() / "models" / name
    assert (folder / "README.md").read_text(encoding="utf-8") == card_text(folder)


def test_every_word_is_one_token(tokenizer):
    parts = [part for word in WORDS for part in word.split("-")]
    tokens = [tokenizer.tokenize(part) for part in parts]
    assert tokens == [[f"{part}</w>"] for part in parts]
    assert tokenizer.tokenize("t-shirt") == ["t</w>", "-</w>", "shirt</w>"]
    ids = [tokenizer.convert_tokens_to_ids(token)[0] for token in tokens]
    assert len(set(ids)) == len(set(parts)) and tokenizer.unk_token_id not in ids


def test_captions_can_be_read_back_and_the_longest_is_not_cut(tokenizer):
    captions = [caption_single(item, colour) for item in ITEMS for colour in (None, *COLOURS)]
    captions += [caption_pair(("green", a), layout, ("magenta", "t-shirt")) for a in ITEMS for layout in LAYOUTS]
    tokens = tokenizer(captions).input_ids
    for caption, ids in zip(captions, tokens, strict=True):
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" - ", "-").strip() == caption
    assert max(map(len, tokens)) == MAX_LENGTH == tokenizer.model_max_length


def test_any_other_text_is_spelt(tokenizer):
    ids = tokenizer("Zebra crossing, 3 €!").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "zebracrossing,3€!"
    assert tokenizer("SNEAKER").input_ids == tokenizer("sneaker").input_ids
