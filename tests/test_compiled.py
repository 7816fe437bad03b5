"""The compiled network: full batches only, the same numbers, and a way back when compiling fails."""

import shutil

import numpy as np
import pytest
import torch

from diffclf.evaluator import Evaluator
from diffclf.models import Conditioning, load_model
from diffclf.models.compiled import CompiledDenoiser
from diffclf.trials import Trials


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch.compiler.reset()


class Counting:
    """A backend that counts what it compiles, and notes the batch size of each pass."""

    def __init__(self):
        self.compiled, self.shapes = 0, []

    def __call__(self, graph, inputs):
        self.compiled += 1

        def run(*values):
            self.shapes.append(max(len(value) for value in values if value.ndim == 4))
            return graph(*values)

        return run


def scaled(x_t, t, cond):
    weights = cond.tensors["weight"] + cond.tensors["pooled"].sum(1)
    return x_t * t.view(-1, 1, 1, 1) + weights.view(-1, 1, 1, 1)


def batch(n):
    cond = Conditioning({"weight": torch.arange(n) * 0.5, "pooled": torch.randn(n, 3)})
    return torch.randn(n, 4, 8, 8), torch.arange(n), cond


def check(denoiser, n):
    values = batch(n)
    torch.testing.assert_close(denoiser(*values), scaled(*values))


def test_only_batches_at_least_half_full_are_padded_and_compiled():
    backend = Counting()
    denoiser = CompiledDenoiser(scaled, backend)
    check(denoiser, 8)
    assert not backend.compiled  # no size is expected yet
    denoiser.expect(8)
    for n in (8, 4, 7, 3, 1, 9):
        check(denoiser, n)
    assert backend.shapes == [8, 8, 8] and backend.compiled == 1
    denoiser.expect(4)
    check(denoiser, 3)
    assert backend.shapes[3:] == [4] and backend.compiled == 2


def test_a_failure_to_compile_is_said_once_and_the_network_runs_as_it_is():
    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler\nmore")

    denoiser = CompiledDenoiser(scaled, broken)
    denoiser.expect(4)
    with pytest.warns(UserWarning, match="runs uncompiled, since compiling it failed: .*no C\\+\\+ compiler"):
        check(denoiser, 4)
    denoiser.expect(2)
    check(denoiser, 4)
    assert not denoiser.sizes


def test_running_out_of_memory_is_not_a_failure_to_compile():
    def small(graph, inputs):
        def run(*values):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    denoiser = CompiledDenoiser(scaled, small)
    denoiser.expect(4)
    with pytest.raises(torch.OutOfMemoryError):
        denoiser(*batch(4))
    assert denoiser.sizes == {4}


def test_an_evaluator_announces_its_batch_size(tiny_sd, tiny_sd_folder):
    model = load_model(tiny_sd_folder, compile=True)
    Evaluator(model, batch_size=16)
    assert isinstance(model.denoise, CompiledDenoiser) and model.denoise.sizes == {16}
    assert not isinstance(tiny_sd.denoise, CompiledDenoiser)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling on a CPU needs a C++ compiler")
@pytest.mark.parametrize("kind", ["tiny_sd", "tiny_dit"])
def test_compiled_errors_equal_the_others(kind, request):
    plain, compiled = request.getfixturevalue(kind), load_model(request.getfixturevalue(f"{kind}_folder"), compile=True)
    triples = np.argwhere(np.ones((2, 3, 8)))  # 48 triples: two full batches, and one of eight that is not compiled
    trials = [Trials(np.arange(0, 1000, 125), 0, key, plain.latent_shape) for key in range(2)]
    x0 = torch.randn(2, *plain.latent_shape)
    cond = plain.encode_prompts(["a red sneaker", "a blue bag", "a coat"] if plain.labels is None else [0, 1, 2])
    expected, found = (Evaluator(m, ["l2", "l1"], 20).errors(x0, cond, trials, triples) for m in (plain, compiled))
    assert compiled.denoise.sizes == {20}
    np.testing.assert_allclose(found, expected, rtol=1e-4)
