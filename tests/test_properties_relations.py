"""Relations between calls: the declarations hold for the exact values, and each question finds its fault."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import torchimpl
from refimpl.bounds.precision import precision
from refimpl.conformance import verify
from refimpl.conformance.adapters import get_adapter
from refimpl.conformance.batch import leaves, size
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.invariances.arrays import arrays, grown, rows
from refimpl.conformance.invariances.exact import shift
from refimpl.conformance.invariances.merge import concatenation, duplication
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.properties.base import Probe
from refimpl.conformance.properties.blocks import drawn
from refimpl.conformance.properties.exhaustive import exhaustive, finite_numbers, swept
from refimpl.conformance.properties.judge import Truth, by_path, truth
from refimpl.conformance.properties.relations import NAMES, Known, broken, chance, own
from refimpl.conformance.spec import Changed, Invariance
from refimpl.conformance.target import Subject, Target

RELATED = [(name, form) for name, spec in CATALOGUE.items() for form in spec.dtypes]


def subject(made, name, spec=None):
    return Subject(Target(made), spec or CATALOGUE[name], get_adapter("torch"))


# --- the declarations


def exactly(about, batch):
    """The oracle as the target: off by its own last place, and by what it says of sums that cancel.

    Where the terms of a gradient cancel, that of InfoNCE promises 2^-80 of them. The bound counts 9 roundings
    of the sum of their absolute values at least.
    """
    spec = about.spec
    with np.errstate(all="ignore"):
        value = np.asarray(spec.value(batch), np.float64)
        gradients = by_path(spec.gradient(batch))

    def last(array):
        return 2.0**-52 * np.abs(array) + 2.0**-1074

    allowed = {path: last(g) for path, g in gradients.items()}
    if spec.name.startswith("concordance_loss_nce"):
        part = 2.0**-80 / (9 * precision(batch.form.name).work_roundoff)
        for path, bound in by_path(spec.bound(batch)[1]).items():
            allowed[path] += part * bound
    exact = Truth(value, last(value), gradients, allowed)
    return Known(about, batch, exact, Outcome(value, "float64", gradients))


def obeyed(about, batch, one):
    """The changed batch, and what is wrong with the relation."""
    changed = one.change(batch, chance(batch, one.holds))
    if changed is None:
        return None, ""
    other = subject(torchimpl, changed.loss) if changed.loss else about
    parts = [exactly(about, part) for part in changed.parts or (batch,)]
    return changed, broken(changed, exactly(other, changed.batch), parts)


@pytest.mark.parametrize(("name", "form"), RELATED)
def test_exact_values_obey_every_relation(name, form):
    spec, about = CATALOGUE[name], subject(torchimpl, name)
    applied = dict.fromkeys((one.name for one in spec.invariances if one.name != "blocks"), 0)
    for family in spec.families[:: 2 if form == "float64" else 3]:
        if (name, family) == ("concordance_loss_nce_wrapper", "mixed magnitudes"):
            continue  # the gradient oracle loses a read below 2^-106 of its neighbours
        for drawn_batch in drawn(spec, family, FORMATS[form], 0, 1):
            batch = about.settled(drawn_batch)
            for one in (one for one in spec.invariances if one.name != "blocks"):
                with np.errstate(all="ignore"):
                    changed, message = obeyed(about, batch, one)
                applied[one.name] += changed is not None
                assert not message, (family, one.holds, message, batch, changed.batch)
    assert all(count >= 3 for count in applied.values()), applied


WRONG = [
    ("masked_mse", concatenation("mean")),
    ("masked_mse", shift(("x_recon",), by="row", sides="one side")),
    ("concordance_loss_nce", duplication("mean", floor="eps")),
    ("negative_pearson_loss", duplication("mean")),
]


@pytest.mark.parametrize(("name", "one"), WRONG)
def test_a_wrong_declaration_is_noticed(name, one):
    about = subject(torchimpl, name)
    batches = drawn(about.spec, "ordinary", FORMATS["float32"], 0, 40)
    assert any(obeyed(about, about.settled(batch), one)[1] for batch in batches)


def test_every_loss_has_relations():
    assert all(spec.invariances for spec in CATALOGUE.values())
    asked = {one.name for spec in CATALOGUE.values() for one in spec.invariances}
    assert asked == {*NAMES, "blocks"}


@pytest.mark.parametrize("name", ["masked_mse", "nll_loss", "compute_residual_mse"])
def test_a_changed_batch_is_made_of_numbers_of_the_format(name):
    for form in (FORMATS["float16"], FORMATS["bfloat16"]):
        about = subject(torchimpl, name)
        for batch in drawn(CATALOGUE[name], "ordinary", form, 0, 2):
            for one in CATALOGUE[name].invariances:
                changed = one.change(about.settled(batch), np.random.default_rng(0))
                if changed:
                    for _, array in leaves(dict(changed.batch.arguments)):
                        dtype = getattr(torch, form.name)
                        held = torch.as_tensor(array, dtype=torch.float64)
                        assert torch.equal(held.to(dtype).double(), held), one.holds


def test_the_same_batch_is_changed_the_same_way():
    (batch,) = drawn(CATALOGUE["masked_mse"], "ordinary", FORMATS["float32"], 0, 1)
    first, second = (chance(batch, "shift").random(4) for _ in range(2))
    assert np.array_equal(first, second)
    more = batch.with_options({"reduction": "other"})
    assert not np.array_equal(first, chance(more, "shift").random(4))


def test_grown_batches_keep_the_kind_of_their_numbers():
    (batch,) = drawn(CATALOGUE["negative_binomial_cdf"], "ordinary", FORMATS["float16"], 0, 1)
    big = arrays(grown(batch, 500, np.random.default_rng(0)))
    assert np.array_equal(big["y"], np.rint(big["y"]))
    assert np.all(big["mu"] > 0.0)
    assert len(np.unique(big["mu"])) > 50


# --- faults

ours = SimpleNamespace(**{name: getattr(torchimpl, name) for name in torchimpl.__all__})


def masked(change):
    """masked_mse with something wrong in it."""

    def masked_mse(x_recon, x, mask, *, reduction="mean"):
        return change(x_recon, x, mask, reduction)

    return masked_mse


def positional(x_recon, x, mask, reduction):
    """Early rows weigh a little more."""
    weight = 1.0 - 1e-2 * torch.arange(len(x), dtype=x.dtype).reshape(-1, *(1,) * (x.dim() - 1))
    return ours.masked_mse(x_recon * weight, x * weight, mask, reduction=reduction)


def mean_of_means(x_recon, x, mask, reduction):
    each = ours.masked_mse(x_recon, x, mask, reduction="none")
    if reduction != "mean" or x.dim() < 2 or not len(x):
        return ours.masked_mse(x_recon, x, mask, reduction=reduction)
    return (each.sum(1) / mask.sum(1).clamp(min=1)).float().mean().to(x.dtype)


def divided_sum(x_recon, x, mask, reduction):
    found = ours.masked_mse(x_recon, x, mask, reduction=reduction)
    return found / max(len(x), 1) if reduction == "sum" else found


def lopsided(x_recon, x, mask, reduction):
    return ours.masked_mse(x_recon, x * 1.001, mask, reduction=reduction)


def floored(x_recon, x, mask, reduction):
    """An additive constant that does not scale."""
    return ours.masked_mse(x_recon, x, mask, reduction=reduction) + 1e-3 * mask.any()


def biased(x_recon, x, mask, reduction):
    """Bessel's correction where there is none."""
    found = ours.masked_mse(x_recon, x, mask, reduction=reduction)
    count = mask.sum()
    return found * (count / (count - 1).clamp(min=1)) if reduction == "mean" else found


