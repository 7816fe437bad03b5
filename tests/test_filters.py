"""The filter of Stable Diffusion 2.0 on real images: size, aesthetic score and safety checker, with tiny networks."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from hub_cache import put
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import edit_json
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModelWithProjection

from diffclf.datasets.filters import load_checker, load_critic, measure_attributes
from diffclf.models.protocol import ModelError
from diffclf.workbook.settings import resolve

SIZES = ((40, 33), (32, 64), (90, 50), (32, 32), (50, 50))
RNG = np.random.default_rng(0)
PICTURES = [Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


PREPROCESSING = {  # of both on the hub, but for the sizes
    "crop_size": 32,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 32,
}


def save_tiny_filters(folder):
    """Save a random aesthetic predictor and a random safety checker as they lie on the hub; return their places."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"image_size": 32, "patch_size": 8, "projection_dim": 12}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = CLIPVisionModelWithProjection(CLIPVisionConfig(**tower))
        checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=tower, projection_dim=12))
        checker.concept_embeds.data.normal_()
        head = torch.nn.Linear(12, 1)
    critic.save_pretrained(folder / "critic")
    auto = {"AutoConfig": "configuration_predictor.AestheticsPredictorConfig"}
    auto |= {"AutoModel": "modeling_v1.AestheticsPredictorV1"}
    names = {"architectures": ["AestheticsPredictorV1"], "model_type": "aesthetics_predictor", "auto_map": auto}
    edit_json(folder / "critic" / "config.json", **names)
    for file in ("configuration_predictor.py", "modeling_v1.py"):
        (folder / "critic" / file).write_text("raise SystemExit('the code of the repository was run')")
    weights = load_file(folder / "critic" / "model.safetensors")
    weights |= {f"predictor.{key}": value for key, value in head.state_dict().items()}
    weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(weights, folder / "critic" / "model.safetensors", {"format": "pt"})
    checker.save_pretrained(folder / "checker")
    for place in ("critic", "checker"):
        (folder / place / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return folder / "critic", folder / "checker"


def pixels_of(picture):
    """Return (1, 3, 32, 32) as CLIP sees a picture: short side 32, bicubic, centre crop, normalised by channel."""
    width, height = picture.size
    scale = 32 / min(width, height)
    small = picture.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    top, left = (small.height - 32) // 2, (small.width - 32) // 2
    values = np.asarray(small, np.float64)[top : top + 32, left : left + 32] / 255
    values = (values - PREPROCESSING["image_mean"]) / PREPROCESSING["image_std"]
    return torch.from_numpy(values.transpose(2, 0, 1)[None]).float()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return save_tiny_filters(tmp_path_factory.mktemp("filters"))


def test_each_image_has_its_size_its_score_and_the_checkers_answer(places):
    scores, checker = load_critic(places[0]), load_checker(places[1])
    found = measure_attributes(
        PICTURES, scores, lambda pictures: np.array([p.width == 32 for p in pictures]), desc=None
    )
    assert found["resolution"].tolist() == [33, 32, 50, 32, 50]
    assert found["flag"].tolist() == [False, True, False, True, False]
    weights, tower = (
        load_file(places[0] / "model.safetensors"),
        CLIPVisionModelWithProjection.from_pretrained(places[0]),
    )
    for picture, quality in zip(PICTURES, found["quality"], strict=True):
        with torch.no_grad():
            (e,) = tower(pixels_of(picture)).image_embeds
        expected = weights["predictor.weight"][0] @ e / e.square().sum().sqrt() + weights["predictor.bias"][0]
        assert quality == pytest.approx(float(expected), rel=1e-4)
    again = measure_attributes(PICTURES, scores, checker, batch_size=2, desc=None)
    assert again["quality"] == pytest.approx(found["quality"], rel=1e-4), "whatever the batch"
    assert (again["flag"] == checker(PICTURES)).all()


def test_the_checker_flags_what_is_near_a_concept(places, tmp_path):
    checker = StableDiffusionSafetyChecker.from_pretrained(places[1])
    pixels = torch.cat([pixels_of(picture) for picture in PICTURES])
    with torch.inference_mode():
        embeddings = checker.visual_projection(checker.vision_model(pixels)[1])
        near = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(checker.concept_embeds).T
    closest = near.max(dim=1).values
    for n_flagged, threshold in ((0, 1.0), (5, -1.0), (2, float(closest.sort().values[2:4].mean()))):
        checker.concept_embeds_weights.data.fill_(threshold)
        checker.special_care_embeds_weights.data.fill_(1.0)  # above any cosine: no concept that lowers the threshold
        checker.save_pretrained(tmp_path / str(n_flagged))
        shutil.copy(places[1] / "preprocessor_config.json", tmp_path / str(n_flagged))
        flagged = load_checker(tmp_path / str(n_flagged))(PICTURES)
        assert flagged.sum() == n_flagged and (flagged == (closest > threshold).numpy()).all()


@pytest.mark.parametrize(
    ("load", "what", "lost"),
    [(load_critic, "aesthetic predictor", "predictor.bias"), (load_checker, "safety checker", "concept_embeds")],
)
def test_a_network_without_all_its_weights_is_refused(places, tmp_path, load, what, lost):
    with pytest.raises(ModelError, match=f"{what} .*nowhere cannot be read"):
        load(tmp_path / "nowhere")
    broken = shutil.copytree(places[load is load_checker], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    save_file({key: value for key, value in weights.items() if key != lost}, broken / "model.safetensors")
    with pytest.raises(ModelError, match=f"{what} .* lacks 1 of its weights: {lost}"):
        load(broken)


def test_the_networks_of_the_settings_are_found_on_the_hub_at_their_revision(places, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    names = resolve("07_training_filter", "paper")["filters"]
    for name, place in zip((names["aesthetic"], names["safety"]), places, strict=True):
        repository, _, revision = name.partition("@")
        put(tmp_path, repository, {file.name: file.read_bytes() for file in place.iterdir()}, kind="model",
            ref=revision or "main")  # fmt: skip
    same = load_critic(names["aesthetic"])(PICTURES), load_checker(names["safety"])(PICTURES)
    np.testing.assert_array_equal(same[0], load_critic(places[0])(PICTURES))
    np.testing.assert_array_equal(same[1], load_checker(places[1])(PICTURES))
