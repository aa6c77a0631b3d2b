"""Imports run one way between wings, and in no circle inside one."""

import ast
import graphlib
import pathlib

import jepbt

FLOORS = [
    "arguments optional",
    "config population losses nn augment datasets",
    "hyperparameters models",
    "operators",
    "strategies tasks",
    "engine",
    "results",
    "checkpoints plots",
    "host report",
    "training",
    "comparison",
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


def length(function):
    """Lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_files_and_functions_can_be_read_in_one_go():
    for path in FOLDER.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert length(node) <= 60, (path, node.name)


def test_the_folder_shows_what_the_library_knows():
    entries = {path.name for path in FOLDER.iterdir()} - {"__pycache__"}
    assert len(entries) <= 25, sorted(entries)


def test_every_public_name_is_there():
    for name in jepbt.__all__:
        assert getattr(jepbt, name) is not None
    for face in ("augment", "datasets", "losses", "models", "nn", "operators", "plots"):
        module = getattr(jepbt, face)
        assert module.__doc__
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), (face, name)
