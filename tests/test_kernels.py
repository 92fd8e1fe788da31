"""The kernels of the negative binomial's tails on one fixed grid, and their functions one by one."""

import functools
import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from refimpl import negative_binomial as oracles
from refimpl.bounds import negative_binomial as bounds
from refimpl.bounds.precision import precision
from tests.negative_binomial_grid import PLACES, grid, tensors, worst
from torchimpl.kernels import negative_binomial_constants as constants
from torchimpl.kernels import negative_binomial_cuda
from torchimpl.kernels import negative_binomial_ops as ops
from torchimpl.kernels.negative_binomial import FRACTION_TERMS, classify, evaluate
from torchimpl.kernels.negative_binomial_fraction import Coefficients, beyond
from torchimpl.kernels.negative_binomial_ops import NegativeBinomialCDF, batched, second_evaluator
from torchimpl.kernels.negative_binomial_regions import prefactor
from torchimpl.kernels.negative_binomial_second import STEP, second_partials

DATA = Path(__file__).parent / "data" / "negative_binomial_second.csv"
SCRIPTS = Path(__file__).parents[1] / "scripts"
U = 2.0**-53
DOUBLE = precision("float64")


@functools.cache
def first_order(place):
    """F, S, dF/dmu, dF/dr and their bounds."""
    arrays = PLACES[place]()
    cdf, sf, _, d_mu, d_r = oracles.negative_binomial_partials(*arrays)
    of_cdf, of_sf = (
        bound(*arrays, DOUBLE) for bound in (bounds.negative_binomial_cdf, bounds.negative_binomial_sf)
    )
    return (cdf, sf, d_mu, d_r), (of_cdf.value, of_sf.value, *of_cdf.gradient)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dense", [False, True])
def test_values_and_slopes(place, dense):
    found = evaluate(*tensors(PLACES[place]()), dense=dense)
    for index, (actual, exact, allowed) in enumerate(zip(found, *first_order(place), strict=True)):
        assert worst(actual, exact, allowed, overflows=index > 1) <= 1.0


@pytest.mark.parametrize("dense", [False, True])
def test_second_derivatives_in_closed_form(dense):
    arrays = grid()
    found = second_partials(*tensors(arrays), dense=dense)
    k, mu, r = (array.astype(np.longdouble) for array in arrays)
    (_, _, slope, _), (_, _, of_slope, _) = first_order("grid")
    # the score of the prefactor, which is k + 1 times the pmf at k + 1
    score = oracles.negative_binomial_log_pmf_gradient(arrays[0] + 1.0, *arrays[1:])[1]
    of_score = bounds.negative_binomial_log_pmf(arrays[0] + 1.0, *arrays[1:], DOUBLE).gradient[1]
    growth, decay = r / (r + mu) * (k - mu) / mu, 1.0 / (r + mu)
    change = (growth - decay).astype(np.float64)
    # growth comes with 6 roundings, decay with 2, their difference and the product with 1 each
    of_change = U * (6.0 * np.abs(growth) + 2.0 * decay).astype(np.float64) + 2.0 * U * np.abs(change)
    for actual, factor, of_factor in (
        (found[0], change, of_change),
        (found[1], score, of_score + U * np.abs(score)),
    ):
        allowed = of_slope * np.abs(factor) + (np.abs(slope) + of_slope) * of_factor + 8 * 2.0**-1074
        assert worst(actual, slope * factor, allowed) <= 1.0


@functools.cache
def differences():
    """Arguments, d²F/dr², and what exact differences make of it."""
    rows = [line.split(",") for line in DATA.read_text().splitlines()[3:]]
    *arrays, exact, difference = np.array([[float.fromhex(word) for word in row] for row in rows]).T
    return tuple(arrays), exact, difference


def small_tail_and_log_slope(k, mu, r):
    """T, G = d log T/d log r and their errors, relative and absolute."""
    cdf, sf, _, _, d_r = oracles.negative_binomial_partials(k, mu, r)
    of_cdf, of_sf = (
        bounds.negative_binomial_cdf(k, mu, r, DOUBLE),
        bounds.negative_binomial_sf(k, mu, r, DOUBLE),
    )
    upper = mu >= k + 1.0
    tail, of_tail = np.where(upper, cdf, sf), np.where(upper, of_cdf.value, of_sf.value)
    slope = np.where(upper, d_r, -d_r) * r / tail
    # the quotient and the product round once each
    return (
        tail,
        slope,
        of_tail / tail,
        of_cdf.gradient[1] * r / tail + np.abs(slope) * (of_tail / tail + 2 * U),
    )


