"""Calls that must be refused: wrong shapes, types and dtypes, unknown options, missing keys."""

from collections.abc import Iterable, Iterator, Mapping

from refimpl.conformance.spec import Refusal

__all__ = ["REFUSALS"]

Shape = tuple[int, ...]
# instead of a tensor of real numbers
NO_DATA = (
    "[1.0, 1.0, 1.0]",
    "None",
    "torch.ones(3, dtype=torch.complex64)",
    "torch.ones(3, dtype=torch.bool)",
)


def _shown(shape: Shape) -> str:
    return ", ".join(str(length) for length in shape)


def _ones(*shape: int) -> str:
    return f"torch.ones({_shown(shape)})"


def _call(name: str, arguments: Mapping[str, str], options: str = "", **changed: str) -> str:
    """Source text of a call; `changed` replaces arguments."""
    words = [*{**arguments, **changed}.values(), *([options] if options else [])]
    return f"target.{name}({', '.join(words)})"


def _types(name: str, arguments: Mapping[str, str], tensors: Iterable[str]) -> Iterator[Refusal]:
    """What is no tensor of real numbers, for every argument that must be one."""
    for tensor in tensors:
        for wrong in NO_DATA:
            yield Refusal(_call(name, arguments, **{tensor: wrong}), TypeError, (tensor,))


def _shapes(
    name: str, arguments: Mapping[str, str], tensors: Iterable[str], shape: Shape, *others: Shape
) -> Iterator[Refusal]:
    """Every argument in turn has another shape than the rest; the message says which two met."""
    for tensor in tensors:
        for other in others:
            call = _call(name, arguments, **{tensor: _ones(*other)})
            yield Refusal(call, ValueError, (_shown(shape), _shown(other)))


def _reductions(name: str, arguments: Mapping[str, str], *wrong: str) -> Iterator[Refusal]:
    for reduction in ("average", *wrong):
        yield Refusal(
            _call(name, arguments, f"reduction='{reduction}'"), ValueError, ("reduction", reduction)
        )


def _numbers(name: str, arguments: Mapping[str, str], option: str, wrong: Iterable[str]) -> Iterator[Refusal]:
    """An option out of its range, or no number."""
    for number in wrong:
        yield Refusal(_call(name, arguments, f"{option}={number}"), ValueError, (option,))
    yield Refusal(_call(name, arguments, f"{option}='1'"), TypeError, (option,))


NOT_A_NUMBER, INFINITE = "float('nan')", "float('inf')"


def _masked(name: str) -> Iterator[Refusal]:
    ones, mask = "torch.ones(2, 3)", "torch.ones(2, 3, dtype=torch.bool)"
    arguments = {"x_recon": ones, "x": ones, "mask": mask}
    yield from _shapes(name, arguments, ("x_recon", "x"), (2, 3), (2, 1), (3,), (1, 2, 3))
    for shape in ((3,), (2, 1), (2, 2)):
        other = f"torch.ones({_shown(shape)}, dtype=torch.bool)"
        yield Refusal(_call(name, arguments, mask=other), ValueError, (_shown((2, 3)), _shown(shape)))
    for wrong in (ones, f"{ones}.long()", f"{ones}.byte()"):
        yield Refusal(_call(name, arguments, mask=wrong), TypeError, ("mask", "bool"))
    yield Refusal(_call(name, arguments, mask="[[True] * 3] * 2"), TypeError, ("mask",))
    yield from _types(name, arguments, ("x_recon", "x"))
    yield from _reductions(name, arguments)
    yield Refusal(f"target.{name}(torch.ones(()), torch.ones(()), torch.ones(()).bool())", ValueError)


def _concordance(name: str) -> Iterator[Refusal]:
    arguments = {"res1": _ones(3), "res2": _ones(3)}
    yield from _shapes(name, arguments, arguments, (3,), (3, 1), (1,), (4,))
    yield from _types(name, arguments, arguments)
    yield Refusal(f"target.{name}(torch.ones(()), torch.ones(()))", ValueError)
    for tau in ("0.0", NOT_A_NUMBER):
        yield Refusal(_call(name, arguments, tau), ValueError, ("tau",))
    yield from _numbers(name, arguments, "tau", ("0.0", "-1.0", NOT_A_NUMBER, INFINITE))
    yield from _numbers(name, arguments, "eps", ("-1.0", NOT_A_NUMBER))
    yield from _reductions(name, arguments, "batch_mean")


