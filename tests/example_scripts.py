"""Loads an example, which is a script and no part of a package, or runs it."""

import importlib.util
import os
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parents[1] / "examples"


def load_example(name):
    """Executes `examples/NAME.py`, and returns it as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_example(name, *arguments, cwd=None, timeout=900):
    """Runs `examples/NAME.py` as a user starts it, and returns what it prints."""
    path = filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