@pytest.mark.parametrize("dense", [False, True])
def test_second_derivative_by_difference(dense):
    (k, mu, r), exact, difference = differences()
    (_, _, found) = second_partials(*tensors((k, mu, r)), dense=dense)
    tail, slope, of_tail, of_slope = small_tail_and_log_slope(k, mu, r)
    of_bend, bend = (
        np.zeros_like(r),
        difference * r * r / np.where(mu >= k + 1.0, tail, -tail) + slope - slope**2,
    )
    for offset, weight in ((1.0, 8.0), (-1.0, 8.0), (2.0, 1.0), (-2.0, 1.0)):
        moved = small_tail_and_log_slope(k, mu, r * math.exp(offset * STEP))
        # the moved r is rounded twice, which moves G by G' u
        of_bend += weight * (moved[3] + 2 * U * np.abs(bend)) / (12.0 * STEP)
    size = np.abs(bend) + np.abs(slope) + slope**2
    of_change = of_bend + of_slope * (1.0 + 2.0 * np.abs(slope)) + 8 * U * size
    rounding = tail / r**2 * (of_change + of_tail * size)
    assert worst(found, exact, np.abs(exact - difference) + rounding, overflows=True) <= 1.0


def test_the_step_of_the_difference_is_small_enough():
    (k, mu, r), exact, difference = differences()
    tail, slope, *_ = small_tail_and_log_slope(k, mu, r)
    # what the kernel promises: STEP^4/30 of the change of G over a change of O(1) in log r
    scale = tail / r**2 * (1.0 + np.abs(slope)) ** 2
    assert np.all(np.abs(exact - difference) <= STEP**4 * scale)


def loaded_script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_stored_second_derivatives_are_what_the_script_generates():
    script = loaded_script("make_second_derivatives")
    (k, mu, r), exact, difference = differences()
    assert script.STEP == STEP
    assert [*zip(k, mu, r, strict=True)] == list(script.POINTS)
    for index in range(0, len(k), 30):
        assert script.second(*script.POINTS[index]) == (exact[index], difference[index])


def test_second_derivative_without_counts():
    chosen = (grid()[0] == 0.0) & (first_order("grid")[0][0] > 0.0)
    arrays = tuple(column[chosen] for column in grid())
    mu, r = (column.astype(np.longdouble) for column in arrays[1:])
    (cdf, _, _, d_r), (of_cdf, _, _, of_d_r) = ([row[chosen] for row in part] for part in first_order("grid"))
    (_, _, found) = second_partials(*tensors(arrays), dense=False)
    share, bend = mu / (r + mu), d_r / cdf.astype(np.longdouble)
    exact = (cdf * (bend * bend + share * share / r)).astype(np.float64)
    of_bend = of_d_r + np.abs(d_r) * of_cdf / cdf
    # the squared bend twice; every other step rounds once: x = mu/s, two quotients, products, the sum
    allowed = 2.0 * np.abs(bend).astype(np.float64) * of_bend + exact * (of_cdf / cdf + 12 * U)
    assert worst(found, exact, allowed) <= 1.0


def test_the_loaded_constants_are_what_the_script_generates():
    generated = {}
    exec(loaded_script("make_constants").module_text(), generated)
    names = [name for name in generated if name.isupper()]
    assert names
    assert {name: getattr(constants, name) for name in names} == {name: generated[name] for name in names}


def in_fraction(last):
    """The arguments (b, mu, r) of the grid whose fraction has more than `last` terms."""
    k, mu, r = tensors(grid())
    b = k + 1.0
    mask = classify(k, mu, r)[3] & ((mu < b) | (b > last + 1.0))
    return tuple(column[mask] for column in (b, mu, r))


def assert_slopes(values, b, mu, r):
    """Values come with their derivatives in r over min(r, 1): those that forward differentiation finds.

    Half of the digits tell a formula from every other, beside the value over r: what its factors' slopes are.
    """
    results, slopes = zip(*values(b, mu, r), strict=True)
    _, exact = torch.func.jvp(
        lambda r: tuple(value for value, _ in values(b, mu, r)), (r,), (torch.ones_like(r),)
    )
    for value, slope, wanted in zip(results, slopes, exact, strict=True):
        size = (wanted.abs() + value.abs() / r) * r.clamp(max=1.0)
        assert bool(((slope - wanted * r.clamp(max=1.0)).abs() <= U**0.5 * size).all())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("m", [1, 2, 5, 10, 41])
def test_coefficients_come_with_their_own_slopes(m):
    def values(b, mu, r):
        coefficients = Coefficients(prefactor(b, mu, r), b, mu, r)
        term = coefficients.term(m, coefficients.pivot(m), coefficients.pivot(m + 1))
        numerator, denominator = (term.numerator, term.d_numerator), (term.denominator, term.d_denominator)
        return numerator, denominator, coefficients.first(coefficients.pivot(1))

    assert_slopes(values, *in_fraction(m))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("terms", FRACTION_TERMS)