def _pearson(name: str) -> Iterator[Refusal]:
    arguments = {"preds": _ones(3), "targets": _ones(3)}
    yield from _shapes(name, arguments, arguments, (3,), (3, 1), (1, 3), (1,), (4,))
    yield from _types(name, arguments, arguments)
    yield from _numbers(name, arguments, "eps", ("-1.0", NOT_A_NUMBER))


def _quantile(name: str) -> Iterator[Refusal]:
    ones, model = _ones(3), "{'mu': torch.ones(3), 'r': torch.ones(3)}"
    arguments = {"model_r1": model, "model_r2": model, "y_r1": ones, "y_r2": ones}
    yield from _shapes(name, arguments, ("y_r1", "y_r2"), (3,), (3, 1), (1,), (4,))
    yield from _types(name, arguments, ("y_r1", "y_r2"))
    yield from _reductions(name, arguments, "batch_mean")
    for side in ("model_r1", "model_r2"):
        yield Refusal(_call(name, arguments, **{side: ones}), TypeError, (side,))
        for key, other in (("mu", "r"), ("r", "mu")):
            entry = f"'{other}': torch.ones(3)"
            missing = _call(name, arguments, **{side: f"{{{entry}}}"})
            yield Refusal(missing, KeyError, (side, f"'{key}'"))
            listed = _call(name, arguments, **{side: f"{{'{key}': [1.0] * 3, {entry}}}"})
            yield Refusal(listed, TypeError, (side, f"'{key}'"))
            broadcast = _call(name, arguments, **{side: f"{{'{key}': torch.ones(3, 1), {entry}}}"})
            yield Refusal(broadcast, ValueError, (_shown((3,)), _shown((3, 1))))
    for shape in ((4,), (1,)):
        other = model.replace("3", _shown(shape))
        resized = _call(name, arguments, model_r2=other, y_r2=_ones(*shape))
        yield Refusal(resized, ValueError, (_shown((3,)), _shown(shape)))
    wrong = "{'mu': torch.ones(3), 'r': torch.tensor([1.0, -2.0, 1.0])}"
    yield Refusal(_call(name, arguments, "validate=True", model_r2=wrong), ValueError, ("r[1]", "-2"))


def _count(name: str) -> Iterator[Refusal]:
    arguments = dict.fromkeys(("y", "mu", "r"), _ones(3))
    yield from _shapes(name, arguments, arguments, (3,), (3, 1), (2,), (1,))
    yield from _types(name, arguments, arguments)
    for argument, value in (
        ("y", "torch.nan"),
        ("mu", "-1.0"),
        ("mu", "torch.inf"),
        ("r", "0.0"),
        ("r", "-1.0"),
    ):
        tensor = f"torch.tensor([1.0, {value}, {value}])"
        shown = () if "torch" in value else (value.removesuffix(".0"),)
        call = _call(name, arguments, "validate=True", **{argument: tensor})
        yield Refusal(call, ValueError, (f"{argument}[1]", *shown))


def _numeric(name: str) -> Iterator[Refusal]:
    arguments = {"dist": "torch.distributions.Poisson(torch.ones(3))", "x": _ones(3)}
    for family in ("Normal(0.0, 1.0)", "Geometric(0.5)", "Bernoulli(0.5)"):
        other = _call(name, arguments, dist=f"torch.distributions.{family}")
        yield Refusal(other, TypeError, (family.partition("(")[0],))
    yield Refusal(_call(name, arguments, dist=_ones(3)), TypeError, ("dist",))
    yield from _types(name, arguments, ("x",))
    yield from _shapes(name, arguments, ("x",), (3,), (3, 1), (4,), (2, 3))
    single = _call(name, arguments, dist="torch.distributions.Poisson(torch.ones(1))")
    yield Refusal(single, ValueError, (_shown((3,)), _shown((1,))))


