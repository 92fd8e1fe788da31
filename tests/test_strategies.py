"""Every family of the adversarial strategies really reaches the hazard it is named after."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st

from refimpl.conformance import batches, numeric_cdf
from refimpl.conformance.batch import Batch, leaves, map_tree, size
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS, Format, round_to
from tests.weak import Weakness, reached, weaknesses
from tests.weak import pairs as pairs_of_weak


def drawn(strategy: st.SearchStrategy[Batch], count: int = 12) -> list[Batch]:
    """The same `count` batches at every run."""
    seen: list[Batch] = []

    @seed(7)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def keep(batch: Batch) -> None:
        seen.append(batch)

    keep()
    return seen


def pair(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    first, second = list(batch.arguments.values())[:2]
    return first, second


def magnitudes(batch: Batch) -> np.ndarray:
    return np.abs(np.concatenate([np.ravel(array).astype(float) for array in pair(batch)]))


def nonzero_below(limit: float) -> Callable[[Batch], bool]:
    return lambda batch: bool(np.all((magnitudes(batch) > 0) & (magnitudes(batch) < limit)))


def close_rows(batch: Batch) -> bool:
    """The signal is thousands of times smaller than what both sides have in common."""
    values = magnitudes(batch)
    return bool(
        values.min() >= 2.0 ** (batch.form.digits - 4) - 4 and np.ptp(values) <= 8.0 + values.max() / 64
    )


def far(batch: Batch) -> bool:
    """No two rows of one side are near each other."""
    first = pair(batch)[0].reshape(len(pair(batch)[0]), -1)
    return all(abs(first[i] - first[j]).max() > 80 for i in range(len(first)) for j in range(i))


# what every batch of the family must show, for the pair strategies
ALWAYS: dict[str, Callable[[Batch], bool]] = {
    "zeros": lambda b: not pair(b)[0].any(),
    "identical replicates": lambda b: np.array_equal(*pair(b)),
    "ties": lambda b: np.unique(magnitudes(b)).size <= 3,
    "constant": lambda b: np.unique(pair(b)[0]).size <= 1,
    "one element": lambda b: pair(b)[0].size == 1,
    "empty batch": lambda b: pair(b)[0].shape[0] == 0,
    "common offset": close_rows,
    "integer targets": lambda b: pair(b)[1].dtype == np.int64,
    "far pairs": far,
    "real spectra": lambda b: pair(b)[0].shape[0] >= 2 and pair(b)[0].shape[1] >= 8,
    "real counts": lambda b: np.array_equal(pair(b)[0], np.floor(pair(b)[0])),
    "NaN at a counted position": lambda b: np.isfinite([side.ravel()[0] for side in pair(b)]).sum() == 1,
}  # fmt: skip


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("family", ALWAYS)
def test_pair_family_always_shows_its_hazard(family, dtype):
    strategy = batches.pair_batch(family, FORMATS[dtype], ("a", "b"), {})
    assert all(ALWAYS[family](batch) for batch in drawn(strategy))


@pytest.mark.parametrize("dtype", FORMATS)
def test_magnitude_families_lie_where_they_say(dtype):
    form = FORMATS[dtype]

    def batches_of(family):
        return drawn(batches.pair_batch(family, form, ("a", "b"), {}))

    assert all(magnitudes(b).min() >= form.max / 32 for b in batches_of("huge"))
    for b in batches_of("one huge row"):
        rows = np.abs(pair(b)[1]).reshape(len(pair(b)[1]), -1).max(axis=1)
        assert rows[-1] >= form.max / 32
        assert np.all(rows[:-1] <= 4.0)
    roots = [magnitudes(b) for b in batches_of("squares near overflow")]
    assert all(np.all(m < 2.0 * np.sqrt(form.max)) for m in roots)
    assert any(np.sum((m / form.max) * m) > 1.0 for m in roots)
    assert all(nonzero_below(2.0 ** (form.low + 8))(b) for b in batches_of("tiny"))
    assert all(nonzero_below(2.0**form.low)(b) for b in batches_of("subnormal"))
    ratios = [
        np.log2(m.max()) - np.log2(m.min())
        for b in batches_of("mixed magnitudes")
        if (m := magnitudes(b)).size > 6
    ]
    assert max(ratios) > (form.high - form.low) / 2
    tails = [m.max() / np.median(m) for b in batches_of("heavy tails") if (m := magnitudes(b)).size > 6]
    assert max(tails) > 8
    assert any(np.any(magnitudes(b) == round_to(65504.0, form)) for b in batches_of("half limits"))


@pytest.mark.parametrize(
    ("family", "shown"),
    {
        "empty mask": lambda b: not b.arguments["mask"].any(),
        "full mask": lambda b: b.arguments["mask"].all(),
        "NaN under the mask": lambda b: (
            np.all(np.isfinite(b.arguments["x"][b.arguments["mask"]])) and not b.arguments["mask"].all()
        ),
        "NaN at a counted position": lambda b: (
            np.isfinite([b.arguments[side][b.arguments["mask"]][0] for side in ("x_recon", "x")]).sum() == 1
        ),
        "real spectra": lambda b: 0.5 < b.arguments["mask"].mean() < 0.97,
    }.items(),
)
def test_mask_families(family, shown):
    assert all(shown(batch) for batch in drawn(batches.masked_batch(family, FORMATS["float32"])))


def test_something_non_finite_stands_under_the_mask():
    found = drawn(batches.masked_batch("NaN under the mask", FORMATS["float32"]))
    assert sum(not np.all(np.isfinite(batch.arguments["x_recon"])) for batch in found) > len(found) / 2


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    ("family", "shown"),
    {
        "zeros": lambda c: not c.y.any(),
        "mu = 0": lambda c: not c.mu.any(),
        "r to 0": lambda c: np.all((c.r > 0) & (c.r <= 2.0**-5)),
        "r to inf": lambda c: np.all((c.r >= 2.0**10) & (c.r < np.inf)),
        "r = inf": lambda c: np.all(c.r == np.inf),
        "one huge count": lambda c: c.y[0] >= 2048,
        "tiny": lambda c: np.all((c.mu > 0) & (c.mu < 2.0 ** (c.form.low + 8))),
        "subnormal": lambda c: np.all((c.mu > 0) & (c.mu < 2.0**c.form.low)),
        "infinite count": lambda c: np.isinf(c.y[0]),
        "NaN count": lambda c: np.isnan(c.y[0]),
        "integer counts": lambda c: c.y.dtype == np.int64,
        "one element": lambda c: c.y.size == 1,
        "empty batch": lambda c: c.y.size == 0,
        "real counts": lambda c: c.y.size >= 8 and np.array_equal(c.y, np.floor(c.y)),
    }.items(),
)
def test_count_families(family, shown, dtype):
    form = FORMATS[dtype]
    found = drawn(batches.count_batch(family, form))
    assert all(shown(SimpleNamespace(**batch.arguments, form=form)) for batch in found)


def test_some_count_families_reach_further():
    form = FORMATS["float32"]
    fractional = drawn(batches.count_batch("fractional counts", form))
    assert any(np.any(b.arguments["y"] != np.floor(b.arguments["y"])) for b in fractional)
    assert any(np.any(b.arguments["y"] < 0) for b in fractional)
    assert any(b.arguments["y"].max() > 1000 for b in drawn(batches.count_batch("heavy tails", form)))
    assert any(np.any(b.arguments["mu"] == 65504.0) for b in drawn(batches.count_batch("half limits", form)))


def test_replicate_families():
    form = FORMATS["float32"]
    for batch in drawn(batches.replicate_batch("column parameters", form, {})):
        outputs, reads = batch.arguments["model_outputs"], batch.arguments["batch"]
        assert outputs["r1"]["mu"].shape == (*reads["r1"]["reads"].shape, 1)
    for batch in drawn(batches.replicate_batch("identical replicates", form, {})):
        outputs, reads = batch.arguments["model_outputs"], batch.arguments["batch"]
        assert np.array_equal(outputs["r1"]["mu"], outputs["r2"]["mu"])
        assert np.array_equal(reads["r1"]["reads"], reads["r2"]["reads"])
    for batch in drawn(batches.composite_batch("weight zero", form)):
        assert batch.options["weights"][0] == 0.0
    zeros = drawn(batches.composite_batch("weight zero", form))
    assert any(not np.isfinite(batch.arguments["values"][0]) for batch in zeros)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_probabilities_have_exact_means(dtype):
    for batch in drawn(numeric_cdf.batch(numeric_cdf.BINOMIAL + "ordinary", FORMATS[dtype])):
        p = batch.arguments["parameters"]["probs"]
        assert np.all(p / (1 - p) == np.rint(p / (1 - p)))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_number_is_representable(name, dtype):
    form = FORMATS[dtype]
    for family in CATALOGUE[name].families:
        for batch in drawn(CATALOGUE[name].strategy(family, form), 2):
            for path, array in leaves(batch.arguments):
                if array.dtype == np.float64:
                    np.testing.assert_array_equal(array, round_to(array, form), err_msg=f"{family} {path}")
            assert size(batch) <= 1300


@pytest.mark.filterwarnings("ignore")  # what a weak implementation warns of is its own affair
@pytest.mark.parametrize("weakness", weaknesses(), ids=str)
def test_every_family_finds_a_weak_implementation_in_its_budget(weakness):
    report = reached(weakness, weakness.family)
    assert not report.ok
    beyond = max(cell.worst[0] for cell in report.cells) > 1.0
    structural = {"returns", "shape", "dtype", "graph", "nan", "finite"}
    assert beyond or structural & {violation.property for violation in report.violations}
    assert report.worst(weakness.loss).numbers <= (8 if "real" not in weakness.family else 300)


def test_every_family_of_the_catalogue_has_a_weak_implementation():
    families = {family for spec in CATALOGUE.values() for family in spec.families}
    assert {weakness.family for weakness in weaknesses()} == families


def test_a_careful_implementation_is_not_found_by_the_families():
    """What the weak versions are made of is right: the family finds the weakness, not the frame."""
    sound = Weakness("huge", "masked_mse", "float32", "nothing", pairs_of_weak.masked())
    for family in ("ordinary", "huge", "tiny", "empty mask", "NaN under the mask"):
        assert reached(sound, family).ok


def test_batches_shrink_to_a_handful_of_numbers():
    strategy = batches.pair_batch("ordinary", FORMATS["float32"], ("a", "b"), {})
    quiet = settings(database=None, deadline=None, derandomize=True, max_examples=200)
    smallest = find(strategy, lambda batch: bool(batch.arguments["a"].max(initial=-9) > 1), settings=quiet)
    assert size(smallest) <= 4


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"), [("float16", np.float16), ("float32", np.float32), ("float64", np.float64)]
)
def test_rounding_agrees_with_numpy(dtype, numpy_dtype):
    form: Format = FORMATS[dtype]
    rng = np.random.default_rng(0)
    exact = np.ldexp(rng.standard_normal(5000), rng.integers(form.low - form.digits - 2, form.high, 5000))
    np.testing.assert_array_equal(round_to(exact, form), exact.astype(numpy_dtype).astype(float))


def test_trees_keep_their_shape():
    tree = {"a": np.zeros(2), "b": {"c": np.ones(1)}}
    assert [path for path, _ in leaves(tree)] == ["a", "b.c"]
    assert map_tree(lambda path, array: (path, array.size), tree) == {"a": ("a", 2), "b": {"c": ("b.c", 1)}}
