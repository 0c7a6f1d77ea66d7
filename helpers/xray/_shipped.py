"""The shipped networks of this part: read, write, and the place of their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import checkpoints
from ..datasets import data_folder
from ..devices import pick_device
from .edvr.network import EDVR, EDVRConfig
from .flow import FlowConfig, FlowNet
from .flowfuse import FlowFuse, FlowFuseConfig
from .swin.network import SwinConfig, SwinXVR

NETWORKS: dict[str, tuple[type[torch.nn.Module], type]] = {
    "flowfuse": (FlowFuse, FlowFuseConfig),
    "edvr": (EDVR, EDVRConfig),
    "swin": (SwinXVR, SwinConfig),
    "calibrator": (FlowNet, FlowConfig),
}


def load(name: str | Path, device: str | torch.device | None = None) -> torch.nn.Module:
    """Read a trained network, ready to be called as ``net(lr, hr, tau)``.

    Parameters
    ----------
    name : str or Path
        "flowfuse", "edvr" or "swin"; "calibrator" for the flow network that aligns the cameras,
        which is called as ``net(lr, hr)``; or the path of a file that `save` wrote.
    device : str or torch.device, optional
        See `helpers.devices.pick_device`.

    Returns
    -------
    torch.nn.Module
        In evaluation mode; ``net.card`` says how it was made and what it reaches.

    Raises
    ------
    FileNotFoundError
        No network of that name is here.
    ValueError
        The file is damaged, or is not one of these networks.

    Examples
    --------
    >>> net = load("flowfuse", device="cpu")
    >>> net.card["metric"]["standard"]["over_linear"] > 4.5  # dB, on movies it has not seen
    True
    """
    path = weights_file(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"no network {str(name)!r}: use one of {', '.join(NETWORKS)}, or the path of a file"
        )
    state, card = checkpoints.load(path)
    if state.get("kind") not in NETWORKS:
        raise ValueError(f"{path} holds no network of helpers.xray: write it with save(net, path)")
    make, config = NETWORKS[state["kind"]]
    net: Any = make(config(**state["config"]))
    checkpoints.load(path, expect={"net": net.state_dict()})
    net.load_state_dict(state["net"])  # float16 in the file, float32 at work
    net.card = card
    module: torch.nn.Module = net.to(pick_device(device)).eval()
    return module


def save(net: torch.nn.Module, path: str | Path, card: Mapping[str, Any]) -> None:
    """Write a network so that `load` finds it, its weights in half precision.

    Parameters
    ----------
    net : FlowFuse, EDVR, SwinXVR or FlowNet
    path : str or Path
    card : dict
        As for `helpers.checkpoints.save`: at least `data`, `seed`, `steps` and `metric`.

    Raises
    ------
    ValueError
        A network of another class, or a card that lacks something.
    """
    kinds = {make.__name__: kind for kind, (make, _) in NETWORKS.items()}
    kind = kinds.get(type(net).__name__)
    if kind is None:
        raise ValueError(f"net is a {type(net).__name__}: give one of {', '.join(kinds)}")
    state = net.state_dict()
    half = {key: v.half() if v.is_floating_point() else v for key, v in state.items()}
    config: Any = net.config
    checkpoints.save(path, {"kind": kind, "config": asdict(config), "net": half}, dict(card))


def weights_file(name: str | Path) -> Path:
    """Path of a shipped network of that name; a path with a suffix stays as it is."""
    if Path(name).suffix:
        return Path(name)
    return data_folder() / "checkpoints" / f"xray_{name}.safetensors"
