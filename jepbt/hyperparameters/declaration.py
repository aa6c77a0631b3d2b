"""Declares hyperparameters: a user's dataclass, read and checked field by field."""

import dataclasses
import difflib
import functools
import inspect
import threading
import typing
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from jepbt.hyperparameters.base import Space, to_plain
from jepbt.hyperparameters.categorical import Categorical
from jepbt.hyperparameters.integer import Integer
from jepbt.hyperparameters.numeric import Real, Vector
from jepbt.hyperparameters.taylor import TaylorLoss
from jepbt.losses import taylorglo

Loss: TypeAlias = jax.Array
"""Annotates a field made by `taylor_hparam`: `f32[8]`, a TaylorGLO genome."""

_METADATA = "jepbt"
_BARE = {"min": None, "max": None, "log": False, "choices": None, "ordered": False}


class HyperParameters:
    """The base of the dataclass whose fields evolve in a run.

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
        if name.startswith("__"):  # `copy` and `pickle` look for optional methods
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

    def __new__(cls, *args: Any, **kwargs: Any):
        """Makes the class a pytree with its first instance.

        Not before: cloudpickle makes a class with every instance of a script's class
        that it loads, and drops it again. JAX would keep them all.
        """
        _register(cls)
        return super().__new__(cls)


_REGISTERED: set[type] = set()
_LOCK = threading.Lock()


def _register(cls: type) -> None:
    """Makes a class a pytree, unless it is one."""
    with _LOCK:
        if cls in _REGISTERED:
            return

        def flatten(h):  # reads the fields when they are needed: a class may be edited
            key, declared = jax.tree_util.GetAttrKey, _declared(_fields(cls))
            return [(key(name), getattr(h, name)) for name in declared[:-1]], declared

        jax.tree_util.register_pytree_with_keys(
            cls, flatten, lambda declared, leaves: build(cls, leaves, declared[:-1])
        )
        _REGISTERED.add(cls)


@functools.lru_cache(maxsize=256)
def _declared(fields: tuple[dataclasses.Field, ...]) -> tuple[str, ...]:
    """Returns the fields' names and, last, a checksum of all that they declare.

    A class may get other fields and stay the same object: IPython's autoreload edits
    it, and cloudpickle writes equal ones over it with every instance that comes from
    another process. Whatever is kept for a class, JAX's compiled programs too, is kept
    for this.
    """
    text = repr([(f.name, f.type, f.default, f.metadata) for f in fields])
    return *(f.name for f in fields), f"{zlib.crc32(text.encode()):08x}"


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
    Bounds are inclusive and always hold; those of a vector hold for every entry. The
    declaration is checked when a task is made of the class, so that the message can
    name the field.

    Args:
        default: the value that slot 0 of the first population starts with.
        min: the smallest allowed value; `None` for no bound.
        max: the largest allowed value; `None` for no bound.
        log: sample the logarithm uniformly; needs both bounds, `min > 0`.
        choices: the allowed values of a categorical, at least two.
        ordered: `True` if `choices` stand in an order, in which a mutation moves one
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
    declared = {"min": min, "max": max, "log": log}
    declared |= {"choices": choices, "ordered": ordered}
    return dataclasses.field(default=default, metadata={_METADATA: declared})


def taylor_hparam(
    default: Sequence[float] = tuple(taylorglo.CROSS_ENTROPY_EXPANSION.tolist()),
    *,
    noise: float = 0.0,
    sigma: float = 0.05,
    genome: str = "effective",
) -> Any:
    """Declares an evolving TaylorGLO loss: `f32[8]`, read by `jepbt.losses.taylor`.

    Behind a softmax, with one-hot labels, a loss acts through four numbers alone
    (`taylorglo.effective`), and scaling them is scaling the learning rate.
    `genome="effective"` evolves just their direction, at the default's scale; the field
    still holds a genome of eight. Only `taylorglo.repair` may leave that scale.
    `genome="coefficients"` evolves all eight as they are, as TaylorGLO does.

    Every default here is our choice: none of them is published for EPBT.

    Args:
        default: the seed of the first population, in the code convention
            `[y, y2, y3, xy, xy2, x2y, x0, y0]`; cross-entropy's third-order expansion.
        noise: standard deviation of the Gaussian noise on the first population's
            coefficients, slot 0 excepted; relative to the scale of a direction.
        sigma: standard deviation of one additive mutation of a coefficient; likewise.
        genome: "effective" or "coefficients".

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
    declared = {"default": default, "noise": noise, "sigma": sigma, "genome": genome}
    return dataclasses.field(
        default_factory=lambda: np.array(default, np.float32),
        metadata={_METADATA: declared},
    )


