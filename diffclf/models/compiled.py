"""A model's network compiled by `torch.compile`: the same numbers to 1e-4, in less time once compiled.

Only full batches have a compiled form. A batch that is at least half full is padded to a full one; a smaller batch goes
through the network as it is. On a CPU, compiling takes a C++ compiler and about a minute for the first full batch (a
later process finds the code in PyTorch's cache). Where compiling fails, the network runs as it is and a warning says
why.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from diffclf.models.conditioning import Conditioning

__all__ = ["CompiledDenoiser"]

Denoise = Callable[[Tensor, Tensor, Conditioning], Tensor]


class CompiledDenoiser:
    """A model's `denoise`, compiled by a backend of `torch.compile` for the batch sizes that it is told to expect.

    Attributes:
        sizes: batch sizes with a compiled form; none after compiling has failed.
    """

    def __init__(self, denoise: Denoise, backend: str | Callable = "inductor") -> None:
        self._eager = denoise
        self._compile = partial(torch.compile, denoise, dynamic=False, backend=backend)
        self._compiled: Denoise | None = None
        self._failed = False
        self.sizes: set[int] = set()
        self._ready: set[int] = set()

    def expect(self, batch_size: int) -> None:
        """Say that batches of this size will come: an evaluator's full batch."""
        if not self._failed:
            self.sizes.add(batch_size)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """Return the network's output (b, ...)."""
        n = len(x_t)
        size = min((size for size in self.sizes if n <= size <= 2 * n), default=None)
        if size is None:
            return self._eager(x_t, t, cond)
        full = x_t, t, cond
        if size > n:  # the last row stands in for the missing ones
            rows = torch.arange(size, device=x_t.device).clamp(max=n - 1)
            full = x_t[rows], t[rows], cond[rows]
        try:
            if size in self._ready:
                return self._compiled(*full)[:n]
            with warnings.catch_warnings():  # the compiler warns about parts of itself
                warnings.simplefilter("ignore", DeprecationWarning)
                self._compiled = self._compiled or self._compile()
                output = self._compiled(*full)[:n]
            self._ready.add(size)
            return output
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a backend may raise anything: no compiler, an operation that it does not know
            cause = getattr(error, "inner_exception", error)
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            warnings.warn(f"the network runs uncompiled, since compiling it failed: {reason}", stacklevel=2)
            self._failed = True
            self.sizes.clear()
            return self._eager(x_t, t, cond)
