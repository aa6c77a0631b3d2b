"""Imports flow one way, so that every module can be read without those after it."""

import ast
import pathlib

import jepbt

ORDER = [
    "nn",
    "taylorglo",
    "losses",
    "hyperparameters",
    "selection",
    "mutation",
    "crossover",
    "strategies",
    "adapters",
    "models",
    "datasets",
    "population",
    "task",
    "config",
    "execution",
    "inheritance",
    "training",
    "estimate",
    "tuning",
    "checks",
    "history",
    "lineage",
    "run_directory",
    "plots",
    "result",
    "interruption",
    "train",
    "ahead",
    "__init__",
    "cli",
    "__main__",
]
FOLDER = pathlib.Path(jepbt.__file__).parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jepbt":
            yield from (
                alias.name if alias.name in ORDER else "__init__"
                for alias in node.names
            )
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("jepbt."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from ("__init__" for alias in node.names if alias.name == "jepbt")


def test_imports_flow_one_way():
    files = {path.stem: path for path in FOLDER.glob("*.py")}
    assert sorted(files) == sorted(ORDER)
    for name, path in files.items():
        for other in imported(path):
            late = ORDER.index(other) >= ORDER.index(name)
            assert not late or (name, other) == ("train", "__init__"), (name, other)
