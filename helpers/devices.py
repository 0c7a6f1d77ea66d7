"""Where the work happens: the device."""

from __future__ import annotations

import os

__all__ = ["describe", "pick_device"]


def pick_device(device=None):
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
    import torch

    asked = device if device is not None else os.environ.get("HELPERS_DEVICE")
    if not asked:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ValueError(f"device {asked!r} is not one torch knows: try 'cpu' or 'cuda'") from error
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(device.type, False):
        raise ValueError(f"device {asked!r} is not on this machine: use 'cpu' or leave it out")
    return device


def describe():
    """One line for the top of a page: device and library versions."""
    import numpy
    import torch

    from . import __version__

    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return (
        f"device {name}, helpers {__version__}, "
        f"numpy {numpy.__version__}, torch {torch.__version__}"
    )
