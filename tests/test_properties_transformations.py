"""Each transformation property finds a fault that no other one sees, and nothing in what is right."""

import pytest
import torch
from torch._C import _functorch

import torchimpl
from refimpl.conformance.adapters.torch import TorchAdapter
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.properties.transformations import TRANSFORMATIONS
from refimpl.conformance.runner import verify
from torchimpl import checks

# the faulty functions check no arguments
ALL = [name for name in PROPERTIES if name not in {"refusal", "option"}]
# the compiler takes seconds: it is asked about its own fault, and about what is right
CHEAP = [name for name in ALL if name != "compile"]
HAZARDS = ["ordinary", "integer targets"]


class Loss:
    """A target made of one function and, where there is one, its module."""

    def __init__(self, function, module=None, name="masked_mse"):
        setattr(self, name, function)
        if module is not None:
            self.MaskedMSE = module


def _found(target, properties=CHEAP, families=HAZARDS, loss="masked_mse"):
    """Messages by property."""
    report = verify(target, [loss], ["float32"], properties=properties, families=families)
    return {violation.property: violation.message for violation in report.violations}


def _mse(x_recon, x, mask):
    """Right, and plain: judged with the default reduction, as it offers no other."""
    squares = torch.where(mask, x_recon.double() - x.double(), 0.0).square()
    return (squares.sum() / mask.sum().clamp(min=1)).to(checks.result_dtype(x_recon, x))


def test_what_is_right_passes():
    names = [one.name for one in TRANSFORMATIONS]
    families = [*HAZARDS, "heavy tails"]
    losses = ["masked_mse", "CompositeLoss"]
    report = verify(torchimpl, losses, ["float32"], properties=names, families=families, max_examples=6)
    assert report.ok, [violation.message for violation in report.violations]
    asked = {cell.property for cell in report.cells if cell.asked}
    assert asked == set(names)


def test_what_is_plain_and_right_passes():
    assert _found(Loss(_mse)) == {}


def test_layout_finds_a_view_of_what_is_not_contiguous():
    def loss(x_recon, x, mask):
        return _mse(x_recon.view(-1), x.view(-1), mask.view(-1))

    found = _found(Loss(loss))
    assert list(found) == ["layout"]
    assert "with strided arguments: raised RuntimeError: view size is not compatible" in found["layout"]


def test_layout_finds_strides_that_are_taken_for_granted():
    def loss(x_recon, x, mask):
        return _mse(x_recon, x, mask) * (1 if x.stride()[0] else 2)

    found = _found(Loss(loss))
    assert list(found) == ["layout"]
    assert found["layout"].startswith("with expanded arguments: value ")


