"""Loads an example, which is a script and no part of a package."""

import importlib.util
import pathlib

FOLDER = pathlib.Path(__file__).parents[1] / "examples"


def load_example(name):
    """Executes `examples/NAME.py`, and returns it as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