def level(x_recon, x, mask, reduction):
    """Compares with the mean of the target."""
    return ours.masked_mse(x_recon * 0.999, x * 0.999, mask, reduction=reduction) + x[mask].sum() * 1e-3


def expanded(res1, res2, tau=0.1, *, eps=1e-8, reduction="mean"):
    """x² + y² - 2 x y."""
    x, y = res1.reshape(len(res1), -1), res2.reshape(len(res2), -1)
    d = x.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * x @ y.T
    eps_row = torch.full((len(x), 1), eps, dtype=x.dtype).log()
    each = torch.diag(d) / tau + torch.logsumexp(torch.cat([-d / tau, eps_row], 1), 1)
    return {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]


def additive(preds, targets, eps=1e-8):
    """Eps added to the product of norms of what was not rescaled."""
    p, t = preds - preds.mean(), targets - targets.double().to(preds.dtype).mean()
    return -(p * t).sum() / (p.norm() * t.norm() + eps)


def missing_pair(res1, res2, tau=0.1, *, eps=1e-8, reduction="mean"):
    """The second piece of 256 rows starts one too late among the negatives."""
    if len(res1) <= 256:
        return ours.concordance_loss_nce(res1, res2, tau, eps=eps, reduction=reduction)
    x, y = (side.reshape(len(side), -1) for side in (res1, res2))
    d = (x[:, None] - y).square().sum(2)
    kept = torch.cat([d[:, :256], d[:, 257:]], 1)
    eps_row = torch.full((len(x), 1), eps, dtype=x.dtype).log()
    each = torch.diag(d) / tau + torch.logsumexp(torch.cat([-kept / tau, eps_row], 1), 1)
    return {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]


