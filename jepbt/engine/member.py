"""Traces a task and a strategy once: what does not fit, what it costs, what it is."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jepbt.arguments import check_whole
from jepbt.config import Config
from jepbt.engine.checks import batch_shapes, check_behaviour, check_step
from jepbt.engine.evaluation import behaviour_shape
from jepbt.engine.own_values import find_copies, renew
from jepbt.engine.state import Spec
from jepbt.engine.switches import on_cpu
from jepbt.hyperparameters import HyperParameters, decode, default_member, spaces
from jepbt.optional import optional
from jepbt.population import Member, PyTree, key_shape, stack_shapes, take
from jepbt.strategies import Evaluation, Strategy
from jepbt.tasks import Task
from jepbt.tasks.task import check_arrays

_FITNESS = jax.ShapeDtypeStruct((), jnp.float32)


@dataclasses.dataclass(frozen=True)
class TracedMember:
    """One member of a run, and what one trace of its functions tells.

    Attributes:
        state: the shapes of its state.
        hparams: the shapes of its hyperparameters, as they are on the device.
        traced: the traced functions of the task behind each part of a run, by its name,
            without the training step.
        step: the lowered training step.
        task: the task whose steps are traced: the one given, unless its states hold
            copies of hyperparameters, which steps then make anew.
        strategy: the traced functions of the strategy, if there is one.
    """

    state: PyTree
    hparams: HyperParameters
    traced: Mapping[str, Sequence[Any]]
    step: Any
    task: Task
    strategy: Sequence[Any] = ()

    @functools.cached_property
    def step_flops(self) -> float:
        """The floating-point operations of one training step; 0 if unknown.

        By the compiler's own count, before it optimises.
        """
        with optional("the arithmetic of a training step is not counted"):
            analysis = self.step.cost_analysis() or {}
            return max(0.0, float(analysis.get("flops", 0.0)))
        return 0.0

    def fingerprint(self) -> dict[str, str]:
        """Hashes what is computed: `"init"`, `"evolve"`, `"train"`, `"evaluate"`.

        The text of a lowered function holds its operations and constants, but neither
        data nor devices: it is the same on every machine.
        """
        evolve = [*self.strategy, *self.traced["evolve"]]
        return hash_parts({**self.traced, "evolve": evolve}, self.step)


def trace_member(task: Task, strategy: Strategy, config: Config) -> TracedMember:
    """Traces the functions of a task and a strategy on shapes alone, each once.

    Errors come at once, before anything compiles.

    Args:
        task: the task to be trained.
        strategy: the strategy that will evolve it.
        config: the settings, checked, with the batch size decided.

    Raises:
        ValueError: if the functions do not fit together; the message names which.
    """
    if jax.config.jax_disable_jit:
        raise ValueError(
            "jax_disable_jit is on, and a population is trained by compiled programs. "
            "Switch it off (JAX_DISABLE_JIT=0); jax.debug.print works inside a step, "
            "and task.train_step can be called by hand."
        )

    # With the real population size, so that the strategy can refuse it.
    size = config.population_size
    started = trace_start(strategy, task.hparams, size, config.num_generations)
    check_behaviour(task, strategy)
    member = trace_task(task, config)
    spec = Spec(task, strategy, config)
    behaviour = behaviour_shape(spec, member.state, member.hparams)
    stepped = trace_evolution(strategy, started, size, behaviour)
    return dataclasses.replace(member, strategy=[started, stepped])


def trace_start(
    strategy: Strategy, hparams_type: type, num_members: int, num_generations: int
) -> Any:
    """Traces the strategy's `init` for a population of so many members."""

    def init(key):
        return strategy.init(key, hparams_type, num_members, num_generations)

    return jax.jit(init).trace(key_shape())


def trace_evolution(
    strategy: Strategy, started: Any, num_members: int, behaviour: Any = None
) -> Any:
    """Traces the strategy's `step` after its traced `init`."""
    evaluation = Evaluation(_FITNESS, _FITNESS, behaviour)
    evaluation = stack_shapes(evaluation, num_members)
    state, hparams = started.out_info
    number = jax.ShapeDtypeStruct((), jnp.int32)
    step = jax.jit(lambda *args: strategy.step(*args))
    return step.trace(key_shape(), state, number, hparams, evaluation)


def trace_task(task: Task, config: Config) -> TracedMember:
    """Traces the functions of a task alone: see `trace_member`."""
    steps = trace_steps(task, config)
    state, hparams = steps.started.out_info, steps.hparams
    _check_outside(steps.stepped, "train_step")
    traced = {
        "init": [steps.started],
        "evolve": _trace_hooks(task, state, hparams, config),
        "train": [] if steps.prepared is None else [steps.prepared],
        "evaluate": [trace_evaluate(task, config, state, hparams)],
    }
    step = _lower_anywhere(steps.stepped)
    return TracedMember(state, hparams, traced, step, steps.task)


def trace_evaluate(
    task: Task, config: Config, state: PyTree, hparams: HyperParameters
) -> Any:
    """Traces how a member is scored on a batch, for shapes of state and hparams.

    Raises:
        ValueError: if there is not one score for each example.
    """

    def evaluate(key, state, hparams, batch, shared):
        return task.evaluate(key, state, decode(hparams), batch, shared)

    _, rows = batch_shapes(task.data, config)
    scored = jax.jit(evaluate).trace(key_shape(), state, hparams, rows, task.shared)
    _check_outside(scored, "evaluate")
    shape = getattr(scored.out_info, "shape", type(scored.out_info))
    if rows is not None and shape != (config.batch_size,):
        raise ValueError(
            "evaluate must return one score for each example, shape "
            f"({config.batch_size},) here, got {shape}."
        )
    return scored


