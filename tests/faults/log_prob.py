"""Faults in the negative binomial's log pmf."""

import numpy as np
import torch

from tests.faults.base import ORDINARY, Fault, caught, exact, on_gradient, production, wrapped
from tests.faults.likelihood import Likelihood
from tests.faults.negative_binomial import (
    DOUBLE,
    NEGATIVE,
    as_int8,
    at_least_one,
    constant_detached,
    counts,
    expanded,
    first_only,
    nan_gradient_at_zero,
    no_negative_counts,
    parameters,
    poisson_beyond,
    single,
    success,
    synced,
    unseen_nan,
    wide,
)
from torchimpl.negative_binomial import negative_binomial_log_prob

LOG = "negative_binomial_log_prob"


class LogProb(Likelihood):
    """The textbook form in float64: right for ordinary parameters."""

    def __call__(self, y, mu, r):
        return -self.rows(y, mu.double(), r.double()).to(mu.dtype)


class FactorialDropped(LogProb):
    def factorial(self, y):
        return 0 * y


class ClampKillsTheGradient(LogProb):
    def clamped(self, p):
        return p.clamp(min=1e-3)


def eps_in_the_log(y, mu, r):
    p = mu / (r + mu)
    return negative_binomial_log_prob(y, mu, r) + y * (torch.log(p + 1e-8) - torch.log(p))


def single_gamma(y, mu, r):
    factorial = torch.lgamma(y.double() + 1)
    return negative_binomial_log_prob(y, mu, r) + (factorial - factorial.float().double())


class Once(torch.autograd.Function):
    """The derivative in mu without a derivative of its own."""

    @staticmethod
    def forward(ctx, y, mu, r):
        ctx.save_for_backward(y, mu, r)
        return negative_binomial_log_prob(y, mu, r)

    @staticmethod
    def backward(ctx, cotangent):
        y, mu, r = (tensor.detach() for tensor in ctx.saved_tensors)
        with torch.enable_grad():
            leaves = mu.requires_grad_(), r.requires_grad_()
            total = negative_binomial_log_prob(y, *leaves).sum()
            slopes = torch.autograd.grad(total, leaves)
        return None, *(cotangent * slope for slope in slopes)


def probability(value, _):
    return np.exp(value)


def negated(value, _):
    return -value


def never_below(value, _):
    """A floor that somebody put under the logarithm."""
    return np.maximum(value, np.log(1e-12))


def infinite(found):
    return torch.where(found == torch.finfo(found.dtype).min, -torch.inf, found)


def no_gradient_without_mass(gradients, batch):
    with_mass = (batch.arguments["mu"] > 0) | (batch.arguments["y"] <= 0)
    return {path: np.where(with_mass, part, 0.0) for path, part in gradients.items()}


FAULTS = (
    Fault("probs = r / (r + mu): swapped", LOG, "value", exact(LOG, batch=parameters(success)), exact(LOG)),
    Fault("the pmf instead of its logarithm", LOG, "value", exact(LOG, value=probability), exact(LOG)),
    Fault("sign", LOG, "value", exact(LOG, value=negated), exact(LOG)),
    Fault("log y! dropped", LOG, "value", FactorialDropped, LogProb),
    Fault("log(p + 1e-8)", LOG, "value", lambda: eps_in_the_log, production(LOG), dtypes=DOUBLE),
    Fault(
        "lgamma in float32 in the float64 path",
        LOG,
        "value",
        lambda: single_gamma,
        production(LOG),
        dtypes=DOUBLE,
    ),
    Fault("clamp kills the gradient", LOG, "gradient", ClampKillsTheGradient, LogProb, ("heavy tails",)),
    Fault("a floor of log(1e-12)", LOG, "value", exact(LOG, value=never_below), exact(LOG), ("heavy tails",)),
    Fault(
        "mean and dispersion swapped",
        LOG,
        "value",
        exact(LOG, batch=parameters(lambda mu, r: (r, mu))),
        exact(LOG),
    ),
    Fault(
        "counts rounded instead of floored",
        LOG,
        "value",
        exact(LOG, batch=counts(np.rint)),
        exact(LOG),
        NEGATIVE,
    ),
    Fault(
        "negative counts read as 0",
        LOG,
        "value",
        exact(LOG, batch=counts(no_negative_counts)),
        exact(LOG),
        NEGATIVE,
    ),
    Fault("-inf where no mass is", LOG, "finite", wrapped(LOG, after=infinite), production(LOG), ("mu = 0",)),
    Fault(
        "Poisson beyond r = 1e6",
        LOG,
        "value",
        exact(LOG, batch=poisson_beyond(1e6)),
        exact(LOG),
        ("r to inf",),
        DOUBLE,
        16,
    ),
    Fault(
        "float32 inside the float64 path", LOG, "value", exact(LOG, value=single), exact(LOG), dtypes=DOUBLE
    ),
    Fault(
        "NaN gradient at mu = 0",
        LOG,
        "finite",
        exact(LOG, gradient=nan_gradient_at_zero),
        exact(LOG),
        ("mu = 0",),
    ),
    Fault(
        "no gradient where no mass is",
        LOG,
        "gradient",
        exact(LOG, gradient=no_gradient_without_mass),
        exact(LOG),
        ("mu = 0",),
    ),
    Fault(
        "derivative in r with the wrong sign",
        LOG,
        "gradient",
        exact(LOG, gradient=on_gradient(lambda path, g: -g if path == "r" else g)),
        exact(LOG),
    ),
    Fault("dispersion detached", LOG, "graph", wrapped(LOG, first_only), production(LOG)),
    Fault(
        "differentiable once", LOG, "second derivative", lambda: Once.apply, production(LOG), ORDINARY, DOUBLE
    ),
    Fault("NaN count gives a number", LOG, "nan", wrapped(LOG, unseen_nan), production(LOG), ("NaN count",)),
    Fault("result always float64", LOG, "dtype", wrapped(LOG, after=wide), production(LOG)),
    Fault("looks for negative means on every call", LOG, "sync", wrapped(LOG, synced), production(LOG)),
    Fault("0-dim dispersion detached", LOG, "option", wrapped(LOG, constant_detached), production(LOG)),
    Fault("dispersions below 0 raised to 1", LOG, "option", wrapped(LOG, at_least_one), production(LOG)),
    Fault("integer counts through int8", LOG, "option", wrapped(LOG, as_int8), production(LOG)),
    Fault("(B,1) broadcast silently", LOG, "refusal", wrapped(LOG, expanded), production(LOG)),
    Fault("validate ignored", LOG, "refusal", wrapped(LOG, validate=False), production(LOG)),
    Fault(
        "message of validate without the index",
        LOG,
        "refusal",
        caught(LOG, ValueError, lambda _: ValueError("invalid")),
        production(LOG),
    ),
)
