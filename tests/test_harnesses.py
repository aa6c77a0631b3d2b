"""Each harness at a size for every change; run the files themselves for more."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from jepbt.checkpoints import checkpoint

FOLDER = pathlib.Path(__file__).parent
SLOW_WRITER = """
import signal, sys, time
import resumable
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
from jepbt.checkpoints import checkpoint
seal = checkpoint.seal
def seal_slowly(root, generation, facts):
    if generation == 2:
        print("writing", flush=True)
        time.sleep(600)
    seal(root, generation, facts)
checkpoint.seal = seal_slowly
resumable.train(run_dir=sys.argv[1], num_generations=1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("kill_harness.py", "--kills", "5", "--seed", "1"),
        ("damage_harness.py", "--damages", "40", "--seed", "1"),
        ("soak.py", "--generations", "300"),
        ("process_harness.py", "--kills", "2", "--seed", "1"),
    ],
    ids=["kill", "damage", "soak", "processes"],
)
def test_harness_finds_no_defect(arguments):
    name, *rest = arguments
    command = [sys.executable, str(FOLDER / name), *rest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once_and_whole_checkpoints(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(tmp_path / "run")],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None  # it waits for what is being written
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in stderr
    paths = checkpoint.list_all(tmp_path / "run" / "checkpoints")
    assert [path.name for path in paths] == ["000001", "000000"]
    for path in paths:
        checkpoint.verify(path)
