"""Small changes to the losses and to the oracles, made in process, are noticed.

`python scripts/mutants.py` makes them; docs/mutation.md says which, and how they are judged.
"""

import ast
import dataclasses
import itertools
import json
import re
import sys
import time

import pytest
import torch

from scripts.mutation import campaign, cli, difference, plan, report, verdicts
from scripts.mutation.candidates import ROOT, Mutation, candidates, changed_source, sampled, source_of
from scripts.mutation.judges import EXAMPLES, by_engine, rounds
from scripts.mutation.loading import loaded
from scripts.mutation.operators import KINDS, OPERATORS
from scripts.mutation.worker import TIMEOUT, Worker

PACKAGES = {"torchimpl": plan.LOSSES, "refimpl": plan.ORACLES}
# package, module, kind of change, what became what
PINNED = [
    (
        "torchimpl",
        "masked",
        "normaliser",
        "torch.count_nonzero(mask) -> torch.count_nonzero(torch.ones_like(mask))",
    ),
    ("torchimpl", "masked", "gradient", "return value -> return value.detach()"),
    ("torchimpl", "masked", "constant", "4.0 -> 5.0"),
    ("torchimpl", "pearson", "comparison", "sum_ee == 0.0 -> sum_ee != 0.0"),
    ("torchimpl", "pearson", "term", "2.0 * on_ee -> 2.0"),
    (
        "torchimpl",
        "residual",
        "sign",
        "grad_1 = torch.where(idle, 0.0, e) * slope -> grad_1 = -(torch.where(idle, 0.0, e) * slope)",
    ),
    ("torchimpl", "concordance", "deletion", "eps = checks.non_negative_finite('eps', eps) -> (left out)"),
    ("torchimpl", "composite", "branch", "torch.where(weights == 0.0, 0.0, values) -> values"),
    (
        "torchimpl",
        "residual",
        "condition",
        "isinstance(sd_ratio_r1_to_r2, Tensor) -> not isinstance(sd_ratio_r1_to_r2, Tensor)",
    ),
    ("torchimpl", "quantile", "arithmetic", "sf_2 - sf_1 -> sf_2 + sf_1"),
    ("torchimpl", "likelihood", "term", "0.5 * elements + 0.5 * others -> 0.5 * others"),
    ("torchimpl", "negative_binomial", "term", "1.0 - parameter -> 1.0"),
    ("torchimpl", "replicates", "arguments", "_residual(reads_r2, mu_r2) -> _residual(mu_r2, reads_r2)"),
    ("torchimpl", "alignment", "normaliser", "value.numel() -> value.numel() + 1"),
    (
        "torchimpl",
        "saturate",
        "branch",
        "torch.where(huge, _GUARD, elements.new_ones(())) -> elements.new_ones(())",
    ),
    ("torchimpl", "scaling", "function", "x.abs().amax -> x.abs().amin"),
    ("torchimpl", "checks", "comparison", "0.0 <= number < math.inf -> 0.0 > number < math.inf"),
    ("torchimpl", "masked", "dtype", "checks.result_dtype -> checks.elementwise_dtype"),
    ("torchimpl", "kernels/concordance", "dimension", "(x * 0).sum(1) -> (x * 0).sum(0)"),
    ("torchimpl", "kernels/concordance", "bounds", "range(self.features) -> range(self.features - 1)"),
    (
        "torchimpl",
        "kernels/concordance_op",
        "deletion",
        "ctx.save_for_backward(x, y, *output[1:]) -> (left out)",
    ),
    ("torchimpl", "kernels/negative_binomial", "comparison", "r > 0.0 -> r <= 0.0"),
    (
        "torchimpl",
        "kernels/negative_binomial_ops",
        "deletion",
        "ctx.save_for_backward(*inputs, d_mu, d_r) -> (left out)",
    ),
    (
        "torchimpl",
        "kernels/negative_binomial_log_pmf",
        "branch",
        "torch.where(e.impossible, torch.inf, value) -> torch.where(e.impossible, value, torch.inf)",
    ),
    ("torchimpl", "kernels/negative_binomial_regions", "sign", "room_b = room * b -> room_b = -(room * b)"),
    (
        "torchimpl",
        "kernels/negative_binomial_fraction",
        "arithmetic",
        "self.A + (2 * m - 1) -> self.A - (2 * m - 1)",
    ),
    ("torchimpl", "kernels/negative_binomial_second", "term", "bend_at_zero * bend_at_zero -> bend_at_zero"),
    (
        "torchimpl",
        "kernels/negative_binomial_constants",
        "constant",
        "0.08333333333333333 -> 0.10416666666666666",
    ),
    ("refimpl", "masked", "constant", "0.0 -> 1.0"),
    ("refimpl", "pearson", "comparison", "mantissas != 0 -> mantissas == 0"),
    ("refimpl", "residual_kernels", "sign", "-s -> s"),
    ("refimpl", "concordance_kernels", "bounds", "range(features) -> range(features + 1)"),
    ("refimpl", "exact_sum", "term", "n + exponent -> n"),
    ("refimpl", "arithmetic", "term", "x[0] + x[1] -> x[1]"),
]


