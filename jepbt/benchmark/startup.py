"""Measures where the time goes until a run has its first generation."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from jepbt import datasets, models
from jepbt.benchmark.parts import first_generation
from jepbt.benchmark.reports import align
from jepbt.engine.devices import use_all_cpu_cores
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


@dataclasses.dataclass(frozen=True, repr=False)
class StartupReport:
    """Seconds of each step of a start, in a process of its own.

    Attributes:
        cold: seconds by step with an empty compilation cache.
        warm: seconds by step in a second process, which finds the programs there.
    """

    cold: dict[str, float]
    warm: dict[str, float]

    def table(self) -> str:
        """Lays the steps out as text; an indented step is part of the one above."""
        rows = [
            (name, f"{seconds:.2f} s", f"{self.warm.get(name, 0):.2f} s")
            for name, seconds in self.cold.items()
        ]
        head = ("until the first generation is over", "first start", "next start")
        return align([head, *rows], left=(0,))

    def __repr__(self) -> str:
        return self.table()


def measure_startup() -> StartupReport:
    """Starts `jepbt train`'s default run twice, with an empty and a filled cache.

    Example:
        >>> measure_startup()  # doctest: +SKIP
        until the first generation is over  first start  next start
        Python and its exit                      0.21 s      0.20 s
        ...
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        return StartupReport(_start(environment), _start(environment))


def time_first_generation() -> dict[str, float]:
    """Times what follows the import, in this process, with a short generation."""
    seconds: dict[str, float] = {}
    with _timed(seconds, "devices"):
        use_all_cpu_cores()
    with _timed(seconds, "data and task"):
        dataset = datasets.load("fashion_mnist")
        model = models.CNN(dropout=lambda h: h.dropout)
        task = classification(dataset, model=model)
    with _timed(seconds, "prepare"):
        prepared = prepare(task, steps_per_generation=2, progress=False)
    # Programs compile side by side, so their seconds may exceed the sum.
    seconds |= {f"  {name}": spent for name, spent in prepared.seconds.items()}
    with _timed(seconds, "first generation of 2 steps"):
        first_generation(prepared)
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


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
