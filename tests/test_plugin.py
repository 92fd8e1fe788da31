"""The pytest plugin: ids, selection, skip and xfail files, and how a failure reads."""

import pytest

pytest_plugins = ["pytester"]

PARTIAL = """
import torchimpl

def masked_mse(x_recon, x, mask, *, reduction="mean"):
    return torchimpl.masked_mse(x_recon, x, mask, reduction=reduction)

def masked_sse(x_recon, x, mask, *, reduction="batch_mean"):
    return 2 * torchimpl.masked_sse(x_recon, x, mask, reduction=reduction)
"""
OPTIONS = (
    "-p",
    "refimpl.conformance.plugin",
    "-p",
    "no:cacheprovider",
    "--target",
    "partial_losses",
    "--conformance-dtype",
    "float32",
    "--conformance-family",
    "ordinary",
    "--conformance-max-examples",
    "4",
)
THREE = ("--loss", "masked_mse", "--loss", "masked_sse", "--loss", "nll_loss")


@pytest.fixture
def run(pytester, request, monkeypatch):
    """Run pytest in a folder that holds the target and, unless written before, no test."""
    pytester.makepyfile(partial_losses=PARTIAL)
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))

    def call(*arguments):
        return pytester.runpytest_subprocess(*OPTIONS, *arguments)

    return call


def test_files_selection_and_failures_with_no_test_around(run, pytester):
    pytester.makefile(
        ".txt",
        skips="# not now\nmasked_mse::sh*pe\n",
        xfails="masked_sse::value  # known\nmasked_mse::value\nnll_loss::*\nno_such::value\n",
    )
    result = run(
        *THREE,
        *("--skips-file", "skips.txt", "--xfails-file", "xfails.txt"),
        *("-v", "-rs", "-k", "value or gradient or shape or missing"),
    )
    result.assert_outcomes(passed=2, failed=2, skipped=2, xfailed=1, warnings=1)
    result.stdout.fnmatch_lines_random(
        [
            "masked_mse::value FAILED*",
            "masked_mse::gradient PASSED*",
            "masked_mse::shape SKIPPED*",
            "masked_sse::value XFAIL*",
            "masked_sse::gradient FAILED*",
            "masked_sse::shape PASSED*",
            "nll_loss::missing SKIPPED (missing)*",
            "*[[]XPASS(strict)[]] xfails.txt:2*",
            "*xfails.txt:4: PytestWarning: xfails.txt:4: 'no_such::value' matches no test",
            "float32, ordinary: gradient of x* bounds away from the exact *",
            "import partial_losses as target",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*runtest*")


def test_it_stands_beside_a_suite_and_takes_the_marker(run, pytester):
    pytester.makepyfile(test_mine="def test_mine(): pass")
    result = run(*THREE[:2], "--collect-only", "-q", "-k", "mine or value")
    result.stdout.fnmatch_lines(["test_mine.py::test_mine", "masked_mse::value"])
    result = run(*THREE[:2], "-m", "not conformance")
    result.assert_outcomes(passed=1)


def test_a_loss_is_examined_once_in_every_worker_of_xdist(run):
    result = run(*THREE, "-n", "2", "--dist", "loadgroup", "-k", "shape or dtype or missing")
    result.assert_outcomes(passed=4, skipped=1)


def test_a_call_that_dies_fails_what_was_selected(run, pytester):
    pytester.makepyfile(partial_losses="import os\ndef masked_mse(*_, **__): os._exit(4)\n")
    result = run(*THREE[:2], "-k", "shape")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["float32, ordinary: ended the process with exit status 4"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--target", "no_such_module"), "cannot import module 'no_such_module'"),
        (("--target", "json"), "'json' has none of"),
        (("--loss", "maskd_mse"), "unknown loss 'maskd_mse'; nearest: masked_mse"),
        (("--map", "masked_mse"), "not of the form LOSS=MODULE:FUNCTION"),
        (("--conformance-max-examples", "0"), "must be above 0"),
        (("--loss", "masked_mse", "--skips-file", "nowhere.txt"), "nowhere.txt"),
        (("--target", ""), "needs --target MODULE or --map"),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, text):
    result = run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{text}*".replace("[", "[[]")])
    assert "Traceback" not in result.stderr.str()


def test_the_plugin_of_nobody_is_loaded(pytester):
    """Installing the package changes nothing for those who do not ask."""
    result = pytester.runpytest_subprocess("--help")
    result.stdout.no_fnmatch_line("*--conformance-*")
