"""Makes arrays of numbers of what users bring: lists, frames, tensors, columns.

Every error names the part, what was found there, and the cure.
"""

import datetime
import decimal
import numbers
from typing import Any

import jax.numpy as jnp
import numpy as np

_INPUT_CURE = "make numbers of them first, such as token ids [N, T]"
_LABEL_CURE = (
    "number the classes: names, labels = np.unique(labels, return_inverse=True)"
)
_CURES = {
    "M": "dates: pass numbers, as (dates - first) / np.timedelta64(1, 's') are",
    "m": "durations: pass numbers, durations / np.timedelta64(1, 's')",
    "c": "complex numbers: pass the real and the imaginary part beside each other",
}
_EXAMPLES = "examples/multilabel.py shows how with jepbt.Task"


def to_inputs(field: str, value: Any) -> np.ndarray:
    """Makes a network's inputs: `uint8` pixels, `float32`, or `int32` of `[N, T]`.

    `uint8` stays as it is, at any rank. Other integers `[N, T]`, such as token ids and
    counts, become `int32`; of any other rank they are returned unchanged, for the
    caller to judge. Floats and bools become `float32`.
    """
    array = to_array(field, value, _INPUT_CURE)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu":
        return _to_int32(field, array) if array.ndim == 2 else array
    if array.dtype == bool or jnp.issubdtype(array.dtype, jnp.floating):
        return to_float32(field, array)
    raise ValueError(
        f"{field} has dtype {array.dtype}; allowed are uint8, for pixels from 0 to "
        "255, other integers [N, T], such as token ids, floats and bools."
    )


def to_labels(field: str, value: Any) -> np.ndarray:
    """Makes class numbers, integers `[N]`, or probabilities, `f32[N, C]`.

    Bools and whole floats count as class numbers; rows of numbers from 0 that sum to
    one, one-hot ones among them, as probabilities.
    """
    labels = to_array(field, value, _LABEL_CURE)
    if labels.ndim == 2 and labels.shape[1] > 1:
        return _to_probabilities(field, labels)
    if labels.ndim == 2:
        raise ValueError(
            f"{field} has shape {labels.shape} and is a column; labels are integers "
            "[N]: pass labels[:, 0]."
        )
    if labels.ndim != 1:
        raise ValueError(
            f"{field} has shape {labels.shape}; labels are integers [N], or "
            f"probabilities [N, C]. For a label on each pixel, {_EXAMPLES}."
        )
    if labels.dtype == bool:
        return labels.astype(np.int32)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        whole = to_float32(field, labels).astype(np.float64)
        others = whole[whole % 1 != 0]
        if others.size:
            raise ValueError(
                f"{field} has dtype {labels.dtype} and values like {others[0]}; labels "
                "are integers from 0 to num_classes - 1. To predict numbers use "
                "jepbt.regression."
            )
        labels = whole.astype(np.int64)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{field} has dtype {labels.dtype}; labels are integers [N].")
    return labels


def to_array(field: str, value: Any, cure: str = _INPUT_CURE) -> np.ndarray:
    """Makes an array of numbers or bools; `cure` is the advice against texts."""
    if hasattr(value, "toarray"):
        raise ValueError(
            f"{field} is a sparse matrix ({type(value).__name__}); networks take dense "
            "arrays: pass it as .toarray()."
        )
    if np.ma.is_masked(value):
        raise ValueError(
            f"{field} is a masked array, {np.ma.count_masked(value)} values of which "
            "are missing: fill them, as in .filled(0), or remove those examples."
        )
    try:
        array = np.asarray(value)
    except Exception as error:
        # NumPy's own answer to ragged nested sequences is a ValueError; what a tensor
        # on another device or with a gradient says may be of any class.
        if isinstance(error, ValueError) and isinstance(value, list | tuple):
            reason = "its examples have different shapes. Crop, resize or pad them"
            raise ValueError(f"{field} is no array: {reason} to one.") from error
        raise ValueError(
            f"{field} is no array: NumPy cannot read this {type(value).__name__} "
            f"({error}). Pass a NumPy array."
        ) from error
    if array.dtype == object:
        return _of_objects(field, value, array, cure)
    if array.dtype.kind in "UST":
        raise ValueError(f"{field} has dtype {array.dtype} and holds texts: {cure}.")
    if array.dtype.kind in _CURES:
        held = _CURES[array.dtype.kind]
        raise ValueError(f"{field} has dtype {array.dtype} and holds {held}.")
    return array


