"""Trained weights and interrupted runs: one safetensors file with its JSON card inside.

The file holds any nest of dicts, lists and tuples with tensors, arrays, numbers and strings, so
that a run goes on exactly where it stopped. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from . import __version__
from ._arrays import is_tensor
from .io.files import atomic_path

__all__ = ["load", "save"]

REQUIRED = ("data", "seed", "steps", "metric")


def save(path: str | PathLike[str], state: dict[str, Any], card: dict[str, Any]) -> None:
    """Save a state with the card that says how it was made.

    Parameters
    ----------
    path : str or Path
        File to write, at once or not at all.
    state : dict
        Such as ``{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 100,
        "generator": generator.get_state()}``. Tensors come back on the CPU.
    card : dict
        What JSON can hold, with at least `data`, `seed`, `steps` and `metric`; library versions
        and the time are added.

    Raises
    ------
    TypeError, ValueError
        Something that cannot be stored, its place is named; or an incomplete card.

    Examples
    --------
    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "net.safetensors"
    >>> card = {"data": "phantom", "seed": 0, "steps": 10, "metric": {"psnr": 31.2}}
    >>> save(path, {"model": {"weight": torch.ones(2)}, "step": 10}, card)
    >>> state, card = load(path)
    >>> state["model"]["weight"].tolist(), state["step"], card["seed"]
    ([1.0, 1.0], 10, 0)
    """
    missing = [name for name in REQUIRED if name not in card]
    if missing:
        raise ValueError(f"the card lacks {', '.join(missing)}: say how the state was made")
    tensors: dict[str, torch.Tensor] = {}
    structure = _pack(state, "", tensors)
    versions = {
        "helpers": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        text = json.dumps(card | {"versions": versions, "created": created})
    except TypeError as error:
        raise TypeError(
            f"the card holds what JSON cannot ({error}): use numbers and text"
        ) from error
    metadata = {"card": text, "structure": json.dumps(structure)}
    metadata["sha256"] = _digest(tensors, metadata)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load(
    path: str | PathLike[str], *, expect: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load a state and its card; nothing in the file is executed.

    Parameters
    ----------
    path : str or Path
        File written by `save`.
    expect : dict, optional
        Part of a state, such as ``{"model": model.state_dict()}``: the file must have the same
        names with the same shapes there.

    Returns
    -------
    state : dict
    card : dict

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is truncated or corrupt, was not written by `save`, or is for another model.
    """
    state, metadata = _read(path)
    if expect is not None:
        differences = list(_differences(expect, state, ""))
        if differences:
            shown = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
            raise ValueError(f"{path} is for another model: {shown}")
    return state, json.loads(metadata["card"])


def _read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: check the name, or train and save it first")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # copied to where a sum rounds as it did: in the file, numbers lie anywhere
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}): copy or train it again"
        ) from error
    if not {"card", "structure", "sha256"} <= set(metadata):
        raise ValueError(f"{path} has no card: it was not written by helpers.checkpoints.save")
    if _digest(tensors, metadata) != metadata["sha256"]:
        raise ValueError(f"{path} is corrupt, its checksum differs: copy or train it again")
    return _unpack(json.loads(metadata["structure"]), tensors), metadata


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Describe `value` for JSON and put its tensors, named by their place, into `tensors`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_tensor(value) or isinstance(value, np.ndarray | np.generic):
        kind = "tensor" if is_tensor(value) else "array"
        try:
            tensor = torch.as_tensor(value).detach().cpu()
        except TypeError as error:
            raise TypeError(f"{name} is an array of {value.dtype}: use numbers") from error
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        return {kind: name}
    if isinstance(value, dict):
        if not all(isinstance(key, str | int) for key in value):
            raise TypeError(f"{name or 'state'} has keys {list(value)}: use strings or integers")
        items = [[key, _pack(v, f"{name}/{key}", tensors)] for key, v in value.items()]
        return {"dict": items}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(v, f"{name}/{n}", tensors) for n, v in enumerate(value)]}
    raise TypeError(
        f"{name} is of type {type(value).__name__}: use tensors, arrays, numbers, strings, None, "
        "or dicts, lists and tuples of them"
    )


def _unpack(node: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "dict":
        return {key: _unpack(v, tensors) for key, v in content}
    if kind in ("list", "tuple"):
        items = [_unpack(v, tensors) for v in content]
        return items if kind == "list" else tuple(items)
    return tensors[content] if kind == "tensor" else tensors[content].numpy()


def _digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Checksum of names, types, shapes, values and card; safetensors itself has none."""
    digest = hashlib.sha256((metadata["card"] + metadata["structure"]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _differences(expected: Any, found: Any, name: str) -> Iterator[str]:
    """Say what `found` lacks, has too much, or has in another shape."""
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            yield f"{name} is missing"
            return
        for key in expected:
            yield from _differences(expected[key], found.get(key), f"{name}/{key}".strip("/"))
        if name:  # at the top the file may hold more than was asked for
            yield from (f"{name}/{key} is not in this model" for key in found.keys() - expected)
    elif is_tensor(expected):
        if not is_tensor(found):
            yield f"{name} is missing"
        elif found.shape != expected.shape:
            yield f"{name} is {tuple(found.shape)}, the model has {tuple(expected.shape)}"
