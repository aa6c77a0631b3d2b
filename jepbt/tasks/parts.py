"""Checks a user's model, augmentation, loss and optimizer one by one."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt.arguments import accepts
from jepbt.hyperparameters import HyperParameters, decode, default_member, spaces
from jepbt.population import key_shape
from jepbt.tasks.adaptation import Adaptation
from jepbt.tasks.optimizers import as_transformation, update

_MUST = "must be a function of the hyperparameters that returns"
WANTED = {
    "augment": f"{_MUST} an augmentation, as in augment=lambda h: "
    "jepbt.augment.shift(h.shift)",
    "loss": f"{_MUST} a loss, as in loss=lambda h: jepbt.losses.brier, or, for a "
    "classification, what jepbt.adapt returns",
    "optimizer": f"{_MUST} an optax optimizer, as in optimizer=lambda h: "
    "optax.sgd(h.learning_rate)",
}
_ADVICE = "Use jax.numpy functions, jax.lax.cond or jepbt.choose."
_ONE_HOT = (
    "loss: it takes class numbers [B], and labels are one-hot here, f32[B, C], so that "
    "augmentations can mix them. Of optax use softmax_cross_entropy, whose values are "
    "the same as those of softmax_cross_entropy_with_integer_labels; for any other "
    "loss, loss=lambda h: lambda logits, labels: yours(logits, labels.argmax(-1))."
)
ADVICE = {
    "augment": _ADVICE,
    "loss": _ADVICE,
    "model": "For dropout use jepbt.nn.dropout; else jax.lax.cond or jepbt.choose.",
    "optimizer": "For a schedule, scale one of unit peak: optax.chain(..., "
    "optax.scale_by_schedule(unit), optax.scale(-h.learning_rate)).",
}


def require_parts(name: str, hparams: type, parts: dict[str, Any]) -> None:
    """Refuses hyperparameters that are no class, and parts that are `None`, by name."""
    spaces(hparams)
    for part, value in parts.items():
        if value is None:
            raise ValueError(
                f"{name}: {part} is missing. With hparams={hparams.__name__} of your "
                f"own, give {', '.join(parts)} too: the defaults read fields that it "
                "may not have."
            )


def check_parts(task: Any) -> None:
    """Traces each part of a `Supervised`, so that an error can name the wrong one."""
    functions = {name: getattr(task, name) for name in WANTED}
    if isinstance(task.loss, Adaptation):
        functions["loss"] = _at_first(task.loss, task.num_outputs)
    if task.augment is None:
        del functions["augment"]
    for name, function in functions.items():
        if not callable(function) or not accepts(function, None):
            given = getattr(function, "__name__", type(function).__name__)
            raise TypeError(f"{name}: {WANTED[name]}; got {given}.")
    key = key_shape()
    member = jax.eval_shape(lambda: default_member(task.hparams))
    labels = jax.ShapeDtypeStruct((1, task.num_outputs), jnp.float32)
    with _naming("model"):
        params, outputs = _try_model(task, key, member, labels)
    if task.augment is not None:
        with _naming("augment"):
            _try_augment(task.augment, key, member, task.example, labels)
    with _naming("loss"):
        _try_loss(functions["loss"], member, outputs, labels)
    with _naming("optimizer"):
        _try_optimizer(task.optimizer, member, params)


def _at_first(settings: Adaptation, num_classes: int) -> Any:
    """Makes of a loss that adapts the function of hyperparameters that it is at first.

    Its rate and its start are checked on the way.
    """

    def loss(h):
        rate = settings.rate(h)
        if jnp.shape(rate) != ():
            raise ValueError(
                "adapt: rate must return one number for a member, got shape "
                f"{jnp.shape(rate)}."
            )
        parameters = settings.loss.init(num_classes)
        if settings.loss.start is not None:
            zeros = jnp.zeros((1, num_classes))
            started = settings.loss.start(parameters, zeros, zeros)
            shapes, got = (jax.tree.map(jnp.shape, x) for x in (parameters, started))
            if shapes != got:
                raise ValueError(
                    "adapt: the loss's start must return parameters of the same shapes "
                    f"as its init, {shapes}, got {got}."
                )
        return lambda logits, labels: settings.loss.loss(parameters, logits, labels)

    return loss


def _try_model(task, key, member, labels) -> tuple[Any, Any]:
    """Returns the shapes of the weights and of the outputs."""
    inputs = task.data.train[task.inputs]

    def init(key, images, h):
        return task.network.init(key, images, decode(h))

    with _noting_inputs(inputs):
        made = jax.eval_shape(init, key, task.example, member)
    params, variables = _check_pair("model: init", "(params, variables)", made)
    for train in (True, False):

        def apply(key, params, variables, h, images, train=train):
            hparams = decode(h)
            return task.network.apply(
                key, params, variables, hparams, images, train=train
            )

        arguments = key, params, variables, member, task.example
        with _noting_inputs(inputs):
            applied = jax.eval_shape(apply, *arguments)
        outputs, _ = _check_pair("model: apply", "(logits, variables)", applied)
        got = getattr(outputs, "shape", None)
        cure = "Change the last layer's size."
        if got is None:
            got, cure = _name_outputs(outputs), "Return that one array alone."
        if got != labels.shape:
            raise ValueError(
                f"model: its output must be {task.outputs}, got {got} for one example. "
                f"{cure}"
            )
    if inputs.dtype == np.uint8 and inputs.ndim == 2:
        _check_reads_pixels(apply, *arguments)
    return params, outputs


def _check_reads_pixels(apply: Any, *arguments: Any) -> None:
    """Refuses `uint8[N, T]` for a network whose outputs do not follow its inputs.

    Token ids of that type would be standardised like pixels, and what the network makes
    whole numbers of would mean nothing. A derivative that is zero whatever the weights
    are tells such a network.
    """
    *others, example = arguments
    follows = []

    @jax.custom_jvp
    def probe(outputs):
        return outputs

    def see(primals, tangents):
        zero = jax.custom_derivatives.SymbolicZero
        follows.append(not isinstance(tangents[0], zero))
        return primals[0], jnp.zeros_like(primals[0])

    probe.defjvp(see, symbolic_zeros=True)

    def differentiate(images, *others):
        def outputs(images):
            return probe(apply(*others, images)[0])

        return jax.vjp(outputs, images)[0]

    try:
        jax.eval_shape(differentiate, example, *others)
    except (TypeError, ValueError, NotImplementedError):
        return  # something in it has no derivative by the inputs, as none is needed
    if not any(follows):
        raise ValueError(
            "model: it makes whole numbers of its inputs, and these, of uint8, count "
            "as pixels, which it sees standardised. Pass token ids as "
            "ids.astype(np.int32); pixels scaled, (pixels / 255).astype(np.float32)."
        )


def _name_outputs(outputs: Any) -> str:
    """Names the arrays of a network with several outputs, for people."""
    leaves = jax.tree_util.tree_leaves_with_path(outputs)
    shapes = [f"{jax.tree_util.keystr(p)} {jnp.shape(leaf)}" for p, leaf in leaves]
    return f"a {type(outputs).__name__} of {', '.join(shapes) or 'nothing'}"


def _try_augment(augment, key, member, images, labels) -> None:
    def distort(key, h, images, labels):
        function = _made_by("augment", augment, h, "key, images, labels")
        return function(key, images, labels)

    distorted = jax.eval_shape(distort, key, member, images, labels)
    _check_pair("augment: it", "(images, labels)", distorted)

    def describe(value):
        dtype = getattr(value, "dtype", type(value).__name__)
        return f"{dtype}{list(getattr(value, 'shape', ()))}"

    before = ("images", "labels"), (images, labels)
    for name, old, new in zip(*before, distorted, strict=True):
        was, now = describe(old), describe(new)
        if was != now:
            is_of_ids = getattr(old, "dtype", None) == jnp.int32
            cure = " Token ids cannot be mixed; counts can, .astype(np.float32)."
            raise ValueError(
                f"augment: it must keep the shape and dtype of the {name}, and made "
                f"{now} of {was}.{cure if is_of_ids else ''}"
            )


def _try_loss(loss, member, logits, labels) -> None:
    def compute(h, logits, labels):
        return _made_by("loss", loss, h, "outputs, labels")(logits, labels)

    def shape_of(labels):
        value = jax.eval_shape(compute, member, logits, labels)
        return getattr(value, "shape", type(value).__name__)

    def takes_class_numbers():
        try:
            return shape_of(jax.ShapeDtypeStruct(rows, jnp.int32)) in (rows, ())
        except (TypeError, ValueError):
            return False

    rows = labels.shape[:1]
    try:
        got = shape_of(labels)
    except (TypeError, ValueError) as error:
        if takes_class_numbers():
            raise ValueError(_ONE_HOT) from error
        raise
    if got in (rows, ()):
        return
    if takes_class_numbers():
        raise ValueError(_ONE_HOT)
    average = ", such as its mean over the outputs" if got == logits.shape else ""
    raise ValueError(
        f"loss: it must return one number for each example, shape [B]{average}; got "
        f"{got} for one example."
    )


def _try_optimizer(optimizer, member, params) -> None:
    def norm(params):
        return optax.tree.norm(params, squared=True)

    def try_update(h, params):
        made = optimizer(decode(h))
        transformation = as_transformation(made)
        if transformation is None:
            kind = type(made).__name__
            raise TypeError(f"optimizer: {WANTED['optimizer']}; it returned {kind}.")
        more = {"value": norm(params), "value_fn": norm}
        return update(made, params, transformation.init(params), params, **more)

    try:
        # As runs do: most of optax's optimizers fail under strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            jax.eval_shape(try_update, member, params)
    except (AttributeError, ValueError) as error:
        error.add_note(
            "optimizer: it was given one pytree of weights and one of their gradients, "
            "the mean over a batch. Optimizers that keep pairs of weights, or need a "
            "gradient for each example, cannot be used."
        )
        raise


def _made_by(name: str, function: Any, h: Any, arguments: str) -> Any:
    """Returns what the user's function of the hyperparameters makes, if it fits."""
    made = function(decode(h))
    count = arguments.count(",") + 1
    if not callable(made) or not accepts(made, *[None] * count):
        given = getattr(made, "__name__", repr(made))
        raise TypeError(
            f"{name}: {WANTED[name]}, of ({arguments}); it returned {given}."
        )
    return made


