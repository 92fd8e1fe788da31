"""`compute_numeric_cdf` takes a `torch.distributions` object: its batches, exact values and bounds.

The probabilities of the negative binomial are 1 - 2^-k, for which the mean r p / (1 - p) = r (2^k - 1)
is exact.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from refimpl.bounds.precision import Bound, Precision, gamma
from refimpl.conformance import batches
from refimpl.conformance.batch import Batch
from refimpl.conformance.formats import Format, round_to
from refimpl.conformance.oracles import oracle

__all__ = ["FAMILIES", "ORACLE", "batch", "bound", "gradient", "value"]

MODULE = "negative_binomial"
BINOMIAL = "negative binomial, "
FAMILIES = (
    "ordinary",
    "zeros",
    "heavy tails",
    "one huge count",
    "integer counts",
    "one element",
    "empty batch",
    "tiny",
    "real counts",
    BINOMIAL + "ordinary",
    BINOMIAL + "zeros",
    BINOMIAL + "one huge count",
)


@st.composite
def batch(draw: Any, family: str, form: Format) -> Batch:
    """`parameters` of a distribution ("rate", or "total_count" and "probs") and counts `y`, shapes (n,)."""
    hazard = family.removeprefix(BINOMIAL)
    whole: Batch = draw(batches.count_batch(hazard, form))
    y, mu = np.asarray(whole.arguments["y"]), np.asarray(whole.arguments["mu"])
    if hazard == family:
        return Batch(family, form, {"parameters": {"rate": np.maximum(mu, form.tiny)}, "y": y})
    powers = np.array([draw(st.integers(1, 5)) for _ in y], dtype=np.float64)
    total = np.maximum(round_to(np.rint(4.0 * mu) / 4.0, form), 0.25)
    return Batch(family, form, {"parameters": {"total_count": total, "probs": 1.0 - 2.0**-powers}, "y": y})


def _mean(parameters: Any) -> Any:
    return parameters["total_count"] * parameters["probs"] / (1.0 - parameters["probs"])


def value(parameters: Any, y: Any) -> Any:
    """The exact CDF."""
    if "rate" in parameters:
        return oracle(MODULE, "poisson_cdf")(y, parameters["rate"])
    return oracle(MODULE, "negative_binomial_cdf")(y, _mean(parameters), parameters["total_count"])


def gradient(parameters: Any, y: Any) -> tuple[Any, ...]:
    """Its derivative in the rate of a Poisson; a negative binomial's is held by `negative_binomial_cdf`."""
    if "rate" not in parameters:
        return ()
    (rate,) = oracle(MODULE, "poisson_cdf_gradient")(y, parameters["rate"])
    return ({"rate": rate},)


def bound(parameters: Any, y: Any, precision: Precision) -> Bound:
    """The CDF's bound; the mean of a negative binomial is made with three more roundings."""
    if "rate" in parameters:
        found = oracle(f"bounds.{MODULE}", "poisson_cdf")(y, parameters["rate"], precision=precision)
        rate = found.gradient[0] if isinstance(found.gradient, tuple) else found.gradient
        return Bound(found.value, ({"rate": rate},))
    mu, total = _mean(parameters), parameters["total_count"]
    found = oracle(f"bounds.{MODULE}", "negative_binomial_cdf")(y, mu, total, precision=precision)
    slope, _ = oracle(MODULE, "negative_binomial_cdf_gradient")(y, mu, total)
    return Bound(found.value + np.abs(slope) * mu * gamma(3, precision.work_roundoff), ())


ORACLE: dict[str, Any] = {"oracle": value, "oracle_gradient": gradient, "bounds": bound}