class Steps(NamedTuple):
    """How a member begins and trains, traced on shapes.

    Attributes:
        task: the task whose steps these are: see `TracedMember`.
        hparams: the shapes of a member's hyperparameters.
        started: the traced `init`.
        prepared: the traced `prepare`, or `None`.
        stepped: the traced `train_step`.
    """

    task: Task
    hparams: HyperParameters
    started: Any
    prepared: Any
    stepped: Any


def trace_steps(task: Task, config: Config) -> Steps:
    """Traces how a member begins and trains, with its own hyperparameters throughout.

    Raises:
        ValueError: if the functions do not fit together.
    """
    hparams = jax.eval_shape(lambda: default_member(task.hparams))
    init = jax.jit(lambda key, hparams: task.init(key, decode(hparams)))
    started = init.trace(key_shape(), hparams)
    batch, _ = batch_shapes(task.data, config)
    prepared = None
    if task.prepare is not None:
        population = Member(started.out_info, hparams, _FITNESS)
        prepared = _trace_prepare(task, population, batch, config)
        row = jax.eval_shape(lambda rows: take(rows, 0), prepared.out_info)
        batch = batch, row
    args = key_shape(), started.out_info, hparams, batch, task.shared

    def trace(task):
        def step(key, state, hparams, batch, shared):
            return task.train_step(key, state, decode(hparams), batch, shared)

        step = jax.jit(step)
        return step, step.trace(*args)

    step, stepped = trace(task)
    check_step(started.out_info, stepped.out_info)
    copies = find_copies(init, step, *args)
    if copies:
        task = renew(task, copies)
        _, stepped = trace(task)
    return Steps(task, hparams, started, prepared, stepped)


def decide_batch_size(task: Task, config: Config) -> Config:
    """Settles how many examples a training step reads: the config's, or the task's."""
    if not isinstance(task, Task):
        raise TypeError(
            f"task must be a jepbt.Task, got {type(task).__name__}. For images: "
            "jepbt.classification('fashion_mnist')."
        )
    spaces(task.hparams)
    check_arrays(task)
    if config.batch_size is not None:
        return config
    check_whole("", "batch_size", task.batch_size, 1)
    return dataclasses.replace(config, batch_size=task.batch_size)


def _check_outside(traced: Any, name: str) -> None:
    """Refuses a function that reads what belongs to the trace of another one.

    JAX hands such values to the function as inputs of their own.
    """
    if len(traced.jaxpr.in_avals) > len(jax.tree.leaves(traced.args_info)):
        raise ValueError(
            f"{name} reads a value that init has computed and kept outside of the "
            "arrays of its state, such as the `tx` of flax's TrainState made from "
            "hyperparameters: every child would have its parent's. Keep arrays alone "
            "in the state, and make the rest where it is used: in train_step, updates, "
            "opt_state = optax.adam(h.learning_rate).update(gradients, "
            "state.opt_state, state.params)."
        )


def _trace_hooks(
    task: Task, state: PyTree, hparams: HyperParameters, config: Config
) -> list[Any]:
    traced = []
    if task.repair is not None:
        repair = jax.jit(lambda hparams: task.repair(hparams))
        traced.append(repair.trace(stack_shapes(hparams, config.population_size)))
    if task.restart is not None:

        def restart(key, state, hparams):
            return task.restart(key, state, decode(hparams))

        traced.append(jax.jit(restart).trace(key_shape(), state, hparams))
    return traced


def _trace_prepare(task: Task, member: Member, batch: PyTree, config: Config) -> Any:
    if task.data is None or config.batches != "shared":
        raise ValueError(
            f"batches={config.batches!r}: the task prepares something for all members "
            "at once, a teacher's outputs for example, which needs data and "
            "batches='shared'."
        )

    num_steps = config.steps_per_generation
    population = stack_shapes(member, config.population_size)
    batches = stack_shapes(batch, num_steps)
    prepare = jax.jit(lambda *args: task.prepare(*args))
    prepared = prepare.trace(key_shape(), population, batches, task.shared)
    for leaf in jax.tree.leaves(prepared.out_info):
        if leaf.shape[:1] != (num_steps,):
            raise ValueError(
                "prepare must return arrays with a row for each step of a generation, "
                f"[{num_steps}, ...] here, got shape {leaf.shape}."
            )
    return prepared


def _lower_anywhere(traced: Any) -> Any:
    """Lowers for an accelerator: the same text everywhere, and arithmetic to count.

    There a convolution is one operation, while the CPU's goes through loops, whose
    bodies the compiler's count takes once. A function that lowers for its own platform
    alone, such as one with a callback or a kernel of the user's, is lowered for that.
    """
    try:
        with on_cpu():  # whose backend counts arithmetic, as no accelerator's does
            return traced.lower(lowering_platforms=("tpu",))
    except (NotImplementedError, ValueError):
        return traced.lower()


def hash_parts(traced: Mapping[str, Sequence[Any]], step: Any = None) -> dict[str, str]:
    """Hashes the text of lowered functions, which is the same on every machine.

    Args:
        traced: the traced functions behind each part of a run.
        step: the lowered training step, which belongs to the part `"train"`.

    Returns:
        64 hexadecimal digits for each part.
    """
    hashes = {}
    for name, parts in traced.items():
        lowered = [_lower_anywhere(part) for part in parts]
        lowered += [step] if name == "train" else []
        text = "".join(program.as_text() for program in lowered)
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
    return hashes