def test_the_estimated_rest_comes_with_its_own_slope(terms):
    def values(b, mu, r):
        coefficients = Coefficients(prefactor(b, mu, r), b, mu, r)
        pivots = [coefficients.pivot(m) for m in range(terms, terms + 4)]
        three = (coefficients.term(terms + i, pivots[i], pivots[i + 1]) for i in range(3))
        return (beyond(*three),)

    assert_slopes(values, *in_fraction(terms + 2))


def test_the_estimated_rest_is_worth_two_digits():
    b, mu, r = in_fraction(60)
    coefficients = Coefficients(prefactor(b, mu, r), b, mu, r)
    terms = [coefficients.term(m, coefficients.pivot(m), coefficients.pivot(m + 1)) for m in range(8, 400)]
    exact = terms[-1].denominator
    for term, following in zip(terms[-2::-1], terms[:0:-1], strict=True):
        exact = term.denominator + following.numerator / exact
    estimated = (beyond(*terms[:3])[0] - exact).abs()
    alone = (terms[0].denominator + terms[1].numerator / terms[1].denominator - exact).abs()
    # where the rest converges at all within 400 terms and is more than rounding
    counts = alone > U**0.5 * exact.abs()
    assert int(counts.sum()) > 100
    assert float((estimated / alone)[counts].median()) <= 0.01


def test_the_rule_for_batches_puts_them_first():
    def three(*arguments):
        assert all(argument.shape == (4, 2) for argument in arguments)
        return tuple(argument + index for index, argument in enumerate(arguments))

    y, mu, r = torch.arange(8.0).view(4, 2), torch.arange(8.0).view(2, 4), torch.arange(2.0)
    found, dims = batched(three, 3)(SimpleNamespace(batch_size=4), (0, 1, None), y, mu, r)
    assert dims == (0, 0, 0)
    assert all(map(torch.equal, found, (y, mu.T + 1, r.expand(4, 2) + 2)))
    assert (
        batched(lambda *arguments: arguments[0], 1)(SimpleNamespace(batch_size=4), (0, 1, None), y, mu, r)[1]
        == 0
    )


@pytest.mark.parametrize(("index", "place"), [(1, 0), (2, 2)])
def test_second_derivative_in_one_parameter_alone(index, place):
    arguments = [torch.tensor([3.0], dtype=torch.float64) for _ in range(3)]
    leaf = arguments[index].requires_grad_()
    (slope,) = torch.autograd.grad(NegativeBinomialCDF.apply(*arguments)[0], leaf, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, leaf)
    expected = second_evaluator("cpu")(*(one.detach() for one in arguments))[place]
    assert curvature.item() == expected.item()


@pytest.mark.parametrize("dense", [False, True])
def test_second_derivatives_of_what_is_invalid_are_nan(dense):
    rows = ((1.0, 1.0, 0.0), (1.0, 1.0, -2.0), (1.0, -1.0, 1.0), (math.nan, 1.0, 1.0), (2.0, math.inf, 1.0))
    found = second_partials(
        *(torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True)), dense=dense
    )
    assert all(bool(value.isnan().all()) for value in found)


@pytest.mark.parametrize("dense", [False, True])
def test_second_derivatives_at_a_mean_of_zero(dense):
    # F = 1 - mu + (1 + 1/r) mu²/2 - ... at k = 0, 1 - (1 + 1/r) mu²/2 + ... at k = 1, and 1 + O(mu³) above
    rows = ((0.0, 0.0, 0.5), (1.0, 0.0, 0.25), (2.0, 0.0, 4.0), (0.0, 0.0, math.inf), (0.0, 2.0, math.inf))
    in_mu, in_both, in_r = second_partials(
        *(torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True)), dense=dense
    )
    assert in_mu[:4].tolist() == [3.0, -5.0, 0.0, 1.0]
    assert in_both.tolist() == in_r.tolist() == [0.0] * 5


@pytest.fixture
def _fresh_evaluators():
    ops.evaluator.cache_clear()
    yield
    ops.evaluator.cache_clear()


@pytest.mark.usefixtures("_fresh_evaluators")
@pytest.mark.parametrize("installed", [False, True])
def test_who_evaluates_on_cuda(installed, monkeypatch):
    monkeypatch.setattr(negative_binomial_cuda, "available", lambda: installed)
    found = ops.evaluator("cuda")
    if installed:
        assert found is negative_binomial_cuda.evaluate_cuda
    else:
        assert (found.func, found.keywords) == (evaluate, {"dense": True})


def test_who_evaluates_on_other_devices():
    found = ops.evaluator("mps")
    # every region for every element: no shape that depends on data
    assert (found.func, found.keywords) == (evaluate, {"dense": True})
