"""What the losses of counts must give: edges of the distribution, wide and narrow integers, constants."""

from collections.abc import Iterator

from refimpl.conformance.spec import Demand

__all__ = ["COUNT_DEMANDS", "wrapper"]


def wrapper(name: str, options: str) -> tuple[Demand, ...]:
    """What every dict wrapper does: its defaults, columns beside rows, NaN that counts.

    Example:
        >>> wrapper("nll_loss", "reduction='mean'")[0].call
        'target.nll_loss(outputs, batch)'
    """
    return (
        Demand(f"target.{name}(outputs, batch)", f"target.{name}(outputs, batch, {options})"),
        Demand(f"target.{name}(columns, batch)", f"target.{name}(rows, batch)"),
        Demand(f"target.{name}(outputs, unread).isnan().item()", "True"),
        Demand(f"target.{name}({{**outputs, 'r2': unknown}}, batch).isnan().item()", "True"),
    )


def _invalid(name: str) -> tuple[Demand, ...]:
    """What holds for the three functions alike."""
    call = f"target.{name}(counts, means, sizes)"
    return (
        Demand(f"target.{name}(counts, means, sizes, validate=True)", call),
        Demand(
            f"target.{name}(counts, 0 * means, sizes, validate=True)",
            f"target.{name}(counts, 0 * means, sizes)",
        ),
        Demand(f"target.{name}(counts, means, two)", f"target.{name}(counts, means, two.expand(4))"),
        Demand(f"target.{name}(counts, two, sizes)", f"target.{name}(counts, two.expand(4), sizes)"),
        Demand(f"target.{name}(counts.double(), means, sizes)", call),
        # counts beyond the narrow integer types, and in the narrowest that holds them
        Demand(
            f"target.{name}(many, wide_means, wide_means)",
            f"target.{name}(many.double(), wide_means, wide_means)",
        ),
        Demand(
            f"target.{name}(bytes_ - 1, means[:2], sizes[:2])",
            f"target.{name}(bytes_.double() - 1, means[:2], sizes[:2])",
        ),
        Demand(
            f"target.{name}(torch.tensor([127], dtype=torch.int8), one[None], two[None])",
            f"target.{name}(torch.tensor([127.0]), one[None], two[None])",
        ),
        Demand(
            f"target.{name}(torch.tensor([255], dtype=torch.uint8), one[None], two[None])",
            f"target.{name}(torch.tensor([255.0]), one[None], two[None])",
        ),
        Demand(f"target.{name}(counts.view(2, 2), means.view(2, 2), sizes.view(2, 2))", f"{call}.view(2, 2)"),
        Demand(f"target.{name}(counts, means - 1, sizes).isnan().tolist()", "[False, True, False, False]"),
        Demand(f"target.{name}(counts, means * torch.nan, sizes).isnan().all().item()", "True"),
        Demand(f"target.{name}(counts, means, sizes * torch.nan).isnan().all().item()", "True"),
        Demand(f"target.{name}(counts, means, sizes.double()).dtype", "torch.float64"),
        # a constant widens no tensor, and decides where all are constants
        Demand(f"target.{name}(counts, means, two.double()).dtype", "torch.float32"),
        Demand(f"target.{name}(counts, one, two.double()).dtype", "torch.float64"),
        Demand(f"target.{name}(counts, counts[1], counts[2])", f"target.{name}(counts, two, 5 * one)"),
        Demand(f"slope(lambda r: target.{name}(counts, means, r).sum(), two) != 0.0", "True"),
        Demand(f"slope(lambda mu: target.{name}(counts, mu, sizes).sum(), two) != 0.0", "True"),
        Demand(f"target.{name}(counts, means, sizes - 1).isnan().tolist()", "[False, True, True, False]"),
    )


