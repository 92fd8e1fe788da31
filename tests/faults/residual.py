"""Faults in the squared difference of residuals and in its wrapper."""

import torch

from tests.faults.base import (
    Fault,
    exact,
    kind,
    on_gradient,
    pair,
    production,
    reduced,
    with_default,
    with_one,
    wrapped,
)


class Residual:
    """((y1 - mu1) - s (y2 - mu2))² in float64."""

    def __call__(self, y_r1, mu_tech_r1, y_r2, mu_tech_r2, sd_ratio_r1_to_r2, *, reduction="mean"):
        y1, mu1, y2, mu2, s = map(self.wide, (y_r1, mu_tech_r1, y_r2, mu_tech_r2, sd_ratio_r1_to_r2))
        rows = self.square(self.error(y1 - mu1, y2 - mu2, s))
        return self.reduced(rows, reduction, kind(y_r1, mu_tech_r1, y_r2, mu_tech_r2))

    def wide(self, x):
        return x.double()

    def error(self, first, second, s):
        return first - s * second

    def square(self, e):
        return e.square()

    def reduced(self, rows, reduction, dtype):
        return reduced(rows, reduction, dtype)


class RatioIgnored(Residual):
    def error(self, first, second, s):
        return first - second + 0 * s


class RatioSquared(Residual):
    def error(self, first, second, s):
        return first - s * s * second


class RatioOnTheOtherSide(Residual):
    def error(self, first, second, s):
        return s * first - second


class RatioInverted(Residual):
    def error(self, first, second, s):
        return first - second / s


class RatioDetached(Residual):
    def error(self, first, second, s):
        return first - s.detach() * second


class Added(Residual):
    def error(self, first, second, s):
        return first + s * second


class Absolute(Residual):
    def square(self, e):
        return e.abs()


class HalfSquare(Residual):
    def square(self, e):
        return e.square() / 2


class MeanOverTwo(Residual):
    def reduced(self, rows, reduction, dtype):
        return super().reduced(rows / 2 if reduction == "mean" else rows, reduction, dtype)


class OneLess(Residual):
    def reduced(self, rows, reduction, dtype):
        n = rows.numel()
        return super().reduced(rows * (n / max(n - 1, 1)) if reduction == "mean" else rows, reduction, dtype)


class NarrowSquares(Residual):
    def wide(self, x):
        return x


class Huber(Residual):
    def square(self, e):
        return torch.where(e.abs() < 1e3, e.square(), 2e3 * e.abs() - 1e6)


CORE, WRAPPER = "compute_residual_mse", "replicate_concordance_mse_loss"


def _wrapper(change=lambda y, mu: y - mu):
    """The wrapper around the squares."""

    def wrapper(model_outputs, batch, *, reduction="mean"):
        (mu1, mu2), (y1, y2) = pair(model_outputs, "mu"), pair(batch, "reads")
        first, second = (change(y.double(), mu.double().reshape(y.shape)) for y, mu in ((y1, mu1), (y2, mu2)))
        s = torch.as_tensor(batch["metadata"]["sd_ratio"]).double()
        return reduced((first - s * second).square(), reduction, kind(mu1, mu2))

    return lambda: wrapper


def _columns_broadcast(model_outputs, batch, *, reduction="mean"):
    (mu1, mu2), (y1, y2) = pair(model_outputs, "mu"), pair(batch, "reads")
    rows = ((y1.double() - mu1) - batch["metadata"]["sd_ratio"] * (y2.double() - mu2)).square()
    return reduced(rows, reduction, kind(mu1, mu2))


def _uses_r(model_outputs, batch, *, reduction="mean"):
    value = _wrapper()()(model_outputs, batch, reduction=reduction)
    return value + 0 * sum(r.sum() for r in pair(model_outputs, "r")).to(value.dtype)


def _first_ratio(outputs, batch):
    ratio = torch.as_tensor(batch["metadata"]["sd_ratio"]).flatten()
    return outputs, {**batch, "metadata": {"sd_ratio": ratio[0]}}


def _narrowest(*given):
    """Everything in the dtype of the first mean."""
    return tuple(part.to(given[1].dtype) if isinstance(part, torch.Tensor) else part for part in given)


def _swapped(outputs, batch):
    return {"r1": outputs["r2"], "r2": outputs["r1"]}, {**batch, "r1": batch["r2"], "r2": batch["r1"]}