def unheard(_step):
    """Nobody listens."""


def pinned(package, module, kind, change):
    """The mutation of that description."""
    like = [one for one in candidates(package, module) if (one.kind, one.change) == (kind, change)]
    assert like, f"{package}/{module}.py has no longer {change!r}: pin another mutant"
    return like[0]


@pytest.mark.filterwarnings("ignore")  # what a mutant warns of is its own affair
@pytest.mark.parametrize("description", PINNED, ids=lambda d: f"{d[0]}-{d[1]}-{d[2]}")
def test_a_mutant_is_noticed(description):
    mutation = pinned(*description)
    assert by_engine("mutant", mutation.package, mutation.module, mutation, 1, unheard), description


def test_every_kind_of_change_is_pinned():
    assert {description[2] for description in PINNED} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("arithmetic", "a + b", ["a - b"]),
        ("comparison", "a < 0.0", ["a >= 0.0", "a <= 0.0"]),
        ("condition", "x if a and b else y", ["x if not (a and b) else y"]),
        ("constant", "0.5", ["0.625"]),
        ("sign", "-a", ["a"]),
        ("term", "a + b", ["a", "b"]),
        ("term", "a * b", ["a"]),
        ("branch", "torch.where(c, a, b)", ["torch.where(c, b, a)", "a", "b"]),
        ("function", "x.sum", ["x.mean"]),
        ("dimension", "x.sum(1)", ["x.sum(0)"]),
        ("arguments", "f(a, b, c)", ["f(b, a, c)"]),
        ("dtype", "torch.float64", ["torch.float32"]),
        ("dtype", "x.double()", ["x"]),
        ("bounds", "range(n)", ["range(n + 1)", "range(n - 1)"]),
        ("bounds", "a:b", ["a + 1:b", "a - 1:b", "a:b + 1", "a:b - 1"]),
        ("gradient", "x.detach()", ["x"]),
        ("gradient", "F.apply(x, 1)", ["F.apply(x.detach(), 1)"]),
        ("normaliser", "a / count", ["a / (count + 1)"]),
        ("normaliser", "torch.count_nonzero(m)", ["torch.count_nonzero(torch.ones_like(m))"]),
    ],
)
def test_what_a_kind_of_change_does(kind, before, after):
    node = ast.parse(f"s[{before}]" if ":" in before else before, mode="eval").body
    node = node.slice if ":" in before else node
    found = [ast.unparse(ast.fix_missing_locations(new)) for new in OPERATORS[kind](node)]
    assert found == after