def _tails(name: str) -> tuple[Demand, ...]:
    """Edges of the CDF and of the survival function."""
    below_zero = {"negative_binomial_cdf": "0.0", "negative_binomial_sf": "1.0"}
    edge, total = below_zero[name], {"0.0": "4999.0", "1.0": "1.0"}[below_zero[name]]
    # r / mu is no number, and 1 - F(1) is r (log(mu / r) - 1)
    lowest, highest = {"0.0": ("1.0", "1.0"), "1.0": ("8.04e-198", "8.06e-198")}[edge]
    # 1 - F(2) is r (log(9/4) - 115/162), give and take its bound
    least, most = {"0.0": ("1.0", "1.0"), "1.0": ("3.559213264912317e-134", "3.5592132649131605e-134")}[edge]
    return (
        *_invalid(name),
        *_tiny_dispersions(name, (lowest, highest), (least, most)),
        Demand(f"target.{name}(counts - 5, means, sizes)[:2].tolist()", f"[{edge}] * 2"),
        Demand(f"target.{name}(torch.where(ramp < 4999, 1, -1), 0 * ramp, 1 + ramp).sum().item()", total),
    )


def _log_prob(name: str) -> tuple[Demand, ...]:
    """Edges of the log mass."""
    impossible = "torch.where(ramp < 4999, 1, -1)"
    return (
        *_invalid(name),
        # log p(1) is log(r), log p(2) is log(25 r / 162), give and take the bound
        *_tiny_dispersions(
            name,
            ("-460.51701859880967", "-460.51701859880865"),
            ("-306.85347995674044", "-306.85347995673976"),
        ),
        # no mass: the lowest number of the dtype, and -inf where the count itself is infinite
        Demand(f"target.{name}(counts - 5, means, sizes)[:2].tolist()", "[torch.finfo(one.dtype).min] * 2"),
        Demand(f"(target.{name}({impossible}, 0 * ramp, 1 + ramp) + top).any().item()", "False"),
        Demand(f"target.{name}(endless, means, sizes).isneginf().tolist()", "(~mask).tolist()"),
        # all mass
        Demand(f"target.{name}(0 * ramp, 0 * ramp, 1 + ramp).any().item()", "False"),
        # the Poisson law: log p(0) = -mu
        Demand(f"target.{name}(0 * counts, means, two * torch.inf)", "-means"),
    )


def _tiny_dispersions(name: str, first: tuple[str, str], second: tuple[str, str]) -> tuple[Demand, ...]:
    """Parameters whose ratio or sum is at the end of the range."""
    (lowest, highest), (least, most) = first, second
    return (
        Demand(
            f"{lowest} <= target.{name}(ramp[1:2], 1e150 + none[:1], 1e-200 + none[:1]).item() <= {highest}",
            "True",
        ),
        Demand(
            f"{least} <= target.{name}(ramp[2:3], 1.25 * powers(-440), powers(-440)).item() <= {most}",
            "True",
        ),
    )


