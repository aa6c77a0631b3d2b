"""How much arithmetic a training step holds."""

from __future__ import annotations

import warnings

import jax

from jepbt.checks import MemberShapes
from jepbt.hyperparameters import decode
from jepbt.population import Task


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
        >>> from jepbt.checks import check_task
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
