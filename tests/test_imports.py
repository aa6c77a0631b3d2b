"""Imports flow one way, so that every module can be read without those after it."""

import ast
import pathlib

import jepbt

ORDER = [
    "adapters",
    "settings",
    "nn",
    "augment",
    "taylorglo",
    "losses",
    "hyperparameters",
    "priors",
    "population",
    "strategy",
    "selection",
    "significance",
    "mutation",
    "crossover",
    "novelty",
    "placement",
    "evolutionary",
    "population_based",
    "gaussian_process",
    "pb2",
    "multi_frequency",
    "controls",
    "freezing",
    "restarts",
    "strategies",
    "layers",
    "resnet",
    "models",
    "splits",
    "array_checks",
    "label_noise",
    "npz_source",
    "tfds_builders",
    "tfds_records",
    "tfds_source",
    "datasets",
    "teaching",
    "supervised",
    "task",
    "regression",
    "config",
    "execution",
    "processes",
    "row_copies",
    "inheritance",
    "batches",
    "training",
    "tuning",
    "programs",
    "checks",
    "memory",
    "flops",
    "lineage",
    "history",
    "evolved_loss",
    "run_directory",
    "run_lock",
    "checkpoint",
    "fingerprint",
    "resume",
    "snapshot",
    "background",
    "keeper",
    "benchmark_reports",
    "schedules",
    "recorded",
    "takeaway",
    "style",
    "history_plots",
    "loss_plots",
    "plots",
    "mathml",
    "card",
    "ensembles",
    "result",
    "interruption",
    "warm_start",
    "preparation",
    "train",
    "candidate",
    "host_evaluators",
    "host_checks",
    "host_files",
    "host_breeding",
    "host",
    "stopwatch",
    "worker",
    "benchmark",
    "replaying",
    "report",
    "__init__",
    "benchmark_models",
    "benchmark_controls",
    "benchmark_pytorch",
    "benchmark_speed",
    "cli_train",
    "cli_benchmark",
    "cli_report",
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
            is_version = (name, other) == ("preparation", "__init__")
            assert not late or is_version, (name, other)
