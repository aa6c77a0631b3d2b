"""Keeps what a check has found in a file, so that it can go on later."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import platform
from typing import Any

import jax

from jepbt.checkpoints import folder as run_directory
from jepbt.config import VERSION


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one part of a check found.

    Attributes:
        holds: True or False for a claim; None if nothing is claimed, or it cannot be
            told here.
        figures: numbers and texts by name, JSON values.
        seconds: the duration of the part.
        error: the error that ended it, or None. Such a part is not finished.
    """

    holds: bool | None
    figures: dict[str, Any]
    seconds: float = 0.0
    error: str | None = None


@dataclasses.dataclass
class Record:
    """The findings of a check, in the order in which they were made.

    Attributes:
        path: the file that keeps them.
        about: the device, the versions and the size, by name.
        findings: the findings by part, such as "right/resume".
    """

    path: pathlib.Path
    about: dict[str, Any]
    findings: dict[str, Finding] = dataclasses.field(default_factory=dict)

    def is_finished(self, part: str) -> bool:
        """Tells whether a part has run to its end."""
        return part in self.findings and self.findings[part].error is None

    def keep(self, part: str, finding: Finding) -> None:
        """Adds a finding, and writes the file anew."""
        self.findings[part] = finding
        parts = {name: dataclasses.asdict(f) for name, f in self.findings.items()}
        text = json.dumps({"about": self.about, "parts": parts}, indent=1)
        run_directory.replace(self.path, f"{text}\n".encode())

    def wrong(self) -> list[str]:
        """Lists the parts that do not hold, or that ended with an error."""
        return [
            part
            for part, finding in self.findings.items()
            if finding.holds is False or finding.error is not None
        ]


def open_record(path: pathlib.Path, size: str) -> Record:
    """Starts a record of this device, or goes on with the one that a file holds.

    Raises:
        ValueError: if the file is no such record, or one of another device, version or
            size.
    """
    devices = jax.devices()
    about = {
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "num_devices": len(devices),
        "jepbt": VERSION,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "size": size,
    }
    if not path.exists():
        return Record(path, about)
    advice = "Remove it, or name another file with --json."
    try:
        found = json.loads(path.read_text())
        findings = {k: Finding(**v) for k, v in found["parts"].items()}
        before = dict(found["about"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no record of jepbt check. {advice}") from error
    for key, value in about.items():
        if before.get(key) != value:
            raise ValueError(
                f"{path} was made with {key} {before.get(key)!r}, and here it is "
                f"{value!r}. {advice}"
            )
    return Record(path, about, findings)
