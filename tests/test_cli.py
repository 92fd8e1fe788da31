"""The command line: exit status, report file, and a counterexample that runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.cli import main

RIGHT = '''
import torch

class _MaskedMSE(torch.autograd.Function):
    """Masked squares in float64, of deviations scaled by the largest one."""

    @staticmethod
    def forward(ctx, x_recon, x, mask, reduction):
        error = torch.where(mask, x_recon.double() - x.double(), 0.0)
        rows = max(len(x), 1)
        count = {"mean": max(int(mask.sum()), 1), "batch_mean": rows}.get(reduction, 1)
        ctx.save_for_backward(error)
        ctx.count, ctx.dtypes = count, (x_recon.dtype, x.dtype)
        finite = torch.where(torch.isfinite(error), error, 0.0)
        scale = finite.abs().max().clamp(min=1e-300) if error.numel() else error.new_tensor(1.0)
        squares = (error / scale) ** 2
        total = squares if reduction == "none" else squares.sum() / count
        half = x_recon.dtype in (torch.float16, torch.bfloat16)
        dtype = torch.float32 if half and reduction != "none" else x_recon.dtype
        result = total * scale * scale
        largest = torch.finfo(dtype).max
        known = torch.isfinite(error) if reduction == "none" else torch.isfinite(error).all()
        return torch.where(known, result.clamp(max=largest), result).to(dtype)

    @staticmethod
    def backward(ctx, cotangent):
        (error,) = ctx.saved_tensors
        gradient = cotangent.double() * 2 * error / ctx.count
        return gradient.to(ctx.dtypes[0]), (-gradient).to(ctx.dtypes[1]), None, None


def masked_mse(x_recon, x, mask, *, reduction="mean"):
    if x_recon.shape != x.shape or x.shape != mask.shape:
        raise ValueError(f"shapes differ: {x_recon.shape}, {x.shape}, {mask.shape}")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    if reduction not in ("mean", "sum", "none", "batch_mean"):
        raise ValueError(f"reduction {reduction!r} is not known")
    return _MaskedMSE.apply(x_recon, x, mask, reduction)
'''

WRONG = """
def masked_mse(x_recon, x, mask, *, reduction="mean"):
    return ((x_recon - x)[mask] ** 2).mean()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that can be imported by the name that is returned."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


SMALL = ["--loss", "masked_mse", "--dtype", "float16", "float32", "--max-examples", "2"]


def test_right_module_gives_0_and_a_table(module, capsys):
    assert main(["verify", module("right_losses", RIGHT), *SMALL]) == 0
    printed = capsys.readouterr()
    assert "masked_mse" in printed.out
    assert "float16" in printed.out
    assert "no violation" in printed.out
    assert printed.err == ""


def test_wrong_module_gives_1_and_source_that_runs(module, capsys, tmp_path):
    name = module("wrong_losses", WRONG)
    file = tmp_path / "report.json"
    assert main(["verify", name, *SMALL, "--json", str(file)]) == 1
    printed = capsys.readouterr().out
    content = json.loads(file.read_text())
    assert content["target"] == name
    assert content["ok"] is False
    assert {cell["dtype"] for cell in content["cells"]} == {"float16", "float32"}
    shown = [violation for violation in content["violations"] if violation["snippet"] in printed]
    assert shown
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    run = subprocess.run(
        [sys.executable, "-c", shown[0]["snippet"]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("value ")


def test_missing_losses_are_listed_and_do_not_fail(module, capsys):
    arguments = ["--loss", "masked_mse", "masked_sse", "--dtype", "float64", "--max-examples", "1"]
    assert main(["verify", module("partial_losses", RIGHT), *arguments]) == 0
    assert "missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["no_such_module_anywhere"], "cannot import module 'no_such_module_anywhere'"),
        (["json"], "has none of"),
        (["refimpl.conformance.textbook", "--loss", "maskd_mse"], "nearest: masked_mse"),
        (["refimpl.conformance.textbook", "--dtype", "float23"], "nearest: float"),
        (["refimpl.conformance.textbook", "--max-examples", "0"], "at least 1"),
        (["refimpl.conformance.textbook", "--max-examples", "many"], "'many'"),
        (["refimpl.conformance.textbook", "--seed", "-1"], "--seed"),
        (["refimpl.conformance.textbook", "--json", "/no/such/folder/x.json"], "no such folder"),
        ([], "MODULE"),
    ],
)
def test_wrong_usage_gives_2_and_one_line(arguments, text, capsys):
    assert main(["verify", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error.splitlines()[-1]


def test_module_that_cannot_be_imported_is_wrong_usage(module, capsys):
    assert main(["verify", module("broken_losses", "1 / 0")]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_help_tells_the_exit_status_and_the_losses(capsys):
    assert main(["verify", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "exit status" in printed
    assert all(name in " ".join(printed.split()) for name in CATALOGUE)


def test_the_package_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "refimpl", "verify", "json"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1


def test_the_oracles_need_neither_torch_nor_hypothesis():
    code = "import refimpl, sys; sys.exit(bool({'torch', 'hypothesis', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("package", ["rich", "hypothesis"])
def test_without_the_extra_the_command_says_what_to_install(package):
    hidden = f"import sys, runpy; sys.modules['{package}'] = None"
    code = f"{hidden}; runpy.run_module('refimpl', run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == f"python -m refimpl verify needs {package}: pip install 'proven-losses[verify]'\n"
