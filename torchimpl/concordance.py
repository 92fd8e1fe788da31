"""InfoNCE between replicates: the matching row must be nearer than every other row of the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchimpl import checks, scaling
from torchimpl.kernels.concordance_backends import IMPLS, choices
from torchimpl.kernels.concordance_op import concordance_rows
from torchimpl.saturate import all_finite, replace_through, safe_sum, saturate

_REDUCTIONS = ("mean", "sum", "none")


def concordance_loss_nce(
    res1: Tensor,
    res2: Tensor,
    tau: float = 0.1,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
    chunk_size: int | None = None,
    impl: str = "auto",
) -> Tensor:
    """InfoNCE between two sets of replicate residuals.

    With d_ij = Σ_k (res1_ik - res2_jk)², the loss of row i is

        L_i = d_ii/τ + log(ε + Σ_j exp(-d_ij/τ)) = -log( s_ii / (Σ_j s_ij + ε) ),   s = exp(-d/τ),

    evaluated in the log domain, from differences, in float64. Forward and backward take O(B·D) memory: no
    pair is kept. One feature (D = 1) on the CPU takes O(B log B) time. Differentiable twice.

    Args:
        res1: (B,) or (B, ...), flattened to (B, D). Floating or integer.
        res2: like `res1`: row i is the replicate of row i.
        tau: temperature, > 0.
        eps: ε >= 0; 0 is textbook InfoNCE.
        reduction: "mean" over the rows, "sum", or "none" for the (B,) losses of the rows.
        chunk_size: rows per block of the plain torch implementation; None chooses it from the shapes. Changes
            the rounding and the speed only.
        impl: which implementation answers, all within the same bound. "sorted" sorts both sides and sums
            what counts by blocks (D = 1); "exact-blocks" visits all pairs in compiled code; "torch" does so
            in plain torch, on any device; "auto" takes the fastest that there is.

    Returns:
        A scalar of the promoted dtype (float32 for half inputs), or (B,) in the inputs' dtype. A value beyond
        the dtype saturates at its maximum. Without any element (B = 0 or D = 0) every value is 0. NaN as soon
        as an input that counts holds NaN or inf: a row of `res1` counts in its own row, `res2` in all.

    Raises:
        TypeError: an input is not a real tensor; tau or eps is not a real number; chunk_size is not an int;
            impl is not a str.
        ValueError: the shapes differ or have no batch dimension; tau, eps, chunk_size or reduction is out of
            range; impl is unknown or not there for the device and the number of features.

    Example:
        >>> r1 = torch.tensor([0.0, 1.0, 2.0])
        >>> bool(concordance_loss_nce(r1, r1) < concordance_loss_nce(r1, r1.flip(0)))
        True
        >>> concordance_loss_nce(torch.zeros(4), torch.zeros(4), eps=0.0)  # all alike: log 4
        tensor(1.3863)
    """
    checks.require_tensor("res1", res1)
    checks.require_tensor("res2", res2)
    checks.same_shape("res1", res1, "res2", res2)
    if res1.dim() == 0:
        raise ValueError("res1 and res2 must have shape (B,) or (B, ...), got a 0-dim tensor")
    tau = checks.positive_finite("tau", tau)
    eps = checks.non_negative_finite("eps", eps)
    checks.reduction(reduction, _REDUCTIONS)
    rows = _rows_per_block(chunk_size)
    _known_impl(impl)
    working = checks.working_dtype(res1, res2)
    # squares of anything narrower than the working dtype stay inside its range (for a tau that is not absurd)
    grade = _grade(working, res1.dtype, res2.dtype)
    wide = grade == "float64" or not 1e-100 < tau < 1e100
    x, y = _matrix(res1, working), _matrix(res2, working)
    _require_choice(impl, x)
    losses, nearest = concordance_rows(x, y, tau=tau, eps=eps, rows=rows, wide=wide, grade=grade, impl=impl)
    finite, dtype = all_finite(res1, res2), checks.result_dtype(res1, res2)
    if reduction == "none":
        return saturate(losses, checks.elementwise_dtype(res1, res2), finite)
    if reduction == "sum":
        return saturate(safe_sum(losses), dtype, finite)
    mean = safe_sum(losses, max(losses.numel(), 1))
    if working == dtype and x.numel():
        # beside such a distance ε is as good as a source at distance 0
        source = x if eps else y[nearest]
        mean = _mean_of_huge_rows(mean, losses, x.detach(), y.detach(), source.detach(), tau)
    return saturate(mean, dtype, finite)


def _mean_of_huge_rows(
    mean: Tensor, losses: Tensor, x: Tensor, y: Tensor, source: Tensor, tau: float
) -> Tensor:
    """The mean where a row has overflowed although the mean of all rows may not.

    Next to (d_ii - d_in)/τ, n the nearest source, nothing counts in such a row; it is formed with its own
    power of two, as Σ_k (n - y)(2x - y - n) / τ.
    """
    quarter_x, quarter_y, quarter_source = x * 0.25, y * 0.25, source * 0.25
    left = torch.frexp(quarter_source - quarter_y)
    right = torch.frexp((quarter_x - quarter_y) + (quarter_x - quarter_source))
    products, powers = left.mantissa * right.mantissa, left.exponent + right.exponent
    limit = 2 * math.frexp(torch.finfo(x.dtype).max)[1] - 4
    top = torch.where(products != 0, powers, -limit).amax(1, keepdim=True)
    # what is 2^-200 of the largest product does not count
    total = torch.ldexp(products, (powers - top).clamp(-200, 0)).sum(1)
    mantissa, exponent = math.frexp(tau)
    # 2^4 for the quarters; 2^-64 leaves room for the sum
    exponents = top[:, 0] + 4 - exponent - 64
    # no loss is negative; where features cancel to a rounding error it may look so
    rows = scaling.rescale((total / mantissa).clamp(min=0.0), exponents.clamp(-limit, limit))
    overflowed = losses.detach() == torch.inf
    total = torch.where(overflowed, rows, losses.detach() * 2.0**-64).sum() / losses.numel() * 2.0**64
    return replace_through(mean, torch.where(overflowed.any(), total, mean.detach()))


def _matrix(residual: Tensor, dtype: torch.dtype) -> Tensor:
    """(B,) or (B, ...) as (B, D)."""
    if residual.dim() == 1:
        return residual.unsqueeze(1).to(dtype)
    # flatten(1) cannot name the size of an empty dimension that it has to infer
    return (residual if residual.dim() == 2 else residual.flatten(1)).to(dtype)


def _grade(working: torch.dtype, *given: torch.dtype) -> str:
    """How exact products of matrices have to be, for numbers of these dtypes."""
    if working in given:
        return "float64"
    return "bf16" if set(given) == {torch.bfloat16} else "tf32x3"


def _rows_per_block(chunk_size: object) -> int:
    """`chunk_size` checked; 0 stands for "from the shapes"."""
    if chunk_size is None:
        return 0
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
        raise TypeError(f"chunk_size must be an int or None, got {type(chunk_size).__name__}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be >= 1, got {chunk_size}")
    return chunk_size


def _known_impl(impl: object) -> str:
    if not isinstance(impl, str):
        raise TypeError(f"impl must be a str, got {type(impl).__name__}")
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(map(repr, IMPLS))}, got {impl!r}")
    return impl


def _require_choice(impl: str, x: Tensor) -> None:
    """Refuse an implementation that there is not for such tensors."""
    if impl == "auto":
        return
    found = choices(x.device.type, x.shape[1])
    if impl not in found:
        raise ValueError(
            f"impl={impl!r} is not there for D = {x.shape[1]} on {x.device.type}; "
            f"use 'auto' or {' or '.join(map(repr, found))}"
        )


class ConcordanceLossNCE(nn.Module):
    """`concordance_loss_nce` as a module; the options are those of the function.

    Example:
        >>> loss = ConcordanceLossNCE(tau=0.5)
        >>> loss(torch.zeros(3, 2), torch.zeros(3, 2)).shape
        torch.Size([])
    """

    def __init__(
        self,
        tau: float = 0.1,
        *,
        eps: float = 1e-8,
        reduction: str = "mean",
        chunk_size: int | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.tau = checks.positive_finite("tau", tau)
        self.eps = checks.non_negative_finite("eps", eps)
        self.reduction = checks.reduction(reduction, _REDUCTIONS)
        _rows_per_block(chunk_size)
        self.chunk_size = chunk_size
        self.impl = _known_impl(impl)

    def forward(self, res1: Tensor, res2: Tensor) -> Tensor:
        """The loss of (B,) or (B, ...) residuals of both replicates."""
        return concordance_loss_nce(
            res1,
            res2,
            self.tau,
            eps=self.eps,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"tau={self.tau}, eps={self.eps}, reduction={self.reduction!r}, chunk_size={self.chunk_size}, "
            f"impl={self.impl!r}"
        )
