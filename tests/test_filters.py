"""The filter of Stable Diffusion 2.0 on real images: size, aesthetic score and safety checker, with tiny networks."""

import os

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from diffclf.baselines.contrastive import load_contrastive
from diffclf.baselines.synthetic import build_processor
from diffclf.datasets.filters import load_checker, load_head, measure_attributes
from diffclf.mini.clip import Size, build_clip
from diffclf.mini.export import export_clip
from diffclf.mini.tokenizer import build_tokenizer
from diffclf.models.protocol import ModelError

SIZES = ((40, 33), (32, 64), (90, 50), (32, 32), (50, 50))
RNG = np.random.default_rng(0)
PICTURES = [Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]
WIDTH = 64


def save_tiny_filters(folder):
    """Save a random CLIP, a linear head and a random safety checker; return their places."""
    tokenizer = build_tokenizer(folder / "tokenizer")
    sizes = Size(patch=8, width=16, depth=1, text_width=16, text_depth=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = build_clip(sizes, len(tokenizer), tokenizer.eos_token_id, tokenizer.model_max_length)
        checker = StableDiffusionSafetyChecker(CLIPConfig.from_dict(clip.config.to_dict()))
        checker.concept_embeds.data.normal_()
        head = torch.nn.Linear(WIDTH, 1)
    export_clip(clip, folder / "clip")
    checker.save_pretrained(folder / "checker")
    build_processor(32).save_pretrained(folder / "checker")
    torch.save(head.state_dict(), folder / "head.pth")
    return folder / "clip", folder / "head.pth", folder / "checker"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return save_tiny_filters(tmp_path_factory.mktemp("filters"))


def test_each_image_has_its_size_its_score_and_the_checkers_answer(places):
    clip, head, checker = load_contrastive(places[0]), load_head(places[1]), load_checker(places[2])
    found = measure_attributes(
        PICTURES, clip, head, lambda pictures: np.array([p.width == 32 for p in pictures]), desc=None
    )
    assert found["resolution"].tolist() == [33, 32, 50, 32, 50] and found["flag"].tolist() == [False, True] * 2 + [
        False
    ]
    weights = torch.load(places[1], weights_only=True)
    embeddings = clip.embed_images(PICTURES)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(5))
    expected = [float(weights["weight"][0] @ own + weights["bias"][0]) for own in embeddings]
    assert found["quality"] == pytest.approx(expected, rel=1e-5)
    again = measure_attributes(PICTURES, clip, head, checker, batch_size=2, desc=None)
    assert again["quality"] == pytest.approx(expected, rel=1e-4), "whatever the batch"
    assert (again["flag"] == checker(PICTURES)).all()


def test_the_checker_flags_what_is_near_a_concept(places, tmp_path):
    checker = StableDiffusionSafetyChecker.from_pretrained(places[2])
    pixels = build_processor(32)(PICTURES, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        embeddings = checker.visual_projection(checker.vision_model(pixels)[1])
        near = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(checker.concept_embeds).T
    closest = near.max(dim=1).values
    for n_flagged, threshold in ((0, 1.0), (5, -1.0), (2, float(closest.sort().values[2:4].mean()))):
        checker.concept_embeds_weights.data.fill_(threshold)
        checker.special_care_embeds_weights.data.fill_(1.0)  # above any cosine: no concept that lowers the threshold
        checker.save_pretrained(tmp_path / str(n_flagged))
        build_processor(32).save_pretrained(tmp_path / str(n_flagged))
        flagged = load_checker(tmp_path / str(n_flagged))(PICTURES)
        assert flagged.sum() == n_flagged and (flagged == (closest > threshold).numpy()).all()


def test_a_checker_without_all_its_weights_is_refused(places, tmp_path):
    with pytest.raises(ModelError, match="safety checker .*nowhere cannot be read"):
        load_checker(tmp_path / "nowhere")
    broken = tmp_path / "checker"
    StableDiffusionSafetyChecker.from_pretrained(places[2]).save_pretrained(broken)
    build_processor(32).save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    save_file({key: value for key, value in weights.items() if key != "concept_embeds"}, broken / "model.safetensors")
    with pytest.raises(ModelError, match="lacks 1 of its weights: concept_embeds"):
        load_checker(broken)


def test_a_head_is_weights_and_nothing_else(places, tmp_path):
    head = load_head(str(places[1]))
    assert head.in_features == WIDTH and head.weight.dtype == torch.float32
    with pytest.raises(ModelError, match="must be a file, or owner/name/file .*aesthetic-predictor; no such file"):
        load_head("head.pth")
    for content in ({"weight": torch.ones(2, WIDTH), "bias": torch.ones(2)}, {"bias": torch.ones(1)}, [1]):
        torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(ModelError, match=r"bad.pth must hold weight \(1, width\) and bias \(1,\)"):
            load_head(tmp_path / "bad.pth")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="bad.pth must hold"):
        load_head(tmp_path / "bad.pth")


class Code:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-head",)


def test_no_code_of_a_head_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(1, 2), "bias": Code()}, "head.pth")
    with pytest.raises(ModelError, match="head.pth must hold"):
        load_head("head.pth")
    assert not (tmp_path / "made-by-a-head").exists()


def test_a_head_of_the_hub_is_fetched_by_its_parts(places, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names: asked.append(names) or places[1])
    assert load_head("owner/name/folder/head.pth").in_features == WIDTH
    assert asked == [("owner/name", "folder/head.pth")]
    with pytest.raises(ModelError, match="embeddings with 3 numbers, got embeddings of .* with 64"):
        measure_attributes(PICTURES, load_contrastive(places[0]), torch.nn.Linear(3, 1), len, desc=None)