def _check_pair(what: str, wanted: str, result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        got = f"{len(result)} values" if isinstance(result, tuple) else repr(result)
        raise TypeError(f"{what} must return {wanted}, got {got}.")
    return result


@contextlib.contextmanager
def _noting_inputs(inputs: np.ndarray) -> Iterator[None]:
    """Adds to a network's own error how it sees inputs that may be token ids."""
    try:
        yield
    except Exception as error:
        if inputs.ndim == 2 and inputs.dtype != np.int32:
            how = "standardised, since they are uint8" * (inputs.dtype == np.uint8)
            error.add_note(
                f"The network is given float32 inputs{how and f', {how}'}. Token "
                "ids are passed as ids.astype(np.int32)."
            )
        raise


@contextlib.contextmanager
def _naming(part: str) -> Iterator[None]:
    """Adds the part's name and advice to errors that a user would not understand."""
    try:
        yield
    except AttributeError as error:
        if not isinstance(error.obj, HyperParameters):
            raise
        raise ValueError(f"{part}: {error}") from error
    except NameError as error:
        # Python's own errors say which variable is missing; JAX raises the same class,
        # without a variable, for an axis that no `vmap` or `shard_map` has named.
        if error.name is not None or isinstance(error, UnboundLocalError):
            raise
        raise ValueError(
            f"{part}: it averages over an axis that is not there ({error}). A member "
            "lives on one device, with its whole batch: leave axis_name out."
        ) from error
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            f"{part}: it asks for the number behind a hyperparameter. Hyperparameters "
            "are arrays inside the compiled step: Python branches, int() and float() "
            f"do not work on them. {ADVICE[part]}"
        ) from error
