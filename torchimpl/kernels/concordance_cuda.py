"""InfoNCE on CUDA devices, in Triton: losses of the rows, and their vector-Jacobian product.

All arithmetic is float64, on exponents formed from differences. Memory is O(B·D). Nothing waits for the
device, no shape depends on data, there are no atomics: the same inputs give the same bits. Scalar residuals
(D = 1) are sorted and summed over windows, others over all pairs.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from torchimpl.kernels.concordance_cuda_line import line_gradient, line_rows
from torchimpl.kernels.concordance_cuda_space import space_gradient, space_rows
from torchimpl.kernels.concordance_cuda_units import units


def applicable_cuda(x: Tensor) -> bool:
    """Whether the kernels can run: a CUDA tensor, and Triton is installed.

    Example:
        >>> applicable_cuda(torch.zeros(2, 1))
        False
    """
    if x.device.type != "cuda":
        return False
    return bool(importlib.import_module("torchimpl.kernels.negative_binomial_cuda_triton").installed)


def rows_cuda(
    x: Tensor,
    y: Tensor,
    tau: float,
    eps: float,
    *,
    narrow: bool,
    slopes: bool,  # noqa: ARG001 - the interface is that of the other paths
    grade: str = "float64",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, anchor and normaliser of every row.

    Args:
        x: (B, D), float64, any values, on a CUDA device (in Triton's interpreter: on the CPU).
        y: like `x`; row i belongs to source i.
        tau: temperature.
        eps: ε of the loss.
        narrow: the numbers were float32 or narrower, as the results will be.
        slopes: not used: the backward pass forms its sums itself.
        grade: "float64", "tf32x3" or "bf16", the arithmetic in which products of matrices look for the pairs
            that count where D > 16; no result depends on it beyond 2^-30 (narrow), or at all.

    Returns:
        The losses (B,), inf beyond float64, NaN where a number that counts is not finite; the nearest sources
        (B,), int64; the normaliser (2, B), see `torchimpl.kernels.concordance.loss_rows`; and (2, 0, D).

    Example:
        >>> x = torch.empty(0, 3, dtype=torch.float64)
        >>> [part.shape[-1] for part in rows_cuda(x, x, 0.1, 0.0, narrow=False, slopes=False)]
        [0, 0, 0, 3]
    """
    batch, features = x.shape
    none = x.new_empty(2, 0, features)
    if x.numel() == 0:
        return x.new_zeros(batch), torch.arange(batch, device=x.device), x.new_zeros(2, batch), none
    found = units(x, y, tau, narrow=narrow)
    if features == 1:
        losses, nearest, normaliser = line_rows(found, eps, narrow=narrow)
    else:
        losses, nearest, normaliser = space_rows(found, eps, narrow=narrow, grade=grade)
    return losses + found.poison, nearest, normaliser, none


def gradient_cuda(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    nearest: Tensor,
    normaliser: Tensor,
    slopes: Tensor,  # noqa: ARG001 - the interface is that of the other paths
    tau: float,
    eps: float,
    *,
    narrow: bool,
    grade: str = "float64",
) -> tuple[Tensor, Tensor]:
    """Vector-Jacobian product of the losses of `rows_cuda`, by x and y.

    Args:
        cotangent: (B,), of the losses.
        x: as for `rows_cuda`.
        y: as for `rows_cuda`.
        nearest: (B,), of `rows_cuda`.
        normaliser: (2, B), of `rows_cuda`.
        slopes: not used.
        tau: temperature.
        eps: ε of the loss.
        narrow: as for `rows_cuda`.
        grade: as for `rows_cuda`.

    Returns:
        (B, D) for x and for y; NaN where a number that counts is not finite.

    Example:
        >>> x = torch.empty(0, 3, dtype=torch.float64)
        >>> losses, *others = rows_cuda(x, x, 0.1, 0.0, narrow=False, slopes=False)
        >>> gradient_cuda(losses, x, x, *others, 0.1, 0.0, narrow=False)[0].shape
        torch.Size([0, 3])
    """
    if x.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(y)
    found = units(x, y, tau, narrow=narrow)
    rest = (nearest, normaliser, eps)
    if x.shape[1] == 1:
        gx, gy = line_gradient(cotangent, found, *rest, narrow=narrow)
    else:
        gx, gy = space_gradient(cotangent, found, *rest, narrow=narrow, grade=grade)
    poison = found.poison[:, None]
    return gx * found.gradient_factor + poison, gy * found.gradient_factor + poison.sum(0)
