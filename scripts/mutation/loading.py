"""A package loaded afresh under another name, one module of it changed."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import pure
from .candidates import ROOT, Mutation, mutate

__all__ = ["loaded", "plain_torch"]


class _Renamed(ast.NodeTransformer):
    """Let a package import itself under the mutant's name, with an operator namespace of its own."""

    def __init__(self, package: str, name: str) -> None:
        self.package, self.name = package, name

    def _own(self, module: str) -> str:
        return self.name + module.removeprefix(self.package)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module and node.module.split(".")[0] == self.package:
            node.module = self._own(node.module)
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        for alias in node.names:
            if alias.name.split(".")[0] == self.package:
                alias.name = self._own(alias.name)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            node.value = node.value.replace("proven_losses", self.name)
        return node


class _Uncached(ast.NodeTransformer):
    """Leave no compiled kernel in Numba's cache, which knows them by their file, not by their change."""

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        if node.arg == "cache":
            node.value = ast.Constant(value=False)
        return node


class _Plain(_Renamed):
    """The oracles without Numba: kernels are plain functions, with IEEE division and functions."""

    def __init__(self, package: str, name: str) -> None:
        super().__init__(package, name)
        self.in_kernel = False

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module and node.module.split(".")[0] == "numba":
            node.module = pure.__name__
        return super().visit_ImportFrom(node)

    def visit_Import(self, node: ast.Import) -> ast.AST:
        if [alias.name for alias in node.names] == ["math"]:
            return ast.ImportFrom(pure.__name__, [ast.alias("math")], 0)
        return super().visit_Import(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name == "fma":
            return ast.ImportFrom(pure.__name__, [ast.alias("fma")], 0)
        outer, self.in_kernel = self.in_kernel, self.in_kernel or bool(node.decorator_list)
        node = self.generic_visit(node)
        self.in_kernel = outer
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if self.in_kernel and isinstance(node.op, ast.Div):
            return ast.Call(ast.Name("__divide__", ast.Load()), [node.left, node.right], [])
        return node


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads `name.*` from the files of a package, one of them changed."""

    def __init__(self, package: str, name: str, mutation: Mutation | None) -> None:
        self.package, self.name, self.mutation = package, name, mutation

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname.split(".", maxsplit=1)[0] != self.name:
            return None
        file = ROOT.joinpath(self.package, *fullname.split(".")[1:])
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        return importlib.util.spec_from_file_location(
            fullname, file, loader=self, submodule_search_locations=[] if file.name == "__init__.py" else None
        )

    def _caches_hold(self) -> bool:
        """Whether compiled code is the real package's: its own name, and the change is not compiled in."""
        if self.name != self.package or self.mutation is None:
            return False
        return not self.mutation.module.startswith("kernels/negative_binomial")

    def exec_module(self, module: types.ModuleType) -> None:
        path = Path(module.__spec__.origin)
        tree = ast.parse(path.read_text())
        if self.mutation is not None and path == ROOT / self.package / f"{self.mutation.module}.py":
            tree = mutate(tree, self.mutation)
        plain = self.package == "refimpl"
        if plain:
            module.__dict__["__divide__"] = pure.divide
        if not plain and not self._caches_hold():
            tree = _Uncached().visit(tree)
        if self.name != self.package:
            tree = (_Plain if plain else _Renamed)(self.package, self.name).visit(tree)
        code = compile(ast.fix_missing_locations(tree), str(path), "exec")
        exec(code, module.__dict__)  # noqa: S102 (it loads our own package)


@contextlib.contextmanager
def loaded(package: str, name: str, mutation: Mutation | None) -> Iterator[types.ModuleType]:
    """The package under another name, with the mutation applied; nothing of it stays behind.

    Args:
        package: "torchimpl", or "refimpl", which loses its Numba.
        name: what to call it; its own name where it has not been imported before.
        mutation: what to change; nothing for None.
    """
    loader = _Loader(package, name, mutation)
    sys.meta_path.insert(0, loader)
    try:
        yield importlib.import_module(name)
    finally:
        sys.meta_path.remove(loader)
        for one in [module for module in sys.modules if module.split(".", maxsplit=1)[0] == name]:
            del sys.modules[one]


def plain_torch(package: types.ModuleType) -> None:
    """Let plain torch answer on the CPU, too, where a loaded torchimpl has a compiled kernel."""
    concordance = importlib.import_module(f"{package.__name__}.kernels.concordance_backends")
    concordance.choices = lambda _device, _features: ("torch",)
    kernels = f"{package.__name__}.kernels.negative_binomial"
    dense, ops, log_pmf, second = (
        importlib.import_module(kernels + part) for part in ("", "_ops", "_log_pmf", "_second")
    )
    evaluate = functools.partial(dense.evaluate, dense=False)
    second_partials = functools.partial(second.second_partials, dense=False, first=evaluate)
    ops.evaluator = lambda _device: evaluate
    ops.second_evaluator = lambda _device: second_partials
    log_pmf.evaluators = lambda _device: (log_pmf.log_pmf_value, log_pmf.log_pmf_slopes)
    users = importlib.import_module(f"{package.__name__}.negative_binomial")
    users.negative_log_pmf = log_pmf.NegativeLogPMF.apply
