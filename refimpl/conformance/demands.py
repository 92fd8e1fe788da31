"""Calls that must give what another call gives: defaults, options, forms that the contract allows."""

from refimpl.conformance.count_demands import COUNT_DEMANDS, wrapper
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
# large batches: more than a block of whatever size; every result is exact in any order of summation
ramp = torch.arange(5000, dtype=torch.float64)
near, far = 128 * ramp[:2500], 128 * ramp[:2500].flip(0)
signs = torch.ones(2**16)
signs[::2] = -1
lines = [a.double() + k * b / 7 for k in range(64)]
swapped = torch.where(torch.arange(2**16) >= 2**16 - 2**13, -signs, signs)
bytes_, others = (torch.tensor(pair, dtype=torch.int8) for pair in ([100, -3], [-100, 2]))
many = torch.tensor([200, 300, 70000, 2**31 + 5])
wide_means = torch.tensor([190.0, 310.0, 7e4, 2.0**31], dtype=torch.float64)
partly = torch.where(mask, b, torch.nan)
unread = {**batch, 'r2': {'reads': counts * torch.nan}}
unknown = {'mu': means * torch.nan, 'r': sizes}
wrong = {'mu': means, 'r': sizes - 1}
none = torch.zeros(2, dtype=torch.float64)
powers = lambda *exponents: torch.tensor(exponents, dtype=torch.float64).exp2()
top = torch.finfo(torch.float64).max
corners, sources = torch.tensor([[[0.0, 0.0], [1.0, 4.0]], [[3.0, 1.0], [1.0, 4.0]]])
endless = torch.where(mask, counts, torch.inf)
overfull = {**batch, 'r1': {'reads': endless}, 'r2': {'reads': endless}}
autocast = torch.autocast('cpu', torch.bfloat16)
halves = {side: {'mu': outputs[side]['mu'].half(), 'r': sizes} for side in outputs}
half_batch = {side: {'reads': batch[side]['reads'].half()} for side in ('r1', 'r2')}
ratios = lambda ratio: {'metadata': {'sd_ratio': ratio}}
slope = lambda function, at: torch.autograd.functional.jacobian(function, at).item()
pulled = lambda function, at, weights: torch.autograd.functional.vjp(function, at, weights)[1]
filled, widely = torch.where(mask, a, torch.inf), torch.where(mask, two, torch.inf)
first, second = (lambda out, _: out['r1']['mu'].sum()), (lambda out, _: out['r1']['r'].prod())
"""


def _masked(name: str, scale: str) -> tuple[Demand, ...]:
    whole = "torch.ones(100003, 1), torch.zeros(100003, 1), torch.ones(100003, 1).bool()"
    return (
        Demand(f"target.{name}(a.int(), b.double(), mask).dtype", "torch.float64"),
        Demand(f"target.{name}(a.half(), b, mask, reduction='none').dtype", "torch.float32"),
        Demand(f"target.{name}(a.half(), b.bfloat16(), mask).dtype", "torch.float32"),
        # differences of narrow integers leave their type
        Demand(f"target.{name}(bytes_, others, bytes_ > 0, reduction='sum').item()", "40000.0"),
        Demand(f"target.{name}(mask.byte(), 2 * mask.byte(), mask, reduction='sum').item()", "3.0"),
        Demand(
            f"target.{name}(a.view(2, 1, 2), b.view(2, 1, 2), mask.view(2, 1, 2), reduction='sum')",
            f"target.{name}(a, b, mask, reduction='sum')",
        ),
        Demand(f"target.{name}({whole}, reduction='sum').item()", "100003.0"),
        Demand(f"target.{name}({whole}).item()", "1.0"),
        Demand(f"target.{name}(a, b, mask).item()", scale),
        Demand(f"target.{name}(a, b + torch.nan, mask).isnan().item()", "True"),
        Demand(f"target.{name}(a, b + torch.inf, mask).isfinite().item()", "False"),
        # bfloat16 reaches as far as float32
        Demand(
            f"target.{name}((a * 2.0**125).bfloat16(), 0 * a.bfloat16(), mask).item()",
            "torch.finfo(torch.float32).max",
        ),
        # an element whose weight is 0 has no gradient, whatever it holds
        Demand(
            f"pulled(lambda x: target.{name}(x, b, mask | ~mask, reduction='none'), filled, mask.float())",
            "2 * (a - b) * mask",
        ),
        # twice the weight is beyond float16, the gradient is not
        Demand(
            f"pulled(lambda x: target.{name}(x, 0 * x, mask, reduction='none'), "
            "(b / 1024).half(), 40000 * mask.half())",
            "(78.125 * b * mask).half()",
        ),
        # the smallest float32 beside the largest float64, and integers that float32 does not hold
        Demand(
            f"pulled(lambda x: target.{name}(powers(-149, 0).float(), x, mask[2:], reduction='sum'), "
            "powers(-2000, 1023), one.double())[0].item()",
            "-2.0**-148",
        ),
        Demand(
            f"pulled(lambda x: target.{name}(x, powers(-149, 0).float(), mask[2:], reduction='sum'), "
            "powers(-2000, 1023), one.double())[0].item()",
            "-2.0**-148",
        ),
        Demand(
            f"pulled(lambda x: target.{name}(a.long() + 16777217, x, mask, reduction='sum'), "
            "0 * a + 16777216, one)",
            "-2 * (a + 1) * mask",
        ),
    )


COMPOSITE = "target.CompositeLoss([first, second], [1.0, 0.5]"
DEMANDS: dict[str, tuple[Demand, ...]] = {
    **COUNT_DEMANDS,
    "masked_sse": (
        Demand("target.masked_sse(a, b, mask)", "target.masked_sse(a, b, mask, reduction='batch_mean')"),
        *_masked("masked_sse", "10.0625"),
    ),
    "masked_mse": (
        Demand("target.masked_mse(a, b, mask)", "target.masked_mse(a, b, mask, reduction='mean')"),
        *_masked("masked_mse", "torch.tensor(40.25).div(3).item()"),
        # 16777217 is no float32: integers are compared before they are rounded
        Demand(
            "target.masked_mse(a.long() + 16777217, torch.full((4,), 16777216.0), mask)",
            "target.masked_mse(a + 1, torch.zeros(4), mask)",
        ),
        Demand(
            "target.masked_mse(torch.full((4,), 16777216.0), a.long() + 16777217, mask)",
            "target.masked_mse(a + 1, torch.zeros(4), mask)",
        ),
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
        # the nearest source is the mirrored row: Σ (128 (2i - n + 1))² = 2^14 n (n² - 1) / 3
        Demand(
            "target.concordance_loss_nce(near, far, 1.0, eps=0.0, reduction='sum').item()",
            "2.0**14 * 2500 * (2500**2 - 1) / 3",
        ),
        Demand(
            "target.concordance_loss_nce(near, near, 1.0, eps=0.0, reduction='none').tolist()", "[0.0] * 2500"
        ),
        Demand("target.concordance_loss_nce(counts, counts.flip(0)).dtype", "torch.float32"),
        Demand("target.concordance_loss_nce(a, b.double()).dtype", "torch.float64"),
        Demand("target.concordance_loss_nce(a, b + torch.nan).isnan().item()", "True"),
        # rows whose sum is beyond float64 and whose mean is not; a row beyond it; a mean beyond it
        Demand(
            "[top / 4 < target.concordance_loss_nce(x, none, 0.5).item() < top "
            "for x in (powers(511, 511), powers(511.5, -9))]",
            "[True, True]",
        ),
        Demand("target.concordance_loss_nce(powers(1023, 1), powers(1, 1023), 1e-300).item()", "top"),
        # such means, exactly: of d_11 / tau beside ε, of (d_11 - d_12) / tau without
        Demand(
            "target.concordance_loss_nce(2.0**510 * ramp[[4, 0]], 2.0**510 * ramp[[1, 0]], 0.5).item()",
            "9 * 2.0**1020",
        ),
        Demand(
            "target.concordance_loss_nce("
            "2.0**510 * ramp[[4, 3]], 2.0**510 * ramp[[1, 3]], 0.5, eps=0.0).item()",
            "2.0**1023",
        ),
        # beside a row that is huge as well and has not overflowed
        Demand(
            "target.concordance_loss_nce(2.0**510 * ramp[[4, 2]], 2.0**510 * ramp[[1, 1]], 0.5).item()",
            "10 * 2.0**1020",
        ),
        # one factor of (n - y)(2x - y - n) is 2^1030 times the other; a feature is 0
        Demand(
            "target.concordance_loss_nce(torch.stack((none, powers(1000, -30)), 1), "
            "torch.stack((none, powers(-2000, -30)), 1), 2.0**-53, eps=0.0).item()",
            "2.0**1023",
        ),
        # rows of no element, and no rows
        Demand(
            "[target.concordance_loss_nce(x, x, reduction=how).sum().item() "
            "for x in (none[:, None][:, :0], none[:0]) for how in ('mean', 'sum', 'none')]",
            "[0.0] * 6",
        ),
        # the squares of the two features overflow with opposite signs
        Demand(
            "[target.concordance_loss_nce(x * corners, x * sources, tau, eps=0.0, reduction='none').tolist() "
            "for x, tau in ((powers(600), 1.0), (2.0**100, 1e-300))]",
            "[[0.0, 0.0]] * 2",
        ),
        # a row of the second replicate counts in every row
        Demand(
            "target.concordance_loss_nce(a, partly, reduction='none').isnan().all().item()",
            "True",
        ),
        Demand(
            "target.concordance_loss_nce(bytes_, others, 1.0, eps=0.0)",
            "target.concordance_loss_nce(bytes_.float(), others.float(), 1.0, eps=0.0)",
        ),
    ),
    "negative_pearson_loss": (
        Demand("target.negative_pearson_loss(a, b)", "target.negative_pearson_loss(a, b, eps=1e-8)"),
        Demand(
            "target.negative_pearson_loss(a.view(2, 2), b.view(2, 2))", "target.negative_pearson_loss(a, b)"
        ),
        Demand("target.negative_pearson_loss(a, a + torch.nan).isnan().item()", "True"),
        Demand("target.negative_pearson_loss(a, b.double()).dtype", "torch.float64"),
        Demand("target.negative_pearson_loss(a.half(), b).dtype", "torch.float32"),
        Demand("target.negative_pearson_loss(one + 0 * a, a + torch.inf).isnan().item()", "True"),
        Demand("target.negative_pearson_loss(signs, signs).item()", "-1.0"),
        Demand("target.negative_pearson_loss(signs, swapped).item()", "-0.75"),
        # rounding never leads beyond the ends
        Demand(
            "min(target.negative_pearson_loss(x, x).item() for x in lines)",
            "-1.0",
        ),
        Demand(
            "max(target.negative_pearson_loss(x, -x).item() for x in lines)",
            "1.0",
        ),
        Demand(
            "target.negative_pearson_loss(bytes_, others)",
            "target.negative_pearson_loss(bytes_.float(), others.float())",
        ),
    ),
    "concordance_loss_nce_wrapper": (
        *wrapper("concordance_loss_nce_wrapper", "tau=0.1, eps=1e-8, reduction='mean'"),
        # infinities that meet are no distance of 0
        Demand("target.concordance_loss_nce_wrapper(outputs, overfull).isfinite().item()", "False"),
        Demand(
            "target.concordance_loss_nce_wrapper("
            "{'r1': {'mu': endless}, 'r2': {'mu': endless}}, batch).isfinite().item()",
            "False",
        ),
        # the residuals of integers are formed before these are rounded
        Demand(
            "target.concordance_loss_nce_wrapper({side: {'mu': 0 * means + 2**24} for side in outputs}, "
            "{side: {'reads': batch[side]['reads'] + 2**24} for side in outputs})",
            "target.concordance_loss_nce_wrapper({side: {'mu': 0 * means} for side in outputs}, batch)",
        ),
        # ε is added: a larger one costs more
        Demand(
            "[bool(target.concordance_loss_nce_wrapper(outputs, batch, eps=eps) > "
            "target.concordance_loss_nce_wrapper(outputs, batch, eps=0.0)) for eps in range(1, 17)]",
            "[True] * 16",
        ),
    ),
    "negative_pearson_loss_wrapper": (
        *wrapper("negative_pearson_loss_wrapper", "eps=1e-8"),
        # integers beside floating numbers: rounded to float32 they would correlate with the other sign
        Demand(
            "target.negative_pearson_loss_wrapper(outputs, "
            "{'r1': {'reads': counts + 2**24}, 'r2': {'reads': 2.0 * counts + 2**24}}).item() < 0.0",
            "True",
        ),
        # whole numbers in one replicate do not widen the result
        Demand(
            "target.negative_pearson_loss_wrapper(outputs, "
            "{'r1': {'reads': counts.long()}, 'r2': {'reads': counts.float()}}).dtype",
            "torch.float32",
        ),
        # half numbers under an autocast of the other half dtype
        Demand(
            "autocast(target.negative_pearson_loss_wrapper)(halves, half_batch)",
            "target.negative_pearson_loss_wrapper(halves, half_batch)",
        ),
    ),
    "CompositeLoss": (
        Demand(f"{COMPOSITE})(outputs, batch).item()", "9.0"),
        Demand(f"{COMPOSITE}, ['x', 'y'], False)(outputs, batch)['total'].item()", "9.0"),
        Demand(f"{COMPOSITE}, component_names=['x', 'y'])(outputs, batch)['total'].item()", "9.0"),
        Demand("target.CompositeLoss([first, first], [2, -0.5])(outputs, batch).item()", "11.25"),
        Demand("target.CompositeLoss([first, second], [0.0, 0.0])(outputs, batch).item()", "0.0"),
        Demand(
            "target.CompositeLoss([first, lambda *_: two * torch.nan], [1, 0.5])(outputs, {}).isnan().item()",
            "True",
        ),
        # a component that is off stays in the log
        Demand(
            "target.CompositeLoss([first, second], [1.0, 0.0], ['x', 'y'])(outputs, batch)"
            "['components']['y'].item()",
            "3.0",
        ),
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
        # a weight beyond the range of the component, and a total within it
        Demand(
            "target.CompositeLoss([lambda *_: two / 2.0**101], [2.0**200])(outputs, batch).item()", "2.0**100"
        ),
        # such a component says nothing about an overflow of the others, and takes no part in the gradient
        Demand(
            "target.CompositeLoss([lambda *_: two * torch.inf, lambda *_: two * 2.0**120], [0.0, 128.0])"
            "(outputs, batch).item()",
            "torch.finfo(torch.float32).max",
        ),
        Demand(
            "slope(lambda x: torch.inf * target.CompositeLoss([lambda *_: x, first], [0.0, 1.0])"
            "(outputs, batch), two)",
            "0.0",
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
            "target.CompositeLoss([lambda *_: 16384 * two.half()], [3.0])(outputs, batch).item()",
            "98304.0",
        ),
        Demand(
            "target.CompositeLoss([lambda *_: one.clone().requires_grad_()], [1.0], True)(outputs, batch)"
            "['components'].popitem()[1].requires_grad",
            "False",
        ),
    ),
}
