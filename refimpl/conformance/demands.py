"""Calls that must give what another call gives: defaults, options, forms that the contract allows."""

from refimpl.conformance.spec import Demand

__all__ = ["DEMANDS", "SETUP"]

SETUP = """\
import torch
a, b = torch.tensor([0.0, 1.0, 3.0, 4.0]), torch.tensor([0.5, 1.5, 1.0, -2.0])
mask = torch.tensor([True, False, True, True])
counts = torch.tensor([0, 2, 5, 3])
means, sizes = torch.tensor([1.0, 0.5, 4.0, 2.0]), torch.tensor([2.0, 1.0, 0.5, 3.0])
one, two = torch.tensor(1.0), torch.tensor(2.0)
outputs = {'r1': {'mu': means, 'r': sizes}, 'r2': {'mu': sizes, 'r': means}}
columns = {'r1': {'mu': means[:, None], 'r': two}, 'r2': {'mu': sizes[:, None], 'r': two}}
rows = {'r1': {'mu': means, 'r': two.expand(4)}, 'r2': {'mu': sizes, 'r': two.expand(4)}}
batch = {'r1': {'reads': counts}, 'r2': {'reads': counts.flip(0)}, 'metadata': {'sd_ratio': two}}
number = {**batch, 'metadata': {'sd_ratio': 2.0}}
column = {**batch, 'metadata': {'sd_ratio': two.expand(4, 1)}}
first, second = (lambda out, _: out['r1']['mu'].sum()), (lambda out, _: out['r1']['r'].prod())
"""


def _invalid(name: str) -> tuple[Demand, ...]:
    call = f"target.{name}(counts, means, sizes)"
    return (
        Demand(f"target.{name}(counts, means, sizes, validate=True)", call),
        Demand(f"target.{name}(counts, means, two)", f"target.{name}(counts, means, two.expand(4))"),
        Demand(f"target.{name}(counts, two, sizes)", f"target.{name}(counts, two.expand(4), sizes)"),
        Demand(f"target.{name}(counts.double(), means, sizes)", call),
        Demand(f"target.{name}(counts, means - 1, sizes).isnan().tolist()", "[False, True, False, False]"),
        Demand(f"target.{name}(counts, means, sizes - 1).isnan().tolist()", "[False, True, True, False]"),
    )


def _wrapper(name: str, options: str) -> tuple[Demand, ...]:
    return (
        Demand(f"target.{name}(outputs, batch)", f"target.{name}(outputs, batch, {options})"),
        Demand(f"target.{name}(columns, batch)", f"target.{name}(rows, batch)"),
    )


