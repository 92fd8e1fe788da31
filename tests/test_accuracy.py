"""The negative-binomial CDF against Arb balls at fresh points: a small version of `make accuracy`.

The promises are those of scripts/accuracy_study/promises.py; docs/accuracy.md says how the truth is proven.
"""

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from flint import arb, ctx, fmpq

from scripts.accuracy_study import measure, ours, peers, runs, tables
from scripts.accuracy_study.points import SETS, Points, drawn
from scripts.accuracy_study.promises import PROMISES, Errors, broken, found
from scripts.accuracy_study.truth import by_beta, by_gauss, by_sum, route, truth

SIZE, SEED = 150, 11
FORM_SETS = [(form, name) for form in ("float64", "float32") for name in runs.FORM_SETS[form]]
ROUTES = [
    # k, mu, r: every pair of routes that reaches the point
    (45.0, 38.0, 60.0, by_gauss),
    (45.0, 60.0, 60.0, by_gauss),
    (60.0, 20.0, 90.0, by_gauss),
    (90.0, 60.0, 0.3, by_beta),
    (40.0, 90.0, 5.5, by_beta),
    (3.0, 2.0, 1.5, by_sum),
]


@pytest.fixture(scope="module")
def cases():
    chosen = {}
    for form, name in FORM_SETS:
        # thousands of bits at some of the extreme points
        points = runs.rounded(drawn(name, SIZE // 5 if name == "extreme" else SIZE, SEED), form)
        chosen[form, name] = runs.case(points, form)
    return chosen


def study_of(cases, results=None):
    results = results or {key: one.found for key, one in cases.items()}
    return {
        key: Errors(measure.errors(results[key], one.true, runs.FORMS[key[0]]), one.region)
        for key, one in cases.items()
    }


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: f"{promise.form} {promise.text}")
def test_the_promise_holds(cases, promise):
    assert found(promise, study_of(cases)) <= promise.limit


def test_no_result_is_nan_or_outside_its_range(cases):
    for one in cases.values():
        for name in ("cdf", "sf"):
            assert ((one.found[name] >= 0.0) & (one.found[name] <= 1.0)).all()
        for values in one.found.values():
            assert not np.isnan(values).any()


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: f"{promise.form} {promise.text}")
def test_every_promise_can_be_broken(cases, promise):
    """Results off by twice what is allowed, in the unit of this very promise, are noticed."""
    eps = torch.finfo(runs.FORMS[promise.form]).eps
    source = {"F": "cdf", "F ulp": "cdf", "S ulp": "sf", "d_mu": "d_mu", "d_r": "d_r", "rounded": "cdf"}
    results = {}
    for key, one in cases.items():
        spoiled, true = dict(one.found), one.true
        if "tail" in promise.column:
            low = true["cdf"].high <= true["sf"].high
            size = np.maximum(true["condition"].high, 1.0)
            size = size + 750.0 if promise.column == "deep tail" else size
            step = 2.0 * promise.limit * eps * true["tail"].high * size
            spoiled["cdf"] = np.where(low, true["cdf"].high + step, spoiled["cdf"])
            spoiled["sf"] = np.where(low, spoiled["sf"], true["sf"].high + step)
        else:
            name = source[promise.column]
            size = np.maximum(np.abs(true[name].high), true["scale_r"].high if name == "d_r" else 0.0)
            size = 1.0 if promise.column == "F" else size
            spoiled[name] = true[name].high + 4.0 * promise.limit * eps * size
        results[key] = spoiled
    study = study_of(cases, results)
    assert found(promise, study) > promise.limit
    assert any(promise.text in sentence for sentence in broken(study))


def test_the_values_of_scipy_break_promises(cases):
    results = {key: dict(one.found) for key, one in cases.items()}
    for key, one in cases.items():
        with np.errstate(all="ignore"):
            theirs = peers.scipy_special(*one.points)
        results[key] |= {name: theirs[name] for name in ("cdf", "sf")}
    sentences = " ".join(broken(study_of(cases, results)))
    assert "F, eps is" in sentences
    assert "F, ulp is" in sentences
    assert "outside the series is" in sentences


