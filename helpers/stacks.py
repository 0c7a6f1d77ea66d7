"""Old place of `helpers.io.Stack`, until the next release."""

from __future__ import annotations

from typing import Any

from . import _deprecated
from .io import stacks


def __getattr__(name: str) -> Any:
    if name != "Stack":
        raise AttributeError(f"helpers.stacks has no {name!r}: see helpers.io")
    _deprecated.warn("helpers", "stacks.Stack", "io.Stack")
    return stacks.Stack