def _residual(name: str) -> Iterator[Refusal]:
    tensors = ("y_r1", "mu_tech_r1", "y_r2", "mu_tech_r2")
    arguments = {**dict.fromkeys(tensors, _ones(3)), "sd_ratio_r1_to_r2": "1.0"}
    yield from _shapes(name, arguments, tensors, (3,), (3, 1), (1,), (4,))
    yield from _shapes(name, arguments, ("sd_ratio_r1_to_r2",), (3,), (3, 1), (1,), (2,))
    yield from _types(name, arguments, tensors)
    for wrong in ("'1'", "None", "[1.0] * 3"):
        ratio = _call(name, arguments, sd_ratio_r1_to_r2=wrong)
        yield Refusal(ratio, TypeError, ("sd_ratio_r1_to_r2",))
    yield from _reductions(name, arguments, "batch_mean")


SIDE, READS = "{'mu': torch.ones(3), 'r': torch.ones(3)}", "{'reads': torch.ones(3)}"
OUTPUTS = f"{{'r1': {SIDE}, 'r2': {SIDE}}}"
METADATA = "'metadata': {'sd_ratio': torch.tensor(1.0)}"
BATCH = f"{{'r1': {READS}, 'r2': {READS}, {METADATA}}}"
# an option that is nearly one
MISSPELT = {
    "nll_loss": "reductoin",
    "replicate_concordance_mse_loss": "reductoin",
    "concordance_loss_nce_wrapper": "tua",
    "negative_pearson_loss_wrapper": "epsilon",
    "quantile_absolute_loss_wrapper": "reductoin",
}
COUNTED = ("nll_loss", "quantile_absolute_loss_wrapper")


def _outputs(side: str, which: str = "r2") -> str:
    """Outputs of which one replicate is given."""
    sides = {"r1": SIDE, "r2": SIDE, which: side}
    return f"{{'r1': {sides['r1']}, 'r2': {sides['r2']}}}"


def _wrapper(name: str) -> Iterator[Refusal]:
    arguments = {"model_outputs": OUTPUTS, "batch": BATCH}
    yield from _keys(name, arguments)
    for shape in ((4,), (1, 3), (1,), (3, 2), (3, 1, 1)):
        wrong = _outputs(f"{{'mu': {_ones(*shape)}, 'r': torch.ones(3)}}")
        yield Refusal(_call(name, arguments, model_outputs=wrong), ValueError, (_shown(shape), _shown((3,))))
    yield Refusal(_call(name, arguments, model_outputs="[1.0]"), TypeError, ("model_outputs",))
    yield Refusal(_call(name, arguments, batch="[1.0]"), TypeError, ("batch",))
    for wrong in NO_DATA:
        mean = _outputs(f"{{'mu': {wrong}, 'r': torch.ones(3)}}")
        reads = f"{{'r1': {{'reads': {wrong}}}, 'r2': {READS}, {METADATA}}}"
        yield Refusal(_call(name, arguments, model_outputs=mean), TypeError, ("outputs", "r2", "mu"))
        yield Refusal(_call(name, arguments, batch=reads), TypeError, ("batch", "r1", "reads"))
    yield Refusal(_call(name, arguments, f"{MISSPELT[name]}=1.0"), TypeError, (MISSPELT[name],))
    if name == "negative_pearson_loss_wrapper":
        yield from _numbers(name, arguments, "eps", ("-1.0", NOT_A_NUMBER))
    else:
        yield from _reductions(name, arguments, "batch_mean")


def _keys(name: str, arguments: Mapping[str, str]) -> Iterator[Refusal]:
    """An entry is missing; the message says which."""
    yield Refusal(_call(name, arguments, model_outputs=f"{{'r1': {SIDE}}}"), KeyError, ("outputs", "r2"))
    yield Refusal(_call(name, arguments, model_outputs=f"{{'r2': {SIDE}}}"), KeyError, ("outputs", "r1"))
    without = f"{{'r1': {READS}, 'r2': {{}}, {METADATA}}}"
    yield Refusal(_call(name, arguments, batch=without), KeyError, ("r2", "reads"))
    yield Refusal(_call(name, arguments, batch=f"{{'r2': {READS}, {METADATA}}}"), KeyError, ("r1",))
    for which in ("r1", "r2"):
        misnamed = _outputs("{'mean': torch.ones(3), 'r': torch.ones(3)}", which)
        yield Refusal(_call(name, arguments, model_outputs=misnamed), KeyError, (which, "mu", "mean"))
        if name in COUNTED:
            no_dispersion = _outputs("{'mu': torch.ones(3)}", which)
            yield Refusal(_call(name, arguments, model_outputs=no_dispersion), KeyError, (which, "'r'"))
            negative = _outputs("{'mu': torch.ones(3), 'r': torch.tensor([1.0, -2.0, 1.0])}", which)
            invalid = _call(name, arguments, "validate=True", model_outputs=negative)
            yield Refusal(invalid, ValueError, ("[1]", "-2"))
    if name == "replicate_concordance_mse_loss":
        for metadata, key in (("", "metadata"), (", 'metadata': {}", "sd_ratio")):
            batch = f"{{'r1': {READS}, 'r2': {READS}{metadata}}}"
            yield Refusal(_call(name, arguments, batch=batch), KeyError, (key,))
        ratio = f"{{'r1': {READS}, 'r2': {READS}, 'metadata': {{'sd_ratio': '1'}}}}"
        yield Refusal(_call(name, arguments, batch=ratio), TypeError, ("sd_ratio",))


