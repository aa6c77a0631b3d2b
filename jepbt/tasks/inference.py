"""Makes the functions that use one trained member of a supervised task."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt import models
from jepbt.hyperparameters import decode, encode
from jepbt.tasks.task import Inference


def make_inference(parts: Any) -> Inference:
    """Makes the functions that predict with a `Supervised`'s model, or bind it."""

    def check(inputs):
        wanted = parts.data.train[parts.inputs]
        array = parts.to_inputs("predict: inputs", inputs)
        if array.shape[1:] != wanted.shape[1:] or array.dtype != wanted.dtype:
            _refuse(inputs, array, wanted)
        return array

    def preprocess(inputs):
        return jnp.asarray(parts.normalize(inputs))

    @jax.jit
    def predict(state, hparams, inputs):
        key, batch = jax.random.key(0), {parts.inputs: inputs}
        predicted = parts.behaviour(key, state, decode(hparams), batch)
        return predicted[:, 0] if parts.is_flat else predicted

    def bind(state, hparams):
        values = decode(encode(hparams))
        return models.bind(parts.model, state.params, state.variables, values)

    return Inference(check, preprocess, predict, bind)


def _refuse(inputs: Any, array: np.ndarray, wanted: np.ndarray) -> None:
    """Says how the inputs differ from those that the network was trained on."""
    like = f"{wanted.dtype}[{', '.join(map(str, ('N', *wanted.shape[1:])))}]"
    is_one = np.shape(inputs) == wanted.shape[1:]
    cure = "pass one example as inputs[None]" if is_one else "pass rows like those"
    raise ValueError(
        f"predict: inputs have dtype {array.dtype} and shape {np.shape(inputs)}, and "
        f"the network was trained on {like}: {cure}."
    )