def spaces(hparams_type: type[HyperParameters]) -> Mapping[str, Space]:
    """Reads and checks the space of every field, by name, of a user's dataclass."""
    if not (
        isinstance(hparams_type, type) and issubclass(hparams_type, HyperParameters)
    ):
        is_instance = isinstance(hparams_type, HyperParameters)
        hint = " Pass the class, not an instance." if is_instance else ""
        raise TypeError(
            "hparams must be a dataclass that inherits from jepbt.HyperParameters, "
            f"got {hparams_type!r}.{hint}"
        )
    return _read_spaces(hparams_type, _declared(_fields(hparams_type)))


@functools.lru_cache(maxsize=256)
def _read_spaces(
    hparams_type: type[HyperParameters], declared: tuple[str, ...]
) -> Mapping[str, Space]:
    fields = _fields(hparams_type)
    if not fields:
        raise ValueError(
            f"{hparams_type.__name__} has no fields: nothing would evolve. "
            "Add one with jepbt.hparam(...)."
        )
    try:
        annotations = typing.get_type_hints(hparams_type)
    except NameError:  # of a type that only the module which uses it knows
        annotations = {}
    return {
        field.name: _space(hparams_type.__name__, field, annotations.get(field.name))
        for field in fields
    }


def _fields(hparams_type: type[HyperParameters]) -> tuple[dataclasses.Field, ...]:
    """Returns the fields, or raises if the dataclass decorator was forgotten."""
    if not (
        dataclasses.is_dataclass(hparams_type)
        # A subclass inherits `__dataclass_fields__`, so its own attributes decide.
        and (
            "__dataclass_fields__" in vars(hparams_type)
            or not inspect.get_annotations(hparams_type)
        )
    ):
        raise TypeError(
            f"{hparams_type.__name__} inherits from jepbt.HyperParameters but is no "
            "dataclass: write @dataclasses.dataclass above the class."
        )
    return dataclasses.fields(hparams_type)


def build(
    hparams_type: type, leaves: Iterable[Any], names: Sequence[str] | None = None
) -> HyperParameters:
    """Makes an instance without its `__init__`, which may be frozen or check values."""
    hparams = HyperParameters.__new__(hparams_type)
    names = names or [field.name for field in _fields(hparams_type)]
    for name, leaf in zip(names, leaves, strict=True):
        object.__setattr__(hparams, name, leaf)
    return hparams


def _space(owner: str, field: dataclasses.Field, annotation: Any) -> Space:
    """Reads one field: its kind checks the rest."""
    where = f"{owner}.{field.name}"
    given = field.metadata.get(_METADATA, _BARE)
    declared = {name: to_plain(value) for name, value in given.items()}
    if "genome" in declared:
        return TaylorLoss.declare(where, **declared)
    if field.default is dataclasses.MISSING:
        nested = {annotation, field.default_factory}
        if nesting := _nesting(owner, *nested):
            raise ValueError(f"{where}:{nesting}")
        raise ValueError(
            f"{where} has no default. Give it one: jepbt.hparam(0.1, min=0.0, max=1.0)."
        )
    default = to_plain(field.default)
    kind = _infer_kind(where, default, **declared)
    if kind is not Categorical and annotation in (int, float):
        _check_annotation(where, kind, default, annotation)
    return kind.declare(where, default=default, **declared)


def _infer_kind(where, default, *, choices, ordered, **_) -> type[Space]:
    """Tells from a default of which kind a field is."""
    if choices is not None or isinstance(default, bool):
        return Categorical
    if ordered:
        raise ValueError(
            f"{where}: ordered=True needs choices, in their order. Numbers with min "
            "and max have one anyway."
        )
    for python_type, kind in {tuple: Vector, int: Integer, float: Real}.items():
        if isinstance(default, python_type):
            return kind
    raise ValueError(
        f"{where}: a default of {default!r} cannot evolve in the compiled program, "
        "whose arrays are numbers of fixed shape. Use a float, an int, or "
        "jepbt.hparam(..., choices=(...)) and jepbt.choose."
        f"{_nesting(where.partition('.')[0], type(default))}"
    )


def _nesting(owner: str, *kinds: Any) -> str:
    """Returns advice for dataclasses that stand inside another one."""
    for kind in filter(dataclasses.is_dataclass, kinds):
        return (
            f" {kind.__name__} is a dataclass, and hyperparameters are one flat class: "
            f"declare its fields in {owner}, or inherit them, class {owner}"
            f"({kind.__name__})."
        )
    return ""


def _check_annotation(
    where: str, kind: type[Space], default: Any, annotation: type
) -> None:
    """Raises if a number is annotated as another type than its default has."""
    stated = f"{where} is annotated {annotation.__name__}, but its default {default!r}"
    if kind is Vector:
        raise ValueError(f"{stated} is a vector. Annotate it tuple.")
    if not isinstance(default, annotation):
        noun = "an int" if kind is Integer else "a float"
        raise ValueError(
            f"{stated} is {noun}, which decides. Write {annotation(default)!r}."
        )