@pytest.mark.parametrize(("k", "mu", "r", "way"), ROUTES)
def test_the_routes_agree(k, mu, r, way):
    assert route(k, mu, r) is way
    others = [by_sum(k, mu, r, 700), by_beta(k, mu, r, 340), way(k, mu, r, 340)]
    for balls in zip(*others, strict=True):
        assert all(ball.overlaps(other) for ball in balls for other in balls)
        assert min(ball.rel_accuracy_bits() for ball in balls) > 150


@pytest.mark.parametrize("name", ["realistic", "wide"])
def test_the_truth_is_a_sum_of_exact_probabilities(name):
    """With p_0 apart, every p_j and its derivative in r is a rational number: no route is shared."""
    points = drawn(name, 40, SEED + 1)
    kept = (points.k <= 120) & (points.k > 0)
    assert kept.sum() >= 10
    for k, mu, r in zip(*(column[kept].tolist() for column in points), strict=True):
        cumulative, slope = exact_sum(int(k), mu, r)
        true = truth(k, mu, r)
        assert true.cdf.overlaps(cumulative)
        assert true.d_r.overlaps(slope)
        assert cumulative.rel_accuracy_bits() > 150


def exact_sum(k, mu, r):
    """F and dF/dr: rational sums times p_0 = (r/(r+mu))^r, at 800 bits."""
    ctx.prec = 800
    mean, size = Fraction(mu), Fraction(r)
    y = mean / (size + mean)
    ratio, harmonic, total, weighted = arb(1), arb(0), arb(0), arb(0)
    zero = size / (size + mean)
    exact = lambda value: arb(fmpq(value.numerator, value.denominator))  # noqa: E731
    # d log p_j/dr = log(r/(r+mu)) + mu/(r+mu) + sum_{i<j} 1/(r+i) - j/(r+mu)
    for j in range(k + 1):
        total += ratio
        weighted += ratio * (harmonic - exact(Fraction(j) / (size + mean)))
        ratio *= exact(y * (size + j) / (j + 1))
        harmonic += exact(1 / (size + j))
    p_zero = (exact(size) * exact(zero).log()).exp()
    return p_zero * total, p_zero * (weighted + total * (exact(zero).log() + exact(y)))


def test_points_are_fresh_and_repeatable():
    for name in SETS:
        first, again, other = drawn(name, 20, 0), drawn(name, 20, 0), drawn(name, 20, 1)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not np.array_equal(first.mu, other.mu)
        assert (first.k == np.floor(first.k)).all()
        assert ((first.mu > 0.0) & (first.r > 0.0)).all()


def test_a_pair_holds_106_bits():
    ctx.prec = 400
    value = arb(1) / 3
    held = measure.pair([value, arb(0)])
    rest = value - arb(float(held.high[0])) - arb(float(held.low[0]))
    assert abs(rest) < arb(2) ** -105
    assert measure.off(np.array([1 / 3, math.nan]), held)[1] == math.inf


def test_a_peer_answers_in_its_own_process():
    points = Points(np.array([1.0]), np.array([2.0]), np.array([3.0]))
    theirs = runs.peer("scipy.special", {"one": points}, np.float64, sys.executable)
    assert theirs.version
    assert abs(theirs.found["one"]["cdf"][0] - ours.evaluate(points)["cdf"][0]) < 1e-12


def test_a_missing_peer_says_why(monkeypatch, tmp_path):
    def absent(*_arguments):
        raise ImportError("no module of that name")

    monkeypatch.setitem(peers.PEERS, "absent", ("absent", absent))
    source, target = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(source, k=np.ones(1), mu=np.ones(1), r=np.ones(1))
    peers.main("absent", str(source), str(target))
    with np.load(target) as said:
        assert str(said["missing"]) == "ImportError: no module of that name"


def test_numbers_of_the_table():
    assert [tables.number(value) for value in (0.0, 0.25, 12.34, 123.4, 1234.0, 1e-5, math.inf)] == [
        "0",
        "0.25",
        "12",
        "123",
        "1.2e3",
        "1.0e-5",
        "inf",
    ]