class _OneRule(torch.autograd.Function):
    """Its rule for vmap takes it that every argument is mapped."""

    @staticmethod
    def forward(e, mask):
        return torch.where(mask, e, 0.0).square().sum() / mask.sum().clamp(min=1)

    @staticmethod
    def setup_context(ctx, inputs, _output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        e, mask = ctx.saved_tensors
        return torch.where(mask, 2 * e * grad / mask.sum().clamp(min=1), 0.0), None

    @staticmethod
    def vmap(_info, _in_dims, e, mask):
        rows = tuple(range(1, e.ndim))
        counts = mask.sum(rows).clamp(min=1) if mask.ndim == e.ndim else mask.sum().clamp(min=1) + 1
        return torch.where(mask, e, 0.0).square().sum(rows) / counts, 0


def test_vmap_finds_a_rule_that_takes_every_argument_for_mapped():
    found = _found(Loss(lambda x_recon, x, mask: _OneRule.apply(x_recon - x, mask)), CHEAP, ["ordinary"])
    assert list(found) == ["vmap"]
    assert found["vmap"].startswith("under torch.func.vmap over x_recon alone: value ")


def test_vmap_finds_problems_that_leak_into_each_other():
    class Leaking(_OneRule):
        @staticmethod
        def vmap(_info, _in_dims, e, mask):
            return _OneRule.forward(e, mask).expand(len(e)), 0

    found = _found(Loss(lambda x_recon, x, mask: Leaking.apply(x_recon - x, mask)), ["vmap"])
    assert found["vmap"].startswith("under torch.func.vmap: ")


def test_the_snippet_of_vmap_makes_the_call_through_vmap():
    def loss(x_recon, x, mask):
        return _mse(x_recon, x, mask) * (2 if _functorch.is_batchedtensor(x) else 1)

    report = verify(Loss(loss), ["masked_mse"], ["float32"], properties=["vmap"], max_examples=2)
    assert "value = vmapped(lambda x_recon, x, mask: target.masked_mse(x_recon, x, mask)" in (
        report.violations[0].snippet
    )


def test_func_grad_finds_a_gradient_lost_under_it():
    def loss(x_recon, x, mask):
        tracked = _functorch.is_gradtrackingtensor(x)
        return _mse(x_recon, x.detach() if tracked else x, mask)

    found = _found(Loss(loss))
    assert list(found) == ["func.grad"]
    assert found["func.grad"].startswith("torch.func.grad: gradient of x ")


def test_compile_finds_a_graph_break():
    @torch.compiler.disable
    def loss(x_recon, x, mask):
        return _mse(x_recon, x, mask)

    found = _found(Loss(loss), ALL, ["ordinary", "heavy tails"])
    assert list(found) == ["compile"]
    assert "raised Unsupported" in found["compile"]


def test_compile_finds_another_number():
    def loss(x_recon, x, mask):
        return _mse(x_recon, x, mask) * (1.5 if torch.compiler.is_compiling() else 1.0)

    validated = torch.distributions.Distribution._validate_args
    found = _found(Loss(loss), ["compile"], families=["ordinary", "heavy tails"])
    assert found["compile"].startswith("torch.compile(fullgraph=True, dynamic=True), ")
    assert torch.distributions.Distribution._validate_args == validated


def test_autocast_finds_a_product_that_it_rounds():
    def loss(x_recon, x, mask):
        e = torch.where(mask, x_recon - x, 0.0).flatten()
        return torch.matmul(e, e) / mask.sum().clamp(min=1)

    found = _found(Loss(loss), CHEAP, ["ordinary"])
    assert list(found) == ["autocast"]
    assert "dtype bfloat16 where float32 is right" in found["autocast"]


class _Kept(torch.autograd.Function):
    """Keeps what its backward pass needs on the class."""

    @staticmethod
    def forward(_ctx, e, mask):
        _Kept.inputs = e.detach(), mask
        return _mse(e, torch.zeros_like(e), mask)

    @staticmethod
    def backward(_ctx, grad):
        e, mask = _Kept.inputs
        return torch.where(mask, 2 * e * grad / mask.sum().clamp(min=1), 0.0), None


def test_two_forwards_find_state_kept_on_the_class():
    def loss(x_recon, x, mask):
        e = x_recon - x
        wrapped = _functorch.is_functorch_wrapped_tensor(e)
        return _mse(x_recon, x, mask) if wrapped else _Kept.apply(e, mask)

    found = _found(Loss(loss), CHEAP, ["ordinary"])
    assert list(found) == ["two forwards"]
    assert found["two forwards"].startswith("two calls, then the backward of the first: gradient of ")


def test_sync_finds_a_branch_on_a_value_that_is_given_up_under_a_transformation():
    def loss(x_recon, x, mask):
        value = _mse(x_recon, x, mask)
        try:
            return value if value.detach().isfinite() else value + 0.0
        except RuntimeError:
            return value

    found = _found(Loss(loss))
    assert list(found) == ["sync"]
    assert "reads a value back to the host: aten._local_scalar_dense.default" in found["sync"]


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda a, b, mask: (a - b)[mask].square().mean(), "makes a shape that only the values know"),
        (lambda a, b, mask: _mse(a, b, mask) / max(mask.any().item(), 1), "reads a value back to the host"),
        (lambda a, b, mask: _mse(a, b, mask) * (b.detach().numpy().ndim > 0), "raised"),
        (lambda a, b, mask: _mse(a, b * torch.ones(b.shape), mask), "the device 'meta'"),
    ],
    ids=["boolean indexing", "item", "numpy", "a constant on the CPU"],
)
def test_sync_names_what_reads_a_value(loss, reason):
    assert reason in _found(Loss(loss), ["sync"], families=["ordinary"])["sync"]


@pytest.mark.parametrize("waits", [True, False])
def test_sync_forbids_waiting_on_cuda(monkeypatch, waits):
    mode = ["default"]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode[0])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda wanted: mode.__setitem__(0, wanted))

    class Pretending(TorchAdapter):
        """Says that it is on CUDA; its tensors stay on the CPU."""

        def tensors(self, subject, batch, only=""):
            self.device = "cpu"
            made = super().tensors(subject, batch, only)
            self.device = "cuda"
            return made

    def loss(x_recon, x, mask):
        if waits and mode[0] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return _mse(x_recon, x, mask)

    report = verify(
        Loss(loss),
        ["masked_mse"],
        ["float32"],
        properties=["sync"],
        families=["ordinary"],
        adapter=Pretending(),
    )
    found = [violation.message for violation in report.violations]
    text = (
        "under torch.cuda.set_sync_debug_mode('error') the call raised RuntimeError: called a synchronizing"
    )
    assert [message.startswith(text) for message in found] == ([True] if waits else [])
    assert mode == ["default"]