COMPOSITE = "target.CompositeLoss([first, second], [1.0, 0.5]"
DEMANDS: dict[str, tuple[Demand, ...]] = {
    "masked_sse": (
        Demand("target.masked_sse(a, b, mask)", "target.masked_sse(a, b, mask, reduction='batch_mean')"),
        Demand("target.masked_sse(a.int(), b.double(), mask).dtype", "torch.float64"),
        Demand("target.masked_sse(a.half(), b, mask, reduction='none').dtype", "torch.float32"),
    ),
    "masked_mse": (
        Demand("target.masked_mse(a, b, mask)", "target.masked_mse(a, b, mask, reduction='mean')"),
        # 16777217 is no float32: integers are compared before they are rounded
        Demand("target.masked_mse(a.long() + 16777217, torch.full((4,), 16777216.0), mask)",
               "target.masked_mse(a + 1, torch.zeros(4), mask)"),
    ),
    "concordance_loss_nce": (
        Demand(
            "target.concordance_loss_nce(a, b)",
            "target.concordance_loss_nce(a, b, tau=0.1, eps=1e-8, reduction='mean')",
        ),
        Demand(
            "target.concordance_loss_nce(a.view(2, 1, 2), b.view(2, 1, 2))",
            "target.concordance_loss_nce(a.view(2, 2), b.view(2, 2))",
        ),
        # far rows: the value depends on the default of ε
        Demand(
            "target.concordance_loss_nce(100 * a, 100 * b)",
            "target.concordance_loss_nce(100 * a, 100 * b, eps=1e-8)",
        ),
    ),
    "negative_pearson_loss": (
        Demand("target.negative_pearson_loss(a, b)", "target.negative_pearson_loss(a, b, eps=1e-8)"),
        Demand(
            "target.negative_pearson_loss(a.view(2, 2), b.view(2, 2))", "target.negative_pearson_loss(a, b)"
        ),
        Demand("target.negative_pearson_loss(a, a + torch.nan).isnan().item()", "True"),
        Demand("target.negative_pearson_loss(one + 0 * a, a + torch.inf).isnan().item()", "True"),
    ),
    "quantile_absolute_loss": (
        Demand(
            "target.quantile_absolute_loss(outputs['r1'], outputs['r2'], counts, counts)",
            "target.quantile_absolute_loss(outputs['r1'], outputs['r2'], counts, counts, reduction='mean')",
        ),
    ),
    "negative_binomial_cdf": _invalid("negative_binomial_cdf"),
    "negative_binomial_sf": _invalid("negative_binomial_sf"),
    "nll_loss": (
        *_wrapper("nll_loss", "reduction='mean'"),
        Demand("target.nll_loss(outputs, batch)", "target.nll_loss(outputs, batch, validate=True)"),
    ),
    "compute_residual_mse": (
        Demand(
            "target.compute_residual_mse(counts, means, counts, sizes, 2.0)",
            "target.compute_residual_mse(counts, means, counts, sizes, two.expand(4), reduction='mean')",
        ),
    ),
    "replicate_concordance_mse_loss": (
        *_wrapper("replicate_concordance_mse_loss", "reduction='mean'"),
        Demand(
            "target.replicate_concordance_mse_loss(outputs, batch)",
            "target.replicate_concordance_mse_loss(outputs, number)",
        ),
        Demand(
            "target.replicate_concordance_mse_loss(outputs, batch)",
            "target.replicate_concordance_mse_loss(outputs, column)",
        ),
    ),
    "concordance_loss_nce_wrapper": _wrapper(
        "concordance_loss_nce_wrapper", "tau=0.1, eps=1e-8, reduction='mean'"
    ),
    "negative_pearson_loss_wrapper": _wrapper("negative_pearson_loss_wrapper", "eps=1e-8"),
    "quantile_absolute_loss_wrapper": _wrapper("quantile_absolute_loss_wrapper", "reduction='mean'"),
    "CompositeLoss": (
        Demand(f"{COMPOSITE})(outputs, batch).item()", "9.0"),
        Demand(f"{COMPOSITE}, True)(outputs, batch)['total'].item()", "9.0"),
        Demand(f"{COMPOSITE}, return_components=True)(outputs, batch)['total'].item()", "9.0"),
        Demand(
            f"{{k: v.item() for k, v in {COMPOSITE}, ['x', 'y'])(outputs, batch)['components'].items()}}",
            "{'x': 7.5, 'y': 3.0}",
        ),
        Demand(f"target.CompositeLoss([{COMPOSITE}), first], [2.0, -1.0])(outputs, batch).item()", "10.5"),
        Demand(f"target.CompositeLoss([{COMPOSITE}, True)], [2.0])(outputs, batch).item()", "18.0"),
        Demand(
            "target.CompositeLoss([first, lambda *_: two * torch.inf], [1.0, 0.0])(outputs, batch).item()",
            "7.5",
        ),
        Demand(
            "target.CompositeLoss([lambda *_: two.double() * 1e200, lambda *_: two.half() * torch.inf], "
            "[1e200, 1.0])(outputs, batch).isfinite().item()",
            "False",
        ),
        Demand(
            "target.CompositeLoss([lambda *_: two.half(), first], [1.0, 1.0])(outputs, batch).item()", "9.5"
        ),
        Demand(
            "target.CompositeLoss([lambda *_: one.clone().requires_grad_()], [1.0], True)(outputs, batch)"
            "['components'].popitem()[1].requires_grad",
            "False",
        ),
    ),
}  # fmt: skip
