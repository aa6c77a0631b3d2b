"""Makes the task of classifying, with any model, loss and optimizer."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt import datasets, losses, models
from jepbt.augment import Augmentation
from jepbt.datasets.arrays import to_images
from jepbt.datasets.dataset import classes_of
from jepbt.hyperparameters import (
    HyperParameters,
    Loss,
    TaylorLoss,
    hparam,
    map_fields,
    spaces,
    taylor_hparam,
)
from jepbt.losses import taylorglo
from jepbt.population import PyTree
from jepbt.tasks.adaptation import Adaptation
from jepbt.tasks.distillation import Distillation
from jepbt.tasks.parts import require_parts
from jepbt.tasks.supervised import Supervised
from jepbt.tasks.task import Splits, Task


@dataclasses.dataclass
class StandardHyperParameters(HyperParameters):
    """The hyperparameters of a classification for which the user names none."""

    learning_rate: float = hparam(0.05, min=1e-3, max=1.0, log=True)
    momentum: float = hparam(0.9, min=0.0, max=0.99)
    weight_decay: float = hparam(1e-4, min=1e-6, max=1e-2, log=True)
    dropout: float = hparam(0.1, min=0.0, max=0.6)
    loss: Loss = taylor_hparam()


def classification(
    data: str | datasets.Dataset | tuple[Any, Any] = "fashion_mnist",
    *,
    hparams: type[HyperParameters] | None = None,
    model: Any = None,
    loss: Callable[[HyperParameters], losses.LossFn] | Adaptation | None = None,
    optimizer: Callable[[HyperParameters], optax.GradientTransformation] | None = None,
    augment: Callable[[HyperParameters], Augmentation] | None = None,
    batch_size: int = 64,
    distillation: Distillation | None = None,
    compute_dtype: str = "float32",
) -> Task:
    """Makes the task of classifying images, or vectors, with the user's network.

    `loss` and `optimizer` are functions of a member's own hyperparameters, called
    inside the compiled step, so that one program serves every value. Inputs of `uint8`,
    vectors too, count as pixels: they stay so on the device and are standardised by the
    training split's mean and deviation when read. Floats are taken as they are, and so
    are all other integers `[N, T]`, such as token ids, as `int32`: pass ids of `uint8`
    as `ids.astype(np.int32)`. A TaylorGLO loss that could not train is repaired before
    a member spends steps on it. Fitness is the validation accuracy.

    Args:
        data: the name of a data set, a `Dataset`, or `(images, labels)`, a tenth of
            which becomes the validation split. Labels are integers `[N]`, or `[N, C]`,
            each class's probability; then the likeliest class counts as right.
        hparams: the class of the hyperparameters, which makes `model`, `loss` and
            `optimizer` required. None evolves learning rate, momentum, weight decay,
            dropout and loss.
        model: a flax linen module, a function `rngs -> nnx.Module`, a `models.Model`,
            or a pair `(init, apply)`.
        loss: `h -> (logits [B, C], labels [B, C]) -> f32[B]`; labels are one-hot, or
            the data's own probabilities. Or what `jepbt.adapt` returns, a loss that
            learns from the validation labels.
        optimizer: `h -> optax.GradientTransformation`.
        augment: `h -> (key, images, labels) -> (images, labels)`, such as
            `lambda h: jepbt.augment.shift(h.shift)`, for training batches as the
            network sees them; or None.
        batch_size: the number of examples in a training step.
        distillation: the settings that `jepbt.distillation` returns, with which members
            also learn from the best of them; or None.
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
        >>> from dataclasses import dataclass
        >>> import numpy as np, optax
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
        >>> images = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
        >>> task = jepbt.classification(
        ...     (images, (images[:, 0] > 0).astype(int)),
        ...     hparams=Hyper,
        ...     model=jepbt.models.MLP(num_classes=2, hidden=(8,)),
        ...     loss=lambda h: jepbt.losses.cross_entropy,
        ...     optimizer=lambda h: optax.sgd(h.learning_rate),
        ... )
        >>> task.data.validation["label"].shape
        (4,)
    """
    dataset = _as_dataset(data)
    num_classes = dataset.num_classes
    if hparams is None:
        hparams = StandardHyperParameters
        model = _standard_model(dataset) if model is None else model
        loss = loss or (lambda h: losses.taylor(h.loss))
        optimizer = optimizer or standard_optimizer
    own = {"model": model, "loss": loss, "optimizer": optimizer}
    require_parts("classification", hparams, own)
    if isinstance(loss, Adaptation):
        _check_trusted(dataset)
    parts = Supervised(
        data=Splits(dataset.train, dataset.validation, dataset.test),
        inputs="image",
        to_inputs=to_images,
        labels=lambda batch: _probabilities(batch["label"], num_classes),
        num_outputs=num_classes,
        outputs=f"logits [B, {num_classes}] for the data's {num_classes} classes",
        score=_score,
        average_of=jax.nn.softmax,
        hparams=hparams,
        **own,
        augment=augment,
        batch_size=batch_size,
        distillation=distillation,
        compute_dtype=compute_dtype,
    )
    about = {
        "data": dataset.name,
        "data_note": dataset.note,
        "num_classes": num_classes,
    }

    def repair(_, space, leaf):
        is_loss = isinstance(space, TaylorLoss)
        return taylorglo.repair(leaf, num_classes) if is_loss else leaf

    evolves_loss = any(isinstance(s, TaylorLoss) for s in spaces(hparams).values())
    task_repair = functools.partial(map_fields, repair) if evolves_loss else None
    if dataset.class_names is not None:
        about["class_names"] = list(dataset.class_names)
    confusions = None
    if isinstance(loss, Adaptation) and loss.loss.table is not None:
        about["confusions"] = list(loss.loss.meaning)

        def confusions(state):
            return loss.loss.table(state.loss.parameters)

    return parts.task(about=about, repair=task_repair, confusions=confusions)


def _check_trusted(dataset: datasets.Dataset) -> None:
    """Refuses validation labels that a loss could not learn a class from."""
    labels = classes_of(dataset.validation["label"])
    counts = np.bincount(labels, minlength=dataset.num_classes)
    if not counts.all():
        raise ValueError(
            "adapt: the loss learns from trusted labels, those of the validation "
            f"split, which has no example of class {int(np.argmin(counts))}. Give some "
            "of every class: jepbt.datasets.from_arrays(train, validation, test)."
        )


def _probabilities(labels: jax.Array, num_classes: int) -> jax.Array:
    if labels.ndim == 2:
        return labels
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def _score(logits: jax.Array, batch: PyTree) -> jax.Array:
    is_correct = jnp.argmax(logits, -1) == classes_of(batch["label"])
    # argmax of nan is class 0: a broken network would score on that class.
    return jnp.where(
        jnp.isfinite(logits).all(-1), is_correct.astype(jnp.float32), jnp.nan
    )


def _as_dataset(data: Any) -> datasets.Dataset:
    if isinstance(data, datasets.Dataset):
        return data
    if isinstance(data, str):
        return datasets.load(data)
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    if is_pair or isinstance(data, Mapping):
        return datasets.from_arrays(data)
    got = type(data).__name__
    got += f" of {len(data)}" if isinstance(data, tuple | list) else ""
    raise TypeError(
        "classification: data must be a data set's name, a jepbt.datasets.Dataset, or "
        f"(images, labels), two arrays; got {got}. More splits than one are given to "
        "jepbt.datasets.from_arrays(train, validation, test), each a pair; what yields "
        "examples one by one is collected first, by np.stack."
    )


def _standard_model(dataset: datasets.Dataset) -> Any:
    build = models.CNN if dataset.train["image"].ndim == 4 else models.MLP
    return build(num_classes=dataset.num_classes, dropout=lambda h: h.dropout)


def standard_optimizer(h: StandardHyperParameters) -> optax.GradientTransformation:
    """Makes SGD with Nesterov's momentum and weight decay."""
    return optax.chain(
        optax.add_decayed_weights(h.weight_decay),
        optax.sgd(h.learning_rate, momentum=h.momentum, nesterov=True),
    )
