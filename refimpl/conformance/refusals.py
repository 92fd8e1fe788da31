"""Calls that must be refused: wrong shapes, masks that are not bool, options that do not exist."""

from refimpl.conformance.spec import Refusal

__all__ = ["REFUSALS"]


def _shapes(call: str, first: tuple[int, ...], second: tuple[int, ...]) -> Refusal:
    return Refusal(call, ValueError, (_shown(first), _shown(second)))


def _shown(shape: tuple[int, ...]) -> str:
    return ", ".join(str(length) for length in shape)


def _masked(name: str) -> tuple[Refusal, ...]:
    ones = "torch.ones(2, 3)"
    return (
        _shapes(
            f"target.{name}({ones}, torch.ones(2, 1), torch.ones(2, 3, dtype=torch.bool))", (2, 3), (2, 1)
        ),
        _shapes(f"target.{name}({ones}, {ones}, torch.ones(3, dtype=torch.bool))", (2, 3), (3,)),
        Refusal(f"target.{name}({ones}, {ones}, {ones})", TypeError, ("mask", "bool")),
        Refusal(f"target.{name}({ones}, {ones}, {ones}.long())", TypeError, ("mask", "bool")),
        Refusal(
            f"target.{name}({ones}, {ones}, {ones}.bool(), reduction='average')", ValueError, ("average",)
        ),
        Refusal(f"target.{name}(torch.ones(()), torch.ones(()), torch.ones(()).bool())", ValueError),
    )


def _count(name: str) -> tuple[Refusal, ...]:
    ones = "torch.ones(3)"
    tensors = [f"torch.tensor([1.0, {value}, 1.0])" for value in ("torch.nan", "-1.0", "0.0")]
    return (
        _shapes(f"target.{name}(torch.ones(3), torch.ones(3, 1), torch.ones(3))", (3,), (3, 1)),
        _shapes(f"target.{name}(torch.ones(3), torch.ones(3), torch.ones(2))", (3,), (2,)),
        Refusal(f"target.{name}({tensors[0]}, {ones}, {ones}, validate=True)", ValueError, ("y[1]",)),
        Refusal(f"target.{name}({ones}, {tensors[1]}, {ones}, validate=True)", ValueError, ("mu[1]", "-1")),
        Refusal(f"target.{name}({ones}, {ones}, {tensors[2]}, validate=True)", ValueError, ("r[1]", "0")),
    )


def _wrapper(name: str) -> tuple[Refusal, ...]:
    side = "{'mu': torch.ones(3), 'r': torch.ones(3)}"
    reads = "{'reads': torch.ones(3)}"
    batch = f"{{'r1': {reads}, 'r2': {reads}, 'metadata': {{'sd_ratio': torch.tensor(1.0)}}}}"
    outputs = f"{{'r1': {side}, 'r2': {side}}}"
    row = "{'mu': torch.ones(1, 3), 'r': torch.ones(3)}"
    long = "{'mu': torch.ones(4), 'r': torch.ones(4)}"
    return (
        Refusal(f"target.{name}({{'r1': {side}}}, {batch})", KeyError, ("r2",)),
        Refusal(f"target.{name}({outputs}, {{'r1': {reads}, 'r2': {{}}}})", KeyError),
        Refusal(f"target.{name}({{'r1': {side}, 'r2': {long}}}, {batch})", ValueError),
        Refusal(f"target.{name}({{'r1': {side}, 'r2': {row}}}, {batch})", ValueError),
    )


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "masked_sse": _masked("masked_sse"),
    "masked_mse": _masked("masked_mse"),
    "concordance_loss_nce": (
        _shapes("target.concordance_loss_nce(torch.ones(3), torch.ones(3, 1))", (3,), (3, 1)),
        Refusal("target.concordance_loss_nce(torch.ones(()), torch.ones(()))", ValueError),
        Refusal("target.concordance_loss_nce(torch.ones(3), torch.ones(3), 0.0)", ValueError, ("tau",)),
        Refusal(
            "target.concordance_loss_nce(torch.ones(3), torch.ones(3), float('nan'))", ValueError, ("tau",)
        ),
        Refusal("target.concordance_loss_nce(torch.ones(3), torch.ones(3), eps=-1.0)", ValueError, ("eps",)),
        Refusal(
            "target.concordance_loss_nce(torch.ones(3), torch.ones(3), reduction='average')",
            ValueError,
            ("average",),
        ),
    ),
    "negative_pearson_loss": (
        _shapes("target.negative_pearson_loss(torch.ones(3), torch.ones(3, 1))", (3,), (3, 1)),
    ),
    "negative_binomial_cdf": _count("negative_binomial_cdf"),
    "negative_binomial_sf": _count("negative_binomial_sf"),
    "compute_numeric_cdf": (
        Refusal("target.compute_numeric_cdf(torch.distributions.Normal(0.0, 1.0), torch.ones(3))", TypeError),
    ),
    "CompositeLoss": (
        Refusal("target.CompositeLoss([], [])", ValueError),
        Refusal("target.CompositeLoss('ab', [1.0, 2.0])", TypeError, ("loss_functions",)),
        Refusal("target.CompositeLoss([int], [1.0])", TypeError, ("loss_functions",)),
        Refusal("target.CompositeLoss([lambda *_: torch.ones(())], [1.0, 2.0])", ValueError),
        Refusal("target.CompositeLoss([lambda *_: torch.ones(())], [float('inf')])", ValueError, ("inf",)),
        Refusal("target.CompositeLoss([lambda *_: torch.ones(1)], [1.0])({}, {})", ValueError, ("(1,)",)),
        Refusal("target.CompositeLoss([lambda *_: 1.0], [1.0])({}, {})", ValueError, ("float",)),
    ),
    "compute_residual_mse": (
        Refusal(
            "target.compute_residual_mse(torch.ones(3), torch.ones(3, 1), torch.ones(3), torch.ones(3), 1.0)",
            ValueError,
            (_shown((3, 1)),),
        ),
    ),
    **{
        name: _wrapper(name)
        for name in (
            "nll_loss",
            "replicate_concordance_mse_loss",
            "concordance_loss_nce_wrapper",
            "negative_pearson_loss_wrapper",
            "quantile_absolute_loss_wrapper",
        )
    },
}