def test_statements_and_gradients_are_left_out():
    function = ast.parse("def backward(x):\n    check(x)\n    x = x + 1\n    y = x\n    return y, None").body[
        0
    ]
    gone = [ast.unparse(ast.fix_missing_locations(new)) for new in OPERATORS["deletion"](function)]
    assert [text.split("\n")[1:3] for text in gone] == [
        ["    pass", "    x = x + 1"],
        ["    check(x)", "    pass"],
    ]
    cut = [ast.unparse(ast.fix_missing_locations(new)) for new in OPERATORS["gradient"](function)]
    assert [text.rsplit("return ", 1)[1] for text in cut] == ["(None, None)", "(y * 0.0, None)"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_mutation_changes_one_module_once(package):
    for module in ("masked", "residual"):
        before = ast.unparse(ast.parse(source_of(package, module)))
        texts = [changed_source(one) for one in sampled(package, [module], 30, seed=0)]
        assert before not in texts
        assert len(texts) == len(set(texts)) == 30
        kept = set(before.splitlines())
        # a change of one statement leaves nearly every line
        assert all(len(kept - set(text.splitlines())) <= 12 for text in texts)


def test_every_module_has_a_plan():
    for package, modules in PACKAGES.items():
        files = {path.relative_to(ROOT / package) for path in (ROOT / package).rglob("*.py")}
        written = {str(path.with_suffix("")) for path in files if path.name != "__init__.py"}
        if package == "refimpl":
            written = {one for one in written if "/" not in one} - {"__main__", "checks"}
        else:
            written = {one for one in written if not any(part in one for part in plan.COMPILED)}
        assert written == set(modules)
        assert sum(1 for _ in sampled(package, list(modules), None, 0)) <= 2500


def test_what_no_loss_reaches_is_judged_by_tests_that_exist():
    judges = {(module, one.judge) for module in plan.LOSSES for one in candidates("torchimpl", module)}
    for module, judge in judges:
        assert plan.TESTS[module] if judge == "tests" else plan.LOSSES[module], module
    files = set(itertools.chain.from_iterable(plan.TESTS.values()))
    assert [name for name in files if not (ROOT / "tests" / f"{name}.py").exists()] == []


def test_cheap_rounds_come_first():
    found = list(rounds("torchimpl", "masked", 8))
    assert found[0] == ("masked_sse", "float32", min(EXAMPLES), False)
    assert [one[2] for one in found if not one[3]] == sorted(one[2] for one in found if not one[3])
    assert {one[1] for one in rounds("refimpl", "masked", 3)} == {"float64"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", PACKAGES)
def test_the_unchanged_package_is_accepted_when_loaded_in_the_same_way(package):
    assert by_engine("unchanged", package, "masked", None, 1, unheard) == ""


def test_loading_changes_the_loss_and_leaves_nothing_behind():
    mutation = pinned("torchimpl", "masked", "constant", "4.0 -> 5.0")
    finders, modules = list(sys.meta_path), set(sys.modules)
    x, mask = torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool)
    with loaded("torchimpl", "changed", mutation) as changed:
        import torchimpl

        assert changed.masked_sse(x, 0 * x, mask) != torchimpl.masked_sse(x, 0 * x, mask)
        assert changed.__name__ == "changed"
    assert sys.meta_path == finders
    assert not [name for name in set(sys.modules) - modules if name.split(".")[0] == "changed"]


def test_oracles_run_without_numba_and_answer_the_same():
    import refimpl

    arguments = ([[1e300, 5.0], [3.0, 0.1]], [[0.0, 5.0], [1e-3, 0.3]], [[True, True], [True, False]])
    with loaded("refimpl", "oracles_without_numba", None) as plain:
        assert not hasattr(plain.arithmetic.two_sum, "py_func")
        assert plain.masked_mse(*arguments) == refimpl.masked_mse(*arguments)
        assert plain.arithmetic.dd_div((1.0, 0.0), (0.0, 0.0)) == (float("inf"), 0.0)
        assert plain.negative_binomial_cdf(3.0, 2.0, 1.5) == refimpl.negative_binomial_cdf(3.0, 2.0, 1.5)


def test_an_oracle_two_ulps_off_is_noticed_beside_the_unchanged_one():
    import refimpl

    class Off:
        __name__ = "off"
        masked_mse_gradient = staticmethod(refimpl.masked_mse_gradient)

        @staticmethod
        def masked_mse(*arguments, **options):
            return refimpl.masked_mse(*arguments, **options) * (1.0 + 2.0**-51)

    oracles = difference.Oracles(refimpl)
    assert difference.by_oracle(oracles, ["masked_mse"], unheard) == ""
    assert difference.by_oracle(difference.Oracles(Off), ["masked_mse"], unheard)


def test_what_is_known_of_survivors_names_a_line_and_a_reason():
    for entry in verdicts.known():
        package, module = entry.module.split("/", 1)
        assert module in PACKAGES[package], entry
        assert entry.verdict in {"equivalent", "gap"}, entry
        assert entry.kind in {"", *KINDS}, entry
        lines = {line.strip() for line in source_of(package, module).splitlines()}
        for line in entry.line:
            assert line in lines, f"{entry.module} has no longer the line {line!r}"
        assert len(entry.reason.split()) > 2, entry


def result(by, judge="engine", line="a = b", module="masked"):
    return campaign.Result(Mutation("torchimpl", module, 0, "sign", 0, judge, 1, line, "-a -> a", by), by)


def test_scores_leave_equivalent_mutants_out(monkeypatch):
    entry = verdicts.Known("torchimpl/masked", ("same",), "equivalent", "the same for all inputs")
    monkeypatch.setattr(verdicts, "known", lambda: (entry,))
    results = [result("masked_sse float32 value"), result(TIMEOUT), result(""), result("", line="same")]
    row, everything = report.rows(results, {("torchimpl", "masked", "engine"): 4})
    assert row.cells() == ("torchimpl/masked", "engine", "4", "1", "1", "1", "1", "66.7 %")
    assert everything.score == "66.7 %"
    text = report.markdown([row, everything], seed=0)
    assert "| `torchimpl/masked` | engine | 4 | 1 | 1 | 1 | 1 | 66.7 % |" in text
    assert "- sign: `-a -> a`" in text


def test_an_interrupted_campaign_goes_on(tmp_path):
    file = tmp_path / "results.jsonl"
    first, second = result("value"), result("")
    for one in (first, second):
        campaign.write_result(file, one, examples=1)
    with file.open("a") as stream:
        stream.write('{"module": "torchimpl/mas')  # interrupted here
    options = {"jobs": 1, "examples": 1, "limit": 1.0, "file": file}
    found = list(campaign.judged([first.mutation, second.mutation], **options))
    assert [one.by for one in found] == ["value", ""]
    assert ("torchimpl/masked", second.mutation.digest) not in campaign.read_results(file, examples=3)
    assert json.loads(file.read_text().splitlines()[0])["module"] == "torchimpl/masked"


def test_what_the_engine_lets_pass_in_a_kernel_goes_on_to_the_tests(tmp_path, monkeypatch):
    asked = []

    def answers(mutations, judge, **_options):
        asked.append((judge, [one.line for one in mutations]))
        seen = {"engine": {"seen": "value"}, "tests": {"hidden": "tests"}}[judge]
        return [campaign.Result(one, seen.get(one.line, "")) for one in mutations]

    monkeypatch.setattr(campaign, "_in_workers", answers)
    file = tmp_path / "results.jsonl"
    mutations = [
        result("", line=line, module="kernels/concordance").mutation for line in ("seen", "hidden", "same")
    ]
    mutations = [dataclasses.replace(one, digest=one.line) for one in mutations]
    options = {"jobs": 1, "examples": 1, "limit": 1.0, "file": file}
    found = {one.mutation.line: one.by for one in campaign.judged(mutations, **options)}
    assert found == {"seen": "value", "hidden": "tests", "same": ""}
    assert asked == [("engine", ["seen", "hidden", "same"]), ("tests", ["hidden", "same"])]
    (row, _) = report.rows(
        campaign.judged(mutations, **options), {("torchimpl", "kernels/concordance", "engine"): 3}
    )
    assert row.cells()[1:6] == ("engine, then tests", "3", "2", "0", "0")
    assert asked[2:] == [("engine", []), ("tests", [])]
    # interrupted between the two judges
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    assert len(list(campaign.judged(mutations, **options))) == 3
    assert asked[4:] == [("engine", []), ("tests", ["hidden", "same"])]


def sleeping(pipe, _judge, _examples):
    pipe.recv()
    time.sleep(60)


# JAX, where another test of this process has loaded it, warns of any fork; the child here only sleeps
@pytest.mark.filterwarnings("ignore:os.fork\\(\\) was called:RuntimeWarning")
def test_a_mutant_that_does_not_come_back_counts_as_killed(monkeypatch):
    import multiprocessing

    from scripts.mutation import worker

    monkeypatch.setattr(worker, "serve", sleeping)
    monkeypatch.setattr(worker, "get_context", lambda _: multiprocessing.get_context("fork"))
    one = Worker("engine", 1, 0.3)
    monkeypatch.setattr(worker, "FIRST_STEP", 0.0)
    one.start(("torchimpl", "masked", None))
    start = time.monotonic()
    while (by := one.answer()) is None:
        assert time.monotonic() - start < 20.0
    assert by == TIMEOUT
    assert one.process is None


def test_the_command_counts_mutants_and_refuses_unknown_modules(capsys):
    assert cli.main(["--list", "--module", "masked", "--package", "torchimpl", "--sample", "5"]) == 0
    assert "5 mutants" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["--module", "maskd"])
    assert "'maskd' is not one of" in capsys.readouterr().err


def test_the_table_is_written_from_the_answers_of_a_file(tmp_path, monkeypatch, capsys):
    file, table = tmp_path / "results.jsonl", tmp_path / "tables" / "mutants.md"
    monkeypatch.setattr(cli, "TABLE", table)
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    killed = next(sampled("torchimpl", ["masked"], 1, 0))
    campaign.write_result(file, campaign.Result(killed, "masked_sse float32 value"), examples=8)
    options = ["--package", "torchimpl", "--module", "masked", "--resume", str(file), "--report", "--write"]
    assert cli.main(options) == 0
    assert "masked" in capsys.readouterr().out
    assert re.search(r"\| `torchimpl/masked` \| engine \| \d+ of \d+ \| 1 \|", table.read_text())
    assert "not complete" in table.read_text()


def test_the_script_is_thin():
    assert len((ROOT / "scripts" / "mutants.py").read_text().splitlines()) < 40
    assert all(len(path.read_text().splitlines()) < 300 for path in (ROOT / "scripts/mutation").glob("*.py"))
