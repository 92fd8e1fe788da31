"""Break `torchimpl` on purpose, one small change at a time, and count what the verification engine notices.

Every mutant is the whole package loaded afresh under another name with one node of a module changed,
given to `refimpl.conformance.verify` as somebody's implementation. A survivor is a change no check saw: a
better check is missing, or the change is equivalent and deserves to be simplified away.

    python scripts/mutants.py                      # a sample over all modules
    python scripts/mutants.py --module pearson --all
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import random
import sys
import types
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

PACKAGE = Path(__file__).parents[1] / "torchimpl"
LOSSES = {
    "masked": ["masked_sse", "masked_mse"],
    "concordance": ["concordance_loss_nce"],
    "pearson": ["negative_pearson_loss"],
    "residual": ["compute_residual_mse", "replicate_concordance_mse_loss"],
    "negative_binomial": ["negative_binomial_cdf", "negative_binomial_sf", "compute_numeric_cdf"],
    "quantile": ["quantile_absolute_loss"],
    "likelihood": ["nll_loss"],
    "composite": ["CompositeLoss"],
    "replicates": [
        "concordance_loss_nce_wrapper",
        "negative_pearson_loss_wrapper",
        "quantile_absolute_loss_wrapper",
    ],
    "saturate": ["masked_mse", "concordance_loss_nce", "compute_residual_mse"],
    "scaling": ["masked_mse", "negative_pearson_loss", "compute_residual_mse"],
    "alignment": ["concordance_loss_nce_wrapper", "nll_loss", "replicate_concordance_mse_loss"],
    "kernels/concordance": ["concordance_loss_nce"],
    "kernels/negative_binomial_regions": ["negative_binomial_cdf", "negative_binomial_sf"],
    "kernels/negative_binomial_fraction": ["negative_binomial_cdf", "negative_binomial_sf"],
}

SWAPPED_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
SWAPPED_NAMES = {
    "sum": "mean", "mean": "sum", "amax": "amin", "amin": "amax", "maximum": "minimum", "minimum": "maximum",
    "log1p": "log", "expm1": "exp", "exp": "expm1", "log": "log1p", "sqrt": "square", "square": "abs",
    "floor": "ceil", "abs": "neg", "float64": "float32", "zeros_like": "ones_like", "argmin": "argmax",
    "sub_": "add_", "add_": "sub_", "mul_": "div_", "div_": "mul_", "detach": "clone", "sign": "abs",
    "neg": "abs",
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One change: the module, the position of the node in a walk over its tree, and which change."""

    module: str
    index: int
    kind: str
    line: int


