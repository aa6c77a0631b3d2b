"""Says why a run of several processes has ended, and how it goes on.

If a process dies, the others fail at the next exchange with it, or JAX ends them when
it misses the signs of life: at once, without Python, and with lines on its own inside.
So each process has a small companion that outlives it and has the last word.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import jax

from jepbt.engine.processes import LostProcess, are_several, is_lost
from jepbt.optional import optional

_COMPANION = """
import sys
text, was_told, _ = sys.stdin.read().partition("\\0")
if not was_told:
    print(text, file=sys.stderr, flush=True)
"""


@contextlib.contextmanager
def told_if_lost(go_on: str) -> Iterator[None]:
    """Says how a run goes on, if a process of it is lost in the block.

    `go_on`, such as a command, ends a sentence. Raises `LostProcess` if an exchange
    with another process, or a device, has failed; where JAX ends this process first,
    its companion writes a line to standard error. In a single process it does nothing.
    """
    if not are_several():
        yield
        return
    name = f"process {jax.process_index()} of {jax.process_count()}"
    with last_words(
        f"jepbt: {name} was ended before its run was over: it was killed, or another "
        f"process was lost; {go_on}"
    ):
        try:
            yield
        except Exception as error:
            if not is_lost(error):
                raise
            reason = str(error).strip().split("\n")[0][:200]
            raise LostProcess(
                f"{name} cannot go on without the others: a process was lost, or a "
                f"device failed ({reason}); {go_on}"
            ) from error


@contextlib.contextmanager
def last_words(text: str) -> Iterator[None]:
    """Lets a companion write a text if this process ends before the block does."""
    companion = None
    with optional("no line will say how to go on if this process is killed"):
        companion = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _COMPANION],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not meant for it
        )
        companion.stdin.write(text.encode())
        companion.stdin.flush()
    try:
        yield
    finally:
        with optional("a line on a lost process may be wrong"):
            if companion is not None:
                companion.communicate(b"\0", timeout=10)
