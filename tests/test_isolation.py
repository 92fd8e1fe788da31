"""A target that hangs, exits or crashes costs its own calls and nothing else."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from refimpl.conformance import CATALOGUE, Outcome, verify
from refimpl.conformance.alarm import interruptible
from refimpl.conformance.batch import Batch
from refimpl.conformance.examine import examine
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.plan import HANGS, Plan
from refimpl.conformance.process import Process
from refimpl.conformance.request import Request
from refimpl.conformance.supervisor import Supervisor
from refimpl.conformance.target import Subject, Target
from refimpl.conformance.worker import Death, Task

LIMIT = 3.0
EVIL = """
import ctypes, os, signal, sys
import torchimpl

def masked_sse(x_recon, x, mask, *, reduction="batch_mean"):
    print("x" * 1000, flush=True)
    print("last words", file=sys.stderr)
    os._exit(3)

def masked_mse(x_recon, x, mask, *, reduction="mean"):
    if os.fork() == 0:
        os._exit(0)
    print("printed on stdout")
    os.write(1, b"written to the first descriptor")
    os.write(2, b"y" * 1_000_000)
    return torchimpl.masked_mse(x_recon, x, mask, reduction=reduction)

def concordance_loss_nce(res1, res2, tau=0.1, *, eps=1e-8, reduction="mean"):
    while True:
        pass

def negative_pearson_loss(preds, targets, eps=1e-8):
    ctypes.string_at(0)

def negative_binomial_cdf(y, mu, r):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    ctypes.CDLL(None).pause()

def negative_binomial_sf(y, mu, r):
    os.kill(os.getpid(), signal.SIGKILL)

def compute_residual_mse(y_r1, mu_tech_r1, y_r2, mu_tech_r2, sd_ratio_r1_to_r2, *, reduction="mean"):
    raise KeyboardInterrupt("not from the keyboard")

def nll_loss(model_outputs, batch, *, reduction="mean"):
    sys.exit("enough")
"""
FATE = {
    "masked_sse": "ended the process with exit status 3",
    "concordance_loss_nce": "did not return within 3 s",
    "negative_pearson_loss": "killed the process with SIGSEGV",
    "negative_binomial_cdf": "did not return within 3 s and had to be killed",
    "negative_binomial_sf": "killed the process with SIGKILL (the memory may be exhausted)",
    "compute_residual_mse": "raised KeyboardInterrupt: not from the keyboard",
    "nll_loss": "raised SystemExit: enough",
}
SMALL = {"dtypes": ["float32"], "families": ["ordinary"], "max_examples": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of modules that can be imported."""
    folder = tmp_path_factory.mktemp("targets")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def report(place):
    (place / "evil_losses.py").write_text(EVIL)
    losses = ["masked_mse", *FATE]
    return verify("evil_losses", losses, **SMALL, properties=["returns", "value"], time_limit=LIMIT, jobs=2)


@pytest.mark.parametrize("loss", FATE)
def test_what_ends_or_stops_a_call_is_a_violation_of_returns(report, loss):
    found = [violation for violation in report.violations if violation.loss == loss]
    assert [violation.property for violation in found] == ["returns"]
    assert found[0].message.startswith(FATE[loss])
    assert found[0].family == "ordinary"
    assert "import evil_losses as target" in found[0].snippet
    assert f"target.{loss}(" in found[0].snippet
    cells = {cell.property: cell for cell in report.cells if cell.loss == loss}
    assert cells["returns"].verdict == "violated"
    assert not cells["value"].violated


def test_the_rest_goes_on_whatever_the_target_prints_and_forks(report):
    assert [one.message for one in report.violations if one.loss == "masked_mse"] == []
    cells = {cell.property: cell.verdict for cell in report.cells if cell.loss == "masked_mse"}
    assert cells == {"returns": "held", "value": "held"}