class Module(torch.nn.Module):
    """A right module of a right function."""

    def __init__(self, *, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, x_recon, x, mask):
        return torchimpl.masked_mse(x_recon, x, mask, reduction=self.reduction)


class Forgets(Module):
    def __deepcopy__(self, memo):
        return Forgets()


class Unpickled(Module):
    def __deepcopy__(self, memo):
        return Unpickled(reduction=self.reduction)

    def __reduce__(self):
        return Unpickled, ()


class Halved(Module):
    def __init__(self, **options):
        super().__init__(**options)
        self.register_buffer("unit", torch.tensor(1.0))

    def half(self):
        self.unit /= 2
        return self

    def forward(self, *arguments):
        return super().forward(*arguments) * self.unit


class Counting(Module):
    calls = 0

    def forward(self, *arguments):
        self.calls += 1
        return super().forward(*arguments) * (1 if self.calls < 2 else 2)


class Learning(Module):
    def __init__(self, **options):
        super().__init__(**options)
        self.weight = torch.nn.Parameter(torch.ones(()))


class Otherwise(Module):
    def __init__(self, *, reduction="sum"):
        super().__init__(reduction=reduction)


class Evaluated(Module):
    def forward(self, *arguments):
        return super().forward(*arguments) if self.training else super().forward(*arguments).detach()


class Unprintable(Module):
    def extra_repr(self):
        raise NotImplementedError


class Without(Module):
    def __init__(self):
        super().__init__()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Forgets, "copy.deepcopy(module) gives "),
        (Unpickled, "pickle.loads(pickle.dumps(module)) gives "),
        (Halved, "copy.deepcopy(module).half() gives "),
        (Counting, "gives "),
        (Learning, "has parameters"),
        (Otherwise, "MaskedMSE(): module gives "),
        (Evaluated, "copy.deepcopy(module).eval() gives "),
        (Unprintable, "MaskedMSE() raised NotImplementedError"),
        (Without, "raised TypeError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_module_finds_what_is_lost(module, message):
    found = _found(Loss(torchimpl.masked_mse, module), families=["ordinary"])
    assert list(found) == ["module"]
    assert message in found["module"]


@pytest.mark.parametrize("module", [Module, None], ids=["right", "missing"])
def test_a_right_or_missing_module_is_no_violation(module):
    assert _found(Loss(torchimpl.masked_mse, module), ["module"]) == {}


class Listed(torchimpl.CompositeLoss):
    """Its weights are no state."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        weights = self.weights
        del self.weights
        self.weights = weights


class HalfWeights(torchimpl.CompositeLoss):
    """Its weights are cast."""

    def _apply(self, fn, recurse=True):
        torch.nn.Module._apply(self, fn, recurse)
        return self


class Unregistered(torchimpl.CompositeLoss):
    """Hides its components in functions."""

    def __init__(self, losses, *arguments):
        super().__init__([_Hidden(loss) for loss in losses], *arguments)


class _Hidden:
    def __init__(self, loss):
        self.loss = loss

    def __call__(self, *arguments):
        return self.loss(*arguments)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Listed, "the weights are not in state_dict"),
        (HalfWeights, "copy.deepcopy(module).half() gives "),
        (Unregistered, "a component that is a module is not registered"),
    ],
)
def test_module_finds_what_a_composite_loses(module, message):
    found = _found(
        Loss(module, name="CompositeLoss"), ["module", "value", "gradient"], ["ordinary"], "CompositeLoss"
    )
    assert list(found) == ["module"]
    assert message in found["module"]


def test_integers_find_arithmetic_that_wraps():
    def loss(x_recon, x, mask):
        # -x of an unsigned integer is 256 - x
        negated = -x if x.is_floating_point() else (-x).to(torch.float64)
        return _mse(x_recon.to(negated.dtype), -negated, mask).to(torch.float32)

    found = _found(Loss(loss))
    assert list(found) == ["integers"]
    assert found["integers"].startswith("integers as uint8: value ")


def test_integers_find_a_square_that_wraps():
    def loss(x_recon, x, mask):
        squares = x_recon.double() ** 2 - 2 * x_recon.double() * x + (x * x)
        return (torch.where(mask, squares, 0.0).sum() / mask.sum().clamp(min=1)).float()

    found = _found(Loss(loss), ["integers"])
    assert found["integers"].startswith("integers as ")


def test_layout_alone_needs_no_torch():
    assert [one.name for one in TRANSFORMATIONS if "torch" not in one.needs] == ["layout", "integers"]
