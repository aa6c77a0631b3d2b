"""Measures where the time goes until a run has its first generation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from jepbt import models
from jepbt.benchmark.parts import first_generation
from jepbt.engine.cores import use_all_cpu_cores
from jepbt.engine.programs import AFTER_TRAINING
from jepbt.results.text import align
from jepbt.tasks import classification
from jepbt.training import prepare

SCRIPT = """
import json, time
started = time.perf_counter()
import jepbt
imported = time.perf_counter() - started
from jepbt.benchmark.startup import time_first_generation
print(json.dumps({"import jepbt": imported, **time_first_generation()}))
"""


def measure_startup() -> dict[str, dict[str, float]]:
    """Starts `jepbt train`'s default run with an empty and with a filled cache.

    Returns:
        Seconds by step of the `"cold"` start and of the `"warm"` one.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        return {name: _start(environment) for name in ("cold", "warm")}


def format_startup(seconds: dict[str, dict[str, float]]) -> str:
    """Lays the steps out as text; an indented step is part of the one above."""
    rows = [("until the first generation is over", "first start", "next start")]
    for name, spent in seconds["cold"].items():
        rows.append((name, f"{spent:.2f} s", f"{seconds['warm'][name]:.2f} s"))
    return align(rows, left=(0,))


def time_first_generation() -> dict[str, float]:
    """Times what follows the import, in this process, with a short generation."""
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any], *args: Any, **settings: Any):
        started = time.perf_counter()
        result = function(*args, **settings)
        seconds[name] = time.perf_counter() - started
        return result

    timed("devices", use_all_cpu_cores)
    model = models.CNN(dropout=lambda h: h.dropout)
    task = timed("data and task", classification, "fashion_mnist", model=model)
    brief = {"steps_per_generation": 2, "progress": False, "early": True}
    prepared = timed("prepare", prepare, task, **brief)
    # Programs compile side by side, so their seconds may exceed the sum.
    late = {f"compile {name}" for name in AFTER_TRAINING}
    spent = dict(prepared.seconds)  # to which a thread may still add
    seconds |= {f"  {name}": spent[name] for name in spent if name not in late}
    timed("first generation of 2 steps", first_generation, prepared)
    seconds["  compile evaluate"] = prepared.seconds["compile evaluate"]
    return seconds


def _start(environment: dict[str, str]) -> dict[str, float]:
    """Runs the script in a process of its own, and adds what Python itself takes."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True
    )
    total = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"the process that was timed failed:\n{done.stderr}")
    seconds = json.loads(done.stdout.splitlines()[-1])
    known = sum(spent for name, spent in seconds.items() if not name.startswith(" "))
    return {"Python and its exit": total - known, **seconds, "all": total}
