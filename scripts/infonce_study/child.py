"""Starts `worker` in another process, with one thread."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from scripts.infonce_study.memory import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 900.0


def ask(python: str, task: str, **arguments: Any) -> Any:
    """What `worker.<task>` returns in another process.

    Raises:
        RuntimeError: the process failed; with the end of what it printed.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"), "1")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **threads, **ENVIRONMENT, "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "job.json"), Path(folder, "result.json")
        source.write_text(json.dumps({"task": task, **arguments}), encoding="utf-8")
        command = [python, "-m", "scripts.infonce_study.worker", str(source), str(target)]
        done = subprocess.run(  # noqa: S603 - our own module
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{task} {arguments}: {(done.stdout + done.stderr)[-2000:]}")
        return json.loads(target.read_text(encoding="utf-8"))
