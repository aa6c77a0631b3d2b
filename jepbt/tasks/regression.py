"""Makes the task of predicting numbers, with any model, loss and optimizer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt import models
from jepbt.arguments import check_whole
from jepbt.datasets.arrays import check_like_train
from jepbt.datasets.conversion import to_array, to_float32, to_inputs
from jepbt.hyperparameters import HyperParameters, hparam
from jepbt.tasks.parts import require_parts
from jepbt.tasks.supervised import Supervised
from jepbt.tasks.task import Splits, Task


@dataclasses.dataclass
class RegressionHyperParameters(HyperParameters):
    """The hyperparameters of a regression for which the user names none."""

    learning_rate: float = hparam(3e-3, min=1e-4, max=0.1, log=True)
    weight_decay: float = hparam(1e-4, min=1e-6, max=1e-1, log=True)


def regression(
    data: tuple[Any, Any] | Splits,
    *,
    hparams: type[HyperParameters] | None = None,
    model: Any = None,
    loss: Callable[[HyperParameters], Callable[..., jax.Array]] | None = None,
    optimizer: Callable[[HyperParameters], optax.GradientTransformation] | None = None,
    augment: Callable[[HyperParameters], Callable[..., Any]] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    compute_dtype: str = "float32",
) -> Task:
    """Makes the task of predicting numbers with the user's network.

    Fitness is the negative mean squared error on the validation split, averaged over
    the `D` targets of each example: in the targets' own units, comparable between
    members, and 0 at best. (R² ranks members alike, and is
    `1 + fitness / variance of the targets`.) Targets and float inputs are taken as they
    are, and so are integers `[N, T]`, as `int32`; inputs of `uint8` are standardised as
    in `classification`.

    Args:
        data: `(inputs, targets)`, a tenth of which becomes the validation split; or
            `Splits(train, validation, test)` of such pairs, the last perhaps None.
            Inputs are `[N, ...]` of any numbers, targets numbers too, `[N]` or
            `[N, D]`; `[N]` counts as `[N, 1]`.
        hparams: the class of the hyperparameters, which makes `model` and `optimizer`
            required. None evolves learning rate and weight decay.
        model: a flax linen module, a function `rngs -> nnx.Module`, a `models.Model`,
            or a pair `(init, apply)`, with outputs `[B, D]`; by default an MLP.
        loss: `h -> (predictions [B, D], targets [B, D]) -> f32[B]`; by default the
            squared error.
        optimizer: `h -> optax.GradientTransformation`; by default AdamW.
        augment: `h -> (key, inputs, targets) -> (inputs, targets)`, such as
            `lambda h: jepbt.augment.mixup(h.mixup)`; or None.
        batch_size: the number of examples in a training step.
        seed: the seed with which the validation split is drawn.
        compute_dtype: "float32", or "bfloat16", which is faster where the hardware
            multiplies it: the network computes in it, while weights, optimizer, batch
            statistics, loss and fitness stay `float32`. `jepbt.models.precision` says
            what a network of your own must do for it.

    Returns:
        A `Task` whose state is a `Learner`.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if the data, the hyperparameters' class, the model's output, the
            loss or the optimizer cannot work; the message names it.

    Example:
        >>> import numpy as np
        >>> import jepbt
        >>> inputs = np.random.default_rng(0).normal(size=(40, 5))
        >>> task = jepbt.regression((inputs, inputs[:, 0] ** 2))
        >>> task.data.train["target"].shape, task.data.validation["target"].shape
        ((36, 1), (4, 1))
    """
    check_whole("", "seed", seed, 0)
    splits = _as_splits(data, seed)
    size = splits.train["target"].shape[1]
    if hparams is None:
        hparams = RegressionHyperParameters
        if model is None:
            model = models.MLP(num_classes=size, hidden=(64, 64))
        optimizer = optimizer or (
            lambda h: optax.adamw(h.learning_rate, weight_decay=h.weight_decay)
        )
    own = {"model": model, "optimizer": optimizer}
    require_parts("regression", hparams, own)
    parts = Supervised(
        data=splits,
        inputs="input",
        to_inputs=_to_inputs,
        labels=lambda batch: batch["target"],
        num_outputs=size,
        outputs=f"predictions [B, {size}] of the data's {size} targets",
        score=lambda predicted, batch: -squared_error(predicted, batch["target"]),
        hparams=hparams,
        **own,
        loss=loss or (lambda h: squared_error),
        augment=augment,
        batch_size=batch_size,
        is_flat=np.ndim((data.train if isinstance(data, Splits) else data)[1]) == 1,
        compute_dtype=compute_dtype,
    )
    return parts.task(about={})


def squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Averages the squared differences of each example: `f32[B]` of `f32[B, D]`."""
    return jnp.mean(jnp.square(predictions - targets), axis=-1)


def _as_splits(data: Any, seed: int) -> Splits:
    if isinstance(data, Splits):
        splits = {
            name: _to_split(name, rows)
            for name, rows in data._asdict().items()
            if rows is not None
        }
        if "validation" not in splits:
            raise ValueError(
                "regression: data.validation is missing, which fitness is measured on; "
                "pass (inputs, targets) alone to have a tenth of them carved out."
            )
        for name, split in splits.items():
            for part in split:
                check_like_train(f"regression: {name}", part, split, splits["train"])
        return Splits(**splits)
    everything = _to_split("data", data)
    num_examples = len(everything["target"])
    if num_examples < 2:
        raise ValueError(
            f"regression: data has {num_examples} example, of which none can be spared "
            "for validation; it needs at least 2."
        )
    order = np.random.default_rng(seed).permutation(num_examples)
    count = max(1, num_examples // 10)
    rows = np.sort(order[count:]), np.sort(order[:count])
    return Splits(*({k: v[each] for k, v in everything.items()} for each in rows))


def _to_split(name: str, value: Any) -> dict[str, np.ndarray]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(
            f"regression: {name} must be (inputs, targets), or data a jepbt.Splits of "
            f"such pairs; got {type(value).__name__}."
        )
    inputs = _to_inputs(f"regression: {name} input", value[0])
    field = f"regression: {name} target"
    targets = to_array(field, value[1], "numbers to predict are needed")
    targets = to_float32(field, _check_example(field, targets))
    if targets.ndim not in (1, 2):
        raise ValueError(
            f"regression: {name} target has shape {targets.shape}; allowed are [N] and "
            "[N, D]."
        )
    if len(inputs) != len(targets):
        raise ValueError(
            f"regression: {name} has {len(inputs)} inputs and {len(targets)} targets; "
            "each input needs one row of targets."
        )
    return {"input": inputs, "target": targets.reshape(len(targets), -1)}


def _to_inputs(field: str, value: Any) -> np.ndarray:
    inputs = _check_example(field, to_inputs(field, value))
    if inputs.dtype.kind in "iu" and inputs.dtype != np.uint8 and inputs.ndim != 2:
        inputs = to_float32(field, inputs)
    if inputs.ndim < 2:
        raise ValueError(
            f"{field} has shape {inputs.shape}; allowed is [N, ...] with a row for "
            "each example: pass inputs[:, None]."
        )
    return inputs


def _check_example(field: str, array: np.ndarray) -> np.ndarray:
    if 0 in array.shape or array.ndim == 0:
        raise ValueError(f"{field} has shape {array.shape}; there must be an example.")
    return array
