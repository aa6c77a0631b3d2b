"""Compiles the parts of a generation for a mesh of devices."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jepbt.arguments import user_path
from jepbt.engine.devices import Effort, compiler_options, over_members, replicated
from jepbt.engine.generation import Phases
from jepbt.engine.state import Inputs, RunState, make_inputs
from jepbt.optional import optional
from jepbt.population import Member, PyTree
from jepbt.tasks import Task

EFFORT: dict[str, Effort] = {"init": "none", "pick": "none", "evolve": "some"}
"""How much programs that run once, or for milliseconds, are optimised; others fully."""

AFTER_TRAINING = ("evaluate", "evolve")
"""The programs that nobody calls before the first generation has trained."""


def place_inputs(task: Task, seed: int, mesh: Mesh) -> Inputs:
    """Puts a copy of what all members read on every device of every process."""
    whole = replicated(mesh)
    # Only host arrays can be put on another process's devices: the key is made there.
    key = jax.jit(jax.random.key, out_shardings=whole)(np.uint32(seed))
    read = make_inputs((), task.data, task.shared)
    placed = jax.device_put(jax.tree.map(np.asarray, read), whole)
    return placed._replace(key=key)


def lower_each(phases: Phases, inputs: Inputs, mesh: Mesh) -> Iterator[tuple[str, Any]]:
    """Traces the parts of a run, with the places that arguments and results have.

    Yields:
        Each part's name and its lowered program, as soon as it is there. The first
        compiles while training, which takes longest, is traced.
    """
    whole = replicated(mesh)
    population = Member(state=over_members(mesh), hparams=whole, fitness=whole)
    carried = RunState(population, evaluation=whole, best=whole, strategy=whole)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    slots = jax.ShapeDtypeStruct((2,), jnp.int32)

    def place(function, args, shardings, out, donate=()):
        jitted = jax.jit(
            function, in_shardings=shardings, out_shardings=out, donate_argnums=donate
        )
        return jitted.trace(*args)

    init = place(phases.init, (inputs,), (whole,), carried)
    yield "init", init.lower()
    state = _shapes(init.out_info)
    step = ((inputs, number, state), (whole, whole, carried))
    train = place(phases.train, *step, (carried, whole), (2,))
    yield "train", train.lower()
    args = inputs, number, _shapes(train.out_info[1]), state
    evaluate = place(
        phases.evaluate, args, (whole, whole, whole, carried), carried, (3,)
    )
    yield "evaluate", evaluate.lower()
    yield "evolve", place(phases.evolve, *step, (carried, whole), (2,)).lower()
    args = state.population, slots
    yield "pick", place(phases.pick, args, (population, whole), whole).lower()


@jax.jit
def copy(tree: PyTree) -> PyTree:
    """Copies arrays where they are, all in one program."""
    return jax.tree.map(jnp.copy, tree)


def _shapes(tree: PyTree) -> PyTree:
    """Keeps of arrays, or of what describes them, the shapes and types alone."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def compile_each(
    lowered: Iterable[tuple[str, Any]],
    mesh: Mesh,
    seconds: dict[str, float],
    later: Sequence[str] = (),
) -> dict[str, Future]:
    """Compiles programs side by side, and while the next ones are being lowered.

    XLA leaves Python's lock while it works.

    Args:
        lowered: the names and the lowered programs, all five.
        mesh: the devices.
        seconds: the place for the time that each takes, as `"compile train"`.
        later: the names of those that wait until training is compiled.

    Returns:
        The programs by name, each of which may still be compiling.
    """
    platform = mesh.devices.flat[0].platform
    compiling: dict[str, Future] = {}

    def compile_one(name, program):
        if name in later:
            compiling["train"].result()
        started = time.perf_counter()
        compiled = program.compile(compiler_options(platform, EFFORT.get(name, "full")))
        seconds[f"compile {name}"] = time.perf_counter() - started
        return compiled

    pool = ThreadPoolExecutor(len(Phases._fields))
    try:
        for name, program in lowered:
            compiling[name] = pool.submit(compile_one, name, program)
    finally:
        pool.shutdown(wait=False)
    return compiling


class Later:
    """A program that may still be compiling: who calls it, or asks about it, waits.

    Args:
        compiling: the program to come.
        check: a function of the program, called before its first use.
    """

    def __init__(self, compiling: Future, check: Callable[[Any], None]) -> None:
        self._compiling = compiling
        self._check = check

    @functools.cached_property
    def _program(self) -> Any:
        program = self._compiling.result()
        self._check(program)
        return program

    def __call__(self, *args: Any) -> Any:
        """Runs the program, as soon as it is there."""
        return self._program(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, in a cache folder of the user's.

    Does nothing if a folder is configured already, by `jax_compilation_cache_dir` or
    its environment variable, or if `JAX_ENABLE_COMPILATION_CACHE` is off.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    if not jax.config.jax_enable_compilation_cache:
        return
    with optional("compiled programs are not kept for the next start"):
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = user_path("XDG_CACHE_HOME", home) / "jepbt"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written to")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