def _residual() -> Iterator[Demand]:
    name = "target.compute_residual_mse"
    # an infinity of the inputs is none that saturates
    yield Demand(
        f"[{name}(*(x + torch.inf if i == k else x for i in range(4)), 1.0).isfinite().item() "
        "for x in (a, a.double()) for k in range(4)]",
        "[False] * 8",
    )
    # integers that float32 does not hold
    yield Demand(
        f"[{name}(x + k, 0 * x + k, y + k, 0 * y + k, 1.0).item() "
        "for x, y in ((many[:2], counts[:2]),) for k in (0, 2**24 + 1)]",
        "[(200**2 + 298**2) / 2] * 2",
    )
    # the factor of the rows is 1
    yield Demand(f"slope(lambda s: {name}(a[:2], b[:2], b[:2], a[:2], s), two)", "1.5")
    # 0 times what is huge
    yield Demand(f"{name}(powers(1000, 0), none, powers(1000, 0), none, 0.0).item()", "top")
    # the derivative in s at 0 is -2 Σ (y1 - mu1) (y2 - mu2): differences and products beyond the range
    for y_1, mu_1, y_2, mu_2, exact in (
        ("powers(-900, 99)", "none", "powers(1023, 0)", "-powers(1023, -2000)", "2.0**125 + 2.0**100"),
        ("powers(1023, 0)", "-powers(1023, -2000)", "powers(-900, 99)", "none", "2.0**125 + 2.0**100"),
        ("powers(500, 1)", "none", "powers(450, 1)", "none", "2.0**951"),
        ("powers(450, 1)", "none", "powers(500, 1)", "none", "2.0**951"),
        ("powers(500, -600)", "none", "powers(-600, 500)", "none", "2.0**-98"),
    ):
        for ratio in ("s", "s.expand(2)"):
            value = f"{name}({y_1}, {mu_1}, {y_2}, {mu_2}, {ratio}, reduction='sum')"
            yield Demand(f"slope(lambda s: {value}, none[0])", f"-({exact})")
    # overflows of opposite sign that cancel: in the derivative, between the residuals, inside one of them
    value = f"{name}(none, none, 1.875 * powers(63, 63), none, s, reduction='none')"
    yield Demand(f"pulled(lambda s: {value}, powers(1023)[0], 2 * ramp[:2] - 1).item()", "0.0")
    yield Demand(f"{name}(powers(1023), -powers(1023), powers(1023), -powers(1023), 1.0).item()", "0.0")
    yield Demand(f"{name}(none, none, powers(1023, 1023), -powers(1023, 1023), 2.0**-600).item()", "2.0**848")
    # a large ratio makes much of a number that is nearly subnormal
    small = "(1 + 2.0**-20) * powers(-1008)"
    yield Demand(
        f"{name}(none[:1], none[:1], {small}, none[:1], 2.0**1023).item()", "((1 + 2.0**-20) * 2.0**15) ** 2"
    )
    # a ratio that float32 does not hold
    yield Demand(
        f"[{name}(zero, zero, x.float(), zero, s).item() "
        "for zero in (none[:1].float(),) for x, s in ((powers(100), 2.0**-160), (powers(-100), 2.0**140))]",
        "[2.0**-120, 2.0**80]",
    )
    value = f"{name}(powers(100).float(), 0 * one[None], y[None], 0 * one[None], 2.0**-160)"
    yield Demand(f"slope(lambda y: {value}, 0 * one)", "-2.0**-59")
    # an element whose weight is 0 has no gradient, whatever it holds
    for call, at, exact in (
        ("x, b.to(x), b.to(x), a.to(x), 1.0", "filled", "4 * (a - b) * mask"),
        ("a.to(x), b.to(x), x, b.to(x), widely.to(x)", "a", "4 * (a - b) * mask"),
        ("a.to(x), b.to(x), filled.to(x), b.to(x), x", "two.expand(4)", "2 * (a - b) ** 2 * mask"),
    ):
        value = f"{name}({call}, reduction='none')"
        yield Demand(
            f"[pulled(lambda x: {value}, at, mask.to(at)).tolist() for at in ({at}, ({at}).double())]",
            f"[({exact}).tolist()] * 2",
        )
    value = f"{name}(a.to(s), b.to(s), filled.to(s), b.to(s), s, reduction='none')"
    yield Demand(
        f"[pulled(lambda s: {value}, at, mask.to(at)).item() for at in (two, two.double())]",
        "[(2 * (a - b) ** 2 * mask).sum().item()] * 2",
    )


