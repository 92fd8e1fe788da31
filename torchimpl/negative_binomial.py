"""The negative binomial's CDF, survival function and log pmf, differentiable in mean and dispersion.

F(y; mu, r) = I_x(r, ⌊y⌋+1) with x = r/(r+mu), the regularised incomplete beta function: the probability of at
most ⌊y⌋ events where the mean is mu and the variance mu + mu²/r.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, NegativeBinomial, Poisson

from torchimpl import checks
from torchimpl.kernels.negative_binomial import LARGEST
from torchimpl.kernels.negative_binomial_log_pmf_one_pass import negative_log_pmf
from torchimpl.kernels.negative_binomial_ops import NegativeBinomialCDF
from torchimpl.saturate import saturate

# exp of it is finite: no gradient becomes 0 · inf
LARGEST_LOGIT = 709.0


def negative_binomial_cdf(y: Tensor, mu: Tensor, r: Tensor, *, validate: bool = False) -> Tensor:
    """P(Y <= y) for Y negative binomial with mean mu and dispersion r, elementwise.

    y is floored and has no gradient. y < 0 gives 0; y = inf gives 1; mu = 0 gives 1 for y >= 0, with the
    one-sided gradient in mu (-1 at y in [0, 1), 0 above); r = inf is the Poisson law. NaN anywhere, mu < 0,
    mu = inf and r <= 0 give NaN at that element. The cost of an element does not depend on its count.

    Args:
        y: counts, any shape; floating or integer.
        mu: means, of the shape of y or 0-dim.
        r: dispersions, of the shape of y or 0-dim.
        validate: raise for invalid elements instead of returning NaN (waits for the device).

    Returns:
        The shape of y, the promoted dtype of mu and r; computed in float64.

    Raises:
        TypeError: not a tensor of a supported dtype.
        ValueError: shapes differ; or, with `validate`, an invalid element.

    Example:
        >>> mu = torch.tensor([2.0, 2.0], dtype=torch.float64, requires_grad=True)
        >>> F = negative_binomial_cdf(torch.tensor([0, 1]), mu, torch.tensor(2.0, dtype=torch.float64))
        >>> [round(value, 12) for value in F.tolist()]
        [0.25, 0.5]
        >>> [round(value, 12) for value in torch.autograd.grad(F.sum(), mu)[0].tolist()]
        [-0.125, -0.1875]
    """
    cdf, _ = cdf_and_sf(*checked(y, mu, r, validate=validate))
    return cdf.to(checks.elementwise_dtype(mu, r))


def negative_binomial_sf(y: Tensor, mu: Tensor, r: Tensor, *, validate: bool = False) -> Tensor:
    """P(Y > y) = 1 - F, with its own relative accuracy where F rounds to 1.

    Arguments, shapes, dtypes, edges and errors are those of `negative_binomial_cdf`.

    Example:
        >>> y, one = torch.tensor([60.0]), torch.tensor([1e-3])
        >>> bool(negative_binomial_sf(y, one, one) > 0), negative_binomial_cdf(y, one, one).item()
        (True, 1.0)
    """
    _, sf = cdf_and_sf(*checked(y, mu, r, validate=validate))
    return sf.to(checks.elementwise_dtype(mu, r))


def negative_binomial_log_prob(y: Tensor, mu: Tensor, r: Tensor, *, validate: bool = False) -> Tensor:
    """Log P(Y = ⌊y⌋) = log[Γ(k+r)/(Γ(r) k!) · (r/(r+mu))^r · (mu/(r+mu))^k], k = ⌊y⌋, elementwise.

    Computed as deviances and Stirling errors: no log-gamma functions, whose differences lose the digits of
    large counts and dispersions. y is floored and has no gradient; r = inf is the Poisson law. Where the pmf
    is 0 (y < 0; mu = 0 < y) the value saturates at the lowest number of the result's dtype; the gradient is 0
    where y < 0, and +inf in mu at mu = 0 < y. y = ±inf gives -inf. NaN anywhere, mu < 0, mu = inf and r <= 0
    give NaN at that element. It is the element of `nll_loss` with the sign turned.

    Args:
        y: counts, any shape; floating or integer.
        mu: means, of the shape of y or 0-dim.
        r: dispersions, of the shape of y or 0-dim.
        validate: raise for invalid elements instead of returning NaN (waits for the device).

    Returns:
        The shape of y, the promoted dtype of mu and r; computed in float64.

    Raises:
        TypeError: not a tensor of a supported dtype.
        ValueError: shapes differ; or, with `validate`, an invalid element.

    Example:
        >>> mu = torch.tensor([2.0, 2.0], dtype=torch.float64, requires_grad=True)
        >>> r = torch.tensor(2.0, dtype=torch.float64)
        >>> log_p = negative_binomial_log_prob(torch.tensor([0, 3]), mu, r)
        >>> [round(value, 12) for value in log_p.exp().tolist()]
        [0.25, 0.125]
        >>> torch.autograd.grad(log_p.sum(), mu)[0].tolist()
        [-0.5, 0.25]
    """
    elements, finite = negative_log_masses(*checked(y, mu, r, validate=validate))
    return saturate(-elements, checks.elementwise_dtype(mu, r), finite)


def compute_numeric_cdf(dist: Distribution, x: Tensor) -> Tensor:
    """The CDF of a negative-binomial or Poisson distribution object at ⌊x⌋; torch itself has none.

    torch's `NegativeBinomial(total_count, probs)` counts successes of probability probs: its mean is
    total_count·probs/(1-probs). Differentiable in the object's parameters. total_count = 0, which torch
    allows, puts all mass on 0, without a gradient there. An object that was built from mean and dispersion
    (`torchimpl.distributions`) is asked for these, not for its probs.

    Args:
        dist: `torch.distributions.NegativeBinomial` or `Poisson`, of batch shape () or the shape of x.
        x: where to evaluate, any shape.

    Returns:
        The shape of x, the promoted dtype of the parameters.

    Raises:
        TypeError: any other distribution, or x is no tensor of a supported dtype.
        ValueError: the batch shape is neither () nor the shape of x.

    Example:
        >>> F = compute_numeric_cdf(NegativeBinomial(2.0, probs=torch.tensor(0.5)), torch.tensor([0.0, 1.5]))
        >>> [round(value, 6) for value in F.tolist()]
        [0.25, 0.5]
    """
    checks.require_tensor("x", x)
    if not isinstance(dist, (NegativeBinomial, Poisson)):
        raise TypeError(
            f"dist must be a torch.distributions NegativeBinomial or Poisson, got {type(dist).__name__}"
        )
    if dist.batch_shape not in (torch.Size(), x.shape):
        raise ValueError(
            f"dist must have batch shape () or that of x, got {tuple(dist.batch_shape)} and {tuple(x.shape)}"
        )
    mu, r, dtype = parameters_of(dist)
    cdf, _ = cdf_and_sf(x.to(torch.float64), mu, r)
    return cdf.to(dtype)


def parameters_of(dist: NegativeBinomial | Poisson) -> tuple[Tensor, Tensor, torch.dtype]:
    """Mean and dispersion of a distribution object in float64, on their graph, and the dtype of its results.

    Their shapes broadcast to the object's batch shape.
    """
    if isinstance(dist, Poisson):
        mu = dist.rate.to(torch.float64)
        return mu, torch.full_like(mu, torch.inf), checks.elementwise_dtype(dist.rate)
    kept = vars(dist).get("mean_and_dispersion")  # see torchimpl.distributions
    if kept is not None:
        mean, dispersion = kept
        return mean.to(torch.float64), dispersion.to(torch.float64), mean.dtype
    given = vars(dist)["_param"]  # probs or logits, whichever the object was built from
    r = dist.total_count.to(torch.float64)
    mu = (r * _odds(dist, given)).clamp(max=LARGEST)
    nothing = r == 0.0  # torch allows it
    mu, r = torch.where(nothing, 0.0, mu), torch.where(nothing, 1.0, r)
    return mu, r, checks.elementwise_dtype(dist.total_count, given)


def _odds(dist: NegativeBinomial, given: Tensor) -> Tensor:
    """probs/(1-probs), finite even at probs = 1, without the detour through clamped logits."""
    parameter = given.to(torch.float64)
    if given is vars(dist).get("probs"):
        return parameter / (1.0 - parameter).clamp(min=1.0 / LARGEST)
    return parameter.clamp(max=LARGEST_LOGIT).exp()


def checked(y: Tensor, mu: Tensor, r: Tensor, *, validate: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Check types and shapes; return float64 tensors, mu and r on their graph, 0-dim where they were.

    Raises:
        TypeError: not a tensor of a supported dtype.
        ValueError: shapes differ; or, with `validate`, an invalid element.
    """
    for name, value in (("y", y), ("mu", mu), ("r", r)):
        checks.require_tensor(name, value)
    for name, value in (("mu", mu), ("r", r)):
        if value.dim() > 0:
            checks.same_shape(name, value, "y", y)
    if validate:
        _require("y", y, y == y, "must not be NaN")  # noqa: PLR0124 - NaN is what differs from itself
        _require("mu", mu, (mu >= 0) & (mu < torch.inf), "must be finite and >= 0")
        _require("r", r, r > 0, "must be > 0")
    double = torch.float64
    return y.to(double), mu.to(double), r.to(double)


def _require(name: str, value: Tensor, valid: Tensor, rule: str) -> None:
    """Raise `ValueError` that names the first invalid element."""
    if bool(valid.all()):
        return
    first = [int(i) for i in (~valid).nonzero()[0]]
    position = f"[{', '.join(map(str, first))}]" if first else ""
    raise ValueError(f"{name} {rule}, got {name}{position} = {value[tuple(first)].item()}")


def cdf_and_sf(y: Tensor, mu: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """(F, 1-F) of float64 tensors, each with its own relative accuracy; mu and r may be 0-dim."""
    cdf, sf, _, _ = NegativeBinomialCDF.apply(y.detach(), mu.expand_as(y), r.expand_as(y))
    return cdf, sf


def negative_log_masses(y: Tensor, mu: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """-log pmf of float64 tensors, and where an infinity would not be the input's; mu and r may be 0-dim."""
    counts = y.detach()
    # all other input that is not finite gives NaN, or is the dispersion
    return negative_log_pmf(counts, mu, r), counts.abs() < torch.inf
