"""Evaluation functions that another process can import."""

import copy
import dataclasses
import os
import signal
import subprocess
import sys
import threading

from jepbt import Candidate, HyperParameters, hparam


@dataclasses.dataclass
class Hyper(HyperParameters):
    rate: float = hparam(0.05, min=1e-4, max=1.0, log=True)
    dropout: float = hparam(0.1, min=0.0, max=0.6)
    width: int = hparam(3, min=1, max=100)
    nesterov: bool = hparam(True)
    optimizer: str = hparam("sgd", choices=("sgd", "adam", "lion"))
    layers: tuple[int, ...] = hparam((64,), choices=((64,), (64, 64), (32, 32, 32)))
    batch_size: int = hparam(32, choices=(16, 32, 64))


@dataclasses.dataclass(eq=False)
class Counting(Candidate):
    num_trainings: int = 0


def population(num_members, kind=Candidate):
    return [kind(None, Hyper()) for _ in range(num_members)]


def climb(candidate):
    """A model that is the list of rates it trained with; fitness grows with them."""
    model = [*(candidate.model or []), candidate.hparams.rate]
    fitness = sum(model) - 0.1 * candidate.hparams.dropout
    return Candidate(model, candidate.hparams, fitness)


def count(candidate):
    done = candidate.num_trainings + 1
    return Counting(os.getpid(), candidate.hparams, float(done), done)


def fail_first_slot(candidate):
    if candidate.hparams == Hyper():
        raise ValueError("no luck")
    return climb(candidate)


def die_with_defaults(candidate):
    if candidate.hparams == Hyper():
        os._exit(7)
    return climb(candidate)


def fail():
    raise ValueError("no luck")


def wait_for_an_alarm():
    """The way to a time limit that the loop's documentation shows."""
    signal.alarm(2)
    threading.Event().wait()


WAYS_TO_END = {
    "exit code 7": lambda: os._exit(7),
    "signal SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "signal SIGALRM": wait_for_an_alarm,
    "ValueError: no luck": fail,
}


def end_as_told(candidate):
    """Ends in the way that `model` names, if it names one."""
    if isinstance(candidate.model, str):
        WAYS_TO_END[candidate.model]()
    return climb(candidate)


def fail_once(candidate):
    """The first evaluation of each file name in `model` leaves the file and dies."""
    if not os.path.exists(candidate.model):
        open(candidate.model, "w").close()
        os._exit(7)
    return Candidate(candidate.model, candidate.hparams, 1.0)


def return_a_lambda(candidate):
    return Candidate(lambda: None, candidate.hparams, 1.0)


def report_process(candidate):
    return Candidate(os.getpid(), candidate.hparams, 1.0)


def report_jax(candidate):
    """Whether this process, not the one that runs the loop, has started JAX."""
    import jax

    try:
        jax.config.update("jax_num_cpu_devices", 3)
        has_started = False
    except RuntimeError:  # raised once a backend is up
        has_started = True
    return Candidate(has_started, candidate.hparams, 1.0)


def sleep_beside_a_child(candidate):
    """Writes its own process id and that of a process it starts, and never ends."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(candidate.model, "a") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    threading.Event().wait()


def sleep_with_defaults(candidate):
    if candidate.hparams == Hyper():
        sleep_beside_a_child(candidate)
    return Candidate(candidate.model, candidate.hparams, 1.0)


def change_what_was_given(candidate):
    """Writes over all that it was given, after it has made its result of copies."""
    result = climb(candidate)
    result.hparams = copy.deepcopy(candidate.hparams)
    candidate.model, candidate.fitness = "overwritten", 1e9
    candidate.hparams.rate, candidate.hparams.optimizer = 5.0, "none"
    candidate.hparams = None
    return result
