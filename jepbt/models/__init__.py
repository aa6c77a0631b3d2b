"""Models: flax modules, or two pure functions of one member.

`MLP`, `CNN` and `ResNet` are flax linen modules, written to be read and copied. They
are imported when first used, because importing flax takes as long as a small run.
"""

from typing import Any

from jepbt.models.model import Model, as_model

__all__ = ["CNN", "MLP", "Model", "ResNet", "as_model"]


def __getattr__(name: str) -> Any:
    if name in ("CNN", "MLP", "ResNet"):
        from jepbt.models import networks

        return getattr(networks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
