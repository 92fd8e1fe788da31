"""Whole calls: the arrays of `strategies`, put together into the arguments of each loss."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refimpl.conformance import real
from refimpl.conformance.batch import Array, Batch, Tree
from refimpl.conformance.formats import Format, round_to
from refimpl.conformance.strategies import few, masks, pairs, shapes, spread, uniform

__all__ = [
    "COUNT_FAMILIES",
    "composite_batch",
    "count_batch",
    "masked_batch",
    "pair_batch",
    "replicate_batch",
    "residual_batch",
]

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]
Counts: TypeAlias = tuple[Array, Array, Array]


@st.composite
def _poisoned(draw: Draw, a: Array, b: Array) -> tuple[Array, Array]:
    """NaN or inf in the first place of one side."""
    sides = [a.copy(), b.copy()]
    sides[draw(st.integers(0, 1))].flat[0] = draw(st.sampled_from([np.nan, np.inf]))
    return sides[0], sides[1]


@st.composite
def masked_batch(draw: Draw, family: str, form: Format) -> Batch:
    """`x_recon, x, mask` and a reduction; "NaN under the mask" puts NaN and inf at visible places."""
    options = {"reduction": draw(st.sampled_from(["mean", "batch_mean", "sum", "none"]))}
    if family == "real spectra":
        row, columns, seed = draw(st.integers(0, 28)), draw(st.integers(16, 200)), draw(st.integers(0, 2**31))
        x_recon, x, mask = real.masked_spectra(form, row, columns, seed)
        return Batch(family, form, {"x_recon": x_recon, "x": x, "mask": mask}, options)
    shape = draw(shapes(family))
    x_recon, x = draw(pairs(family, form, shape))
    mask = draw(masks(family, shape))
    if family == "NaN under the mask":
        poison = draw(few(form, shape, (np.nan, np.inf, -np.inf, form.max)))
        x_recon = np.where(mask, x_recon, poison)
        x = np.where(mask, x, poison[::-1])
    if family == "NaN at a counted position" and mask.size:
        mask.flat[0] = True
        x_recon, x = draw(_poisoned(x_recon, x))
    return Batch(family, form, {"x_recon": x_recon, "x": x, "mask": mask}, options)


@st.composite
def pair_batch(
    draw: Draw, family: str, form: Format, names: tuple[str, str], options: Mapping[str, tuple[Any, ...]]
) -> Batch:
    """Two arrays of one shape, (B,) or (B, L), and one value for every option.

    Args:
        draw: given by Hypothesis.
        family: the hazard.
        form: the format under test.
        names: what the loss calls the two arrays.
        options: the values to choose from for every keyword of the loss.
    """
    chosen = {name: draw(st.sampled_from(values)) for name, values in options.items()}
    if family == "real spectra":
        a, b = real.replicate_spectra(form, 2 * draw(st.integers(0, 16)), draw(st.integers(8, 200)))
    elif family == "real counts":
        a, b, _ = real.replicate_counts(form, draw(st.integers(0, 24000)), draw(st.integers(8, 60)))
    else:
        a, b = draw(pairs(family, form, draw(shapes(family, draw(st.integers(1, 2))))))
        if family == "NaN at a counted position" and a.size:
            a, b = draw(_poisoned(a, b))
    return Batch(family, form, {names[0]: a, names[1]: b}, chosen)


def _positive(form: Format, count: int, low: int, high: int) -> st.SearchStrategy[Any]:
    return spread(form, (count,), max(low, form.low), min(high, form.high - 1)).map(np.abs)


def _integers(form: Format, count: int, largest: int) -> st.SearchStrategy[Any]:
    numbers = hnp.arrays(np.int64, (count,), elements=st.integers(0, largest), fill=st.nothing())
    return numbers.map(lambda n: np.floor(round_to(n, form)))


def _counts(draw: Draw, family: str, form: Format, count: int) -> Counts:
    """Counts, means and dispersions that reach a hazard of the negative binomial."""
    y = draw(_integers(form, count, 30))
    mu, r = draw(_positive(form, count, -2, 4)), draw(_positive(form, count, -2, 4))
    match family:
        case "zeros":
            y = np.zeros(count)
        case "mu = 0":
            y, mu = np.minimum(y, 3.0), np.zeros(count)
        case "r to 0":
            r = draw(_positive(form, count, -40, -6))
        case "r to inf":
            r = draw(_positive(form, count, 10, 60))
        case "r = inf":
            r = np.full(count, np.inf)
        case "one huge count":
            y[:1] = draw(few(form, (1,), (5e4, 1e4, 2048.0)))
        case "heavy tails":
            y = draw(_integers(form, count, 4000))
            mu, r = draw(_positive(form, count, -10, 11)), draw(_positive(form, count, -10, 11))
        case "tiny":
            mu = draw(_positive(form, count, form.low, form.low + 6))
        case "subnormal":
            mu = np.abs(draw(spread(form, (count,), form.low - form.digits + 1, form.low - 1)))
        case "half limits":
            y = draw(few(form, (count,), (0.0, 1.0, 2048.0, 60000.0)))
            mu = draw(few(form, (count,), (65504.0, 2048.0, 1.0, 2.0**-14)))
            r = draw(few(form, (count,), (65504.0, 1.0, 2.0**-10)))
        case "fractional counts":
            y = draw(uniform(form, (count,), 12.0))
        case "infinite count":
            y[:1] = np.inf
        case "NaN count":
            y[:1] = np.nan
        case "integer counts":
            y = y.astype(np.int64)
    return y, mu, r


COUNT_FAMILIES = (
    "ordinary",
    "zeros",
    "mu = 0",
    "r to 0",
    "r to inf",
    "r = inf",
    "one huge count",
    "heavy tails",
    "tiny",
    "subnormal",
    "half limits",
    "integer counts",
    "one element",
    "empty batch",
    "real counts",
)


@st.composite
def count_batch(draw: Draw, family: str, form: Format) -> Batch:
    """`y, mu, r` of shape (n,)."""
    if family == "real counts":
        y, _, mu = real.replicate_counts(form, draw(st.integers(0, 24000)), draw(st.integers(8, 40)))
        r = np.full(mu.shape, float(draw(few(form, (), (0.5, 0.03, 4.0)))))
    else:
        (count,) = draw(shapes(family, 1))
        y, mu, r = _counts(draw, family, form, count)
    return Batch(family, form, {"y": y, "mu": mu, "r": r}, {})


@st.composite
def replicate_batch(
    draw: Draw,
    family: str,
    form: Format,
    options: Mapping[str, tuple[Any, ...]],
    names: tuple[str, ...] = ("model_outputs", "batch"),
    *,
    counted: bool = True,
) -> Batch:
    """Both replicates as nested dicts.

    Args:
        draw: given by Hypothesis.
        family: the hazard; "column parameters" makes mu and r of shape (B, 1).
        form: the format under test.
        options: the values to choose from for every keyword of the loss.
        names: ("model_outputs", "batch") for a dict wrapper, else the names of the four arguments
            (parameters of r1, of r2, counts of r1, of r2).
        counted: whether reads are counts and mu a mean; False draws any real numbers (residual losses).
    """
    chosen = {name: draw(st.sampled_from(values)) for name, values in options.items()}
    if family == "real counts":
        start, count = draw(st.integers(0, 24000)), draw(st.integers(8, 40))
        y1, y2, mean = real.replicate_counts(form, start, count)
        r = np.full(mean.shape, float(draw(few(form, (), (0.5, 0.03, 4.0)))))
        first, second = (y1, mean, r), (y2, mean, r)
    else:
        (count,) = draw(shapes(family, 1))
        first, second = _counts(draw, family, form, count), _counts(draw, family, form, count)
        if family == "identical replicates":
            second = first
        if not counted and family != "integer counts":
            (y1, m1), (y2, m2) = (draw(pairs(family, form, (count,))) for _ in range(2))
            first, second = (y1, m1, first[2]), (y2, m2, second[2])
    if family == "column parameters":
        first, second = ((y, mu[:, None], r[:, None]) for y, mu, r in (first, second))
    parameters: list[Tree] = [{"mu": mu, "r": r} for _, mu, r in (first, second)]
    if len(names) == 4:
        arguments = dict(zip(names, [*parameters, first[0], second[0]], strict=True))
        return Batch(family, form, arguments, chosen)
    scale = np.asarray(float(draw(few(form, (), (1.0, 0.5, 1.7, 2.0**-6)))))
    reads: dict[str, Tree] = {
        "r1": {"reads": first[0]},
        "r2": {"reads": second[0]},
        "metadata": {"sd_ratio": scale},
    }
    outputs: dict[str, Tree] = {"r1": parameters[0], "r2": parameters[1]}
    return Batch(family, form, {"model_outputs": outputs, "batch": reads}, chosen)


@st.composite
def residual_batch(draw: Draw, family: str, form: Format) -> Batch:
    """Counts and means of both replicates and the 0-dim ratio of their standard deviations."""
    whole = draw(replicate_batch(family, form, {"reduction": ("mean", "sum", "none")}, counted=False))
    outputs: Any = whole.arguments["model_outputs"]
    reads: Any = whole.arguments["batch"]
    arguments: dict[str, Tree] = {
        "y_r1": reads["r1"]["reads"],
        "mu_tech_r1": outputs["r1"]["mu"],
        "y_r2": reads["r2"]["reads"],
        "mu_tech_r2": outputs["r2"]["mu"],
        "sd_ratio_r1_to_r2": reads["metadata"]["sd_ratio"],
    }
    return Batch(family, form, arguments, whole.options)


@st.composite
def composite_batch(draw: Draw, family: str, form: Format) -> Batch:
    """Component values (K,) and their weights; "weight zero" switches an infinite component off."""
    values, _ = draw(pairs(family, form, (draw(st.integers(1, 5)),)))
    weights = [draw(st.sampled_from([1.0, 0.1, 2.5, 1e-3, -0.5])) for _ in values]
    if family == "weight zero":
        weights[0] = 0.0
        values[0] = draw(st.sampled_from([np.inf, np.nan, 1.0]))
    return Batch(family, form, {"values": values}, {"weights": weights})
