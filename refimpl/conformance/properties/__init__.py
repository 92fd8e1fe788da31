"""All properties, in the order of reports."""

from refimpl.conformance.properties.base import Finding, Fixed, Probe, Property
from refimpl.conformance.properties.calls import arguments, cotangent, determinism, inert, partial
from refimpl.conformance.properties.exhaustive import EXHAUSTIVE
from refimpl.conformance.properties.fixed import option, refusal
from refimpl.conformance.properties.relations import RELATIONS
from refimpl.conformance.properties.second import second
from refimpl.conformance.properties.transformations import TRANSFORMATIONS
from refimpl.conformance.spec import SMOOTH, LossSpec

__all__ = ["PROPERTIES", "Finding", "Fixed", "Probe", "Property"]

TORCH, GRAPH = frozenset({"torch"}), frozenset({"graph"})


def _has_inert(spec: LossSpec) -> bool:
    return bool(spec.inert) or "mask" in spec.parameters


_ALL = (
    Property("returns", "the call returns: it does not raise, hang or kill the process"),
    Property("value", "the value is within its bound of the exact one"),
    Property("gradient", "every gradient is within its bound of the exact one"),
    Property("finite", "finite input gives a finite value and no NaN in a gradient"),
    Property("nan", "NaN that counts gives NaN, never a plausible number"),
    Property("graph", "the result hangs on the graph of every differentiable input", needs=GRAPH),
    Property("dtype", "the result has the dtype of the contract"),
    Property("shape", "the result has the shape of the contract"),
    Property(
        "inert",
        "what does not count has no influence, to the last bit",
        "batch",
        inert,
        applies=_has_inert,
        independent=True,
    ),
    Property(
        "second derivative",
        "the derivative of the gradient is right where the loss is smooth",
        "batch",
        second,
        frozenset({"second derivative"}),
        ("float64",),
        families=SMOOTH,
    ),
    Property(
        "determinism", "the same call gives the same answer", "batch", determinism, every=4, independent=True
    ),
    Property("arguments", "the call does not write into its arguments", "batch", arguments, independent=True),
    Property("cotangent", "the gradient is linear in the incoming one", "batch", cotangent, every=4),
    Property("partial", "any subset of the inputs may be differentiated", "batch", partial, GRAPH, every=4),
    *RELATIONS,
    *TRANSFORMATIONS,
    Property(
        "refusal",
        "wrong arguments are refused with the right error and a message that names them",
        "fixed",
        refusal,
        TORCH,
        ("float32",),
        lambda spec: bool(spec.refusals),
    ),
    Property(
        "option",
        "defaults, options and allowed forms of the input do what they say",
        "fixed",
        option,
        TORCH,
        ("float32",),
        lambda spec: bool(spec.demands),
    ),
    *EXHAUSTIVE,
)
PROPERTIES: dict[str, Property] = {one.name: one for one in _ALL}
