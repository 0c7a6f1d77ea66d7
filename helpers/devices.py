"""Device on which the work happens: CUDA, MPS or the CPU."""

from __future__ import annotations

import os

import numpy as np
import torch

from . import __version__
from ._arrays import Device

__all__ = ["describe", "pick_device"]


def pick_device(device: Device = None) -> torch.device:
    """Choose the torch device: the argument, then ``HELPERS_DEVICE``, then the best one here.

    Parameters
    ----------
    device : str or torch.device, optional
        Anything `torch.device` understands, such as ``"cpu"`` or ``"cuda:1"``.

    Returns
    -------
    torch.device
        CUDA when available, else Apple's MPS, else the CPU.

    Raises
    ------
    ValueError
        The device is unknown, or it is not on this machine.

    Examples
    --------
    >>> pick_device("cpu")
    device(type='cpu')
    """
    asked = device if device is not None else os.environ.get("HELPERS_DEVICE")
    if not asked:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(asked)
    except RuntimeError as error:
        raise ValueError(f"device {asked!r} is not one torch knows: try 'cpu' or 'cuda'") from error
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(chosen.type, False):
        raise ValueError(f"device {asked!r} is not on this machine: use 'cpu' or leave it out")
    return chosen


def describe() -> str:
    """One line for the top of a page: device and library versions."""
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return (
        f"device {name}, helpers {__version__}, numpy {np.__version__}, torch {torch.__version__}"
    )