def candidates(module: str) -> Iterator[Mutation]:
    """Every mutation of a module, docstrings, annotations and error messages left alone."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    skipped = {id(inner) for node in ast.walk(tree) for part in _left_alone(node) for inner in ast.walk(part)}
    for index, node in enumerate(ast.walk(tree)):
        if id(node) not in skipped:
            for kind in _kinds(node):
                yield Mutation(module, index, kind, getattr(node, "lineno", 0))


def _left_alone(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.FunctionDef):
        annotations = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.annotation]
        return [*annotations, *([node.returns] if node.returns else []), *node.decorator_list]
    if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return [node]
    if isinstance(node, ast.AnnAssign):
        return [node.annotation]
    return []


def _kinds(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPPED_OPERATORS:
        yield "operator"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED_OPERATORS:
        yield "comparison"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield "drop sign"
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "constant"
    if isinstance(node, ast.Attribute) and node.attr in SWAPPED_NAMES:
        yield "function"
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "where" and len(node.args) == 3:
        yield "swap branches"
        yield "drop where"


def mutate(tree: ast.Module, mutation: Mutation) -> ast.Module:
    """A copy of the tree with the mutation applied."""
    tree = copy.deepcopy(tree)
    node = next(n for i, n in enumerate(ast.walk(tree)) if i == mutation.index)
    if mutation.kind == "operator":
        node.op = SWAPPED_OPERATORS[type(node.op)]()
    elif mutation.kind == "comparison":
        node.ops[0] = SWAPPED_OPERATORS[type(node.ops[0])]()
    elif mutation.kind == "drop sign":
        _replace(tree, node, node.operand)
    elif mutation.kind == "constant":
        node.value = _other(node.value)
    elif mutation.kind == "function":
        node.attr = SWAPPED_NAMES[node.attr]
    elif mutation.kind == "swap branches":
        node.args[1], node.args[2] = node.args[2], node.args[1]
    else:
        _replace(tree, node, node.args[1])
    return ast.fix_missing_locations(tree)


def _other(value: float | bool) -> float | bool:
    if isinstance(value, bool):
        return not value
    return value * 1.25 if value % 1 else value + 1


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list) and any(item is old for item in value):
                value[:] = [new if item is old else item for item in value]


class _Renamed(ast.NodeTransformer):
    """Let the package import itself under the mutant's name, with an operator namespace of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module and node.module.split(".")[0] == "torchimpl":
            node.module = self.name + node.module.removeprefix("torchimpl")
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        for alias in node.names:
            if alias.name.split(".")[0] == "torchimpl":
                alias.name = self.name + alias.name.removeprefix("torchimpl")
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            node.value = node.value.replace("proven_losses", self.name)
        return node


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads `name.*` from the files of torchimpl, one of them changed."""

    def __init__(self, name: str, mutation: Mutation) -> None:
        self.name, self.mutation = name, mutation

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname.split(".", maxsplit=1)[0] != self.name:
            return None
        inner = fullname.split(".")[1:]
        file = PACKAGE.joinpath(*inner)
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        return importlib.util.spec_from_file_location(
            fullname, file, loader=self, submodule_search_locations=[] if file.name == "__init__.py" else None
        )

    def exec_module(self, module: types.ModuleType) -> None:
        path = Path(module.__spec__.origin)
        tree = ast.parse(path.read_text())
        if path == PACKAGE / f"{self.mutation.module}.py":
            tree = mutate(tree, self.mutation)
        exec(compile(_Renamed(self.name).visit(tree), str(path), "exec"), module.__dict__)  # noqa: S102 (it loads our own package)


def survives(name: str, mutation: Mutation, examples: int) -> bool:
    """Whether no check notices the package loaded under `name` with the mutation applied."""
    from refimpl.conformance import verify  # noqa: PLC0415 (torch and hypothesis load only when something runs)

    loader = _Loader(name, mutation)
    sys.meta_path.insert(0, loader)
    losses, dtypes = LOSSES[mutation.module], ["float32", "float64"]
    try:
        package = importlib.import_module(name)
        report = verify(package, losses=losses, dtypes=dtypes, max_examples=examples, first_only=True)
    except Exception:  # noqa: BLE001 (whatever a mutant raises, it has been noticed)
        return False
    finally:
        sys.meta_path.remove(loader)
        for loaded in [m for m in sys.modules if m.split(".", maxsplit=1)[0] == name]:
            del sys.modules[loaded]
    return report.ok


def main() -> int:
    """Run the mutants and print the score of each module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--module", choices=sorted(LOSSES), action="append", help="only these modules")
    parser.add_argument("--sample", type=int, default=12, help="mutants a module (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-examples", type=int, default=40, help="examples a loss, dtype and family")
    args = parser.parse_args()

    rng, chosen = random.Random(args.seed), []  # noqa: S311 (no secret here)
    for module in args.module or sorted(LOSSES):
        every = list(candidates(module))
        sample = every if args.all else rng.sample(every, min(args.sample, len(every)))
        chosen += sorted(sample, key=lambda m: m.index)

    warnings.simplefilter("ignore")
    console, killed, total, survivors = Console(), Counter(), Counter(), []
    with Progress(console=Console(stderr=True)) as progress:
        for number, mutation in enumerate(progress.track(chosen, description="mutants")):
            total[mutation.module] += 1
            if survives(f"mutant{number}", mutation, args.max_examples):
                survivors.append(mutation)
            else:
                killed[mutation.module] += 1
    table = Table("module", "mutants", "killed", "score", title=f"mutation score, seed {args.seed}")
    for module, count in total.items():
        table.add_row(module, str(count), str(killed[module]), f"{killed[module] / count:.0%}")
    console.print(table)
    for survivor in survivors:
        line = (PACKAGE / f"{survivor.module}.py").read_text().splitlines()[survivor.line - 1].strip()
        console.print(
            f"survived: torchimpl/{survivor.module}.py:{survivor.line} {survivor.kind}: {line}", markup=False
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
