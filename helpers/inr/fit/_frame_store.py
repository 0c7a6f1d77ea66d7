"""The frames of a sequence that are done, in files from which an interrupted chain goes on."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

from ... import checkpoints
from ..._arrays import to_numpy
from .loop import FieldFit


class FrameStore:
    """A folder with one file for each frame of a chain.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.
    start : torch.nn.Module, or anything with a ``field``
        Where the chain starts; the fields in the files are like it.
    problem : object
        With `data` and `background` of all frames, (T, ...) each, and the `generator`.
    settings : dict
        Of the chain.

    Notes
    -----
    A frame depends on the start, the settings and all frames up to it: a file that was made from
    others is refused. Frames may be added at the end.
    """

    def __init__(self, folder, start, problem, settings):
        self.folder, self.generator = Path(folder), problem.generator
        self.field = getattr(start, "field", start)
        digest = hashlib.sha256(repr(settings).encode())
        for name, value in self.field.state_dict().items():
            digest.update(name.encode() + to_numpy(value).tobytes())
        self.identities = []
        for frame, background in zip(problem.data, problem.background, strict=True):
            digest.update(to_numpy(frame).tobytes() + to_numpy(background).tobytes())
            self.identities.append(digest.hexdigest()[:16])
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, number):
        """The file of a frame."""
        return self.folder / f"frame_{number:05}.safetensors"

    def save(self, number, fitted, history, seconds):
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
        }
        card = {
            "data": self.identities[number],
            "seed": self.generator.initial_seed(),
            "steps": len(history["objective"]),
            "metric": {"misfit": float(history["misfit"][-1])},
        }
        checkpoints.save(self.path(number), state, card)

    def load(self, number):
        """The fit, the history and the seconds of a frame that was done before, or None."""
        path = self.path(number)
        if not path.exists():
            return None
        state, card = checkpoints.load(path, expect={"field": dict(self.field.state_dict())})
        if card["data"] != self.identities[number]:
            raise ValueError(
                f"{path} is of another sequence, start or schedule: "
                "give another folder, or delete it to begin anew"
            )
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
