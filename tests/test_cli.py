"""The command line: exit status, report file, and a counterexample that runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.cli import main
from refimpl.conformance.properties import PROPERTIES

RIGHT = "from torchimpl.masked import masked_mse\n"

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


SMALL = ["--loss", "masked_mse", "--dtype", "float16", "float32", "--max-examples", "1", "--jobs", "1"]
FAST = ["--property", "returns", "value", "gradient"]


def test_right_module_gives_0_and_a_table(module, capsys):
    assert main(["verify", module("right_losses", RIGHT), *SMALL, *FAST]) == 0
    printed = capsys.readouterr()
    assert "masked_mse" in printed.out
    assert "float16" in printed.out
    assert "no violation" in printed.out
    assert printed.err == ""


def test_wrong_module_gives_1_and_source_that_runs(module, capsys, tmp_path):
    name = module("wrong_losses", WRONG)
    file, page = tmp_path / "report.json", tmp_path / "report.html"
    assert main(["verify", name, *SMALL, *FAST, "--json", str(file), "--html", str(page)]) == 1
    printed = capsys.readouterr().out
    content = json.loads(file.read_text())
    assert content["target"] == name
    assert content["ok"] is False
    assert {cell["dtype"] for cell in content["cells"]} == {"float16", "float32"}
    assert "masked_mse" in page.read_text()
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


def test_mapped_functions_and_missing_losses(module, capsys):
    name = module("partial_losses", "from torchimpl.masked import masked_mse as mse, masked_sse")
    narrow = ["--dtype", "float64", "--max-examples", "1", "--family", "ordinary", "--jobs", "1", *FAST]
    mapped = ["--map", f"masked_mse={name}:mse"]
    assert main(["verify", *mapped, *narrow]) == 0
    printed = capsys.readouterr().out
    assert "mapped functions" in printed
    assert "missing" not in printed
    losses = ["--loss", "masked_mse", "masked_sse", "nll_loss"]
    assert main(["verify", *narrow, *mapped, *losses, "--seed", "3", "--", name]) == 0
    printed = capsys.readouterr().out
    assert "missing" in printed
    assert "nll_loss" in printed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["no_such_module_anywhere"], "cannot import module 'no_such_module_anywhere'"),
        (["json"], "has none of"),
        (["refimpl.conformance.textbook", "--loss", "maskd_mse"], "nearest: masked_mse"),
        (["refimpl.conformance.textbook", "--dtype", "float23"], "nearest: float"),
        (["refimpl.conformance.textbook", "--property", "valve"], "nearest: value"),
        (["refimpl.conformance.textbook", "--family", "ordinry"], "nearest: ordinary"),
        (["refimpl.conformance.textbook", "--adapter", "tensorflow"], "not one of torch, numpy, jax"),
        (["refimpl.conformance.textbook", "--device", "warp"], "device 'warp' cannot be used"),
        (["refimpl.conformance.textbook", "--spec", "no_such_spec"], "cannot import module 'no_such_spec'"),
        (["refimpl.conformance.textbook", "--max-examples", "0"], "at least 1"),
        (["refimpl.conformance.textbook", "--max-examples", "many"], "'many'"),
        (["refimpl.conformance.textbook", "--seed", "-1"], "--seed"),
        (["refimpl.conformance.textbook", "--time-limit", "nan"], "above 0"),
        (["refimpl.conformance.textbook", "--time-limit", "soon"], "'soon'"),
        (["refimpl.conformance.textbook", "--json", "/no/such/folder/x.json"], "no such folder"),
        (["refimpl.conformance.textbook", "--html", "/no/such/folder/x.html"], "no such folder"),
        (["refimpl.conformance.textbook", "--html", "/"], "is a folder"),
        (["--map", "masked_mse"], "not of the form LOSS=MODULE:FUNCTION"),
        (["--map", "maskd_mse=torchimpl:masked_mse"], "nearest: masked_mse"),
        (["--map", "masked_mse=torchimpl:nothing"], "nothing"),
        ([], "MODULE is needed"),
    ],
)
def test_wrong_usage_gives_2_and_one_line(arguments, text, capsys):
    assert main(["verify", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error.splitlines()[-1]


def test_module_that_cannot_be_imported_is_wrong_usage(module, capsys):
    assert main(["verify", module("broken_losses", "1 / 0")]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_an_engine_that_fails_is_told_apart(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("the engine failed in a worker process")

    monkeypatch.setattr("refimpl.conformance.cli.verify", broken)
    assert main(["verify", "torchimpl"]) == 3
    assert "the engine failed" in capsys.readouterr().err


def test_list_names_everything(capsys):
    assert main(["verify", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}(" in printed for name in CATALOGUE)
    assert all(f"  {one.name}: {one.holds}" in printed for one in PROPERTIES.values())
    assert "  one huge row\n" in printed


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
