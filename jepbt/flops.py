"""How much arithmetic a training step holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jepbt.hyperparameters import decode, default_member
from jepbt.population import Task


def count_step_flops(task: Task, batch_size: int) -> float:
    """Counts the floating-point operations of one member's training step.

    The compiler's own count, before it optimises, of the step by itself: the body of a
    loop would be counted once, however often it runs.

    Args:
        task: whose step it is.
        batch_size: examples of it.

    Returns:
        FLOPs; 0 if the compiler does not tell.

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
        >>> 2 * 2 * 10 * 100 * 2 < count_step_flops(task, 10) < 10_000
        True
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    hparams = jax.eval_shape(lambda: default_member(task.hparams))
    state = jax.eval_shape(lambda k, h: task.init(k, decode(h)), key, hparams)
    batch = None
    if task.data is not None:
        batch = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (batch_size, *jnp.shape(leaf)[1:]), leaf.dtype
            ),
            task.data.train,
        )

    def step(key, state, h, batch, shared):
        return task.train_step(key, state, decode(h), batch, shared)

    # As lowered for an accelerator: there a convolution is one operation, while the
    # CPU's goes through loops, whose bodies the analysis counts once.
    traced = jax.jit(step).trace(key, state, hparams, batch, task.shared)
    try:
        lowered = traced.lower(lowering_platforms=("tpu",))
    except NotImplementedError:  # the user's own kernel, for one platform alone
        return 0.0
    analysis = lowered.cost_analysis() or {}
    return max(0.0, float(analysis.get("flops", 0.0)))
