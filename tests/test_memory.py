"""Models of which a part lies on the CPU while it is not used, and TF32: same numbers, right places, own bank."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0

from diffclf.bank import ErrorBank
from diffclf.models import ModelError, load_model, loading
from diffclf.models.memory import save_memory
from diffclf.models.precision import choose_dtype, precision
from diffclf.trials import TrialList

CUDA = torch.device("cuda")


def outputs(model):
    """Return what each part of a model makes of the same inputs."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 3, model.image_size, model.image_size, generator=generator) * 2 - 1
    cond = model.encode_prompts(["a bag", "a red coat", ""] if model.labels is None else [0, 1, 2])
    x0 = model.encode_images(pixels)
    output = model.denoise(x0, torch.tensor([1, 500, 999]), cond)
    return {"x0": x0, "output": output, "pixels": model.decode_latents(x0), **cond.tensors}


@pytest.mark.parametrize("memory", ["low", "lowest"])
@pytest.mark.parametrize("kind", ["tiny_sd", "tiny_dit"])
def test_the_numbers_are_the_same(request, kind, memory):
    plain = request.getfixturevalue(kind)
    small = load_model(request.getfixturevalue(f"{kind}_folder"), device="cpu", memory=memory)
    expected = outputs(plain)
    for name, value in outputs(small).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert small.fingerprint == plain.fingerprint
    processors = {type(m.processor).__name__ for m in small.network.modules() if isinstance(m, Attention)}
    assert processors == {"SlicedAttnProcessor" if memory == "lowest" else "AttnProcessor2_0"}


def test_attention_that_diffusers_cannot_slice_stays_as_it_is():
    options = {"query_dim": 8, "heads": 2, "dim_head": 4}
    joint = Attention(**options, added_kv_proj_dim=8, processor=JointAttnProcessor2_0())
    network = torch.nn.ModuleList([joint, Attention(**options)])
    pipeline = SimpleNamespace(components={}, vae=SimpleNamespace(enable_slicing=lambda: None))
    save_memory(pipeline, network, "lowest", torch.device("cpu"))
    assert [type(m.processor).__name__ for m in network] == ["JointAttnProcessor2_0", "SlicedAttnProcessor"]


@pytest.fixture
def moves(monkeypatch):
    """Moves of networks to devices, (class, device): one "to CUDA" is recorded, and the network stays where it is."""
    made, move = [], torch.nn.Module.to

    def to(self, *args, **options):
        place = options.pop("device", None)
        if args and isinstance(args[0], str | torch.device):
            place, *args = args
        if place is not None:
            made.append((type(self).__name__, torch.device(place).type))
        return move(self, *args, **options) if args or options else self

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(loading, "choose_device", lambda device: CUDA)
    return made


def test_parts_are_on_the_device_for_the_time_of_a_call(moves, tiny_sd_folder):
    model = load_model(tiny_sd_folder, dtype="float32", memory="low")
    assert [place for name, place in moves if name == "UNet2DConditionModel"] == ["cuda"]
    for part in ("CLIPTextModel", "AutoencoderKL"):
        places = [place for name, place in moves if name == part]
        assert places[0] == "cpu" and places[1:] and places[1::2] == ["cuda"] * (len(places) // 2)
        assert places[2::2] == ["cpu"] * (len(places) // 2)
    for call, part in (
        (lambda: model.encode_prompts(["a bag", "a coat"]), "CLIPTextModel"),
        (lambda: model.encode_images(torch.zeros(2, 3, 32, 32)), "AutoencoderKL"),
        (lambda: model.decode_latents(torch.zeros(2, 4, 8, 8)), "AutoencoderKL"),
        (lambda: model.pipeline.vae.encode(torch.zeros(1, 3, 32, 32)), "AutoencoderKL"),
    ):
        moves.clear()
        call()
        assert moves == [(part, "cuda"), (part, "cpu")]
    moves.clear()
    with pytest.raises(RuntimeError):  # a wrong number of channels: also then the part goes back
        model.pipeline.vae.encode(torch.zeros(1, 5, 32, 32))
    assert moves[-1] == ("AutoencoderKL", "cpu")


def test_by_default_everything_goes_to_the_device_once(moves, tiny_sd_folder, tiny_dit_folder):
    for folder in (tiny_sd_folder, tiny_dit_folder):
        moves.clear()
        load_model(folder, dtype="float32")
        assert {place for _, place in moves} == {"cuda"} and len(set(moves)) == len(moves)


def test_unknown_memory_is_an_error_before_weights_are_read(tiny_sd_folder, monkeypatch):
    monkeypatch.setattr(loading, "_read_parts", lambda *_: pytest.fail("read the weights"))
    with pytest.raises(ModelError, match="memory must be one of normal, low, lowest, got 'tiny'"):
        load_model(tiny_sd_folder, memory="tiny")


def test_tf32_is_float32_and_a_switch_for_cuda_alone(monkeypatch, tiny_sd, tiny_sd_folder):
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    model = load_model(tiny_sd_folder, device="cpu", dtype="tf32")
    assert (model.dtype, model.fingerprint, asked) == (torch.float32, tiny_sd.fingerprint, [])
    for dtype in ("float32", "bfloat16", None, torch.float32):
        choose_dtype(dtype, CUDA)
    assert asked == [] and choose_dtype("tf32", CUDA) == torch.float32 and asked == ["high"]


def test_numbers_with_tf32_have_a_bank_of_their_own(monkeypatch, tiny_sd, tmp_path):
    on_cuda = SimpleNamespace(device=CUDA, dtype=torch.float16)
    make = lambda: ErrorBank(tmp_path, tiny_sd, ["a bag", "a coat"], TrialList([1]))  # noqa: E731
    plain = make()
    assert plain.identity["dtype"] == precision(tiny_sd) == "torch.float32"
    assert precision(on_cuda) == "torch.float16"
    for value in ("high", "medium"):  # whoever has set it
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda value=value: value)
        assert precision(on_cuda) == "torch.float16 TF32" and make().path == plain.path  # nothing changes on a CPU
    monkeypatch.setattr("diffclf.bank.precision", lambda model: "torch.float32 TF32")
    assert make().path != plain.path
    assert np.isnan(make().load(0, ["a bag", "a coat"])).all()
