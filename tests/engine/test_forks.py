"""A run in a forked process is refused where it would wait for ever."""

import multiprocessing
import pathlib
import subprocess
import sys
import warnings

import jax
from tiny_task import TASK, Hyper

import jepbt

CALLS = {
    "train_population": lambda: jepbt.train_population(TASK),
    "make_run": lambda: jepbt.make_run(TASK, jepbt.strategies.pbt(), jepbt.Config()),
    "epbt": lambda: jepbt.epbt(1, [jepbt.Candidate(None, Hyper())], lambda c: c),
}


def in_a_fork(function):
    """Runs a function in a forked process, and returns what it returns."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forking beside threads
        process = context.Process(target=lambda: results.put(function()))
        process.start()
    process.join(60)
    process.kill()  # if it waits for ever
    process.join()
    assert process.exitcode == 0
    return results.get()


def refusals():
    said = {}
    for name, call in CALLS.items():
        try:
            call()
        except RuntimeError as error:
            said[name] = str(error)
    return said


def test_a_fork_of_a_process_that_has_used_jax_runs_nothing():
    jax.devices()
    said = in_a_fork(refusals)
    assert said.keys() == CALLS.keys()
    for name, text in said.items():
        assert text.startswith(f"{name} was called in a forked process")
        assert "spawn" in text
    assert in_a_fork(lambda: in_a_fork(refusals)).keys() == CALLS.keys()
    assert jepbt.make_run(TASK, jepbt.strategies.pbt(), jepbt.Config())  # not here


SCRIPT = """
import sys
sys.path[:0] = {folders!r}
from test_forks import CALLS, in_a_fork, jepbt, TASK

def train():
    small = dict(population_size=2, num_generations=1, steps_per_generation=1)
    result = jepbt.train_population(TASK, **small, chunk_size=1, progress=False)
    return len(result.history)

print(in_a_fork(train))  # JAX has not started
print(in_a_fork(lambda: len(jepbt.datasets.load().train)))
print(train())
print(in_a_fork(lambda: jepbt.datasets.load().num_classes))  # as a data loader's
"""


def test_a_fork_of_a_process_that_has_not_runs_as_any_other(tmp_path):
    folders = [str(folder) for folder in pathlib.Path(__file__).parents[:2]]
    script = SCRIPT.format(folders=folders)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["1", "2", "1", "10"], done.stderr