def _ratio_as_tensor_only(outputs, batch):
    return outputs, {**batch, "metadata": {"sd_ratio": batch["metadata"]["sd_ratio"].clone()}}


def _ratio_default(outputs, batch):
    return outputs, {"metadata": {"sd_ratio": 1.0}, **batch}


FAULTS = (
    Fault("first ratio for all rows", WRAPPER, "option", wrapped(WRAPPER, _first_ratio), production(WRAPPER)),
    Fault(
        "NaN hidden in the residuals",
        CORE,
        "option",
        wrapped(CORE, lambda *given: (given[0].nan_to_num(), *given[1:])),
        production(CORE),
    ),
    Fault(
        "wider tensors cast to the dtype of the first mean",
        CORE,
        "option",
        wrapped(CORE, _narrowest),
        production(CORE),
    ),
    Fault("ratio ignored", CORE, "value", RatioIgnored, Residual),
    Fault("ratio squared", CORE, "value", RatioSquared, Residual),
    Fault("ratio on the other side", CORE, "value", RatioOnTheOtherSide, Residual),
    Fault("ratio inverted", CORE, "value", RatioInverted, Residual),
    Fault("ratio detached", CORE, "graph", RatioDetached, Residual),
    Fault("residuals added", CORE, "value", Added, Residual),
    Fault("magnitude instead of square", CORE, "value", Absolute, Residual),
    Fault("half of the square", CORE, "value", HalfSquare, Residual),
    Fault("mean over both replicates", CORE, "value", MeanOverTwo, Residual),
    Fault("mean over n - 1", CORE, "value", OneLess, Residual),
    Fault(
        "squares in half precision overflow",
        CORE,
        "finite",
        NarrowSquares,
        Residual,
        ("half limits",),
        ("float16",),
    ),
    Fault("large residuals linear: Huber", CORE, "value", Huber, Residual, ("real counts", "heavy tails")),
    Fault(
        "gradient of a mean has the sign of its count's",
        CORE,
        "gradient",
        exact(CORE, gradient=on_gradient(lambda path, g: abs(g) if path == "mu_tech_r2" else g)),
        exact(CORE),
    ),
    Fault(
        "gradients of two arguments swapped",
        CORE,
        "gradient",
        exact(CORE, gradient=lambda g, _: {**g, "y_r1": g["y_r2"], "y_r2": g["y_r1"]}),
        exact(CORE),
    ),
    Fault(
        "saturates at the largest float32 in float64",
        CORE,
        "value",
        exact(CORE, value=lambda v, _: v.clip(max=3.4028234663852886e38)),
        exact(CORE),
        ("squares near overflow",),
        ("float64",),
    ),
    Fault(
        "a number as ratio refused",
        CORE,
        "option",
        wrapped(CORE, lambda *given: (*given[:4], given[4].clone())),
        production(CORE),
    ),
    Fault(
        "ratio of another shape broadcast",
        CORE,
        "refusal",
        wrapped(CORE, lambda *given: tuple(torch.broadcast_tensors(*map(torch.as_tensor, given)))),
        production(CORE),
    ),
    Fault(
        "replicates swapped: ratio on the wrong side",
        WRAPPER,
        "value",
        wrapped(WRAPPER, _swapped),
        production(WRAPPER),
    ),
    Fault(
        "only mu of r1, twice",
        WRAPPER,
        "value",
        exact(WRAPPER, batch=with_one("model_outputs.r2.mu", "model_outputs.r1.mu")),
        exact(WRAPPER),
    ),
    Fault(
        "columns broadcast against rows",
        WRAPPER,
        "value",
        lambda: _columns_broadcast,
        _wrapper(),
        ("column parameters",),
    ),
    Fault("dispersions multiplied by 0", WRAPPER, "inert", lambda: _uses_r, _wrapper()),
    Fault(
        "relative residuals", WRAPPER, "value", _wrapper(lambda y, mu: (y - mu) / (mu.abs() + 1)), _wrapper()
    ),
    Fault(
        "ratio must be a tensor",
        WRAPPER,
        "option",
        wrapped(WRAPPER, _ratio_as_tensor_only),
        production(WRAPPER),
    ),
    Fault(
        "missing ratio taken as 1", WRAPPER, "refusal", wrapped(WRAPPER, _ratio_default), production(WRAPPER)
    ),
    Fault(
        "default reduction wrong",
        WRAPPER,
        "option",
        with_default(WRAPPER, reduction="sum"),
        production(WRAPPER),
    ),
)
