"""The compiled network: full batches only, the same numbers, and a way back when compiling fails."""

import shutil

import numpy as np
import pytest
import torch
from test_evaluator import all_triples, images, trials_of
from tiny import save_tiny_dit, save_tiny_sd

from diffclf import DiffusionClassifier
from diffclf.datasets import load_dataset
from diffclf.evaluator import Evaluator
from diffclf.models import load_model
from diffclf.models.compiled import CompiledDenoiser

PROMPTS = ["a red sneaker", "a blue bag", "a coat"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_tiny_sd(tmp_path_factory.mktemp("compiled") / "sd")


class Counting:
    """A backend that counts what it compiles and how often that runs."""

    def __init__(self):
        self.compiled, self.shapes = 0, []

    def __call__(self, graph, inputs):
        self.compiled += 1

        def run(*values):
            self.shapes.append(max(len(value) for value in values if value.ndim == 4))
            return graph(*values)

        return run


def scaled(x_t, t, cond):
    return x_t * t.view(-1, 1, 1, 1) + cond.view(-1, 1, 1, 1)


def batch(n):
    return torch.randn(n, 4, 8, 8), torch.arange(n), torch.arange(n) * 0.5


def test_only_batches_at_least_half_full_are_padded_and_compiled():
    torch.compiler.reset()
    backend = Counting()
    denoiser = CompiledDenoiser(scaled, backend)
    denoiser.expect(8)
    for n in (8, 4, 7, 3, 1, 9):
        values = batch(n)
        torch.testing.assert_close(denoiser(*values), scaled(*values))
    assert backend.shapes == [8, 8, 8] and backend.compiled == 1
    denoiser.expect(4)
    values = batch(3)
    torch.testing.assert_close(denoiser(*values), scaled(*values))
    assert backend.shapes[3:] == [4] and backend.compiled == 2


def test_nothing_is_compiled_before_a_size_is_expected():
    backend = Counting()
    values = batch(8)
    torch.testing.assert_close(CompiledDenoiser(scaled, backend)(*values), scaled(*values))
    assert not backend.compiled


def test_a_failure_to_compile_is_said_once_and_the_network_runs_as_it_is():
    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler\nmore")

    torch.compiler.reset()
    denoiser = CompiledDenoiser(scaled, broken)
    denoiser.expect(4)
    values = batch(4)
    with pytest.warns(UserWarning, match="runs uncompiled, since compiling it failed: .*no C\\+\\+ compiler"):
        found = denoiser(*values)
    torch.testing.assert_close(found, scaled(*values))
    denoiser.expect(2)
    torch.testing.assert_close(denoiser(*values), scaled(*values))
    assert not denoiser.sizes


def test_running_out_of_memory_is_not_a_failure_to_compile():
    def small(graph, inputs):
        def run(*values):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    torch.compiler.reset()
    denoiser = CompiledDenoiser(scaled, small)
    denoiser.expect(4)
    with pytest.raises(torch.OutOfMemoryError):
        denoiser(*batch(4))
    assert denoiser.sizes == {4}


def errors(model, batch_size):
    cond = model.encode_prompts(PROMPTS if model.labels is None else [0, 1, 2])
    evaluator = Evaluator(model, ["l2", "l1"], batch_size)
    return evaluator.errors(model.encode_images(images(2)), cond, trials_of(2), all_triples(2, 3, 8))


def test_an_evaluator_announces_its_batch_size(path):
    model = load_model(path, compile=True)
    Evaluator(model, batch_size=16)
    assert isinstance(model.denoise, CompiledDenoiser) and model.denoise.sizes == {16}
    assert not isinstance(load_model(path).denoise, CompiledDenoiser)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling on a CPU needs a C++ compiler")
@pytest.mark.parametrize("kind", ["sd", "dit"])
def test_compiled_errors_equal_the_others(path, tmp_path, kind):
    torch.compiler.reset()
    path = path if kind == "sd" else save_tiny_dit(tmp_path / "dit")
    model = load_model(path, compile=True)
    found = errors(model, 20)  # 48 triples: two full batches and one of eight, which stays as it is
    assert model.denoise.sizes == {20}
    np.testing.assert_allclose(found, errors(load_model(path), 20), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling on a CPU needs a C++ compiler")
def test_compiled_predictions_are_the_others_but_for_near_ties(capsys):
    """500 test images; a decision may differ only where the winner leads by less than the errors agree to."""
    torch.compiler.reset()
    data = load_dataset("mini-items", n_images=500)
    plain, compiled = (
        list(DiffusionClassifier(load_model("mini-sd", compile=c), data.prompts).error_tables(data.images))
        for c in (False, True)
    )
    differing = 0
    for a, b in zip(plain, compiled, strict=True):
        both = ~np.isnan(a.errors) & ~np.isnan(b.errors)
        np.testing.assert_allclose(a.errors[both], b.errors[both], rtol=1e-4)
        if a.predicted != b.predicted:
            differing += 1
            first, second = np.sort(-a.scores())[:2]
            assert second - first < 1e-4 * first
    with capsys.disabled():
        print(f"{differing} of {len(data)} decisions differ, all of them near ties")
