"""Each tracker's recipe against the real library, and where the tracker fails."""

import struct
import time
import warnings

import numpy as np
import pytest
from example_scripts import load_example

from jepbt.results import Generation

# The libraries' own warnings, such as of what they will deprecate, are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def needs(package):
    return pytest.importorskip(package, reason="pip install 'jepbt[trackers]'")


def make_generation(number, best=0.9):
    """Member 2 is the best and member 1 has failed."""
    return Generation(
        number=number,
        fitness=np.float32([0.5, np.nan, best]),
        standard_error=np.zeros(3, np.float32),
        parents=np.arange(3, dtype=np.int32),
        hparams={
            "rate": np.float32([0.125, 0.25, 0.5]),
            "layers": np.int32([1, 2, 3]),
            "activation": np.array(["relu", "tanh", "gelu"], object),
            "loss": np.zeros((3, 8), np.float32),
        },
        metrics={"loss": np.float32([2, np.nan, 1])},
        info={},
        seconds={"train": 1.0},
    )


EXPECTED = {
    "num_failed": 1,
    "fitness/best": 0.9,
    "fitness/median": 0.7,
    "hparams/rate": 0.5,
    "hparams/layers": 3,
    "metrics/loss": 1,
}


def track_two(tracker):
    for generation in (make_generation(0), make_generation(1, best=1.5)):
        tracker(generation)


def check(logged):
    """The figures of two generations, `{name: {step: value}}`."""
    assert set(logged) == set(EXPECTED)
    for name, value in EXPECTED.items():
        assert logged[name][0] == pytest.approx(value)
    assert logged["fitness/best"][1] == 1.5


def test_tensorboard_reads_what_was_tracked(tmp_path):
    needs("tensorboardX")
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    track_two(load_example("trackers").tensorboard_tracker(tmp_path))
    (path,) = tmp_path.iterdir()
    logged, deadline = {}, time.monotonic() + 20  # a thread writes every second
    loader = EventFileLoader(str(path))
    while sum(map(len, logged.values())) < 2 * len(EXPECTED):
        assert time.monotonic() < deadline, logged
        for event in loader.Load():
            for value in event.summary.value:
                (number,) = value.tensor.float_val
                logged.setdefault(value.tag, {})[event.step] = number
        time.sleep(0.1)
    check(logged)


def test_mlflow_reads_what_was_tracked(tmp_path):
    mlflow = needs("mlflow")
    needs("sqlalchemy")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    track_two(load_example("trackers").mlflow_tracker(uri))
    mlflow.end_run()
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs(["0"])
    check(
        {
            name: {
                metric.step: metric.value
                for metric in client.get_metric_history(run.info.run_id, name)
            }
            for name in run.data.metrics
        }
    )


def test_wandb_keeps_what_was_tracked_offline(tmp_path):
    wandb = needs("wandb")
    tracker = load_example("trackers").wandb_tracker(mode="offline", dir=tmp_path)
    track_two(tracker)
    wandb.teardown()  # as Python does when it ends
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    logged = {}
    for history in wandb_histories(path):
        row = {item.key or item.nested_key[0]: item.value_json for item in history.item}
        for name, value in row.items():
            if not name.startswith("_"):
                logged.setdefault(name, {})[int(row["_step"])] = float(value)
    check(logged)


def wandb_histories(path):
    """A file of wandb is a magic number and records: crc, length, kind, protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, start = path.read_bytes(), 7
    while start < len(content):
        _, length, _ = struct.unpack_from("<IHB", content, start)
        record = Record.FromString(content[start + 7 : start + 7 + length])
        if record.HasField("history"):
            yield record.history
        start += 7 + length


def unreachable(name, module, folder):
    """A tracker that cannot write: its folder is a file, or nobody answers."""
    blocked = folder / "file"
    blocked.write_text("")
    if name == "tensorboardX":
        return module.tensorboard_tracker(blocked / "events")
    if name == "mlflow":
        return module.mlflow_tracker(f"sqlite:///{blocked}/mlflow.db")
    import wandb

    settings = {"base_url": "http://127.0.0.1:9", "api_key": "0" * 40}
    settings = wandb.Settings(**settings, init_timeout=0.5, silent=True)
    return module.wandb_tracker(mode="online", dir=folder, settings=settings)


@pytest.mark.parametrize("name", ["tensorboardX", "mlflow", "wandb"])
def test_a_tracker_that_cannot_write_warns_once_and_rests(name, tmp_path):
    needs(name)
    tracker = unreachable(name, load_example("trackers"), tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        track_two(tracker)
    told = [str(w.message) for w in caught if w.category is RuntimeWarning]
    (one,) = [text for text in told if "is not called again" in text]
    assert "the callback track is not called again" in one
