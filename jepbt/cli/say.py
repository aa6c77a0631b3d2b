"""Prints for people, wherever a command's output goes."""

import sys

from tqdm.auto import tqdm

from jepbt.optional import optional

_told: set[str] = set()


def say(text: str = "", stream: str = "stdout") -> None:
    """Prints a text, above a progress bar if there is one.

    A reader that has gone, a full disk or a missing stream costs the text, and no run;
    letters that the stream's encoding lacks become question marks.

    Args:
        text: the text, without the end of its last line.
        stream: "stdout" or "stderr".
    """
    file = getattr(sys, stream)
    if file is None:
        return
    with optional(f"what jepbt prints to {stream} is lost", _told):
        encoding = getattr(file, "encoding", None) or "utf-8"
        tqdm.write(text.encode(encoding, "replace").decode(encoding), file=file)
        if hasattr(file, "flush"):
            file.flush()


def say_aside(text: str) -> None:
    """Prints a text to standard error."""
    say(text, "stderr")
