"""Says what a task is: pure functions of one member, and its data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import accepts, check_real
from jepbt.hyperparameters import HyperParameters
from jepbt.population import PyTree, outline


class Splits(NamedTuple):
    """Examples by purpose: pytrees of arrays `[N, ...]`.

    Attributes:
        train: the examples that members learn from.
        validation: the examples that fitness is measured on.
        test: the examples that are read once, after a run; `None` if there are none.
    """

    train: PyTree
    validation: PyTree
    test: PyTree | None = None


class Blend(NamedTuple):
    """Functions that combine trained members of a task after a run."""

    # (key, state, hparams, batch) -> f32[B, C] that may be averaged: probabilities, say
    predict: Callable[..., jax.Array]
    score: Callable[..., jax.Array]  # (averaged, batch) -> f32[B]
    mix: Callable[[PyTree], PyTree]  # (states [k]) -> state with the average weights
    # (key, state, hparams, batch) -> state with batch statistics estimated anew
    adapt: Callable[..., PyTree]


class Inference(NamedTuple):
    """Functions that use one trained member after a run, on examples of any kind."""

    # (raw inputs) -> [N, ...] like the task's data; raises where they are not alike
    check: Callable[[Any], np.ndarray]
    # [N, ...] -> [N, ...] as the network sees them
    preprocess: Callable[[np.ndarray], jax.Array]
    # (state, encoded hparams, [B, ...]) -> [B, ...] predictions, compiled
    predict: Callable[..., jax.Array]
    # (state, hparams) -> the user's model with the member's weights
    bind: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a population learns: pure functions of one member, key first.

    The engine batches them over members and never looks inside a state. The functions
    read hyperparameters as values: a numeric choice as its number.

    Attributes:
        hparams: the class of what evolves.
        init: `(key, hparams) -> state`. Arrays of the state that are made of
            hyperparameters alone, and that steps leave as they are, such as those of
            `optax.inject_hyperparams`, are made anew of the member's own in each step.
        train_step: `(key, state, hparams, batch, shared) -> (state, metrics)`; metrics
            are scalars by name, `"loss"` among them.
        evaluate: `(key, state, hparams, batch, shared) -> f32[B]`, one score for each
            example, higher is better; their mean is the fitness. The key is the same
            for all members.
        data: the examples; `None` for a task that makes its own (the batch is `None`,
            and `evaluate` returns any number of scores).
        batch_size: examples in a training step, unless the run's config says otherwise.
        shared: a pytree for all members that is never stacked, inherited or evolved, a
            frozen backbone for example.
        repair: `(hparams) -> hparams`, the last word on new hyperparameters, applied
            inside the program before a member spends steps on them; `None` for none.
        behaviour: `(key, state, hparams, batch, shared) -> f32[...]`, what a member
            does with examples, for strategies that compare it (`strategies.pulsation`);
            `None` if there is no such thing.
        prepare: `(key, population, batches, shared) -> pytree [S, ...]`, computed once
            a generation for all members, such as a teacher's outputs; `batches` has
            leaves `[S, B, ...]`, and the population's fitness is `nan` in slots that
            hold something new. `train_step`'s batch then is `(batch, prepared)`, with
            the step's own row. Needs data and shared batches.
        restart: `(key, state, hparams) -> state`, what a slot that starts afresh makes
            of the state it had; `None` for `init`.
        blend: the functions that make ensembles and averages of trained members;
            `None` for a task without.
        confusions: `(state) -> f32[C, C]`, the table that a loss that adapts has
            learned, for people to look at; `None` without such a loss.
        inference: the functions that use a trained member: its predictions, and the
            user's model; `None` for a task without.
        about: facts for people, JSON values by name, for `config.json` and the report;
            the figures read `"num_classes"` there.

    Example:
        A member climbs `-x²` with its own step size, without data:

        >>> from dataclasses import dataclass
        >>> import jax.numpy as jnp
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     rate: float = jepbt.hparam(0.01, min=1e-3, max=0.5, log=True)
        >>> task = jepbt.Task(
        ...     hparams=Hyper,
        ...     init=lambda key, h: jnp.float32(1.0),
        ...     train_step=lambda key, x, h, batch, shared: (
        ...         x - h.rate * 2 * x,
        ...         {"loss": x**2},
        ...     ),
        ...     evaluate=lambda key, x, h, batch, shared: -(x**2)[None],
        ... )
    """

    hparams: type[HyperParameters]
    init: Callable[..., PyTree]
    train_step: Callable[..., tuple[PyTree, dict[str, jax.Array]]]
    evaluate: Callable[..., jax.Array]
    data: Splits | None = None
    batch_size: int = 64
    shared: PyTree = ()
    repair: Callable[[HyperParameters], HyperParameters] | None = None
    behaviour: Callable[..., jax.Array] | None = None
    prepare: Callable[..., PyTree] | None = None
    restart: Callable[..., PyTree] | None = None
    blend: Blend | None = None
    confusions: Callable[[PyTree], jax.Array] | None = None
    inference: Inference | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(self, name)
            if function is None and name in _OPTIONAL:
                continue
            count = arguments.count(",") + 1
            if not callable(function) or not accepts(function, *[None] * count):
                given = getattr(function, "__name__", repr(function))
                raise TypeError(
                    f"Task: {name}={given} must be a function ({arguments})"
                    f"{', or None' if name in _OPTIONAL else ''}."
                )

    def __repr__(self) -> str:
        hparams = getattr(self.hparams, "__name__", self.hparams)
        return (
            f"Task(hparams={hparams}, data={outline(self.data)}, "
            f"batch_size={self.batch_size}, shared={outline(self.shared)})"
        )


