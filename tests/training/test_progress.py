"""Progress where it is seen: a terminal, a log file, a notebook."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

LIBRARY = """
from dataclasses import dataclass
import jax.numpy as jnp
import jepbt

@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.01, min=1e-3, max=0.5, log=True)

task = jepbt.Task(
    hparams=Hyper,
    init=lambda key, h: jnp.float32(1.0),
    train_step=lambda key, x, h, batch, shared: (x - h.rate * x, {"loss": x}),
    evaluate=lambda key, x, h, batch, shared: -(x**2)[None],
)
settings = dict(num_generations=3, steps_per_generation=2, chunk_size=1)
result = jepbt.train_population(task, population_size=2, **settings)
print("done")
"""
COMMAND = ["-m", "jepbt", "train", "--model", "mlp", "--population-size", "2"]
COMMAND += ["--num-generations", "3", "--steps-per-generation", "2"]
COMMAND += ["--chunk-size", "1"]
CONTROLS = {chr(code) for code in range(32)} - {"\n"} | {"\x7f", "\x9b"}


def test_a_log_file_gets_whole_lines_and_no_control_characters(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not CONTROLS & set(done.stdout + done.stderr)
    assert (done.stdout, done.stderr) == ("done\n", "")


ASK = 'log_level="info", run_dir='
LOGGED = LIBRARY.replace("**settings)", f"{ASK}None, **settings)")
SAVED = LIBRARY.replace("**settings)", f"{ASK}'run', **settings)")


@pytest.mark.parametrize(
    "arguments",
    [["-c", LOGGED], ["-c", SAVED], [*COMMAND, "--log-level", "info"]],
    ids=["in memory", "in a folder", "command"],
)
def test_a_log_has_each_generation_once(arguments, tmp_path):
    """Also where a library sets up logging on the way, as orbax does in a folder."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    shown = [line for line in lines if "generation " in line and "/3  best" in line]
    assert [line.split("  ")[0].removeprefix("INFO:jepbt:") for line in shown] == [
        f"generation {number}/3" for number in (1, 2, 3)
    ]


def test_a_terminal_gets_one_bar_that_fits_it(tmp_path):
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 24, 80, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    with subprocess.Popen(
        [sys.executable, "-c", LIBRARY],
        cwd=tmp_path,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while block := os.read(ours, 4096):
                seen += block
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    shown = seen.decode().replace("\x1b[A", "")
    lines = shown.split("\r")
    bars = [line.strip("\n") for line in lines if "/3 " in line]
    assert bars[-1].startswith("3/3 ==================== 00:0")
    for word in ("best -", "median -", "0 failed"):
        assert word in bars[-1]
    assert all(len(bar) <= 80 for bar in bars)
    assert shown.count("\n") == 2  # the bar's end, and "done"
