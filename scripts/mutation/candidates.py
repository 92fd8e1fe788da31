"""Which changes are made: every operator at every node of a module, without those that nothing could tell."""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .operators import OPERATORS
from .plan import BY_TESTS, TESTS_ALONE, cap

__all__ = ["ROOT", "Mutation", "candidates", "changed_source", "mutate", "sampled", "source_of"]

ROOT = Path(__file__).parents[2]
ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
MODULE_BASES = {"nn.Module", "MaskedSSE"}


@dataclass(frozen=True)
class Mutation:
    """One change of one module.

    Attributes:
        package: "torchimpl" or "refimpl".
        module: path inside the package, without suffix.
        index: position of the node in a walk over the module's tree.
        kind: name of the operator.
        variant: which of the operator's changes.
        judge: "engine", or "tests" for what the engine cannot see.
        lineno: where the change is.
        line: the text there.
        change: what became what.
        digest: of the changed source.
    """

    package: str
    module: str
    index: int
    kind: str
    variant: int
    judge: str
    lineno: int
    line: str
    change: str
    digest: str

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.package}/{self.module}.py:{self.lineno}"


def source_of(package: str, module: str) -> str:
    """The text of a module."""
    return (ROOT / package / f"{module}.py").read_text()


@functools.cache
def candidates(package: str, module: str) -> tuple[Mutation, ...]:
    """Every mutation of a module, one for each changed source that differs from all before."""
    source = source_of(package, module)
    tree, lines = ast.parse(source), source.splitlines()
    alone = _marked(tree, functools.partial(_left_alone, package=package))
    tested = _marked(tree, functools.partial(_tested, package=package, module=module))
    places = _Places(tree)
    found: dict[str, Mutation] = {}
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in alone:
            continue
        for kind, operator in OPERATORS.items():
            for variant, new in enumerate(operator(node)):
                place = _where(node, new)
                changed = None if id(place) in alone else places.text_with(node, new)
                if changed is None:
                    continue
                digest = hashlib.sha256(f"{source}\n{changed}".encode()).hexdigest()[:12]
                judge = "tests" if id(place) in tested or module in TESTS_ALONE else "engine"
                line = getattr(place, "lineno", 0)
                change = _described(node, new, place)
                text = lines[line - 1].strip()
                one = Mutation(package, module, index, kind, variant, judge, line, text, change, digest)
                found.setdefault(digest, one)
    return tuple(found.values())


class _Places:
    """Where each node of a tree stands, so that one can be replaced and put back."""

    def __init__(self, tree: ast.Module) -> None:
        self.parents: dict[int, tuple[ast.AST, str, int | None]] = {}
        self.tops: dict[int, tuple[int, ast.stmt]] = {}
        for parent in ast.walk(tree):
            for field, value in ast.iter_fields(parent):
                for position, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                    if isinstance(child, ast.AST):
                        self.parents[id(child)] = parent, field, position
        self.texts = []
        for number, top in enumerate(tree.body):
            self.texts.append(ast.unparse(top))
            for inner in ast.walk(top):
                self.tops[id(inner)] = number, top

    def text_with(self, node: ast.AST, new: ast.AST) -> str | None:
        """The module's statement around a node, with another in its place; None where that is the same."""
        if id(node) not in self.tops:
            return None
        number, top = self.tops[id(node)]
        parent, field, position = self.parents[id(node)]
        _put(parent, field, position, new)
        text = ast.unparse(ast.fix_missing_locations(new if top is node else top))
        _put(parent, field, position, node)
        return None if text == self.texts[number] else f"{number} {text}"


def _put(parent: ast.AST, field: str, position: int | None, child: ast.AST) -> None:
    if position is None:
        setattr(parent, field, child)
    else:
        getattr(parent, field)[position] = child


def _rank(mutation: Mutation, seed: int) -> int:
    text = f"{seed} {mutation.module} {mutation.kind} {mutation.line} {mutation.change}"
    return zlib.crc32(text.encode())


def _marked(tree: ast.AST, choose: functools.partial) -> set[int]:
    return {id(inner) for node in ast.walk(tree) for part in choose(node) for inner in ast.walk(part)}


