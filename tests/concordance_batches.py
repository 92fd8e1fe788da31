"""What the tests of InfoNCE share: batches that hold its hazards, and both implementations to judge."""

import pytest
import torch

from torchimpl.kernels import concordance_backends as backends


@pytest.fixture(autouse=True, scope="module", params=["auto", "torch"])
def implementation(request):
    """All of this twice: as on this device, and as on one without a compiled kernel."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(backends, "choices", lambda _device, _features: ("torch",))
        yield


def hazard(kind, size, features, seed, dtype):
    """Two (size, features) tensors that hold the hazard named `kind`."""
    g = torch.Generator().manual_seed(seed)
    shape = (size, features)
    first, noise = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    second = first + 0.3 * noise
    largest = torch.finfo(dtype).max
    if kind == "identical replicates":
        second = first.clone()
    elif kind == "ties":
        first, second = first.round(), second.round()
    elif kind == "all rows alike":
        first, second = first[:1].expand(shape), second[:1].expand(shape)
    elif kind == "far pairs":
        first, second = 40 * first, 40 * second
    elif kind == "far from every source":
        first = first + 300
    elif kind == "common offset":
        first, second = first + 1000, second + 1000
    elif kind == "shuffled":
        second = second.flip(0)
    elif kind == "huge":
        first, second = first.tanh() * largest, second.tanh() * largest
    elif kind == "subnormal":
        tiny = torch.finfo(dtype).smallest_normal
        first, second = first * tiny, second * tiny
    elif kind == "mixed magnitudes":
        powers = torch.randint(-12, 13, shape, generator=g).double()
        first, second = first * 2**powers, second * 2**powers
    elif kind == "large differences of huge rows":
        first = torch.where(noise > 0, first, first.tanh() * largest)
    first, second = (t.clamp(-largest, largest).to(dtype) for t in (first, second))
    return first.contiguous(), second.contiguous()


def leaves(*tensors):
    """Copies of tensors that require a gradient."""
    return tuple(t.detach().clone().requires_grad_() for t in tensors)
