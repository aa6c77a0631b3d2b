"""`jepbt train --distributed`: makes one run of several processes."""

import argparse
import contextlib
import os
import socket
from collections.abc import Iterator

import jax

from jepbt.arguments import check_whole
from jepbt.cli.flags import resume_command, whole
from jepbt.cli.say import say_aside
from jepbt.engine.processes import LostProcess
from jepbt.training.lost_process import last_words, told_if_lost

HEARTBEAT_SECONDS = 30
"""The silence after which a process is taken for lost."""

START_SECONDS = 300
"""The time that processes have to find each other."""


def add_process_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags that name the processes of a run: see SCALING.md."""
    add = command.add_argument_group("several processes").add_argument
    add(
        "--distributed",
        action="store_true",
        help="share the run with other processes, as SLURM, Open MPI, Kubernetes or a "
        "TPU pod tells, or as the next three flags do",
    )
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="process 0, the same in every process",
    )
    add("--num-processes", metavar="N", type=whole, help="the number of processes")
    add(
        "--process-id",
        metavar="I",
        type=whole,
        help="the number of this process, from 0",
    )


@contextlib.contextmanager
def joined(arguments: argparse.Namespace) -> Iterator[None]:
    """Joins a command's processes for the block under it, if it has several.

    The first process alone prints to standard output. If another one is lost, this one
    says how the run goes on, and ends.
    """
    if hasattr(arguments, "distributed"):  # no other command has these flags
        _check(arguments)
    if not getattr(arguments, "distributed", False):
        yield
        return
    _join(arguments)
    others = contextlib.nullcontext()
    if jax.process_index() > 0:
        others = contextlib.redirect_stdout(None)
    command = resume_command(arguments, arguments.run_dir)
    try:
        with others, told_if_lost(f"on every process, {command}   goes on"):
            yield
    except LostProcess as error:
        say_aside(f"jepbt: {error}")
        os._exit(1)  # JAX would wait at its end for the process that was lost


def _check(options: argparse.Namespace) -> None:
    given = {
        "--coordinator": options.coordinator,
        "--num-processes": options.num_processes,
        "--process-id": options.process_id,
    }
    named = [flag for flag, value in given.items() if value is not None]
    missing = [flag for flag in given if flag not in named]
    if named and not options.distributed:
        raise ValueError(f"{named[0]} needs --distributed.")
    if options.distributed and options.run_dir is None:
        raise ValueError(
            "--distributed needs --run-dir: a folder that every process sees, the "
            "same for all of them."
        )
    if named and missing:
        raise ValueError(
            f"{named[0]} needs {' and '.join(missing)} too. Without all three, "
            "--distributed takes what the cluster tells."
        )
    if named:
        _check_place(options)


def _check_place(options: argparse.Namespace) -> None:
    """Refuses an address, or a number of processes, that cannot be right."""
    host, _, port = options.coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            f"--coordinator={options.coordinator} must be HOST:PORT of process 0, such "
            "as 10.0.0.1:1234."
        )
    check_whole("", "--num-processes", options.num_processes, 1, 2**16)
    check_whole("", "--process-id", options.process_id, 0, options.num_processes - 1)
    if options.process_id == 0:
        try:
            # JAX would share a port with another run's process 0 without a word.
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise ValueError(
                f"--coordinator={options.coordinator}: port {port} cannot be opened "
                f"here ({error.strerror}). Name another one, in every process."
            ) from error


def _join(options: argparse.Namespace) -> None:
    alone = (
        f"--distributed: the processes did not find each other in {START_SECONDS} s. "
        "See that all of them run, and that process 0 can be reached from each."
    )
    try:
        with last_words(f"jepbt: {alone}"):  # JAX ends a process that finds nobody
            jax.distributed.initialize(
                options.coordinator,
                options.num_processes,
                options.process_id,
                initialization_timeout=START_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
    except ValueError as error:
        raise ValueError(
            f"--distributed found no cluster that JAX knows ({error}). Give "
            "--coordinator HOST:PORT --num-processes N --process-id I."
        ) from error
    except RuntimeError as error:
        raise ValueError(alone) from error