def test_the_last_words_are_kept_and_cut(report):
    message = next(one.message for one in report.violations if one.loss == "masked_sse")
    assert message.endswith(f"{'x' * 200} | last words")


def test_a_loss_whose_calls_never_come_back_is_given_up(place):
    (place / "gone_losses.py").write_text("import os\ndef masked_mse(*_, **__): os._exit(5)\n")
    report = verify(
        "gone_losses", ["masked_mse"], ["float64"], properties=["returns", "value"], max_examples=1
    )
    assert [one.property for one in report.violations] == ["returns"]  # one message for equal ends
    cells = {cell.property: cell for cell in report.cells}
    assert cells["returns"].violated == HANGS
    assert cells["value"].verdict == "unfinished"


def test_a_death_while_a_counterexample_is_made_smaller_keeps_the_counterexample(place):
    (place / "brittle_losses.py").write_text(
        "import os\n"
        "def negative_pearson_loss(preds, targets, eps=1e-8):\n"
        "    if preds.numel() < 2: os._exit(9)\n"
        "    return preds.sum() * 0 + targets.sum() * 0 + 5\n"
    )
    report = verify("brittle_losses", ["negative_pearson_loss"], properties=["value"], **SMALL)
    by_name = {violation.property: violation for violation in report.violations}
    assert set(by_name) == {"returns", "value"}
    assert by_name["returns"].message == "value: ended the process with exit status 9"
    assert by_name["value"].numbers >= 4


def test_a_process_whose_device_failed_is_replaced(place):
    (place / "device_losses.py").write_text(
        "import torchimpl\n"
        "broken = False\n"
        "def masked_sse(*_, **__):\n"
        "    global broken\n"
        "    broken = True\n"
        "    raise RuntimeError('CUDA error: an illegal memory access was encountered')\n"
        "def masked_mse(x_recon, x, mask, *, reduction='mean'):\n"
        "    assert not broken\n"
        "    return torchimpl.masked_mse(x_recon, x, mask, reduction=reduction)\n"
    )
    report = verify("device_losses", ["masked_sse", "masked_mse"], properties=["returns"], **SMALL)
    assert {violation.loss for violation in report.violations} == {"masked_sse"}


@pytest.mark.parametrize(
    ("name", "source", "text"),
    [
        ("zero", "1 / 0", "cannot import module 'import_zero': ZeroDivisionError: division by zero"),
        ("exit", "import sys; sys.exit('no licence')", "SystemExit: no licence"),
        ("death", "import os; os._exit(7)", "ended the process with exit status 7"),
        ("hang", "while True: pass", "did not return within 2 s"),
    ],
)
def test_a_target_that_cannot_be_imported_is_an_import_error_here(place, monkeypatch, name, source, text):
    (place / f"import_{name}.py").write_text(source)
    limit = 2.0 if name == "hang" else 120.0
    monkeypatch.setattr("refimpl.conformance.process.IMPORT_LIMIT", limit)
    monkeypatch.setattr("refimpl.conformance.supervisor.IMPORT_LIMIT", limit)
    with pytest.raises(ImportError) as error:
        verify(f"import_{name}", ["masked_mse"])
    assert text in str(error.value)


def test_an_engine_that_fails_in_a_worker_is_no_finding(place):
    request = Request("torchimpl", {}, ("masked_mse",), ("float32",))
    with Supervisor(request) as supervisor:
        job = supervisor.facts().jobs[0]
        with pytest.raises(RuntimeError, match="no such property"):
            supervisor.run([Task(job, Plan(("no such property",)))])
        # and the next run starts with a process of its own
        assert len(supervisor.run([Task(job, Plan(("shape",), ("zeros",), 1))])) == 1


def test_an_adapter_that_cannot_be_sent_is_refused():
    class Local:
        name, dtypes, features = "local", ("float32",), frozenset()
        scope = evaluate = literal = lambda *_: Outcome()

    with pytest.raises(TypeError, match="cannot be sent to another process"):
        verify("torchimpl", adapter=Local())