def _resized(name: str) -> Iterator[Refusal]:
    """Replicates of different lengths, where rows are compared."""
    for shape in ((4,), (1,)):
        side, reads = (one.replace("3", _shown(shape)) for one in (SIDE, READS))
        batch = f"{{'r1': {READS}, 'r2': {reads}, {METADATA}}}"
        call = _call(name, {}, outputs=_outputs(side), batch=batch)
        yield Refusal(call, ValueError, ("r1", "r2", "reads", _shown((3,)), _shown(shape)))


def _composite(name: str) -> Iterator[Refusal]:
    one, two = "lambda *_: torch.ones(())", "lambda *_: torch.zeros(())"
    yield Refusal(f"target.{name}([], [])", ValueError)
    yield Refusal(f"target.{name}('ab', [1.0, 2.0])", TypeError, ("loss_functions",))
    yield Refusal(f"target.{name}([int], [1.0])", TypeError, ("loss_functions",))
    yield Refusal(f"target.{name}([1.0], [1.0])", TypeError, ("loss_functions",))
    yield Refusal(f"target.{name}([{one}], [1.0, 2.0])", ValueError, ("1", "2"))
    yield Refusal(f"target.{name}([{one}, {two}], [1.0])", ValueError, ("1", "2"))
    yield Refusal(f"target.{name}([{one}], [float('inf')])", ValueError, ("weights", "inf"))
    yield Refusal(f"target.{name}([{one}], [float('nan')])", ValueError, ("weights", "nan"))
    for wrong in ("['1']", "[None]", "None", "1.0"):
        yield Refusal(f"target.{name}([{one}], {wrong})", TypeError, ("weights",))
    yield Refusal(f"target.{name}([{one}, {two}], [1.0, 1.0], ['x'])", ValueError, ("component_names",))
    yield Refusal(f"target.{name}([{one}, {two}], [1.0, 1.0], 'xy')", TypeError, ("component_names",))
    for wrong, came in (
        ("torch.ones(1)", "(1,)"),
        ("torch.ones(2, 3)", "(2, 3)"),
        ("1.0", "float"),
        ("None", "None"),
        ("{'loss': torch.ones(())}", "dict"),
    ):
        yield Refusal(f"target.{name}([lambda *_: {wrong}], [1.0])({{}}, {{}})", ValueError, (came,))


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    **{name: tuple(_masked(name)) for name in ("masked_sse", "masked_mse")},
    "concordance_loss_nce": tuple(_concordance("concordance_loss_nce")),
    "negative_pearson_loss": tuple(_pearson("negative_pearson_loss")),
    "quantile_absolute_loss": tuple(_quantile("quantile_absolute_loss")),
    **{
        name: tuple(_count(name))
        for name in ("negative_binomial_cdf", "negative_binomial_sf", "negative_binomial_log_prob")
    },
    "compute_numeric_cdf": tuple(_numeric("compute_numeric_cdf")),
    "compute_residual_mse": tuple(_residual("compute_residual_mse")),
    "CompositeLoss": tuple(_composite("CompositeLoss")),
    "nll_loss": (*_wrapper("nll_loss"), *_resized("nll_loss")),
    "negative_pearson_loss_wrapper": tuple(_wrapper("negative_pearson_loss_wrapper")),
    **{
        name: (*_wrapper(name), *_resized(name))
        for name in (
            "replicate_concordance_mse_loss",
            "concordance_loss_nce_wrapper",
            "quantile_absolute_loss_wrapper",
        )
    },
}
