"""Imports run one way between wings, and in no circle inside one."""

import ast
import graphlib
import pathlib

import jepbt

FLOORS = [
    "arguments",
    "config population losses nn augment datasets",
    "hyperparameters models",
    "operators",
    "strategies tasks",
    "engine",
    "results",
    "checkpoints plots",
    "host report",
    "training",
    "benchmark",
    "__init__",
    "cli",
    "__main__",
]
FLOOR = {wing: i for i, wings in enumerate(FLOORS) for wing in wings.split()}
FOLDER = pathlib.Path(jepbt.__file__).parent


def modules():
    for path in FOLDER.rglob("*.py"):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), ast.parse(path.read_text())


def imported(nodes, known):
    """Modules of jepbt that import statements name, as dotted names below it."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ("__init__" for alias in node.names if alias.name == "jepbt")
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "jepbt":
            for alias in node.names:
                longer = f"{node.module}.{alias.name}".removeprefix("jepbt.")
                module = node.module.removeprefix("jepbt").removeprefix(".")
                yield longer if longer in known else module or "__init__"


def test_imports_run_one_way_between_wings():
    trees = dict(modules())
    wings = {name.split(".")[0] for name in trees}
    assert wings == set(FLOOR)
    for name, tree in trees.items():
        wing = name.split(".")[0]
        for other in imported(ast.walk(tree), trees):
            target = other.split(".")[0]
            assert target == wing or FLOOR[target] < FLOOR[wing], (name, other)


def test_no_module_imports_in_a_circle():
    """A face imports its wing's modules; what they import of it is a module, too."""
    trees = dict(modules())
    graph = {name: set(imported(tree.body, trees)) for name, tree in trees.items()}
    graphlib.TopologicalSorter(graph).prepare()
