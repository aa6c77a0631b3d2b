"""Declares what evolves: a user's dataclass, read and checked field by field."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from jepbt.hyperparameters.spaces import (
    _LARGEST,
    _SMALLEST,
    Categorical,
    Integer,
    Real,
    Space,
    TaylorLoss,
)
from jepbt.losses import taylorglo

Loss: TypeAlias = jax.Array
"""Annotates a field made by `taylor_hparam`: `f32[8]`, a TaylorGLO genome."""

_METADATA = "jepbt"


class HyperParameters:
    """Base of the dataclass that names what evolves in a run.

    Subclasses are decorated with `dataclasses.dataclass` (plain, frozen, slots or
    keyword-only) and are JAX pytrees without further ado. Fields are made by `hparam`
    and `taylor_hparam`; a bare default (`momentum: float = 0.9`) evolves unbounded.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
        ...     dropout: float = jepbt.hparam(0.1, min=0.0, max=0.6)
        >>> Hyper(dropout=0.2)
        Hyper(learning_rate=0.05, dropout=0.2)

    Reference:
        Liang et al., "Regularized Evolutionary Population-Based Training", 2021,
        https://arxiv.org/abs/2002.04225
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `copy` and `pickle` ask for what may not be there
            raise AttributeError(name)
        names = getattr(type(self), "__dataclass_fields__", ())
        close = difflib.get_close_matches(name, names, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise AttributeError(
            f"{type(self).__name__} has no field {name!r}.{hint} Its fields are "
            f"{', '.join(names)}.",
            name=name,
            obj=self,
        )

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # `dataclass(slots=True)` makes a second class: it passes here again, and each
        # reads its fields only when flattened, after the decorator has done its work.
        jax.tree_util.register_pytree_with_keys(
            cls,
            lambda h: (
                [(jax.tree_util.GetAttrKey(n), getattr(h, n)) for n in _names(cls)],
                None,
            ),
            lambda _, leaves: _build(cls, leaves),
            lambda h: ([getattr(h, name) for name in _names(cls)], None),
        )


def hparam(
    default: Any,
    *,
    min: float | None = None,
    max: float | None = None,
    log: bool = False,
    choices: Sequence[Any] | None = None,
    ordered: bool = False,
) -> Any:
    """Declares one hyperparameter that evolves.

    The kind follows from the default: a float is real, an int is an integer, a tuple of
    floats is a vector of reals, a bool or anything with `choices` is categorical.
    Bounds are inclusive and always hold; those of a vector are every entry's. The
    declaration is checked when a task is made of the class, so that the message can
    name the field.

    Args:
        default: where slot 0 of the first population starts.
        min: the smallest allowed value; `None` for no bound.
        max: the largest allowed value; `None` for no bound.
        log: sample the logarithm uniformly; needs both bounds, `min > 0`.
        choices: the allowed values of a categorical, at least two.
        ordered: whether `choices` stand in an order, from which a mutation moves one
            place up or down.

    Returns:
        A dataclass field.

    Raises:
        ValueError: if the default is a list, an array, or another mutable object.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     width: int = jepbt.hparam(4, min=1, max=64, log=True)
        ...     activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))
        ...     crop: int = jepbt.hparam(4, choices=(0, 2, 4, 8), ordered=True)
        ...     rates: tuple = jepbt.hparam((0.1, 0.1), min=1e-3, max=1.0, log=True)
        >>> Hyper()
        Hyper(width=4, activation='relu', crop=4, rates=(0.1, 0.1))
    """
    if type(default).__hash__ is None:  # dataclasses would advise a factory instead
        raise ValueError(
            f"hparam: a default of {default!r} cannot evolve; use a float, an int, or "
            "hparam(..., choices=(...)). For a vector of reals write a tuple of floats."
        )
    declared = {"min": min, "max": max, "log": log, "choices": choices}
    declared["ordered"] = ordered
    return dataclasses.field(default=default, metadata={_METADATA: declared})


def taylor_hparam(
    default: Sequence[float] = tuple(taylorglo.CROSS_ENTROPY_EXPANSION.tolist()),
    *,
    noise: float = 0.0,
    sigma: float = 0.1,
    genome: str = "coefficients",
) -> Any:
    """Declares an evolving TaylorGLO loss: `f32[8]`, read by `jepbt.losses.taylor`.

    Behind a softmax, with one-hot labels, a loss acts through four numbers alone
    (`taylorglo.effective`), and scaling them is scaling the learning rate.
    `genome="effective"` evolves just their direction, at the default's scale; the field
    still holds a genome of eight. Only `taylorglo.repair` may leave that scale.

    Every default here is our choice: none of them is published for EPBT.

    Args:
        default: the seed of the first population, in the code convention
            `[y, y2, y3, xy, xy2, x2y, x0, y0]`; cross-entropy's third-order expansion.
        noise: standard deviation of the Gaussian noise on the first population's
            coefficients, slot 0 excepted; relative to the scale of a direction.
        sigma: standard deviation of one additive mutation of a coefficient; likewise.
        genome: "coefficients", all eight as they are, or "effective".

    Returns:
        A dataclass field.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     loss: jepbt.Loss = jepbt.taylor_hparam()
        >>> Hyper().loss.shape
        (8,)

    Reference:
        Gonzalez & Miikkulainen, 2021, https://arxiv.org/abs/2002.00059
    """
    is_sequence = isinstance(default, Iterable) and not isinstance(default, str)
    default = tuple(default) if is_sequence else default
    declared = {"taylor": default, "noise": noise, "sigma": sigma}
    declared["genome"] = genome
    return dataclasses.field(
        default_factory=lambda: np.array(default, np.float32),
        metadata={_METADATA: declared},
    )


def spaces(hparams_type: type[HyperParameters]) -> Mapping[str, Space]:
    """Reads and checks the space of every field of a user's class.

    Args:
        hparams_type: the user's dataclass.

    Returns:
        The spaces by field name, in the order of the fields.

    Raises:
        TypeError: if it is no dataclass that inherits from `HyperParameters`.
        ValueError: if a field is declared wrongly; the message names it.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     momentum: float = jepbt.hparam(0.9, min=0.0, max=0.99)
        >>> spaces(Hyper)["momentum"].max
        0.99
    """
    if not (
        isinstance(hparams_type, type) and issubclass(hparams_type, HyperParameters)
    ):
        hint = (
            " Pass the class, not an instance."
            if isinstance(hparams_type, HyperParameters)
            else ""
        )
        raise TypeError(
            "hparams must be a dataclass that inherits from jepbt.HyperParameters, "
            f"got {hparams_type!r}.{hint}"
        )
    return _read_spaces(hparams_type)


@functools.cache
def _read_spaces(hparams_type: type[HyperParameters]) -> Mapping[str, Space]:
    if not _names(hparams_type):
        raise ValueError(
            f"{hparams_type.__name__} has no fields: nothing would evolve. "
            "Add one with jepbt.hparam(...)."
        )
    annotations = _annotations(hparams_type)
    return {
        field.name: _space(hparams_type.__name__, field, annotations.get(field.name))
        for field in dataclasses.fields(hparams_type)
    }


@functools.cache
def _names(hparams_type: type[HyperParameters]) -> tuple[str, ...]:
    """The field names, or an error if the dataclass decorator was forgotten."""
    if not (
        dataclasses.is_dataclass(hparams_type)
        # A subclass inherits `__dataclass_fields__`: what it adds itself tells.
        and (
            "__dataclass_fields__" in vars(hparams_type)
            or not inspect.get_annotations(hparams_type)
        )
    ):
        raise TypeError(
            f"{hparams_type.__name__} inherits from jepbt.HyperParameters but is no "
            "dataclass: write @dataclasses.dataclass above the class."
        )
    return tuple(field.name for field in dataclasses.fields(hparams_type))


def _build(hparams_type: type, leaves: Sequence[Any]) -> HyperParameters:
    """Makes an instance without its `__init__`, which may be frozen or check values."""
    hparams = object.__new__(hparams_type)
    for name, leaf in zip(_names(hparams_type), leaves, strict=True):
        object.__setattr__(hparams, name, leaf)
    return hparams


def _annotations(hparams_type: type) -> dict[str, Any]:
    """The fields' types, as far as names that only the user's module knows allow."""
    try:
        return typing.get_type_hints(hparams_type)
    except NameError:
        return {}


def _space(owner: str, field: dataclasses.Field, annotation: Any) -> Space:
    where = f"{owner}.{field.name}"
    declared = {
        name: _to_python_number(value)
        for name, value in field.metadata.get(_METADATA, {}).items()
    }
    if "taylor" in declared:
        return _taylor_space(where, declared)
    if field.default is dataclasses.MISSING:
        raise ValueError(
            f"{where} has no default. Give it one: jepbt.hparam(0.1, min=0.0, max=1.0)."
        )
    default = _to_python_number(field.default)
    if declared.get("choices") is not None or isinstance(default, bool):
        return _categorical_space(where, default, declared)
    if declared.get("ordered"):
        raise ValueError(
            f"{where}: ordered=True needs choices, in their order. Numbers with min "
            "and max have one anyway."
        )
    if isinstance(default, tuple):
        return _vector_space(where, default, declared, annotation)
    if not isinstance(default, int | float):
        raise ValueError(
            f"{where}: a default of {default!r} cannot evolve in the compiled program, "
            "whose arrays are numbers of fixed shape. Use a float, an int, or "
            "jepbt.hparam(..., choices=(...)) and jepbt.choose."
        )
    kind = "an int" if isinstance(default, int) else "a float"
    if annotation in (int, float) and not isinstance(default, annotation):
        raise ValueError(
            f"{where} is annotated {annotation.__name__}, but its default {default!r} "
            f"is {kind}, which decides. Write {annotation(default)!r}."
        )
    return _numeric_space(where, default, declared)


def _taylor_space(where: str, declared: dict[str, Any]) -> TaylorLoss:
    theta = declared["taylor"]
    if not (
        isinstance(theta, tuple)
        and len(theta) == taylorglo.NUM_COEFFICIENTS
        and all(_is_number(value) and math.isfinite(value) for value in theta)
    ):
        raise ValueError(
            f"{where}: default={theta} must be {taylorglo.NUM_COEFFICIENTS} finite "
            "numbers, in the order y, y2, y3, xy, xy2, x2y, x0, y0."
        )
    for name in ("noise", "sigma"):
        if not (_is_number(declared[name]) and 0 <= declared[name] < math.inf):
            raise ValueError(
                f"{where}: {name}={declared[name]!r} must be a number from 0 up."
            )
    genome = declared["genome"]
    if genome not in ("coefficients", "effective"):
        raise ValueError(
            f"{where}: genome={genome!r} must be 'coefficients' or 'effective'."
        )
    space = TaylorLoss(
        tuple(map(float, theta)), declared["noise"], declared["sigma"], genome
    )
    if genome == "effective" and space.scale == 0:
        raise ValueError(
            f"{where}: default={theta} has no gradient, so genome='effective' has no "
            "direction to start from. Choose another default, such as cross-entropy's "
            "expansion."
        )
    return space


def _categorical_space(where: str, default: Any, declared: dict) -> Categorical:
    if any(declared.get(name) is not None for name in ("min", "max")) or declared.get(
        "log"
    ):
        raise ValueError(
            f"{where}: min, max and log do not apply to choices. Remove them, or "
            "remove choices; ordered=True says that choices stand in an order."
        )
    ordered = declared.get("ordered", False)
    if not isinstance(ordered, bool):
        raise ValueError(f"{where}: ordered={ordered!r} must be True or False.")
    given = declared.get("choices")
    if given is not None and not _is_sequence_of_hashable(given):
        raise ValueError(
            f"{where}: choices={given!r} must be a list or tuple, whose order is the "
            "same in every run, of numbers, texts or other values that do not change, "
            "such as ('relu', 'tanh')."
        )
    choices = (False, True) if given is None else tuple(map(_to_python_number, given))
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise ValueError(
            f"{where}: choices={choices} must be at least two different values."
        )
    if default not in choices:
        raise ValueError(
            f"{where}: default={default!r} must be one of choices={choices}."
        )
    if ordered and given is None:
        raise ValueError(
            f"{where}: ordered=True needs choices; the two values of a bool have no "
            "order."
        )
    return Categorical(default, choices, ordered)


def _vector_space(where: str, default: tuple, declared: dict, annotation: Any) -> Real:
    entries = [v.item() if isinstance(v, np.generic) else v for v in default]
    is_real = [isinstance(v, int | float) and not isinstance(v, bool) for v in entries]
    if not entries or not all(is_real) or all(isinstance(v, int) for v in entries):
        raise ValueError(
            f"{where}: default={default!r} must be a tuple of floats to be a vector, "
            "such as (0.1, 0.1). For one of several tuples give choices=(...)."
        )
    if annotation in (int, float):
        raise ValueError(
            f"{where} is annotated {annotation.__name__}, but its default {default!r} "
            "is a vector. Annotate it tuple."
        )
    spaces = [
        _numeric_space(f"{where}[{place}]", float(value), declared)
        for place, value in enumerate(entries)
    ]
    return dataclasses.replace(spaces[0], default=tuple(s.default for s in spaces))


def _is_sequence_of_hashable(choices: Any) -> bool:
    is_sequence = isinstance(choices, Sequence | np.ndarray)
    return (
        is_sequence
        and not isinstance(choices, str)
        and all(isinstance(choice, Hashable) for choice in choices)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _to_python_number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _numeric_space(where: str, default: float, declared: dict) -> Real | Integer:
    low, high = declared.get("min"), declared.get("max")
    log = declared.get("log", False)
    for name, value in {"default": default, "min": low, "max": high}.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}: {name}={value!r} must be a number.")
        if not math.isfinite(value):
            raise ValueError(
                f"{where}: {name}={value!r} must be finite; leave a bound out instead."
            )
        if isinstance(default, int) and not isinstance(value, int):
            raise ValueError(
                f"{where}: {name}={value!r} must be whole, since the default "
                f"{default!r} is an int. Write {float(default)!r} for a real one."
            )
        is_small = -(2**31) <= value < 2**31 - 1
        if isinstance(default, float):
            size = abs(value)
            is_small = size == 0 or _SMALLEST <= size <= _LARGEST
        if not is_small:
            raise ValueError(
                f"{where}: {name}={value!r} does not fit the 32 bits that a member's "
                "hyperparameter has."
            )
    if low is not None and high is not None and low >= high:
        hint = "A value that never changes is no hyperparameter."
        raise ValueError(
            f"{where}: min={low!r} must be below max={high!r}. "
            f"{hint if low == high else 'Are they swapped?'}"
        )
    if not isinstance(log, bool):
        raise ValueError(f"{where}: log={log!r} must be True or False.")
    if (low is not None and default < low) or (high is not None and default > high):
        raise ValueError(
            f"{where}: default={default!r} lies outside its bounds "
            f"[{low!r}, {high!r}]. Move the default or widen the bounds."
        )
    if log and (low is None or high is None or low <= 0):
        raise ValueError(
            f"{where}: log=True needs min and max with min > 0, got min={low!r}, "
            f"max={high!r}."
        )
    if default == 0 and (low is None or high is None):
        raise ValueError(
            f"{where}: a default of 0 without bounds has no scale to vary on. "
            "Give min and max."
        )
    kind = Integer if isinstance(default, int) else Real
    return kind(default, low, high, log)