def to_float32(field: str, array: np.ndarray) -> np.ndarray:
    """Converts to `float32`, and refuses values that are not finite in it."""
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    bad = ~np.isfinite(converted)
    if not bad.any():
        return converted
    first = tuple(map(int, np.unravel_index(np.argmax(bad), bad.shape)))
    value = array[first]
    advice = (
        "which float32 cannot hold; scale them"
        if np.isfinite(value)
        else "which no network can learn from; remove or repair those examples"
    )
    raise ValueError(
        f"{field} has {np.count_nonzero(bad)} values like {value} at {first}, the "
        f"first of them, {advice}."
    )


def pixel_advice(array: np.ndarray) -> str:
    """Says how integers that are no `uint8` become pixels."""
    low, high = int(array.min()), int(array.max())
    found = f"dtype {array.dtype} and values from {low} to {high}"
    if low >= 0 and high <= 255:
        return f"{found}: they fit, pass images.astype(np.uint8)"
    top = 2**15 - 1 if low < 0 else 2**16 - 1
    top = top if max(-low, high) <= top + 1 else max(-low, high)
    return f"{found}: scale them, (images / {top}).astype(np.float32)"


def _of_objects(field: str, value: Any, array: np.ndarray, cure: str) -> np.ndarray:
    """Reads an array of objects as numbers, if all of them are numbers."""
    name = type(value).__name__
    if value is None:
        raise ValueError(f"{field} is None, where an array is needed.")
    if array.ndim == 0:
        raise ValueError(
            f"{field} is no array, but of type {name}: collect its examples first, as "
            "in np.stack(list(examples))."
        )
    kinds = set(map(type, array.flat))
    if all(issubclass(k, numbers.Real | np.bool_ | decimal.Decimal) for k in kinds):
        read = np.array(array.tolist()).reshape(array.shape)
        return array.astype(np.float64) if read.dtype == object else read

    def first(of_kind) -> tuple[int, ...]:
        places = zip(np.ndindex(array.shape), array.flat, strict=True)
        return next(place for place, item in places if isinstance(item, of_kind))

    missing = tuple(k for k in kinds if k.__name__ in ("NAType", "NaTType", "NoneType"))
    if missing:
        raise ValueError(
            f"{field} has missing values, the first at {first(missing)}: remove those "
            "examples or fill them, as pandas' .dropna() and .fillna(0) do."
        )
    if kinds & {str, bytes, np.str_, np.bytes_}:
        place = first(str | bytes)
        raise ValueError(f"{field} holds texts, {array[place]!r} at {place}: {cure}.")
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    if any(issubclass(kind, datetime.date) for kind in kinds):
        raise ValueError(f"{field} holds {_CURES['M']}; found {found}.")
    raise ValueError(
        f"{field} is an array of objects ({found}); stack its examples into one array "
        "of numbers, all of one shape, as in np.stack(list(examples))."
    )


def _to_int32(field: str, array: np.ndarray) -> np.ndarray:
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if low < -(2**31) or high >= 2**31:
        raise ValueError(
            f"{field} has dtype {array.dtype} and values from {low} to {high}, which "
            "32 bits cannot hold: scale them, as floats."
        )
    return array.astype(np.int32, copy=False)


def _to_probabilities(field: str, labels: np.ndarray) -> np.ndarray:
    """Takes rows that sum to one; refuses several labels on one example."""
    labels = to_float32(field, labels)
    sums = labels.sum(1)
    bad = (abs(sums - 1) > 1e-3) | (labels < 0).any(1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{field} has shape {labels.shape}, which is for a probability of each "
            f"class, from 0 and of sum 1; those of example {row} have the sum "
            f"{sums[row]:g} and the least is {labels[row].min():g}. Logits become "
            "probabilities by jax.nn.softmax(labels). For several labels on one "
            f"example, {_EXAMPLES}; for numbers to predict there is jepbt.regression."
        )
    return labels
