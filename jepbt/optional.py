"""Lets what a run can do without fail: it goes on, and a warning says what is missing.

Progress, figures, files and caches are tried under `optional`. What a result depends on
is not, nor what is the user's own: a callback's or a model's error is theirs to see,
unless they say with `jepbt.may_fail` that they can do without that callback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Iterator


@dataclasses.dataclass
class Attempt:
    """What became of something that was tried: if it failed, a warning has told."""

    failed: bool = False


@contextlib.contextmanager
def optional(missing: str, told: set[str] | None = None) -> Iterator[Attempt]:
    """Tries something that a run can do without, whatever library may raise in it.

    `KeyboardInterrupt` and `SystemExit` pass through.

    Args:
        missing: the start of a sentence that says what there will not be.
        told: the sentences that were said before; none of them is said again.

    Yields:
        The attempt, which knows afterwards whether it has failed.

    Warns:
        RuntimeWarning: says what is missing, and why.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     with optional("the figure is not drawn") as attempt:
        ...         raise OSError("no room")
        >>> attempt.failed, str(caught[0].message)
        (True, 'the figure is not drawn (OSError: no room): all else goes on.')
    """
    attempt = Attempt()
    try:
        yield attempt
    except Exception as error:
        attempt.failed = True
        if told is None or missing not in told:
            if told is not None:
                told.add(missing)
            warn(f"{missing} ({reason_of(error)}): all else goes on.")


def warn(message: str) -> None:
    """Warns, at the line outside jepbt that led here, if there is anyone to tell.

    Raises:
        RuntimeWarning: if the user's filters make errors of warnings.
    """
    level, frame = 0, inspect.currentframe()
    while frame is not None and _is_on_the_way(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=level + 1)
    except RuntimeWarning:
        raise
    except Exception:  # sys.stderr is closed, or cannot write
        pass


def reason_of(error: BaseException) -> str:
    """Writes an error's type and the first line of its message.

    Example:
        >>> reason_of(ValueError("no such font"))
        'ValueError: no such font'
    """
    try:
        text = str(error)
    except Exception:  # an error whose own message fails
        text = ""
    first = text.strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _is_on_the_way(module: str) -> bool:
    return module.split(".")[0] in ("jepbt", "contextlib")
