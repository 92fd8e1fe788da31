"""The kinds of change: each takes a node of a syntax tree and yields what may stand in its place."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator

__all__ = ["KINDS", "OPERATORS", "other_number"]

Operator = Callable[[ast.AST], Iterator[ast.AST]]

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
    ast.FloorDiv: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
EDGED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip
EDGES = {"0", "1", "inf"}  # the ends of 0, 1, 0.0, 1.0, math.inf
NAMES = {
    "sum": "mean", "mean": "sum", "amax": "amin", "amin": "amax", "maximum": "minimum", "minimum": "maximum",
    "log1p": "log", "expm1": "exp", "exp": "expm1", "log": "log1p", "sqrt": "square", "square": "abs",
    "floor": "ceil", "abs": "neg", "zeros_like": "ones_like", "argmin": "argmax", "sub_": "add_",
    "add_": "sub_", "mul_": "div_", "div_": "mul_", "sign": "abs", "neg": "abs", "any": "all", "all": "any",
}  # fmt: skip
DTYPES = {"float64": "float32", "double": "float"}
DTYPE_CHOICES = {
    "working_dtype": "result_dtype", "result_dtype": "elementwise_dtype", "elementwise_dtype": "result_dtype",
}  # fmt: skip
REDUCTIONS = {"sum", "mean", "amax", "amin", "argmin", "argmax", "all", "any", "cat", "stack", "cumsum"}
COMMUTE = {
    "maximum", "minimum", "max", "min", "promote_types", "same_shape", "equal", "elementwise_dtype",
    "result_dtype", "working_dtype", "all_finite", "fma", "two_sum", "two_prod", "dd_add", "dd_mul", "sc_add",
    "sc_mul", "wide_add", "wide_mul",
}  # fmt: skip
UNDIFFERENTIABLE = {"options", "work", "limit", "divisor", "weights", "inputs_finite"}
COUNTS = ("count", "numel", "rows", "divisor", "size", "shape", "len(", "batch")
NO_SWAP = COMMUTE | {"isinstance", "where", "getattr", "zip", "range"}


def _as(node: ast.AST, **changed: object) -> ast.AST:
    """A copy of the node with some fields changed."""
    new = copy.copy(node)
    for name, value in changed.items():
        setattr(new, name, value)
    return new


def _called(node: ast.AST) -> str:
    """The last name of what a call calls; empty for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def other_number(value: float | bool) -> float | bool:
    """A number that is not `value`, near it.

    Example:
        >>> other_number(3), other_number(0.5), other_number(True)
        (4, 0.625, False)
    """
    if isinstance(value, bool):
        return not value
    return value * 1.25 if value % 1 else value + 1


def arithmetic(node: ast.AST) -> Iterator[ast.AST]:
    """Another arithmetic or logical operator."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPPED:
        yield _as(node, op=SWAPPED[type(node.op)]())


def comparison(node: ast.AST) -> Iterator[ast.AST]:
    """The opposite comparison; strict or not where it is against 0, 1 or inf."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield _as(node, ops=[SWAPPED[type(node.ops[0])](), *node.ops[1:]])
        edge = ast.unparse(node.comparators[0]).split(".")[-1] in EDGES
        if edge and type(node.ops[0]) in EDGED:
            yield _as(node, ops=[EDGED[type(node.ops[0])](), *node.ops[1:]])


def condition(node: ast.AST) -> Iterator[ast.AST]:
    """The opposite condition, where it is not one comparison."""
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        single = isinstance(node.test, ast.Compare) and len(node.test.ops) == 1
        negated = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
        if not single and not negated:
            yield _as(node, test=ast.UnaryOp(ast.Not(), node.test))


def constant(node: ast.AST) -> Iterator[ast.AST]:
    """Another number."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(other_number(node.value))


def sign(node: ast.AST) -> Iterator[ast.AST]:
    """A sign or a `not` dropped; a returned expression or a product negated."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand
    if isinstance(node, ast.Return) and isinstance(node.value, ast.BinOp | ast.Name):
        yield _as(node, value=ast.UnaryOp(ast.USub(), node.value))
    product = isinstance(node, ast.Assign) and isinstance(getattr(node.value, "op", None), ast.Mult | ast.Div)
    if product and isinstance(node.value, ast.BinOp):
        yield _as(node, value=ast.UnaryOp(ast.USub(), node.value))