def _left_alone(node: ast.AST, package: str) -> list[ast.AST]:
    """Annotations, messages, decorators, imports; numbers at which one formula takes over from another."""
    if package == "refimpl" and _refuses(node):
        return [node]
    if isinstance(node, ast.FunctionDef):
        annotations = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.annotation]
        plain = [*annotations, *([node.returns] if node.returns else []), *node.decorator_list]
        defaults = [one for one in (*node.args.defaults, *node.args.kw_defaults) if one is not None]
        return [*plain, *defaults] if package == "refimpl" else plain
    if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return [node]
    if isinstance(node, ast.AnnAssign):
        return [node.annotation]
    if isinstance(node, ast.keyword) and node.arg == "strict":  # of zip: lengths are equal by construction
        return [node.value]
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ORDERED):
        return [part for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return []


def _refuses(node: ast.AST) -> bool:
    """Whether this part of an oracle is about wrong arguments, which the engine never hands to one."""
    if isinstance(node, ast.FunctionDef):
        return node.name in {"fma", "_llvm_fma", "_fma_in_kernels"}  # not what a kernel calls
    if isinstance(node, ast.If):
        return isinstance(node.body[0], ast.Raise)
    text = ast.unparse(node) if isinstance(node, ast.Expr | ast.Assign) else ""
    return any(word in text for word in ("check_", "same_shape(", "checked_"))


def _tested(node: ast.AST, package: str, module: str) -> list[ast.AST]:
    """What the project's tests hold, because the engine never calls it."""
    if package != "torchimpl":
        return []
    if isinstance(node, ast.FunctionDef) and node.name in BY_TESTS.get(module, BY_TESTS["*"]) | BY_TESTS["*"]:
        return [node]
    if isinstance(node, ast.ClassDef) and node.name != "CompositeLoss":
        return [node] if any(ast.unparse(base) in MODULE_BASES for base in node.bases) else []
    if isinstance(node, ast.stmt) and not hasattr(node, "body") and "chunk_size" in ast.unparse(node):
        return [node]
    return []


def _where(node: ast.AST, new: ast.AST) -> ast.AST:
    """The statement or expression that differs: for a changed block the first statement that does."""
    for field in ("body", "orelse"):
        old, now = getattr(node, field, None), getattr(new, field, None)
        if isinstance(old, list) and isinstance(now, list):
            for one, other in zip(old, now, strict=False):
                if one is not other:
                    return one
    return node


def _described(node: ast.AST, new: ast.AST, place: ast.AST) -> str:
    if place is not node:
        for field in ("body", "orelse"):
            for one, other in zip(getattr(node, field, []), getattr(new, field, []), strict=False):
                if one is place:
                    node, new = one, other
    if (
        isinstance(node, ast.If | ast.IfExp | ast.While)
        and hasattr(new, "test")
        and node.test is not new.test
    ):
        node, new = node.test, new.test
    texts = [" ".join(ast.unparse(ast.fix_missing_locations(one)).split()) for one in (node, new)]
    short = [text if len(text) <= 90 else f"{text[:87]}..." for text in texts]
    return f"{short[0]} -> {'(left out)' if short[1] == 'pass' else short[1]}"


def _replaced(tree: ast.Module, index: int, new: ast.AST) -> ast.Module:
    """A copy of the tree with `new` at a place; the tree stays as it is."""
    old = next(node for i, node in enumerate(ast.walk(tree)) if i == index)
    memo = {id(old): copy.deepcopy(new)}
    return ast.fix_missing_locations(copy.deepcopy(tree, memo))


def mutate(tree: ast.Module, mutation: Mutation) -> ast.Module:
    """A copy of the tree with the mutation applied."""
    node = next(node for i, node in enumerate(ast.walk(tree)) if i == mutation.index)
    new = list(OPERATORS[mutation.kind](node))[mutation.variant]
    return _replaced(tree, mutation.index, new)


def changed_source(mutation: Mutation) -> str:
    """The module's text with the mutation applied (comments are lost)."""
    return ast.unparse(mutate(ast.parse(source_of(mutation.package, mutation.module)), mutation))


def sampled(package: str, modules: Sequence[str], count: int | None, seed: int) -> Iterator[Mutation]:
    """The same `count` mutations of every module at every run, or all that the plan allows.

    They are picked by what they change, so that an edit elsewhere leaves the sample as it is, and in turn
    from every kind of change, so that a small sample has all of them.
    """
    for module in modules:
        picked = _in_turn(candidates(package, module), seed)[: count or cap(package, module)]
        yield from sorted(picked, key=lambda mutation: (mutation.lineno, mutation.index, mutation.variant))


def _in_turn(mutations: Sequence[Mutation], seed: int) -> list[Mutation]:
    """Each kind's first, then each kind's second, and so on."""
    by_kind: dict[str, list[Mutation]] = {}
    for one in sorted(mutations, key=lambda mutation: (_rank(mutation, seed), mutation.digest)):
        by_kind.setdefault(one.kind, []).append(one)
    places = {one: place for group in by_kind.values() for place, one in enumerate(group)}
    return sorted(places, key=lambda mutation: (places[mutation], _rank(mutation, seed), mutation.digest))
