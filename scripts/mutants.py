"""Break `torchimpl` on purpose, one small change at a time, and count what the verification engine notices.

Every mutant is the whole package loaded afresh under another name with one node of a module changed,
given to `refimpl.conformance.verify` as somebody's implementation. A survivor is a change no check saw: a
better check is missing, or the change is equivalent. Equivalent changes that the operators below cannot know
are listed with their reason in `EQUIVALENT` and leave the score.

    python scripts/mutants.py                      # a sample over all modules
    python scripts/mutants.py --module pearson --all

What is never changed, because the engine is not what holds it: annotations, messages, decorators; the
`nn.Module` twins of the functions, `extra_repr`, the config of a composite and the names of its components;
`chunk_size`, which the contract does not know. tests/ holds all of these. Constants inside an ordered
comparison are switch points between two formulas that both hold there: the comparison is negated instead, and
made strict (or not) only against 0, 1 and inf.

Exit status: 0, whatever survives; 2 where the unchanged package is rejected and scores would mean nothing.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
import zlib
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
    "saturate": ["masked_mse", "concordance_loss_nce", "compute_residual_mse", "nll_loss"],
    "scaling": ["masked_mse", "negative_pearson_loss", "compute_residual_mse", "CompositeLoss"],
    "alignment": ["concordance_loss_nce_wrapper", "nll_loss", "replicate_concordance_mse_loss"],
    "kernels/concordance": ["concordance_loss_nce"],
    "kernels/negative_binomial_regions": ["negative_binomial_cdf", "negative_binomial_sf"],
    "kernels/negative_binomial_fraction": ["negative_binomial_cdf", "negative_binomial_sf"],
}

SWAPPED_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
ORDERED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip
EDGES = {"0", "1", "inf"}  # the ends of 0, 1, 0.0, 1.0, math.inf
TWINS = {"MaskedSSE"}
LEFT_TO_TESTS = {
    "extra_repr", "to_config", "_apply", "_copied", "_kind", "_unique", "_own_name", "_checked_names",
    "_rows_per_block",
}  # fmt: skip
SWAPPED_NAMES = {
    "sum": "mean", "mean": "sum", "amax": "amin", "amin": "amax", "maximum": "minimum", "minimum": "maximum",
    "log1p": "log", "expm1": "exp", "exp": "expm1", "log": "log1p", "sqrt": "square", "square": "abs",
    "floor": "ceil", "abs": "neg", "float64": "float32", "zeros_like": "ones_like", "argmin": "argmax",
    "sub_": "add_", "add_": "sub_", "mul_": "div_", "div_": "mul_", "detach": "clone", "sign": "abs",
    "neg": "abs",
}  # fmt: skip


KINDS = (
    "operator", "comparison", "boundary", "drop sign", "constant", "function", "swap branches", "drop where",
)  # fmt: skip
DTYPES = ("float32", "float64", "float16")

# (module, kind, source line) -> why nobody can tell the difference
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "composite",
        "constant",
        "active = torch.where(weights == 0.0, 0.0, values)",
    ): "multiplied by the weight 0 afterwards",
    (
        "composite",
        "function",
        "finite = (stacked.detach().isfinite() | (weights == 0.0)).all()",
    ): "a bool has no gradient: detach is documentation",
    (
        "concordance",
        "drop sign",
        "wide = working in (res1.dtype, res2.dtype) or not 1e-100 < tau < 1e100",
    ): "wide where it need not be costs time only",
    (
        "concordance",
        "comparison",
        "wide = working in (res1.dtype, res2.dtype) or not 1e-100 < tau < 1e100",
    ): "wide where it need not be costs time only",
    (
        "kernels/concordance",
        "function",
        "self.poison = (x * 0).sum(1) + self.poison_y",
    ): "sum and mean of zeros or NaN are the same",
    (
        "kernels/concordance",
        "constant",
        "room = _top(self.dtype) // 2 - 4 - self.features.bit_length()",
    ): "one more bit of a margin of four",
    (
        "pearson",
        "constant",
        "denominator = torch.where(degenerate, 1.0, denominator)",
    ): "a placeholder: the numerator it divides is 0",
    (
        "residual",
        "swap branches",
        "exponent_b = torch.where(in_range, 0, scaling.exponent(scaling.largest(b)))",
    ): "scaling by powers of two is exact, needed or not",
    (
        "residual",
        "constant",
        "difference = torch.where(slope == 0.0, 0.0, y2 * shrink_d - mu2 * shrink_d)",
    ): "multiplied by the slope 0 afterwards",
    (
        "residual",
        "function",
        "if in_range and work == torch.float64 and all(tensor.dtype != work for tensor in inputs):",
    ): "the two paths round alike; float32 work happens on devices without float64 only",
    (
        "residual",
        "constant",
        "return torch.where(x.detach().abs() < _HUGE[x.dtype], 1.0, _SHRINK).to(x.dtype)",
    ): "whoever shrinks divides by the same factor",
    (
        "scaling",
        "function",
        "x = x.detach()",
    ): "only powers of two are made of it, from its bits: no gradient passes",
    (
        "scaling",
        "constant",
        'half = torch.div(exponents, 2, rounding_mode="trunc")',
    ): "two parts of any sizes multiply to the same power while both fit",
    (
        "scaling",
        "constant",
        "return biased.clamp(1, 2 * bias) - bias",
    ): "one binade beside the end of the range, scaled back by the same factor",
    ("saturate", "constant", "_GUARD = 2.0**-64"): "scaled back by the same factor",
    (
        "negative_binomial",
        "function",
        "cdf, sf, _, _ = NegativeBinomialCDF.apply(y.detach(), mu, r)",
    ): "the function gives y no gradient either way",
    (
        "quantile",
        "function",
        "torch.isfinite(distance.detach()),",
    ): "a bool has no gradient: detach is documentation",
    (
        "likelihood",
        "function",
        "return elements, torch.isfinite(counts.detach()) & torch.isfinite(mean.detach())",
    ): "a bool has no gradient: detach is documentation",
}
# the same key -> what a check would have to reach; these count as survivors
UNNOTICED: dict[tuple[str, str, str], str] = {
    (
        "kernels/negative_binomial_fraction",
        "operator",
        "d_root_0 = (last.denominator * last.d_denominator + 2.0 * following.d_numerator) / (root_0 + TINY)",
    ): "derivative of the estimated rest of the fraction",
    (
        "kernels/negative_binomial_regions",
        "swap branches",
        "log_cx = torch.where(x > 1e-290, log_cx, far) - torch.log1p(r)",
    ): "no family has x below 1e-290",
    (
        "likelihood",
        "constant",
        'y: Tensor, mu: Tensor, r: Tensor, *, reduction: str = "mean", validate: bool = False',
    ): "a default of a function that the catalogue does not call",
    (
        "replicates",
        "operator",
        "return saturate(reads - mu, work, reads.isfinite() & mu.isfinite())",
    ): "one input infinite beside a finite one",
    ("residual", "constant", "idle = slope == 0.0"): "incoming gradient 0 beside an infinite difference",
    ("saturate", "constant", "for tensor in tensors[1:]:"): "infinity in the second input only",
    (
        "concordance",
        "operator",
        "wide = working in (res1.dtype, res2.dtype) or not 1e-100 < tau < 1e100",
    ): "neighbours that only a second search tells apart",
}


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
    if isinstance(node, ast.FunctionDef) and node.name in LEFT_TO_TESTS:
        return [node]
    if isinstance(node, ast.FunctionDef):
        annotations = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.annotation]
        return [*annotations, *([node.returns] if node.returns else []), *node.decorator_list]
    if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return [node]
    if isinstance(node, ast.AnnAssign):
        return [node.annotation]
    if isinstance(node, ast.keyword) and node.arg == "strict":  # of zip: lengths are equal by construction
        return [node.value]
    if isinstance(node, ast.Compare) and type(node.ops[0]) in ORDERED:
        return [part for part in ast.walk(node) if isinstance(part, ast.Constant)]
    if isinstance(node, ast.ClassDef) and node.name != "CompositeLoss":
        twin = any(ast.unparse(base) == "nn.Module" or ast.unparse(base) in TWINS for base in node.bases)
        return [node] if twin else []
    return []


def _kinds(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPPED_OPERATORS:
        yield "operator"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED_OPERATORS:
        yield "comparison"
        if type(node.ops[0]) in ORDERED and ast.unparse(node.comparators[0]).split(".")[-1] in EDGES:
            yield "boundary"
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
    elif mutation.kind == "boundary":
        node.ops[0] = ORDERED[type(node.ops[0])]()
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

    def __init__(self, name: str, mutation: Mutation | None) -> None:
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
        if self.mutation is not None and path == PACKAGE / f"{self.mutation.module}.py":
            tree = mutate(tree, self.mutation)
        exec(compile(_Renamed(self.name).visit(tree), str(path), "exec"), module.__dict__)  # noqa: S102 (it loads our own package)


@contextlib.contextmanager
def loaded(name: str, mutation: Mutation | None) -> Iterator[types.ModuleType]:
    """The package under another name, with the mutation applied; nothing of it stays behind."""
    loader = _Loader(name, mutation)
    sys.meta_path.insert(0, loader)
    try:
        yield importlib.import_module(name)
    finally:
        sys.meta_path.remove(loader)
        for one in [module for module in sys.modules if module.split(".", maxsplit=1)[0] == name]:
            del sys.modules[one]


def survives(name: str, module: str, mutation: Mutation | None, examples: int) -> bool:
    """Whether no check of the module's losses notices the mutation in the package loaded under `name`."""
    from refimpl.conformance import verify  # noqa: PLC0415 (torch and hypothesis load only when something runs)

    try:
        with loaded(name, mutation) as package:
            return all(
                verify(package, LOSSES[module], [dtype], max_examples=examples, first_only=True).ok
                for dtype in DTYPES
            )
    except Exception:  # noqa: BLE001 (whatever a mutant raises, it has been noticed)
        return False


