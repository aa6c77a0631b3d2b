"""Ends a run well on Ctrl-C and SIGTERM: after the generation, with a result."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from typing import Any

from jepbt.optional import optional


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and did so after a whole generation.

    Also if that was the last one: the result is then a whole run's, but whoever runs
    several after each other must hear that they are to stop.

    Attributes:
        result: the `Result` so far.
        signal_number: the signal that asked for it, `signal.SIGINT` for Ctrl-C.
    """

    def __init__(self, result: Any, signal_number: int):
        done, wanted = len(result.history), result.config.num_generations
        count = f"{done} generations" if done < wanted else f"all {done} generations"
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} after {count}; what was "
            "trained is in `.result`"
        )
        if result.run_dir and done < wanted:
            self.args = (f"{self}; resume=True with the same run_dir goes on",)
        self.result = result
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[Any, ...]:
        # Left to itself, an exception is made again from its message alone.
        return type(self), (self.result, self.signal_number)


@dataclasses.dataclass
class StopRequest:
    """Remembers the number of the signal that has asked a run to stop; 0 for none."""

    signal_number: int = 0


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one acts at once.

    Handlers can be set on the main thread alone; elsewhere signals are left to whoever
    owns that thread. The handlers found are put back, unless others were set meanwhile.
    One that was not set from Python could not be, and is left where it is.

    Yields:
        The request, to be looked at between calls into the program.
    """
    request = StopRequest()
    before: dict[signal.Signals, Any] = {}

    def handle(signal_number, frame):
        request.signal_number = signal_number
        put_back()

    def put_back():
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            with optional(f"{number.name} will not save the run before it ends it"):
                before[number] = _handler_of(number)
                signal.signal(number, handle)
    try:
        yield request
    finally:
        with optional("signals are still handled as during the run"):
            put_back()


def _handler_of(number: signal.Signals) -> Any:
    handler = signal.getsignal(number)
    if handler is None:
        raise RuntimeError("its handler was not set from Python, and stays")
    return handler