def test_ctrl_c_ends_command_and_workers(place, tmp_path):
    mark = tmp_path / "pid"
    (place / "slow_losses.py").write_text(
        "import os, time\n"
        "def masked_mse(*_, **__):\n"
        f"    open({str(mark)!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-m", "refimpl", "verify", "slow_losses", "--dtype", "float32"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(Path.cwd())])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (mark.exists() and mark.read_text()):
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    out, error = command.communicate(timeout=20)
    assert command.returncode == 130
    assert out == ""
    assert error == "python -m refimpl verify: interrupted\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


# --- the same in one process


class Rude:
    """Ends the process as far as an exception can."""

    @staticmethod
    def masked_mse(*_):
        raise KeyboardInterrupt

    @staticmethod
    def masked_sse(*_):
        signal.raise_signal(signal.SIGINT)


def test_an_object_may_raise_what_it_likes():
    report = verify(Rude, ["masked_mse"], **SMALL)
    assert {(one.property, one.message) for one in report.violations if "raised" in one.message} >= {
        ("returns", "raised KeyboardInterrupt: ")
    }


def test_ctrl_c_is_not_mistaken_for_an_exception_of_the_target():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        verify(Rude, ["masked_sse"], **SMALL)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_of_somebody_else_stays(monkeypatch):
    rung = []
    before = signal.signal(signal.SIGINT, lambda *_: rung.append(1))
    try:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert rung == [1]


def test_a_call_that_raises_is_told_whatever_is_asked():
    report = verify(Rude, ["masked_mse"], **SMALL, properties=["value"])
    assert [violation.property for violation in report.violations] == ["returns"]


def test_whoever_listens_hears_the_beginning_and_the_end_of_every_call():
    heard = []
    wrong = Target(Rude)
    subject = Subject(wrong, CATALOGUE["masked_mse"], adapter("torch"))
    plan = Plan(("returns",), ("zeros",), 2)
    examine(subject, FORMATS["float32"], plan, lambda *told: heard.append(told[:2]))
    assert heard[0] == ("returns", "zeros")
    assert heard[1] == ("", "")
    assert len(heard) % 2 == 0
    assert {name for name, _ in heard[1::2]} == {""}


def adapter(name):
    from refimpl.conformance.adapters import get_adapter

    return get_adapter(name)


def test_deaths_without_a_batch_say_what_happened(monkeypatch):
    """A process may die before any call, or in a property that draws nothing."""
    request = Request("torchimpl", {}, ("masked_mse",), ("float32",))
    nothing = Batch("refusal", FORMATS["float32"], {})
    death = Death("refusal", "", nothing, "refusal: ended the process with exit status 1")
    with Supervisor(request) as supervisor:
        job = supervisor.facts().jobs[0]
        plan = Plan(("refusal",), ("zeros",), 1)
        part = supervisor.run([Task(job, plan, (death,))])[0]
        assert part.violations[0].snippet == f"# masked_mse: {death.message}\nimport torchimpl as target\n"
        assert {cell.property: cell.asked for cell in part.cells} == {"refusal": 0, "returns": 1}
        # an idle process that dies is replaced without a word
        os.kill(supervisor.processes[0].pid, signal.SIGKILL)
        part = supervisor.run([Task(job, replace(plan, properties=("shape",)))])[0]
        assert {cell.verdict for cell in part.cells} <= {"held", "violated"}


def test_a_message_that_waits_to_be_read_is_in_time():
    process = Process.__new__(Process)

    class Waiting:
        def __init__(self, there):
            self.there = there

        def poll(self):
            return self.there

    process.deadline = time.monotonic() - 1.0
    process.connection = Waiting(there=True)
    assert not process.late
    process.connection = Waiting(there=False)
    assert process.late
    assert np.isfinite(process.deadline)