def shrink_and_perturb(task: Task, *, shrink: float = 0.4, noise: float = 0.1) -> Task:
    """Lets members that are restarted keep a part of their weights.

    A restarted member's weights are `shrink` times the old plus `noise` times newly
    drawn ones; optimizer state and all else start new. Both numbers are our choice.

    Args:
        task: the task, whose state must have `params`, such as a `Learner`.
        shrink: the factor of the old weights, in [0, 1].
        noise: the factor of the new weights, at least 0.

    Returns:
        The task with a `restart` of this kind.

    Raises:
        ValueError: if a number is outside its range.

    Example:
        >>> import numpy as np
        >>> import jepbt
        >>> x = np.random.default_rng(0).normal(size=(40, 5))
        >>> task = jepbt.tasks.shrink_and_perturb(jepbt.regression((x, x[:, 0])))
        >>> task.restart is None
        False

    Reference:
        Ash & Adams, "On Warm-Starting Neural Network Training", 2020,
        https://arxiv.org/abs/1910.08475
    """
    if not isinstance(task, Task):
        raise TypeError(
            f"shrink_and_perturb: task must be a jepbt.Task, got {type(task).__name__}."
        )
    check_real("shrink_and_perturb", "shrink", shrink, 0, 1)
    check_real("shrink_and_perturb", "noise", noise, 0)

    def restart(key, state, hparams):
        new = task.init(key, hparams)
        if not hasattr(state, "params"):
            raise ValueError(
                "shrink_and_perturb: the task's state is a "
                f"{type(state).__name__} without `params`. Give Task.restart yourself."
            )

        def soften(old, fresh):
            return (shrink * old + noise * fresh).astype(old.dtype)

        params = jax.tree.map(soften, state.params, new.params)
        return dataclasses.replace(new, params=params)

    return dataclasses.replace(task, restart=restart)


def check_arrays(task: Task) -> None:
    """Raises a `TypeError` for a leaf of a task's data that is no array of numbers."""
    if isinstance(task.data, Splits):
        for name, rows in task.data._asdict().items():
            _check_leaves(f"task.data.{name}", rows)
    _check_leaves("task.shared", task.shared)


def _check_leaves(where: str, tree: PyTree) -> None:
    """Refuses what lies in a pytree and is no array of numbers, by its path.

    Python's own numbers are left to whoever needs a leading axis.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        kind, cure = type(leaf).__name__, "make it an array of numbers, one shape a row"
        if isinstance(leaf, np.ndarray | np.generic):
            is_number = leaf.dtype.kind in "biufc" or jnp.issubdtype(
                leaf.dtype, jnp.floating
            )
            kind = f"NumPy array of {leaf.dtype}"
            cure = _CURES.get(leaf.dtype.kind, cure)
            if is_number and not leaf.dtype.isnative:
                is_number = False
                cure = "swap its bytes, array.astype(array.dtype.newbyteorder('='))"
        else:
            is_number = isinstance(
                leaf, jax.Array | jax.ShapeDtypeStruct | bool | int | float | complex
            )
            cure = "pass it as .to_numpy()" if hasattr(leaf, "to_numpy") else cure
            cure = _CURES["U"] if isinstance(leaf, str | bytes) else cure
        if not is_number:
            raise TypeError(
                f"{where} must hold arrays of numbers, and its leaf "
                f"{jax.tree_util.keystr(path) or 'itself'} is a {kind}: {cure}."
            )


_CURES = {
    "U": "leave texts out, or number them, np.unique(texts, return_inverse=True)[1]",
    "M": "make dates numbers, (dates - first) / np.timedelta64(1, 's')",
    "m": "make durations numbers, durations / np.timedelta64(1, 's')",
    "O": "give its rows one shape, padded and with a mask, in one array of numbers",
}
_CURES |= {"S": _CURES["U"], "T": _CURES["U"]}
_ARGUMENTS = {
    "init": "key, hparams",
    "train_step": "key, state, hparams, batch, shared",
    "evaluate": "key, state, hparams, batch, shared",
    "repair": "hparams",
    "behaviour": "key, state, hparams, batch, shared",
    "prepare": "key, population, batches, shared",
    "restart": "key, state, hparams",
}
_OPTIONAL = ("repair", "behaviour", "prepare", "restart")