def line_of(mutation: Mutation) -> str:
    """The source line that the mutation changes."""
    return (PACKAGE / f"{mutation.module}.py").read_text().splitlines()[mutation.line - 1].strip()


def reason(mutation: Mutation) -> str:
    """Why the mutation is listed as equivalent; empty where it is not."""
    return EQUIVALENT.get((mutation.module, mutation.kind, line_of(mutation)), "")


def known_gap(mutation: Mutation) -> str:
    """What a check would have to reach to notice the mutation; empty where no gap is known."""
    return UNNOTICED.get((mutation.module, mutation.kind, line_of(mutation)), "")


def sampled(modules: Sequence[str], count: int | None, seed: int) -> list[Mutation]:
    """The same `count` mutations of every module at every run, or all of them.

    They are picked by the text of their line, so that an edit elsewhere leaves the sample as it is.
    """

    def rank(mutation: Mutation) -> int:
        text = f"{seed} {mutation.module} {mutation.kind} {line_of(mutation)}"
        return zlib.crc32(text.encode())

    chosen = []
    for module in modules:
        picked = sorted(candidates(module), key=rank)[:count]
        chosen += sorted(picked, key=lambda mutation: mutation.index)
    return chosen


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--module", choices=sorted(LOSSES), action="append", help="only these modules")
    parser.add_argument("--sample", type=int, default=12, help="mutants a module (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-examples",
        type=int,
        default=8,
        help="examples a loss, dtype and family (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> int:
    """Run the mutants and print the score of each module."""
    args = _arguments()
    modules = args.module or sorted(LOSSES)
    warnings.simplefilter("ignore")
    console = Console(soft_wrap=True)
    rejected = [m for m in modules if not survives("unchanged", m, None, args.max_examples)]
    if rejected:
        console.print(f"the unchanged package is rejected: {', '.join(rejected)}; no score means anything")
        return 2
    chosen = sampled(modules, None if args.all else args.sample, args.seed)
    killed, equivalent = Counter[str](), Counter[str]()
    total = Counter(mutation.module for mutation in chosen)
    survivors = []
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        for number, mutation in enumerate(progress.track(chosen, description="mutants")):
            if not survives(f"mutant{number}", mutation.module, mutation, args.max_examples):
                killed[mutation.module] += 1
            elif reason(mutation):
                equivalent[mutation.module] += 1
            else:
                survivors.append(mutation)
    _show(console, total, killed, equivalent, title=f"mutation score, seed {args.seed}")
    for survivor in survivors:
        place = f"torchimpl/{survivor.module}.py:{survivor.line}"
        console.print(f"survived: {place} {survivor.kind}: {line_of(survivor)}", markup=False)
    return 0


def _show(
    console: Console, total: Counter[str], killed: Counter[str], equivalent: Counter[str], title: str
) -> None:
    table = Table("module", "mutants", "equivalent", "killed", "score", title=title)
    for module in [*total, "all"]:
        of = (counts.total() if module == "all" else counts[module] for counts in (total, equivalent, killed))
        count, same, dead = of
        share = f"{dead / (count - same):.0%}" if count > same else ""
        table.add_row(module, str(count), str(same), str(dead), share)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
