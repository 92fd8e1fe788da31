"""Hold a torch loss to its oracle and its bound on one batch of arrays."""

import numpy as np
import torch

from refimpl.bounds.precision import error_ratio, precision

DTYPES = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}


def as_tensor(array, dtype):
    """Floating arrays in the dtype under test, on the graph; counts and masks as they are."""
    tensor = torch.as_tensor(np.array(array))
    return tensor.to(dtype).requires_grad_() if tensor.is_floating_point() else tensor


def as_array(tensor):
    return tensor.detach().double().numpy()


def assert_agrees(loss, modules, arrays, dtype, **options):
    """Value and every gradient lie within the derived bound; the graph reaches every floating input.

    `modules`: the oracle module and the bound module, which call the loss by its own name.
    """
    name = loss.__name__
    oracle, oracle_gradient = getattr(modules[0], name), getattr(modules[0], f"{name}_gradient")
    bounds = getattr(modules[1], name)
    held = precision(dtype)
    tensors = [as_tensor(array, DTYPES[dtype]) for array in arrays]
    value = loss(*tensors, **options)
    value.sum().backward()
    elementwise = options.get("reduction") == "none"
    cotangent = np.ones(value.shape) if elementwise else 1.0
    exact, bound = oracle(*arrays, **options), bounds(*arrays, precision=held, **options)
    largest = held.result_max if elementwise else held.scalar_max
    ratio = error_ratio(as_array(value), exact, bound.value, largest)
    assert np.all(ratio <= 1.0), f"value {value} against {exact}, {ratio.max()} bounds away"
    gradients = oracle_gradient(*arrays, **options, cotangent=cotangent)
    for tensor, exact_gradient, allowed in zip(
        [t for t in tensors if t.dtype is not torch.bool], gradients, bound.gradient, strict=True
    ):
        if not tensor.is_floating_point():
            continue
        ratio = error_ratio(as_array(tensor.grad), exact_gradient, allowed, held.result_max, overflows=True)
        assert np.all(ratio <= 1.0), (
            f"gradient {tensor.grad} against {exact_gradient}, {ratio.max()} bounds away"
        )
