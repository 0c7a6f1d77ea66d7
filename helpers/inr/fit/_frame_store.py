"""The frames of a sequence that are done, in files from which an interrupted chain goes on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from ... import checkpoints
from ...training.identity import differences, fingerprint, told
from ...training.loop import check_writable
from .loop import FieldFit


class FrameStore:
    """A folder with one file for each frame of a chain; frames may be added at the end.

    A frame depends on the start, the settings and all frames up to it: a file that was made from
    others is refused.
    """

    def __init__(
        self, folder: str | Path, start: Any, problem: Any, settings: dict[str, Any]
    ) -> None:
        self.folder, self.generator = Path(folder), problem.generator
        self.field = getattr(start, "field", start)
        check_writable(self.path(0))
        same = settings | {
            "operator": told(problem.operator),
            "loss": told(problem.loss),
            "prior": problem.prior and told(problem.prior),
            "start": fingerprint([self.field, getattr(start, "moments", None)]),
            "seed": self.generator.initial_seed(),
        }
        self.identities, frames = [], ""
        for pair in zip(problem.data, problem.background, strict=True):
            frames = fingerprint([frames, *pair])  # of all up to this one
            self.identities.append(same | {"frames": frames})

    def path(self, number: int) -> Path:
        """The file of a frame."""
        return self.folder / f"frame_{number:05}.safetensors"

    def save(
        self, number: int, fitted: FieldFit, history: dict[str, np.ndarray], seconds: float
    ) -> None:
        """Keep what the chain found for a frame."""
        state = {
            "field": dict(fitted.field.state_dict()),
            "moments": fitted.moments,
            "volume": fitted.volume,
            "last": fitted.history,
            "converged": fitted.converged,
            "settings": fitted.settings,
            "history": history,
            "seconds": seconds,
            "generator": self.generator.get_state(),
            "identity": self.identities[number],
        }
        card = {
            "data": f"frame {number}",
            "seed": self.generator.initial_seed(),
            "steps": len(history["objective"]),
            "metric": {"misfit": float(history["misfit"][-1])},
        }
        checkpoints.save(self.path(number), state, card)

    def load(self, number: int) -> tuple[FieldFit, dict[str, np.ndarray], float] | None:
        """The fit, the history and the seconds of a frame that was done before, or None."""
        path = self.path(number)
        if not path.exists():
            return None
        state, _ = checkpoints.load(path, expect={"field": dict(self.field.state_dict())})
        if wrong := differences(state.get("identity", {}), self.identities[number]):
            raise ValueError(f"{path} is of another sequence, with {wrong}: choose another folder")
        field = copy.deepcopy(self.field)
        field.load_state_dict(state["field"])
        self.generator.set_state(state["generator"])
        fitted = FieldFit(
            volume=state["volume"],
            field=field,
            history=state["last"],
            n_iter=len(state["last"]["objective"]),
            converged=state["converged"],
            settings=state["settings"],
            moments=state["moments"],
        )
        return fitted, state["history"], state["seconds"]