BINOMIAL = "torch.distributions.NegativeBinomial"
POISSON = "torch.distributions.Poisson(means)"
COUNT_DEMANDS: dict[str, tuple[Demand, ...]] = {
    "quantile_absolute_loss": (
        Demand(
            "target.quantile_absolute_loss(outputs['r1'], outputs['r2'], counts, counts)",
            "target.quantile_absolute_loss(outputs['r1'], outputs['r2'], counts, counts, reduction='mean')",
        ),
        Demand(
            "target.quantile_absolute_loss({'mu': means, 'r': two}, outputs['r2'], counts, counts)",
            "target.quantile_absolute_loss({'mu': means, 'r': two.expand(4)}, outputs['r2'], counts, counts)",
        ),
        Demand("target.quantile_absolute_loss(outputs['r1'], outputs['r1'], counts, counts).item()", "0.0"),
        Demand(
            "target.quantile_absolute_loss(wrong, wrong, counts, counts, reduction='none').isnan().tolist()",
            "[False, True, True, False]",
        ),
        # F is 1 at a mean of 0 and 0 below: 1 for the last row only
        Demand(
            "target.quantile_absolute_loss({'mu': 0 * ramp, 'r': 1 + ramp}, {'mu': 0 * ramp, 'r': 1 + ramp}, "
            "0 * ramp, torch.where(ramp < 4999, 0, -1), reduction='sum').item()",
            "1.0",
        ),
        Demand(
            "target.quantile_absolute_loss(outputs['r1'], outputs['r2'], counts, counts, validate=True)",
            "target.quantile_absolute_loss(outputs['r1'], outputs['r2'], counts, counts)",
        ),
    ),
    "negative_binomial_cdf": _tails("negative_binomial_cdf"),
    "negative_binomial_sf": _tails("negative_binomial_sf"),
    "negative_binomial_log_prob": _log_prob("negative_binomial_log_prob"),
    "compute_numeric_cdf": (
        Demand(
            f"target.compute_numeric_cdf({POISSON}, counts + 0.75)",
            f"target.compute_numeric_cdf({POISSON}, counts)",
        ),
        Demand(f"target.compute_numeric_cdf({POISSON}, counts - 5)[:2].tolist()", "[0.0, 0.0]"),
        Demand(
            "target.compute_numeric_cdf(torch.distributions.Poisson(two), counts)",
            "target.compute_numeric_cdf(torch.distributions.Poisson(two.expand(4)), counts)",
        ),
        # odds of 1: the mean is the number of failures
        Demand(
            f"target.compute_numeric_cdf({BINOMIAL}(sizes, probs=one.expand(4) / 2), counts)",
            f"target.compute_numeric_cdf({BINOMIAL}(sizes, logits=torch.zeros(4)), counts)",
        ),
        # one failure: F(0) is 1 - p, for a p that float32 does not hold as well
        Demand(
            "[2.0**-41 < target.compute_numeric_cdf(law, counts[:1]).item() < 2.0**-39 "
            f"for law in ({BINOMIAL}(one, probs=1 - powers(-40)), "
            f"{BINOMIAL}(one, logits=(powers(40) - 1).log()))]",
            "[True, True]",
        ),
        # its derivatives at p = 1/2, give and take roundings of float32
        *(
            Demand(
                f"abs(slope(lambda x: target.compute_numeric_cdf({BINOMIAL}({law}), counts[:1]).sum(), "
                f"{at}) - {exact}) < 2.0**-20",
                "True",
            )
            for law, at, exact in (
                ("one, probs=x", "one / 2", "(-1.0)"),
                ("one, logits=x", "0 * one", "(-0.25)"),
                ("x, probs=one / 2", "one", "one.double().div(2).log().div(2).item()"),
            )
        ),
        # odds near the end of the range and beyond it: F(0) is (1 + odds)^-r
        Demand(
            f"8.674e-4 < target.compute_numeric_cdf({BINOMIAL}(one.double() / 100, logits=705 + none[:1]), "
            "counts[:1]).item() < 8.675e-4",
            "True",
        ),
        Demand(
            "-8.675e-6 < slope(lambda x: target.compute_numeric_cdf("
            f"{BINOMIAL}(one.double() / 100, logits=x), counts[:1]).sum(), 705 + none[0]) < -8.674e-6",
            "True",
        ),
        # a total count of 0, which torch allows, puts all mass on 0
        Demand(
            f"target.compute_numeric_cdf({BINOMIAL}(0 * one, probs=one / 2), counts).tolist()", "[1.0] * 4"
        ),
        Demand(
            f"slope(lambda x: target.compute_numeric_cdf({BINOMIAL}(x, logits=2000 + none[0]), "
            "counts[:1]).sum(), one.double()) > -1.0 and "
            f"target.compute_numeric_cdf({BINOMIAL}(one.double(), logits=2000 + none[0]), "
            "counts[:1]) < 1e-300",
            "torch.tensor([True])",
        ),
    ),
    "nll_loss": (
        *wrapper("nll_loss", "reduction='mean'"),
        Demand("target.nll_loss(outputs, batch)", "target.nll_loss(outputs, batch, validate=True)"),
        Demand(
            "target.nll_loss(wrong, batch['r1'], reduction='none').isnan().tolist()",
            "[False, True, True, False]",
        ),
        # a count that is infinite has no probability, and no largest number stands for that
        Demand("target.nll_loss(rows['r1'], {'reads': endless}).isfinite().item()", "False"),
        *(
            Demand(
                f"target.nll_loss(rows, {{**batch, '{side}': {{'reads': endless}}}}).isfinite().item()",
                "False",
            )
            for side in ("r1", "r2")
        ),
        # a mean for all
        *(
            Demand(
                f"target.nll_loss({{**rows, '{side}': {{'mu': two, 'r': sizes}}}}, batch)",
                f"target.nll_loss({{**rows, '{side}': {{'mu': two.expand(4), 'r': sizes}}}}, batch)",
            )
            for side in ("r1", "r2")
        ),
        # one replicate alone is the average of two that are alike
        Demand(
            "target.nll_loss(rows['r1'], batch['r1'])",
            "target.nll_loss({'r1': rows['r1'], 'r2': rows['r1']}, {'r1': batch['r1'], 'r2': batch['r1']})",
        ),
        Demand(
            "target.nll_loss({'mu': means[:, None], 'r': two}, batch['r1'])",
            "target.nll_loss({'mu': means, 'r': two.expand(4)}, batch['r1'])",
        ),
        Demand("target.nll_loss({'mu': 0 * ramp, 'r': 1 + ramp}, {'reads': 0 * ramp}).item()", "0.0"),
        # a Poisson law at 0 costs its mean: sums beyond the range, and numbers that no scale may touch
        Demand(
            "[target.nll_loss({'mu': x, 'r': one * torch.inf}, {'reads': 0 * wide_means}).item() "
            "for x in (powers(1023, 1023, 0, 0), powers(1022, 1022, 1022, 1022), "
            "powers(-1000).expand(4) * (1 + 2.0**-20))]",
            "[2.0**1022, 2.0**1022, (1 + 2.0**-20) * 2.0**-1000]",
        ),
    ),
    "quantile_absolute_loss_wrapper": (
        *wrapper("quantile_absolute_loss_wrapper", "reduction='mean'"),
        Demand(
            "target.quantile_absolute_loss_wrapper(outputs, batch, validate=True)",
            "target.quantile_absolute_loss_wrapper(outputs, batch)",
        ),
    ),
    "compute_residual_mse": (
        Demand(
            "target.compute_residual_mse(counts, means, counts, sizes, 2.0)",
            "target.compute_residual_mse(counts, means, counts, sizes, two.expand(4), reduction='mean')",
        ),
        Demand(
            "target.compute_residual_mse(bytes_, others, others, bytes_, 1.0, reduction='sum').item()",
            "160100.0",
        ),
        Demand(
            "target.compute_residual_mse(ramp, 0 * ramp, ramp, 0 * ramp, 2.0, reduction='sum').item()",
            "5000 * 4999 * 9999 / 6",
        ),
        Demand("target.compute_residual_mse(counts, counts, counts, counts, 2).dtype", "torch.float32"),
        # a ratio for every row
        Demand(
            "target.compute_residual_mse(counts, means, counts, sizes, means)",
            "target.compute_residual_mse(counts, means, means * counts, means * sizes, 1.0)",
        ),
        Demand(
            "target.compute_residual_mse(counts, means, counts, sizes.double(), 2.0).dtype", "torch.float64"
        ),
        *_residual(),
        Demand("target.compute_residual_mse(a + torch.nan, b, a, b, 1.0).isnan().item()", "True"),
        Demand("target.compute_residual_mse(a, b, a, b + torch.nan, 1.0).isnan().item()", "True"),
        Demand("target.compute_residual_mse(a, b, a, b, two * torch.nan).isnan().item()", "True"),
    ),
    "replicate_concordance_mse_loss": (
        *wrapper("replicate_concordance_mse_loss", "reduction='mean'"),
        Demand(
            "target.replicate_concordance_mse_loss(outputs, batch)",
            "target.replicate_concordance_mse_loss(outputs, number)",
        ),
        Demand(
            "target.replicate_concordance_mse_loss(outputs, batch)",
            "target.replicate_concordance_mse_loss(outputs, column)",
        ),
        Demand(
            "target.replicate_concordance_mse_loss(outputs, {**batch, **ratios(means[:, None])})",
            "target.replicate_concordance_mse_loss(outputs, {**batch, **ratios(means)})",
        ),
        Demand(
            "target.replicate_concordance_mse_loss(outputs, {**batch, **ratios(means)}, reduction='none')[3]",
            "target.replicate_concordance_mse_loss(outputs, {**batch, **ratios(2.0)}, reduction='none')[3]",
        ),
    ),
}
