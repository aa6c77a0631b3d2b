"""Makes tasks of examples with inputs and targets, learned by gradients."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt import models
from jepbt.arguments import check_choice
from jepbt.hyperparameters import HyperParameters, decode, encode
from jepbt.models.model import name_of
from jepbt.models.precision import COMPUTE_DTYPES, computing_in
from jepbt.population import PyTree, take
from jepbt.tasks import adaptation
from jepbt.tasks.adaptation import Adaptation
from jepbt.tasks.distillation import Distillation, make_teacher, mix
from jepbt.tasks.optimizers import as_transformation, update
from jepbt.tasks.parts import check_parts
from jepbt.tasks.task import Blend, Inference, Splits, Task

_AUGMENT = 0x61756720  # makes a key for augmentation of the step's, the model's own


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Learner:
    """The state of a network that learns by gradients."""

    params: PyTree  # the weights
    opt_state: PyTree  # the optimizer's state
    variables: PyTree  # all else that the model carries, such as batch statistics
    loss: PyTree = ()  # what it has learned of its loss, with `jepbt.adapt`


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Supervised:
    """The user's parts, checked by a trace, and what a member does with them."""

    data: Splits  # dictionaries of arrays
    inputs: str  # the name of the array that the network sees
    to_inputs: Callable[[str, Any], np.ndarray]  # (field, raw) -> [N, ...]
    labels: Callable[[PyTree], jax.Array]  # makes the loss's labels of a batch
    num_outputs: int  # C, for each example
    outputs: str  # words for them, such as "logits [B, 3] for the data's 3 classes"
    score: Callable[[jax.Array, PyTree], jax.Array]  # (outputs, batch) -> f32[B]
    # What an ensemble averages and strategies compare; `score` takes it, too.
    average_of: Callable[[jax.Array], jax.Array] = lambda outputs: outputs
    is_flat: bool = False  # whether predictions [N, 1] are handed out as [N]
    hparams: type[HyperParameters]
    model: Any
    loss: Callable[[HyperParameters], Callable[..., jax.Array]] | Adaptation
    optimizer: Callable[[HyperParameters], optax.GradientTransformation]
    augment: Callable[[HyperParameters], Callable[..., Any]] | None
    batch_size: int
    distillation: Distillation | None = None
    compute_dtype: str = "float32"  # the dtype that the network computes in

    def __post_init__(self) -> None:
        check_choice("", "compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        given = self.distillation
        if given is not None and not isinstance(given, Distillation):
            raise TypeError(
                "distillation must be made by jepbt.distillation(...), got "
                f"{getattr(given, '__name__', type(given).__name__)}."
            )
        if self.adapts and self.is_taught:
            raise ValueError(
                "classification: distillation and a loss that adapts cannot be "
                "combined: leave one of them out."
            )
        check_parts(self)

    @functools.cached_property
    def network(self) -> models.Model:
        """The model as two functions, in the dtype that it computes in."""
        return computing_in(models.as_model(self.model), self.compute_dtype)

    @functools.cached_property
    def normalize(self) -> Callable[[jax.Array], jax.Array]:
        """The function that brings inputs to the form that the network sees."""
        return _normalizer(self.data.train[self.inputs])

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """The shape of a batch of one example."""
        inputs = self.data.train[self.inputs]
        is_float = inputs.dtype == np.uint8 or inputs.dtype.kind not in "iu"
        dtype = jnp.float32 if is_float else jnp.int32
        return jax.ShapeDtypeStruct((1, *inputs.shape[1:]), dtype)

    @property
    def is_taught(self) -> bool:
        """Tells whether a teacher takes part; without weight it leaves no trace."""
        return self.distillation is not None and self.distillation.weight > 0

    @property
    def adapts(self) -> bool:
        """Tells whether the loss's own parameters are trained."""
        return isinstance(self.loss, Adaptation)

    def task(self, about: Mapping[str, Any], **changes: Any) -> Task:
        """Makes the task, whose state is a `Learner`."""
        prepare, shared = None, ()
        if self.is_taught:
            prepare = make_teacher(self.distillation, self.predict)
        if self.adapts:
            shared = self.data.validation
            num_validation = len(shared[self.inputs])
            prepare = adaptation.make_turns(self.loss, num_validation)
        return Task(
            self.hparams,
            self.init,
            self.train_step,
            self.evaluate,
            self.data,
            self.batch_size,
            shared=shared,
            behaviour=self.behaviour,
            prepare=prepare,
            blend=Blend(self.behaviour, self.score, _average_states, self.adapt),
            inference=Inference(
                self.check_inputs,
                lambda inputs: jnp.asarray(self.normalize(inputs)),
                jax.jit(self.predict_inputs),
                self.bind,
            ),
            about={
                **about,
                "model": name_of(self.model),
                "compute_dtype": self.compute_dtype,
            },
            **changes,
        )

    def init(self, key, hparams):
        """Draws a member's weights."""
        zeros = jnp.zeros(self.example.shape, self.example.dtype)
        params, variables = self.network.init(key, zeros, hparams)
        optimizer = as_transformation(self.optimizer(hparams))
        learned = adaptation.begin(self.loss, self.num_outputs) if self.adapts else ()
        return Learner(params, optimizer.init(params), variables, learned)

    def train_step(self, key, state, hparams, batch, shared):
        """Takes one step of the optimizer."""
        batch, extra = batch if self.is_taught or self.adapts else (batch, None)
        targets = self.labels(batch)
        seen = self.normalize(batch[self.inputs])
        if self.augment is not None:
            augment_key = jax.random.fold_in(key, _AUGMENT)
            seen, targets = self.augment(hparams)(augment_key, seen, targets)

        def apply(params):
            variables = state.variables
            return self.network.apply(key, params, variables, hparams, seen, train=True)

        learned = state.loss
        if self.adapts:
            training = lambda params: apply(params)[0], targets
            learned = self._adapt_loss(key, state, hparams, training, extra, shared)
            loss = functools.partial(self.loss.loss.loss, learned.parameters)
        else:
            loss = self.loss(hparams)

        def objective(params):
            outputs, variables = apply(params)
            value = jnp.mean(loss(outputs, targets))
            if self.is_taught:
                value = mix(self.distillation, value, outputs, extra)
            return value, variables

        differentiate = jax.value_and_grad(objective, has_aux=True)
        (value, variables), gradients = differentiate(state.params)
        updates, opt_state = update(
            self.optimizer(hparams),
            gradients,
            state.opt_state,
            state.params,
            value=value,
            value_fn=lambda params: objective(params)[0],
        )
        params = optax.apply_updates(state.params, updates)
        return Learner(params, opt_state, variables, learned), {"loss": value}

    def _adapt_loss(self, key, state, hparams, training, turn, validation):
        """Trains the loss's own parameters, in the steps in which that is due."""
        settings = self.loss

        def predict(rows):
            return self.predict(key, state, hparams, rows)

        learned = adaptation.start(
            settings, state.loss, turn, predict, self.labels, validation
        )

        def improve():
            rows = take(validation, turn.rows)

            def predict(params):
                changed = dataclasses.replace(state, params=params)
                return self.predict(key, changed, hparams, rows)

            trusted = predict, self.labels(rows)
            rate = settings.rate(hparams)
            return adaptation.improve(
                settings, learned, rate, state.params, training, trusted
            )

        return jax.lax.cond(turn.adapts, improve, lambda: learned)

    def predict(self, key, state, hparams, batch):
        """Computes the network's outputs, without training."""
        return self._apply(key, state, hparams, batch, train=False)[0]

    def evaluate(self, key, state, hparams, batch, shared):
        """Scores each example."""
        return self.score(self.predict(key, state, hparams, batch), batch)

    def behaviour(self, key, state, hparams, batch, shared=None):
        """Computes predictions that may be averaged and compared."""
        return self.average_of(self.predict(key, state, hparams, batch))

    def adapt(self, key, state, hparams, batch):
        """Estimates batch statistics and the like anew."""
        _, variables = self._apply(key, state, hparams, batch, train=True)
        return dataclasses.replace(state, variables=variables)

    def check_inputs(self, inputs):
        """Makes raw inputs an array, unless the network was trained on others."""
        wanted = self.data.train[self.inputs]
        array = self.to_inputs("predict: inputs", inputs)
        if array.shape[1:] != wanted.shape[1:] or array.dtype != wanted.dtype:
            like = f"{wanted.dtype}[{', '.join(map(str, ('N', *wanted.shape[1:])))}]"
            is_one = np.shape(inputs) == wanted.shape[1:]
            cure = (
                "pass one example as inputs[None]" if is_one else "pass rows like those"
            )
            raise ValueError(
                f"predict: inputs have dtype {array.dtype} and shape "
                f"{np.shape(inputs)}, and the network was trained on {like}: {cure}."
            )
        return array

    def predict_inputs(self, state, hparams, inputs):
        """Predicts with a member's encoded hyperparameters."""
        key, batch = jax.random.key(0), {self.inputs: inputs}
        predicted = self.behaviour(key, state, decode(hparams), batch)
        return predicted[:, 0] if self.is_flat else predicted

    def bind(self, state, hparams):
        """Makes the user's own model of a member."""
        values = decode(encode(hparams))
        return models.bind(self.model, state.params, state.variables, values)

    def _apply(self, key, state, hparams, batch, *, train):
        seen = self.normalize(batch[self.inputs])
        return self.network.apply(
            key, state.params, state.variables, hparams, seen, train=train
        )


def _average_states(states: Learner) -> Learner:
    """Averages the weights of members; takes the first one's optimizer and loss."""

    def mean(leaf):
        return leaf.mean(0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[0]

    params, variables = jax.tree.map(mean, (states.params, states.variables))
    opt_state, loss = take((states.opt_state, states.loss), 0)
    return Learner(params, opt_state, variables, loss)


def _normalizer(images: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """Makes a function that standardises uint8 pixels by channel, and nothing else."""
    if images.dtype != np.uint8:
        return lambda batch: batch
    channels = images.reshape(-1, images.shape[-1] if images.ndim == 4 else 1)
    levels = np.arange(256)
    # Counting levels is exact, and needs no copy of the images as floats.
    counts = np.stack([np.bincount(c, minlength=256) for c in channels.T])
    weights = counts / counts.sum(1, keepdims=True)
    mean = weights @ levels
    deviation = np.sqrt(np.maximum(weights @ levels**2 - mean**2, 1e-6))
    scale, shift = np.float32(1 / deviation), np.float32(-mean / deviation)

    def normalize(batch):
        shape = (1,) * (batch.ndim - 1) + (-1,)
        return batch.astype(jnp.float32) * scale.reshape(shape) + shift.reshape(shape)

    return normalize
