"""Traces a task's functions for one member: what does not fit, what it costs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jepbt.config import Config
from jepbt.engine.devices import make_mesh
from jepbt.engine.generation import make_phases
from jepbt.engine.programs import Programs, lower
from jepbt.engine.state import Inputs
from jepbt.hyperparameters import (
    HyperParameters,
    decode,
    default_member,
    sample_population,
    spaces,
)
from jepbt.population import Member
from jepbt.strategies import Strategy
from jepbt.tasks import Splits, Task


class MemberShapes(NamedTuple):
    """The shapes of one member and of what its training step gets.

    Attributes:
        state: the member's state.
        hparams: its hyperparameters, as they are on the device.
        batch: the batch of a training step, as `train_step` takes it: with the row of
            `prepare`, if the task has one; `None` for a task without data.
    """

    state: Any
    hparams: HyperParameters
    batch: Any


def check_task(task: Task, strategy: Strategy, config: Config) -> MemberShapes:
    """Traces a task's functions on shapes alone, so that errors come at once.

    Args:
        task: to be trained.
        strategy: that will evolve it.
        config: checked.

    Returns:
        The shapes of one member.

    Raises:
        TypeError: if the task is none.
        ValueError: if its functions do not fit together; the message names which.
    """
    if not isinstance(task, Task):
        raise TypeError(
            f"task must be a jepbt.Task, got {type(task).__name__}. For images: "
            "jepbt.classification('fashion_mnist')."
        )
    spaces(task.hparams)
    batch_size = task.batch_size if config.batch_size is None else config.batch_size
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise ValueError(f"batch_size={batch_size!r} must be a whole number.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    key = jax.eval_shape(lambda: jax.random.key(0))
    # Traced with the real size, so that a strategy can refuse it.
    jax.eval_shape(
        lambda k: strategy.init(
            k, task.hparams, config.population_size, config.num_generations
        )[1],
        key,
    )
    hparams = jax.eval_shape(lambda: default_member(task.hparams))
    state = jax.eval_shape(lambda k, h: task.init(k, decode(h)), key, hparams)
    batch, rows = _check_data(task.data, batch_size, config)
    _check_behaviour(task, strategy)
    if task.prepare is not None:
        batch = _check_prepare(task, key, batch, config)

    def step(key, state, h, batch):
        return task.train_step(key, state, decode(h), batch, task.shared)

    def evaluate(key, state, h, batch):
        return task.evaluate(key, state, decode(h), batch, task.shared)

    after, metrics = _unpack(jax.eval_shape(step, key, state, hparams, batch))
    _check_same_state(state, after)
    if not isinstance(metrics, dict) or "loss" not in metrics:
        raise ValueError(
            "train_step must return (state, metrics) with metrics a dict that has "
            f"'loss', got {sorted(metrics) if isinstance(metrics, dict) else metrics}."
        )
    for name, value in metrics.items():
        if value.shape != ():
            raise ValueError(
                f"train_step: metric {name!r} must be a scalar, got shape "
                f"{value.shape}. Take its mean."
            )
    scores = jax.eval_shape(evaluate, key, state, hparams, rows)
    if rows is not None and getattr(scores, "shape", None) != (batch_size,):
        raise ValueError(
            "evaluate must return one score for each example, shape "
            f"({batch_size},) here, got {getattr(scores, 'shape', type(scores))}."
        )
    return MemberShapes(state, hparams, batch)


def _check_behaviour(task: Task, strategy: Strategy) -> None:
    wanted = strategy.behaviour
    if wanted is None:
        return
    if task.data is None:
        raise ValueError(
            "the strategy compares what members do with validation examples, and this "
            "task has no data. strategies.pulsation(metric='loss') compares losses."
        )
    if wanted.metric == "task" and task.behaviour is None:
        raise ValueError(
            "the strategy compares Task.behaviour, and this task has none. Give one, "
            "or use strategies.pulsation(metric='correctness')."
        )


def _check_prepare(task: Task, key: Any, batch: Any, config: Config) -> Any:
    """Traces `prepare`; returns the shapes of what `train_step` then gets."""
    if task.data is None or config.batches != "shared":
        raise ValueError(
            f"batches={config.batches!r}: the task prepares something for all members "
            "at once, a teacher's outputs for example, which needs data and "
            "batches='shared'."
        )

    def prepare(key, batches):
        hparams = sample_population(key, task.hparams, config.population_size)
        keys = jax.random.split(key, config.population_size)
        state = jax.vmap(lambda k, h: task.init(k, decode(h)))(keys, hparams)
        population = Member(state, hparams, jnp.zeros(config.population_size))
        return task.prepare(key, population, batches, task.shared)

    num_steps = config.steps_per_generation
    batches = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num_steps, *leaf.shape), leaf.dtype), batch
    )
    prepared = jax.eval_shape(prepare, key, batches)
    for leaf in jax.tree.leaves(prepared):
        if leaf.shape[:1] != (num_steps,):
            raise ValueError(
                "prepare must return arrays with a row for each step of a generation, "
                f"[{num_steps}, ...] here, got shape {leaf.shape}."
            )
    row = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), prepared
    )
    return batch, row


def _check_data(data: Splits | None, batch_size: int, config: Config):
    """Checks row counts; returns the shapes of a batch of each split."""
    if data is None:
        return None, None
    if not isinstance(data, Splits):
        raise TypeError(
            f"task.data must be a jepbt.Splits of pytrees of arrays, got "
            f"{type(data).__name__}."
        )
    shapes = []
    for name in ("train", "validation"):
        leaves = jax.tree.leaves(getattr(data, name))
        counts = {jnp.shape(leaf)[:1] for leaf in leaves}
        if len(counts) != 1 or counts & {(), (0,)}:
            raise ValueError(
                f"task.data.{name} must hold arrays with one and the same number of "
                f"examples, at least 1; got leading axes {sorted(counts)}."
            )
        shapes.append(
            jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    (batch_size, *leaf.shape[1:]), leaf.dtype
                ),
                getattr(data, name),
            )
        )
    examples = batch_size * config.steps_per_generation * config.num_generations
    if examples >= 2**31:
        raise ValueError(
            f"batch_size={batch_size} x steps_per_generation="
            f"{config.steps_per_generation} x num_generations="
            f"{config.num_generations} = {examples} examples must stay below 2**31, "
            "the range of the row counter. Choose fewer generations or steps."
        )
    return shapes


def _unpack(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            f"train_step must return (state, metrics), got {type(result).__name__}."
        )
    return result


def _check_same_state(before: Any, after: Any) -> None:
    paths = jax.tree_util.tree_leaves_with_path
    old = {jax.tree_util.keystr(path): leaf for path, leaf in paths(before)}
    new = {jax.tree_util.keystr(path): leaf for path, leaf in paths(after)}
    for path in sorted(old.keys() | new.keys()):
        was, now = (
            f"{tree[path].dtype}{list(tree[path].shape)}" if path in tree else "absent"
            for tree in (old, new)
        )
        if was != now:
            raise ValueError(
                "train_step must return a state like init's, so that it can go on: "
                f"leaf {path or 'state'} is {was} from init and {now} after a step."
            )
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            "train_step must return a state of the same tree structure as init's: "
            f"{jax.tree.structure(before)} became {jax.tree.structure(after)}."
        )


def count_step_flops(task: Task, member: MemberShapes) -> float:
    """Counts the floating-point operations of one member's training step.

    The compiler's own count, before it optimises, of the step by itself: the body of a
    loop would be counted once, however often it runs.

    Args:
        task: the task that the step belongs to.
        member: the shapes of one member and its batch, from `check_task`.

    Returns:
        FLOPs; 0 if the compiler does not tell.

    Warns:
        RuntimeWarning: if they cannot be counted; a run does not need them.

    Example:
        >>> import numpy as np, optax, jepbt
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
        >>> task = jepbt.classification(
        ...     (np.zeros((20, 100), np.float32), np.arange(20) % 2),
        ...     hparams=Hyper, model=jepbt.models.MLP(num_classes=2, hidden=()),
        ...     loss=lambda h: jepbt.losses.cross_entropy,
        ...     optimizer=lambda h: optax.sgd(h.rate),
        ... )
        >>> from jepbt.engine.member import check_task
        >>> config = jepbt.Config(batch_size=10)
        >>> member = check_task(task, jepbt.strategies.epbt(), config)
        >>> 2 * 2 * 10 * 100 * 2 < count_step_flops(task, member) < 10_000
        True
    """
    key = jax.eval_shape(lambda: jax.random.key(0))

    def step(key, state, h, batch, shared):
        return task.train_step(key, state, decode(h), batch, shared)

    # As lowered for an accelerator: there a convolution is one operation, while the
    # CPU's goes through loops, whose bodies the analysis counts once.
    try:
        traced = jax.jit(step).trace(key, *member, task.shared)
        lowered = traced.lower(lowering_platforms=("tpu",))
        analysis = lowered.cost_analysis() or {}
        return max(0.0, float(analysis.get("flops", 0.0)))
    except NotImplementedError:  # the user's own kernel, for one platform alone
        return 0.0
    except Exception as error:
        warnings.warn(
            "the arithmetic of a training step could not be counted "
            f"({type(error).__name__}: {str(error)[:200]}); the run goes on without.",
            RuntimeWarning,
            stacklevel=2,
        )
        return 0.0


def lower_portable(
    task: Task,
    strategy: Strategy,
    config: Config,
    inputs: Inputs,
    mesh: Mesh,
    only: Sequence[str],
) -> Programs:
    """Lowers the programs for one device and chunks of one member.

    They are not run: their text tells whether another run computes the same, on however
    many devices.
    """
    phases = make_phases(task, strategy, config, chunk_size=1)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    return lower(phases, shapes, make_mesh(mesh.local_devices[:1]), only)
