"""What all benchmarks share: sizes by devices, timing, memory, and the ratio to a textbook version."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

# the same list everywhere, so that results of machines with and without a GPU stay one series
DEVICES = ("cpu", "cuda")

# one thread by default: with several, whatever else a machine does changes the times by factors
THREADS = int(os.environ.get("BENCH_THREADS", "1"))

Replicates = dict[str, dict[str, Tensor]]


def counts(size: int, mean: float = 5.0, dispersion: float = 0.5) -> Tensor:
    """Over-dispersed counts, float32 of shape (size,): Poisson with gamma-distributed rates."""
    shape = torch.full((size,), dispersion)
    rate = torch.distributions.Gamma(shape, shape / mean).sample()
    return torch.poisson(rate)


def positive(size: int) -> Tensor:
    """Log-normal parameters, float32 of shape (size,)."""
    return torch.randn(size).exp()


def synchronise(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


def paired_ratio(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    seconds: float = 0.6,
    least: int = 3,
    most: int = 100,
) -> float:
    """Median of time(ours) / time(theirs) over pairs measured back to back, the order alternating.

    Both run in one process, so that what disturbs one disturbs the other: far steadier than absolute times.
    """

    def timed(function: Callable[[], object]) -> float:
        start = perf_counter()
        function()
        return perf_counter() - start

    ratios: list[float] = []
    end = perf_counter() + seconds
    while len(ratios) < least or (len(ratios) < most and perf_counter() < end):
        if len(ratios) % 2:
            other = timed(theirs)
            mine = timed(ours)
        else:
            mine = timed(ours)
            other = timed(theirs)
        ratios.append(mine / other)
    return round(median(ratios), 3)


class LossBenchmark(ABC):
    """One loss at several sizes on every device.

    A subclass names its sizes in ``params`` and the differentiable inputs in ``differentiable``, makes the
    tensors, and says how the loss and its textbook version are called. asv passes over abstract classes, so
    this one is not run by itself. asv hands size and device to every method; ``setup`` has used them.
    """

    param_names = ("size", "device")
    params: tuple[tuple[int, ...], tuple[str, ...]]
    differentiable: tuple[str, ...]
    timeout = 120
    # short, repeated runs: the whole suite stays within minutes
    rounds = 1
    repeat = (3, 10, 0.5)
    sample_time = 0.02
    warmup_time = 0.1

    @abstractmethod
    def tensors(self, size: int) -> dict[str, Tensor]:
        """All inputs by name, on the CPU."""

    @abstractmethod
    def loss(self, **tensors: Tensor) -> Tensor:
        """The loss under test, a scalar."""

    @abstractmethod
    def textbook(self, **tensors: Tensor) -> Tensor:
        """The version people write first, a scalar."""

    def setup(self, size: int, device: str) -> None:
        """Make the inputs and call everything once, so that no compilation is timed."""
        if device == "cuda" and not torch.cuda.is_available():
            raise NotImplementedError("this machine has no CUDA device")
        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        self.device = device
        self.inputs = {name: value.to(device) for name, value in self.tensors(size).items()}
        self.leaves = [self.inputs[name].requires_grad_() for name in self.differentiable]
        self.run_backward(self.loss)

    def run_forward(self, function: Callable[..., Tensor]) -> None:
        """One forward pass that records the graph."""
        function(**self.inputs)
        synchronise(self.device)

    def run_backward(self, function: Callable[..., Tensor]) -> None:
        """One forward and one backward pass."""
        torch.autograd.grad(function(**self.inputs), self.leaves)
        synchronise(self.device)

    def time_forward(self, *_: object) -> None:
        """Forward pass."""
        self.run_forward(self.loss)

    def time_forward_backward(self, *_: object) -> None:
        """Forward and backward pass."""
        self.run_backward(self.loss)

    def track_saved_bytes(self, *_: object) -> int:
        """Bytes that the graph keeps from forward to backward, the inputs themselves not counted."""
        inputs = {value.untyped_storage().data_ptr() for value in self.inputs.values()}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in inputs:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            # the value keeps the graph alive, so that no address is used twice
            value = self.loss(**self.inputs)
        del value
        return sum(saved.values())

    def track_peak_bytes(self, *_: object) -> float:
        """Peak of allocated GPU memory above the inputs, forward and backward; unknown on a CPU (nan)."""
        if self.device != "cuda":
            return math.nan
        synchronise(self.device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.run_backward(self.loss)
        return torch.cuda.max_memory_allocated() - before

    def ratio(self) -> float:
        """Forward and backward time over the textbook's: below 1 is faster."""
        self.run_backward(self.textbook)
        return paired_ratio(lambda: self.run_backward(self.loss), lambda: self.run_backward(self.textbook))


class ReplicatesBenchmark(LossBenchmark):
    """A loss over the counts and parameters of two replicates."""

    differentiable = ("mu1", "r1", "mu2", "r2")

    def tensors(self, size: int) -> dict[str, Tensor]:
        """Counts and parameters of both replicates, all of shape (size,)."""
        return {
            "mu1": 5 * positive(size),
            "r1": positive(size),
            "mu2": 5 * positive(size),
            "r2": positive(size),
            "y1": counts(size),
            "y2": counts(size),
        }

    def dicts(self, tensors: dict[str, Tensor]) -> tuple[Replicates, Replicates]:
        """The same tensors as ``model_outputs`` and ``batch``."""
        return (
            {
                "r1": {"mu": tensors["mu1"], "r": tensors["r1"]},
                "r2": {"mu": tensors["mu2"], "r": tensors["r2"]},
            },
            {"r1": {"reads": tensors["y1"]}, "r2": {"reads": tensors["y2"]}},
        )


LossBenchmark.track_saved_bytes.unit = "bytes"
LossBenchmark.track_peak_bytes.unit = "bytes"


def ratio(method: Callable[..., float]) -> Callable[..., float]:
    """Mark a ``track_ratio_to_...`` method with its unit."""
    method.unit = "time / textbook time"
    return method
