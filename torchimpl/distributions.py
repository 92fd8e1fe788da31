"""The negative binomial as a `torch.distributions` object: by mean and dispersion, and with a CDF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints
from torch.distributions import NegativeBinomial as TorchNegativeBinomial
from torch.distributions.utils import broadcast_all, lazy_property, logits_to_probs, probs_to_logits

from torchimpl import checks
from torchimpl.negative_binomial import cdf_and_sf, negative_log_masses, parameters_of
from torchimpl.saturate import saturate

Number: TypeAlias = Tensor | float
BY_MEAN = {
    "mean": constraints.half_open_interval(0.0, torch.inf),
    "dispersion": constraints.positive,
}


class NegativeBinomial(TorchNegativeBinomial):
    """`torch.distributions.NegativeBinomial` with mean and dispersion, a CDF and an exact log pmf.

    The variance is mean + mean²/dispersion; dispersion = inf is the Poisson law. It takes torch's own
    parameters as well, with torch's meaning: probs = mean/(mean + dispersion), total_count = dispersion.
    Exactly one of probs, logits and mean is given.

    Mean and dispersion are kept: nothing is recovered from probs, so that a dispersion of 1e12 keeps its
    digits, and gradients reach both exactly. What torch can do with its own distribution it can do with this
    one: broadcasting, `expand`, `Independent`, `MixtureSameFamily` (with its `cdf`), pickling. `rsample` and
    a KL divergence are absent, as there.

    Args:
        total_count: torch's name of the dispersion, beside probs or logits.
        probs: probability of the counted event.
        logits: its log-odds, log(mean/dispersion).
        validate_args: check the parameters now and every value later; by default as torch is set.
        mean: mean, >= 0; a tensor or a number.
        dispersion: dispersion (size, inverse overdispersion), > 0, beside mean; broadcasts against it.

    Attributes:
        mu: the mean, of the batch shape.
        dispersion: the dispersion, of the batch shape.

    Raises:
        ValueError: not exactly one of probs, logits and mean, or not its partner; with `validate_args`,
            a parameter outside its range.

    Example:
        >>> dist = NegativeBinomial(mean=torch.tensor([2.0, 3.0]), dispersion=torch.inf)
        >>> dist.variance
        tensor([2., 3.])
        >>> [round(value, 6) for value in dist.log_prob(torch.tensor(0.0)).tolist()]
        [-2.0, -3.0]
        >>> [round(value, 6) for value in NegativeBinomial(2.0, probs=0.5).cdf(torch.arange(3)).tolist()]
        [0.25, 0.5, 0.6875]
    """

    arg_constraints = {**TorchNegativeBinomial.arg_constraints, **BY_MEAN}  # noqa: RUF012 - as in torch

    def __init__(
        self,
        total_count: Number | None = None,
        probs: Number | None = None,
        logits: Number | None = None,
        validate_args: bool | None = None,
        *,
        mean: Number | None = None,
        dispersion: Number | None = None,
    ) -> None:
        _require_one(total_count, probs, logits, mean, dispersion)
        self.mean_and_dispersion: tuple[Tensor, Tensor] | None = None  # as given, not broadcast
        if mean is None or dispersion is None:
            self.arg_constraints = TorchNegativeBinomial.arg_constraints
            torchs: dict[str, Any] = {"total_count": total_count, "probs": probs, "logits": logits}
            super().__init__(**torchs, validate_args=validate_args)
            return
        self.mean_and_dispersion = _tensors(mean, dispersion)
        batch_shape = torch.broadcast_shapes(*(part.shape for part in self.mean_and_dispersion))
        self._spread(self.mean_and_dispersion, batch_shape)
        Distribution.__init__(self, batch_shape, validate_args=validate_args)

    def _spread(self, mean_and_dispersion: tuple[Tensor, Tensor], batch_shape: torch.Size) -> None:
        """Set what torch's methods read, for an object of mean and dispersion."""
        self.arg_constraints = BY_MEAN
        self._param, self.total_count = (part.expand(batch_shape) for part in mean_and_dispersion)

    def expand(
        self, batch_shape: Sequence[int], _instance: NegativeBinomial | None = None
    ) -> NegativeBinomial:
        """The same parameters for a larger batch shape."""
        new: NegativeBinomial = self._get_checked_instance(NegativeBinomial, _instance)
        new.mean_and_dispersion = self.mean_and_dispersion
        if self.mean_and_dispersion is None:
            new.arg_constraints = self.arg_constraints
            super().expand(batch_shape, new)
            return new
        shape = torch.Size(batch_shape)
        new._spread(self.mean_and_dispersion, shape)
        Distribution.__init__(new, shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        """Return the parameters, or their shapes."""
        if self.mean_and_dispersion is None:
            return super().__repr__()
        shown = (part if part.numel() == 1 else part.size() for part in self.mean_and_dispersion)
        return "{}(mean: {}, dispersion: {})".format(type(self).__name__, *shown)

    @property
    def mu(self) -> Tensor:
        """The mean."""
        return self.mean

    @property
    def dispersion(self) -> Tensor:
        """The dispersion: `total_count`, under the name that says what it does."""
        return self.total_count

    @property
    def mean(self) -> Tensor:
        """The mean, as it was given."""
        return super().mean if self.mean_and_dispersion is None else self._param

    @property
    def variance(self) -> Tensor:
        """Mean + mean²/dispersion."""
        if self.mean_and_dispersion is None:
            return super().variance
        return self.mean + self.mean * (self.mean / self.dispersion)

    @property
    def mode(self) -> Tensor:
        """The most probable count; the larger one of two."""
        if self.mean_and_dispersion is None:
            return super().mode
        mu, r = (part.double() for part in (self.mean, self.dispersion))
        return (mu - mu / r).floor().clamp(min=0.0).to(self._param.dtype)

    @lazy_property
    def logits(self) -> Tensor:
        """Log-odds of the counted event."""
        if self.mean_and_dispersion is None:
            return probs_to_logits(self.probs, is_binary=True)
        return torch.log(self.mean) - torch.log(self.dispersion)

    @lazy_property
    def probs(self) -> Tensor:
        """Probability of the counted event."""
        if self.mean_and_dispersion is None:
            return logits_to_probs(self.logits, is_binary=True)
        return self.mean / (self.mean + self.dispersion)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log pmf at ⌊value⌋: `negative_binomial_log_prob`, and finite like that where the pmf is 0.

        Args:
            value: counts, broadcast against the batch shape.

        Returns:
            The broadcast shape, the dtype of the parameters.

        Raises:
            ValueError: with `validate_args`, a value that is no count or does not broadcast.
        """
        if self._validate_args:
            self._validate_sample(value)
        elements, finite = negative_log_masses(*self._aligned(value))
        return saturate(-elements, self._param.dtype, finite)

    def cdf(self, value: Tensor) -> Tensor:
        """P(Y <= value): `torchimpl.negative_binomial_cdf`, for any real value.

        Args:
            value: where to evaluate, broadcast against the batch shape.

        Returns:
            The broadcast shape, the dtype of the parameters.

        Raises:
            ValueError: with `validate_args`, a value that is NaN, no tensor or does not broadcast.
        """
        cdf, _ = self._tails(value)
        return cdf

    def survival_function(self, value: Tensor) -> Tensor:
        """P(Y > value) with its own relative accuracy; arguments, result and errors as `cdf`.

        Example:
            >>> dist = NegativeBinomial(mean=1e-3, dispersion=1.0)
            >>> bool(dist.survival_function(torch.tensor(9.0)) > 0), (1 - dist.cdf(torch.tensor(9.0))).item()
            (True, 0.0)
        """
        _, survival = self._tails(value)
        return survival

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._validate_args:
            # the function is defined between the counts, too: only NaN leaves its domain
            numbers = isinstance(value, Tensor)
            self._validate_sample(torch.where(value.isnan(), value, 0) if numbers else value)
        cdf, survival = cdf_and_sf(*self._aligned(value))
        return cdf.to(self._param.dtype), survival.to(self._param.dtype)

    def _aligned(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, mean and dispersion in float64 and of one shape; gradients are summed in float64, too."""
        mu, r, _ = parameters_of(self)
        y = torch.as_tensor(value, device=mu.device).to(torch.float64)
        shape = torch.broadcast_shapes(y.shape, self.batch_shape)
        return y.expand(shape), mu.expand(shape), r.expand(shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw counts: Poisson of a gamma-distributed rate, or of the mean where the dispersion is infinite.

        Args:
            sample_shape: goes before the batch shape.
        """
        if self.mean_and_dispersion is None:
            drawn: Tensor = super().sample(torch.Size(sample_shape))
            return drawn
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            mu, r = (part.double().expand(shape) for part in (self.mean, self.dispersion))
            is_poisson = r == torch.inf
            gamma = Gamma(torch.where(is_poisson, 1.0, r), 1.0, validate_args=False).sample()
            # the smallest normal number stands for all below it
            gamma = torch.where(gamma > torch.finfo(gamma.dtype).tiny, gamma, 0.0)
            rate = torch.where(is_poisson, mu, gamma / r * mu)
            return torch.poisson(rate).to(self._param.dtype)


def _require_one(total_count: Any, probs: Any, logits: Any, mean: Any, dispersion: Any) -> None:
    """Refuse anything but (total_count, probs), (total_count, logits) or (mean, dispersion).

    Raises:
        ValueError: the message names what is missing or too much.
    """
    given = {"probs": probs, "logits": logits, "mean": mean}
    names = [name for name, part in given.items() if part is not None]
    if len(names) != 1:
        raise ValueError(f"exactly one of probs, logits and mean must be given, got {names or 'none'}")
    partners = {"total_count": total_count, "dispersion": dispersion}
    wanted, other = ("dispersion", "total_count") if names == ["mean"] else ("total_count", "dispersion")
    if partners[wanted] is None:
        raise ValueError(f"{names[0]} needs {wanted} beside it")
    if partners[other] is not None:
        raise ValueError(f"{names[0]} goes with {wanted}, not with {other}")


def _tensors(mean: Number, dispersion: Number) -> tuple[Tensor, Tensor]:
    """Both as tensors of one floating dtype on one device, not broadcast."""
    full = broadcast_all(mean, dispersion)  # torch's own refusals
    dtype = checks.elementwise_dtype(*(part for part in (mean, dispersion) if isinstance(part, Tensor)))
    device = full[0].device
    return (
        torch.as_tensor(mean, dtype=dtype, device=device),
        torch.as_tensor(dispersion, dtype=dtype, device=device),
    )
