"""Evaluations in other processes and on executors; nothing is lost, nothing stays."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import host_functions as functions
import pytest
from host_functions import Counting, Hyper, population

import jepbt
from jepbt import Candidate


def run(*arguments, **settings):
    return list(jepbt.epbt(*arguments, **settings))


def is_alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.split()[0] != "Z"


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_processes_and_executors_give_the_same_run_as_this_process():
    here = run(2, population(4), functions.climb)
    processes = run(2, population(4), functions.climb, 2)
    with ThreadPoolExecutor(2) as executor:
        threads = run(2, population(4), functions.climb, executor=executor)
    for other in (processes, threads):
        assert [c.fitness for c in other] == [c.fitness for c in here]
        assert [c.model for c in other] == [c.model for c in here]
        assert [c.hparams for c in other] == [c.hparams for c in here]


@pytest.mark.parametrize("num_processes", [None, 1])
def test_what_an_evaluation_writes_over_its_argument_reaches_nobody(num_processes):
    given = population(3)
    clean = run(3, given, functions.climb)
    for best, other in zip(
        run(3, given, functions.change_what_was_given, num_processes),
        clean,
        strict=True,
    ):
        assert (best.model, best.fitness) == (other.model, other.fitness)
        assert best.hparams == other.hparams
    assert all(c.model is None and c.hparams == Hyper() for c in given)


def test_an_evaluation_is_tried_again_with_what_it_was_first_given():
    seen = []

    def spoil(candidate):
        seen.append((list(candidate.model), candidate.hparams.rate))
        candidate.model.append(1)
        candidate.hparams.rate = 0.9
        raise ValueError("no luck")

    given = [Candidate([0], Hyper())]
    with (
        pytest.warns(RuntimeWarning, match=r"Hyper\(rate=0\.05,"),
        pytest.raises(RuntimeError, match="all 1 evaluations"),
    ):
        run(1, given, spoil, retries=1)
    assert seen == [([0], 0.05)] * 2


def test_hyperparameters_changed_in_place_are_checked_when_they_come_back():
    def leave_the_bounds(candidate):
        candidate.hparams.rate = 7.7
        return Candidate(None, candidate.hparams, 1.0)

    with pytest.raises(ValueError, match=r"slot 0, hparams\.rate=7\.7 lies outside"):
        run(1, population(2), leave_the_bounds)


def test_workers_are_other_processes_and_keep_the_users_candidate():
    best = run(2, population(4, Counting), functions.count, 2)[-1]
    assert best.model != os.getpid()
    assert type(best) is Counting and best.num_trainings == 2


def test_a_worker_does_not_start_jax():
    best = run(1, population(1), functions.report_jax, 1)[-1]
    assert best.model is False


def test_an_evaluation_that_dies_fails_alone():
    given = population(8)
    for candidate, end in zip(given, functions.WAYS_TO_END, strict=False):
        candidate.model = end
    with pytest.warns(RuntimeWarning) as caught:
        bests = run(2, given, functions.end_as_told, 2)
    messages = sorted(str(warning.message) for warning in caught)
    ends = zip(messages, functions.WAYS_TO_END, strict=True)
    for slot, (message, end) in enumerate(ends):
        assert f"slot {slot} in generation 0" in message and end in message
        assert "Hyper(rate=0." in message
    assert len(bests) == 2 and len(bests[-1].model) == 2


def test_an_evaluation_that_died_is_tried_again_if_asked(tmp_path):
    given = [Candidate(str(tmp_path / "died"), Hyper())]
    assert run(1, given, functions.fail_once, 1, retries=1)[-1].fitness == 1.0


def test_a_result_that_cannot_come_back_is_named():
    with pytest.raises(TypeError, match="its result cannot be pickled"):
        run(1, population(2), functions.return_a_lambda, 1)


def test_closing_the_loop_ends_its_processes():
    loop = jepbt.epbt(2, population(2), functions.report_process, 1)
    worker = next(loop).model
    assert is_alive(worker)
    loop.close()
    assert not is_alive(worker)


def test_closing_the_loop_ends_a_busy_worker_and_what_it_started(tmp_path):
    """Slot 0 never returns; slot 1 alone makes a generation's two results."""
    pids = tmp_path / "pids"
    given = [Candidate(str(pids), Hyper()) for _ in range(2)]
    loop = jepbt.epbt(3, given, functions.sleep_with_defaults, 2, asynchronous=True)
    next(loop)
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    loop.close()
    wait_until(lambda: not any(map(is_alive, map(int, pids.read_text().split()))))


SCRIPT = """
import pathlib, signal, sys
import jepbt
from host_functions import Hyper, {function}

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
population = [jepbt.Candidate(sys.argv[1], Hyper()) for _ in range(2)]
if __name__ == "__main__":
    loop = jepbt.epbt(2, population, {function}, 2)
    print("best", next(loop).fitness)
"""


def start_script(folder, function, text=SCRIPT):
    script = folder / "script.py"
    script.write_text(text.format(function=function))
    tests = str(pathlib.Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder / "pids")],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_ends_workers_and_what_they_started(tmp_path):
    """Both workers never return from an evaluation, and have a child of their own."""
    script = start_script(tmp_path, "sleep_beside_a_child")
    pids = tmp_path / "pids"
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 4)
    os.killpg(script.pid, signal.SIGINT)
    _, errors = script.communicate(timeout=300)
    assert script.returncode != 0 and "KeyboardInterrupt" in errors
    wait_until(lambda: not any(map(is_alive, map(int, pids.read_text().split()))))


def test_a_loop_left_open_does_not_keep_the_script_from_ending(tmp_path):
    script = start_script(tmp_path, "report_process")
    output, errors = script.communicate(timeout=300)
    assert (script.returncode, errors) == (0, "")
    assert output == "best 1.0\n"


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    text = SCRIPT.replace('if __name__ == "__main__":', "if True:")
    script = start_script(tmp_path, "report_process", text)
    _, errors = script.communicate(timeout=300)
    assert script.returncode == 1
    assert "`if __name__ == '__main__':`" in errors.splitlines()[-1]


def test_a_dead_executor_is_named_with_what_to_do():
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        pytest.raises(
            RuntimeError, match=r"ProcessPoolExecutor is broken.*n_processes="
        ),
    ):
        run(1, population(2), functions.die_with_defaults, executor=executor)


def test_an_executor_stays_open():
    with ThreadPoolExecutor(1) as executor:
        run(1, population(2), functions.climb, executor=executor)
        assert executor.submit(abs, -1).result() == 1