def term(node: ast.AST) -> Iterator[ast.AST]:
    """One side of a sum, a product or a conjunction."""
    if isinstance(node, ast.BinOp) and isinstance(
        node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.BitAnd | ast.BitOr
    ):
        yield node.left
        if isinstance(node.op, ast.Add | ast.BitAnd | ast.BitOr):
            yield node.right
    if isinstance(node, ast.BoolOp):
        for index in range(len(node.values)):
            rest = [value for i, value in enumerate(node.values) if i != index]
            yield rest[0] if len(rest) == 1 else _as(node, values=rest)


def branch(node: ast.AST) -> Iterator[ast.AST]:
    """`where` swapped, or without its condition."""
    if _called(node) == "where" and len(node.args) == 3:
        yield _as(node, args=[node.args[0], node.args[2], node.args[1]])
        yield node.args[1]
        yield node.args[2]


def function(node: ast.AST) -> Iterator[ast.AST]:
    """Another function of the same shape: another reduction, a near elementary function."""
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield _as(node, attr=NAMES[node.attr])


def dimension(node: ast.AST) -> Iterator[ast.AST]:
    """A reduction along the dimension beside the right one."""
    if _called(node) in REDUCTIONS:
        for index, argument in enumerate(node.args):
            if isinstance(argument, ast.Constant) and type(argument.value) is int:
                swapped = ast.Constant(1 - argument.value if argument.value in {0, 1} else 0)
                yield _as(node, args=[swapped if i == index else a for i, a in enumerate(node.args)])


def arguments(node: ast.AST) -> Iterator[ast.AST]:
    """The first two positional arguments swapped."""
    if isinstance(node, ast.Call) and len(node.args) >= 2 and _called(node) not in NO_SWAP:
        first, second, *rest = node.args
        starred = any(isinstance(one, ast.Starred) for one in (first, second))
        text = isinstance(first, ast.Constant) and isinstance(first.value, str)  # names for messages
        if not starred and not text and ast.dump(first) != ast.dump(second):
            yield _as(node, args=[second, first, *rest])


def dtype(node: ast.AST) -> Iterator[ast.AST]:
    """A narrower dtype, or a conversion left out."""
    if isinstance(node, ast.Attribute) and node.attr in DTYPES:
        yield _as(node, attr=DTYPES[node.attr])
    if isinstance(node, ast.Attribute) and node.attr in DTYPE_CHOICES:
        yield _as(node, attr=DTYPE_CHOICES[node.attr])
    if _called(node) in {"to", "double"} and isinstance(node.func, ast.Attribute) and not node.keywords:
        yield node.func.value


def bounds(node: ast.AST) -> Iterator[ast.AST]:
    """One more or one less in a range or a slice."""
    if _called(node) == "range":
        last = node.args[-1] if len(node.args) < 2 else node.args[1]
        for change in (ast.Add, ast.Sub):
            moved = ast.BinOp(last, change(), ast.Constant(1))
            yield _as(node, args=[moved if one is last else one for one in node.args])
        if len(node.args) >= 2:
            yield _as(node, args=[ast.BinOp(node.args[0], ast.Add(), ast.Constant(1)), *node.args[1:]])
    if isinstance(node, ast.Slice):
        for side in ("lower", "upper"):
            end = getattr(node, side)
            if end is not None and not isinstance(end, ast.Constant):
                yield _as(node, **{side: ast.BinOp(end, ast.Add(), ast.Constant(1))})
                yield _as(node, **{side: ast.BinOp(end, ast.Sub(), ast.Constant(1))})


