"""Faults in the weighted sum of losses."""

# ruff: noqa: ARG002 - a method that is replaced may use less than the right one

import torch

import torchimpl
from tests.faults.base import Fault

COMPOSITE = "CompositeLoss"


class Composite:
    """Σ w_k L_k over the components with w_k != 0, in float64."""

    def __init__(self, loss_functions, weights):
        self.losses = list(loss_functions)
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def __call__(self, model_outputs, batch):
        values = torch.stack([loss(model_outputs, batch) for loss in self.losses])
        return self.finish(self.total(values.double(), self.weights), values.dtype)

    def total(self, values, weights):
        return torch.where(weights == 0, 0.0, self.term(values, weights)).sum()

    def term(self, values, weights):
        # selected before it is multiplied: the gradient of 0 * inf is NaN, too
        return torch.where(weights == 0, 0.0, values) * weights

    def finish(self, total, dtype):
        return total.to(dtype)


class ZeroTimesInf(Composite):
    def total(self, values, weights):
        return (values * weights).sum()


class ZeroKeepsItsGradient(Composite):
    def term(self, values, weights):
        return super().term(values, weights) + torch.where(weights == 0, values - values.detach(), 0.0)

    def total(self, values, weights):
        return self.term(values, weights).sum()


class SingleWeights(Composite):
    def term(self, values, weights):
        return super().term(values, weights.float().double())


class WeightsAbs(Composite):
    def term(self, values, weights):
        return super().term(values, weights.abs())


class WeightsSquared(Composite):
    def term(self, values, weights):
        return super().term(super().term(values, weights), weights)


class WeightsIgnored(Composite):
    def term(self, values, weights):
        return super().term(values, (weights != 0).double())


class WeightsNormalised(Composite):
    def term(self, values, weights):
        return super().term(values, weights / weights.sum().clamp(min=1e-3))


class LastDropped(Composite):
    def total(self, values, weights):
        return super().total(values[: max(len(values) - 1, 1)], weights[: max(len(weights) - 1, 1)])


class Averaged(Composite):
    def finish(self, total, dtype):
        return super().finish(total / len(self.losses), dtype)


class Detached(Composite):
    def total(self, values, weights):
        return super().total(values.detach(), weights)


class AlwaysSingle(Composite):
    def finish(self, total, dtype):
        return total.float()


class SortedWeights(Composite):
    def total(self, values, weights):
        return super().total(values, weights.sort().values)


class FromProduction(torchimpl.CompositeLoss):
    """Faults of calls are planted in the production code."""


class NamesOnly(torchimpl.CompositeLoss):
    def __init__(self, loss_functions, weights, component_names=None, return_components=False):
        names = None if isinstance(component_names, bool) else component_names
        super().__init__(loss_functions, weights, names, return_components)


class OnTheGraph(torchimpl.CompositeLoss):
    def forward(self, model_outputs, batch):
        found = super().forward(model_outputs, batch)
        if isinstance(found, dict):
            values = (loss(model_outputs, batch) for loss in self.losses)
            found["components"] = dict(zip(self.component_names, values, strict=True))
        return found


class NegativeAbs(torchimpl.CompositeLoss):
    def __init__(self, loss_functions, weights, *more, **options):
        super().__init__(
            loss_functions, [w if isinstance(w, str) else abs(w) for w in weights], *more, **options
        )


class FiniteOnly(torchimpl.CompositeLoss):
    """Leaves NaN out."""

    def forward(self, model_outputs, batch):
        found = super().forward(model_outputs, batch)
        return found.nan_to_num() if isinstance(found, torch.Tensor) else found


class Zipped(torchimpl.CompositeLoss):
    def __init__(self, loss_functions, weights, *more, **options):
        count = min(len(loss_functions), len(weights))
        super().__init__(loss_functions[:count], weights[:count], *more, **options)


class SumsComponents(torchimpl.CompositeLoss):
    def __init__(self, loss_functions, weights, *more, **options):
        if isinstance(loss_functions, list) and all(callable(loss) for loss in loss_functions):
            loss_functions = [_summed(loss) for loss in loss_functions]
        super().__init__(loss_functions, weights, *more, **options)


def _summed(loss):
    def component(model_outputs, batch):
        found = loss(model_outputs, batch)
        return found.sum() if isinstance(found, torch.Tensor) else found

    return loss if isinstance(loss, (type, torch.nn.Module)) else component


class InfiniteWeight(torchimpl.CompositeLoss):
    def __init__(self, loss_functions, weights, *more, **options):
        super().__init__(loss_functions, [min(w, 1e30) for w in weights], *more, **options)


def _class(made):
    """Makes the class: what the engine calls is its constructor."""
    return lambda: made


RIGHT, PRODUCTION = _class(Composite), _class(FromProduction)
OFF = ("weight zero",)
FAULTS = (
    Fault("NaN of a component hidden", COMPOSITE, "option", _class(FiniteOnly), PRODUCTION),
    Fault("component weight 0 gives NaN", COMPOSITE, "finite", _class(ZeroTimesInf), RIGHT, OFF),
    Fault(
        "component weight 0 keeps a gradient", COMPOSITE, "gradient", _class(ZeroKeepsItsGradient), RIGHT, OFF
    ),
    Fault("weights as float32", COMPOSITE, "value", _class(SingleWeights), RIGHT, dtypes=("float64",)),
    Fault("weight applied twice", COMPOSITE, "value", _class(WeightsSquared), RIGHT),
    Fault("weights ignored", COMPOSITE, "value", _class(WeightsIgnored), RIGHT),
    Fault("weights normalised", COMPOSITE, "value", _class(WeightsNormalised), RIGHT),
    Fault("weights in another order", COMPOSITE, "value", _class(SortedWeights), RIGHT),
    Fault("last component dropped", COMPOSITE, "value", _class(LastDropped), RIGHT),
    Fault("mean over the components", COMPOSITE, "value", _class(Averaged), RIGHT),
    Fault("total detached", COMPOSITE, "graph", _class(Detached), RIGHT),
    Fault("total always float32", COMPOSITE, "dtype", _class(AlwaysSingle), RIGHT, dtypes=("float64",)),
    Fault("negative weights made positive", COMPOSITE, "option", _class(NegativeAbs), PRODUCTION),
    Fault("a bool in the third place ignored", COMPOSITE, "option", _class(NamesOnly), PRODUCTION),
    Fault("logged components stay on the graph", COMPOSITE, "option", _class(OnTheGraph), PRODUCTION),
    Fault("lengths that differ are cut to the shorter", COMPOSITE, "refusal", _class(Zipped), PRODUCTION),
    Fault("components that are no scalar summed", COMPOSITE, "refusal", _class(SumsComponents), PRODUCTION),
    Fault("infinite weight accepted", COMPOSITE, "refusal", _class(InfiniteWeight), PRODUCTION),
)
