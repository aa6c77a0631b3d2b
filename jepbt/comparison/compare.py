"""Compares arms over seeds at equal cost: the one question of population training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jepbt.comparison.arms import Source
from jepbt.comparison.loop import run_comparison
from jepbt.comparison.plan import plan_comparison
from jepbt.comparison.report import Comparison
from jepbt.config import Config


def compare(
    arms: Mapping[str, Source],
    *,
    seeds: int | Sequence[int] = 20,
    control: str | None = None,
    primary: str | None = None,
    post_hoc: bool = False,
    config: Config | None = None,
    devices: str | Sequence[jax.Device] | None = None,
    **fields: Any,
) -> Comparison:
    """Trains each arm once a seed, and tells whether it helped, at equal cost.

    At each seed all arms have the same examples, initial weights, batches and, if their
    hyperparameters are of one class, the same first hyperparameters: these follow from
    the seed. Every run hands over its best member by validation, whose test score is
    read once. Each arm is compiled once for all seeds. One whose functions, not only
    its data, depend on the seed is compiled anew where they do, with a warning.

    Name the control, and the one comparison that you will claim, before you look: the
    primary arm's p stands as it is, all others are corrected by Holm's method.

    Args:
        arms: `(task, strategy)` by name, or a `jepbt.Arm`; for data that differ by
            seed (noise, splits) a function of the seed that returns one, of the same
            shapes.
        seeds: the number of seeds, from 0 on, or the seeds themselves. Take others than
            those that settings were tuned on.
        control: the arm that the others are compared with; the first if left out.
        primary: the arm whose difference is the claim; the only other one if there are
            two arms, otherwise none if left out.
        post_hoc: True adds for each arm what biases of the classes, tuned on validation
            data after training, make of its winners: a control that costs nothing.
        config: the settings of every run; the defaults of `Config` if left out.
        devices: a platform's name or a list of devices; all that JAX has if left out.
        **fields: settings of `Config`, over those of `config`. With `run_dir` each
            finished run is kept there, and `resume=True` goes on with those that are
            missing, also for more seeds than before.

    Returns:
        The `Comparison`; printed, it is a table with a forest plot.

    Raises:
        TypeError: if an argument is of no allowed kind.
        ValueError: if arms cannot be compared: they differ in data, batch size or cost;
            the message says how, and comes before anything compiles.
        RuntimeError: if no member of a run ever had a finite fitness.
        Interrupted: on Ctrl-C or SIGTERM, after the generation in flight.

    Example:
        Do learning rates above 0.01 help?

        >>> from dataclasses import dataclass
        >>> import jax.numpy as jnp
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     rate: float = jepbt.hparam(0.01, min=1e-3, max=0.5, log=True)
        >>> def descend(limit):
        ...     return jepbt.Task(
        ...         hparams=Hyper,
        ...         init=lambda key, h: jax.random.normal(key),
        ...         train_step=lambda key, x, h, batch, shared: (
        ...             x - jnp.minimum(h.rate, limit) * 2 * x, {"loss": x**2}
        ...         ),
        ...         evaluate=lambda key, x, h, batch, shared: -(x**2)[None],
        ...     )
        >>> comparison = compare(
        ...     {"low": descend(0.01), "high": descend(0.5)}, seeds=3, progress=False,
        ...     population_size=4, num_generations=3, steps_per_generation=5,
        ... )
        >>> low, high = comparison.scores  # of three seeds each
        >>> bool((high > low).all())
        True

    Reference:
        Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks",
        2021, https://arxiv.org/abs/2103.03098
    """
    plan = plan_comparison(
        arms,
        seeds=seeds,
        control=control,
        primary=primary,
        post_hoc=post_hoc,
        config=config,
        devices=devices,
        **fields,
    )
    return run_comparison(plan)