def gradient(node: ast.AST) -> Iterator[ast.AST]:
    """A gradient that is missing or zero, `detach` left out or put in."""
    if _called(node) == "detach":
        yield node.func.value
    if isinstance(node, ast.FunctionDef) and node.name == "backward":
        yield from _without_gradients(node)
    if _called(node) == "apply" and isinstance(node.func, ast.Attribute):
        for index, argument in enumerate(node.args):
            if isinstance(argument, ast.Name) and argument.id not in UNDIFFERENTIABLE:
                cut = ast.Call(ast.Attribute(argument, "detach", ast.Load()), [], [])
                yield _as(node, args=[cut if i == index else a for i, a in enumerate(node.args)])
    if isinstance(node, ast.FunctionDef) and node.name != "forward" and _returns_tensor(node):
        cut = ast.Call(ast.Attribute(node.body[-1].value, "detach", ast.Load()), [], [])
        yield _as(node, body=[*node.body[:-1], ast.Return(cut)])


def _returns_tensor(node: ast.FunctionDef) -> bool:
    named = isinstance(node.returns, ast.Name) and node.returns.id == "Tensor"
    return named and isinstance(node.body[-1], ast.Return)


def _without_gradients(node: ast.FunctionDef) -> Iterator[ast.AST]:
    last = node.body[-1]
    if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Tuple):
        return
    for index, element in enumerate(last.value.elts):
        if isinstance(element, ast.Constant):
            continue
        wanted = element.body if isinstance(element, ast.IfExp) else element
        zero = ast.BinOp(wanted, ast.Mult(), ast.Constant(0.0))
        zeroed = _as(element, body=zero) if isinstance(element, ast.IfExp) else zero
        for new in (ast.Constant(None), zeroed):
            elements = [new if i == index else e for i, e in enumerate(last.value.elts)]
            yield _as(node, body=[*node.body[:-1], ast.Return(ast.Tuple(elements, ast.Load()))])


def normaliser(node: ast.AST) -> Iterator[ast.AST]:
    """A division by one more than the count, or by a count of something else."""
    division = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    if division and any(word in ast.unparse(node.right) for word in COUNTS):
        yield _as(node, right=ast.BinOp(node.right, ast.Add(), ast.Constant(1)))
    if _called(node) == "count_nonzero":
        ones = ast.Call(ast.Attribute(ast.Name("torch", ast.Load()), "ones_like", ast.Load()), node.args, [])
        yield ast.Call(node.func, [ones], node.keywords)
    if _called(node) == "numel" and not node.args:
        yield ast.BinOp(node, ast.Add(), ast.Constant(1))


def deletion(node: ast.AST) -> Iterator[ast.AST]:
    """A statement left out: a call, an update, a second assignment, a refusal."""
    for field in ("body", "orelse"):
        block = getattr(node, field, None)
        if isinstance(block, list) and not isinstance(node, ast.Module | ast.ClassDef):
            for index, statement in enumerate(block):
                if _may_go(statement, block[:index], node):
                    kept = [ast.Pass() if i == index else s for i, s in enumerate(block)]
                    yield _as(node, **{field: kept})


def _may_go(statement: ast.stmt, before: list[ast.stmt], around: ast.AST) -> bool:
    if isinstance(statement, ast.Expr):
        return not isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.If):
        return isinstance(statement.body[0], ast.Raise | ast.Return | ast.Continue) and not statement.orelse
    if isinstance(statement, ast.AugAssign):
        return True
    if not isinstance(statement, ast.Assign):
        return False
    known = {name.id for one in before for name in ast.walk(one) if isinstance(name, ast.Name)}
    if isinstance(around, ast.FunctionDef):
        known |= {argument.arg for argument in ast.walk(around.args) if isinstance(argument, ast.arg)}
    targets = [name for one in statement.targets for name in ast.walk(one)]
    stored = {n.id for n in targets if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return bool(stored) and stored <= known


OPERATORS: dict[str, Operator] = {
    one.__name__: one
    for one in (
        arithmetic, comparison, condition, constant, sign, term, branch, function, dimension, arguments,
        dtype, bounds, gradient, normaliser, deletion,
    )
}  # fmt: skip
KINDS = tuple(OPERATORS)
