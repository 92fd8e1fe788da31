"""Two evaluations of one formula, compared in units of the last place."""

import torch
from torch import Tensor


def ulps_apart(a: Tensor, b: Tensor) -> int:
    """Largest distance of two equally shaped tensors, in units of the last place."""
    assert a.dtype == b.dtype, f"{a.dtype} against {b.dtype}"
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    if a.numel() == 0:
        return 0
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]

    def rank(t: Tensor) -> list[int]:
        bits = t.detach().contiguous().view(integer).flatten().tolist()
        lowest = torch.iinfo(integer).min
        return [value if value >= 0 else lowest - value for value in bits]

    return max(abs(p - q) for p, q in zip(rank(a), rank(b), strict=True))


def assert_close_to_rounding(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Hold two evaluations of the same formula to one unit in the last place of their common dtype.

    For float32 inputs all sums are exact (masked losses on the dyadic inputs of `cases`) or done in float64:
    another order moves a result by far less than a float32 ulp, it may only tip the final rounding.
    """
    for position, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert ulps_apart(a, b) <= 1, f"result {position}: {a} against {b}"