def late_piece(y_r1, mu_tech_r1, y_r2, mu_tech_r2, sd_ratio_r1_to_r2, *, reduction="mean"):
    """The second piece of 4096 rows starts one too late."""
    given = (y_r1, mu_tech_r1, y_r2, mu_tech_r2)
    if reduction != "sum" or len(y_r1) <= 4096:
        return ours.compute_residual_mse(*given, sd_ratio_r1_to_r2, reduction=reduction)
    first = ours.compute_residual_mse(*(t[:4096] for t in given), sd_ratio_r1_to_r2, reduction="sum")
    return first + ours.compute_residual_mse(*(t[4097:] for t in given), sd_ratio_r1_to_r2, reduction="sum")


def late_survival(y, mu, r):
    return ours.negative_binomial_sf(y - 1.0, mu, r)


def one_sided(model_r1, model_r2, y_r1, y_r2, *, reduction="mean"):
    """Forgets the gradient of the second replicate."""
    second = {key: t + 0.0 * t.detach() if key == "r" else t * 1.001 for key, t in model_r2.items()}
    return ours.quantile_absolute_loss(model_r1, second, y_r1, y_r2, reduction=reduction)


FAULTS = [
    ("permutation", "masked_mse", masked(positional)),
    ("shift", "masked_mse", masked(level)),
    ("shift", "concordance_loss_nce", expanded),
    ("scale", "masked_mse", masked(floored)),
    ("scale", "negative_pearson_loss", additive),
    ("swap", "masked_mse", masked(lopsided)),
    ("swap", "quantile_absolute_loss", one_sided),
    ("duplication", "masked_mse", masked(biased)),
    ("concatenation", "masked_mse", masked(mean_of_means)),
    ("reduction", "masked_mse", masked(divided_sum)),
    ("complement", "negative_binomial_sf", late_survival),
]


def answers(name, loss, fault, form="float32"):
    """What a property says about a few batches of each family, however wrong the plain call is."""
    about = subject(SimpleNamespace(**{**vars(ours), loss: fault}), loss)
    for family in ("ordinary", "heavy tails", "common offset"):
        if family in about.spec.families:
            for batch in drawn(about.spec, family, FORMATS[form], 0, 2):
                settled = about.settled(batch)
                probe = Probe(about, settled, truth(about.spec, settled), about.execute(settled))
                yield PROPERTIES[name].about(probe)


@pytest.mark.parametrize(("name", "loss", "fault"), FAULTS)
def test_a_fault_is_noticed_by_its_relation(name, loss, fault):
    found = [one for one in answers(name, loss, fault) if one]
    assert {one.property for one in found} == {name}
    assert not any(answers(name, loss, getattr(ours, loss)))


def told(name, loss, fault, form="float32", max_examples=1):
    made = SimpleNamespace(**{**vars(ours), loss: fault})
    return verify(made, [loss], [form], properties=[name], max_examples=max_examples)


def test_a_run_reports_what_only_the_changed_batch_shows():
    def short(x_recon, x, mask, reduction):
        """Counts of more than 30 elements are off by one."""
        found = ours.masked_mse(x_recon, x, mask, reduction=reduction)
        return found * 1.01 if mask.numel() > 30 else found

    (violation,) = told("duplication", "masked_mse", masked(short), max_examples=6).violations
    assert (violation.property, violation.loss) == ("duplication", "masked_mse")


def test_a_late_piece_is_noticed_among_many_rows():
    spec, about = (
        CATALOGUE["compute_residual_mse"],
        subject(SimpleNamespace(compute_residual_mse=late_piece), "compute_residual_mse"),
    )
    (batch,) = drawn(spec, "ordinary", FORMATS["float64"], 0, 1)
    (one,) = (one for one in spec.invariances if one.name == "blocks")
    summed = about.settled(batch.with_options({"reduction": "sum"}))
    big = one.change(summed, np.random.default_rng(0)).batch
    assert rows(big) > 2**15
    exact, outcome = truth(spec, big), about.execute(big)
    assert abs(float(outcome.value - exact.value)) > float(exact.bound)


def test_a_missing_pair_is_shown_on_a_short_batch():
    (violation,) = told("blocks", "concordance_loss_nce", missing_pair).violations
    assert violation.message.startswith("257 rows: ")
    assert "torch.tensor" in violation.snippet


