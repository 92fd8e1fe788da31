"""CDF, survival function and log mass of the negative binomial with mean mu and size r."""

from typing import Any

import numpy as np

from tests.plain.common import Array, Long, check_shapes, checked, elementwise, gradient, long
from tests.plain.mass import slopes, surprise
from tests.plain.tails import Tails, tails


@np.errstate(all="ignore")
def negative_binomial_cdf(y: Any, mu: Any, r: Any, *, validate: bool = False) -> Array:
    """F(y) = P(Y <= y)."""
    arrays, found = _evaluated(y, mu, r, validate=validate)
    return elementwise(found.cdf.reshape(y.shape), *arrays[1:])


@np.errstate(all="ignore")
def negative_binomial_sf(y: Any, mu: Any, r: Any, *, validate: bool = False) -> Array:
    """S(y) = P(Y > y)."""
    arrays, found = _evaluated(y, mu, r, validate=validate)
    return elementwise(found.sf.reshape(y.shape), *arrays[1:])


@np.errstate(all="ignore")
def negative_binomial_cdf_gradient(
    y: Any, mu: Any, r: Any, *, validate: bool = False, cotangent: float = 1.0
) -> tuple[Array | None, Array | None]:
    """dF/dmu and dF/dr."""
    (_, mean, size), found = _evaluated(y, mu, r, validate=validate)
    return gradient(found.slope_mu, cotangent, mean), gradient(found.slope_r, cotangent, size)


def negative_binomial_sf_gradient(
    y: Any, mu: Any, r: Any, *, validate: bool = False, cotangent: float = 1.0
) -> tuple[Array | None, Array | None]:
    """The negative of that of F."""
    return negative_binomial_cdf_gradient(y, mu, r, validate=validate, cotangent=-cotangent)


@np.errstate(all="ignore")
def negative_binomial_log_prob(y: Any, mu: Any, r: Any, *, validate: bool = False) -> Array:
    """log P(Y = y)."""
    arrays = _arrays(y, mu, r, validate=validate)
    return elementwise(-surprise(*flat(*arrays)).reshape(arrays[0].shape), *arrays[1:])


@np.errstate(all="ignore")
def negative_binomial_log_prob_gradient(
    y: Any, mu: Any, r: Any, *, validate: bool = False, cotangent: float = 1.0
) -> tuple[Array | None, Array | None]:
    """The negative of the derivatives of -log P."""
    arrays = _arrays(y, mu, r, validate=validate)
    slope_mu, slope_r = slopes(*flat(*arrays))
    return gradient(slope_mu, -cotangent, arrays[1]), gradient(slope_r, -cotangent, arrays[2])


def check_values(prefix: str, y: Array, mu: Array, r: Array) -> None:
    """ValueError that names the first value outside the domain."""
    wrong = {
        "y": (y, np.isnan(y), "a number"),
        "mu": (mu, ~((mu >= 0) & np.isfinite(mu)), "finite and at least 0"),
        "r": (r, ~(r > 0), "positive"),
    }
    for name, (array, invalid, allowed) in wrong.items():
        for index in np.argwhere(invalid)[:1]:
            place = ", ".join(map(str, index))
            raise ValueError(f"{prefix}{name}[{place}] must be {allowed}, got {array[tuple(index)]}")


def _evaluated(y: Any, mu: Any, r: Any, *, validate: bool) -> tuple[tuple[Array, Array, Array], Tails]:
    arrays = _arrays(y, mu, r, validate=validate)
    return arrays, tails(*flat(*arrays))


def _arrays(y: Any, mu: Any, r: Any, *, validate: bool) -> tuple[Array, Array, Array]:
    arrays = checked("y", y), checked("mu", mu), checked("r", r)
    for name, array in zip(("mu", "r"), arrays[1:], strict=True):
        if array.ndim:
            check_shapes(y=arrays[0], **{name: array})
    if validate:
        check_values("", *arrays)
    return arrays


def flat(y: Array, mu: Array, r: Array) -> tuple[Long, Long, Long]:
    """All three in the shape of y, flattened."""
    return long(y).ravel(), *(long(np.broadcast_to(part, y.shape)).ravel() for part in (mu, r))