@pytest.mark.parametrize("special", [65504.0, 2.0**-24, -(2.0**-14), 1.0 + 2.0**-10])
def test_a_single_wrong_value_of_a_half_format_is_noticed(special):
    def wrong(x_recon, x, mask, reduction):
        return ours.masked_mse(
            torch.where(x_recon == special, x_recon * 2.0 + 1.0, x_recon), x, mask, reduction=reduction
        )

    (violation,) = told("exhaustive", "masked_mse", masked(wrong), "float16").violations
    assert violation.numbers == 3
    assert repr(special) in violation.snippet


@pytest.mark.parametrize("special", [65504.0, 2.0**-24])
def test_corners_are_among_the_sampled_values(special):
    def wrong(preds, targets, eps=1e-8):
        return torch.where((preds == special).any(), 0.5, 1.0) * ours.negative_pearson_loss(
            preds, targets, eps
        )

    (violation,) = told("exhaustive", "negative_pearson_loss", wrong, "float16").violations
    assert violation.numbers in {2, 4}
    assert repr(special) in violation.snippet


def test_a_wrong_gradient_of_one_value_is_noticed():
    def wrong(x_recon, x, mask, reduction):
        return ours.masked_mse(
            torch.where(x_recon == 7.0, x_recon.detach(), x_recon), x, mask, reduction=reduction
        )

    found = list(
        exhaustive(subject(SimpleNamespace(masked_mse=masked(wrong)), "masked_mse"), FORMATS["float16"], 0)
    )
    assert found
    assert all("gradient of x_recon" in one.message and size(one.batch) == 3 for one in found)


@pytest.mark.parametrize("form", [FORMATS["float16"], FORMATS["bfloat16"]])
def test_all_finite_numbers_of_a_half_format(form):
    codes = np.arange(2**16, dtype=np.uint16).view(np.int16)
    dtype = getattr(torch, form.name)
    numbers = torch.from_numpy(codes.copy()).view(dtype).double()
    assert np.array_equal(np.unique(numbers[torch.isfinite(numbers)].numpy()), finite_numbers(form))


def test_samples_of_all_seeds_are_all_numbers():
    form, stride = FORMATS["float16"], 7
    known = np.array([-1.0])
    together = np.concatenate([swept(form, stride, seed, known) for seed in range(stride)])
    assert np.array_equal(np.unique(together), finite_numbers(form))
    assert np.all(swept(form, 1, 0, np.array([0.0])) >= 0.0)
    assert np.all(swept(form, 1, 0, np.array([1.0])) > 0.0)


def test_a_relation_under_a_name_of_its_own_is_asked():
    def negated(batch, _):
        flipped = {path: -array if path != "mask" else array for path, array in arrays(batch).items()}
        return Changed(batch.with_arguments(flipped))

    mirror = Invariance("reflection", "both sides negated: the value stays", negated)
    spec = replace(CATALOGUE["masked_mse"], invariances=(mirror,))
    (batch,) = drawn(spec, "ordinary", FORMATS["float32"], 3, 1)
    assert PROPERTIES["invariance"].applies(spec)
    assert not PROPERTIES["permutation"].applies(spec)
    for fault, noticed in ((torchimpl.masked_mse, False), (masked(level), True)):
        about = subject(SimpleNamespace(masked_mse=fault), "masked_mse", spec)
        settled = about.settled(batch)
        probe = Probe(about, settled, truth(spec, settled), about.execute(settled))
        found = own(probe)
        assert bool(found) == noticed
        assert not found or (found.property, "both sides negated" in found.message) == ("invariance", True)


def test_an_option_that_the_target_lacks_is_not_changed():
    def without_tau(res1, res2, *, eps=1e-8, reduction="mean"):
        return ours.concordance_loss_nce(res1, res2, 0.1, eps=eps, reduction=reduction)

    assert told("scale", "concordance_loss_nce", without_tau).ok


@pytest.mark.parametrize("loss", ["masked_mse", "nll_loss"])
def test_only_the_means_are_wrong(loss):
    def fault(*arguments, reduction="mean"):
        found = getattr(ours, loss)(*arguments, reduction=reduction)
        return found * 1.001 if reduction == "mean" else found

    messages = [one.message for one in answers("reduction", loss, fault) if one]
    assert messages
    assert all("'sum' against 'mean'" in message for message in messages)


def test_a_target_without_reductions_is_not_asked_for_them():
    def only_mean(x_recon, x, mask):
        return ours.masked_mse(x_recon, x, mask)

    assert told("reduction", "masked_mse", only_mean).ok
