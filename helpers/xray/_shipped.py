"""Fuse a fast, coarse x-ray camera with a slow, sharp one."""

NETWORKS = {  # the class of each shipped kind, and of its config
    "flowfuse": ("flowfuse", "FlowFuse", "FlowFuseConfig"),
    "edvr": ("edvr", "EDVR", "EDVRConfig"),
    "swin": ("swin", "SwinXVR", "SwinConfig"),
    "calibrator": ("flow", "FlowNet", "FlowConfig"),
}


def load(name, device=None):
    """Give a shipped network, ready to be called as ``net(lr, hr, tau)``.

    Parameters
    ----------
    name : str
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
    from ...checkpoints import load as load_state
    from ...devices import pick_device

    path = weights_file(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"no network {name!r}: use one of {', '.join(NETWORKS)}, or the path of a file"
        )
    state, card = load_state(path)
    if state.get("kind") not in NETWORKS:
        raise ValueError(f"{path} holds no network of helpers.xray: write it with save(net, path)")
    make, config = _classes(state["kind"])
    net = make(config(**state["config"]))
    load_state(path, expect={"net": net.state_dict()})
    net.load_state_dict(state["net"])  # float16 in the file, float32 at work
    net.card = card
    return net.to(pick_device(device)).eval()


def save(net, path, card):
    """Write a network so that `load` finds it, its weights in half precision.

    Parameters
    ----------
    net : FlowFuse, EDVR or SwinXVR
    path : str or Path
        ``data/checkpoints/xray_NAME.safetensors`` for a shipped one; `weights_file` gives it.
    card : dict
        As for `helpers.checkpoints.save`: at least `data`, `seed`, `steps` and `metric`.

    Raises
    ------
    ValueError
        A network of another class, or a card that lacks something.
    """
    from dataclasses import asdict

    from ...checkpoints import save as save_state

    kinds = {made: kind for kind, (_, made, _) in NETWORKS.items()}
    kind = kinds.get(type(net).__name__)
    if kind is None:
        raise ValueError(f"net is a {type(net).__name__}: give one of {', '.join(kinds)}")
    state = net.state_dict()
    half = {key: v.half() if v.is_floating_point() else v for key, v in state.items()}
    save_state(path, {"kind": kind, "config": asdict(net.config), "net": half}, card)


def weights_file(name):
    """Where the network of that name is kept; a path with a suffix stays what it is."""
    from pathlib import Path

    from ...datasets import data_folder

    if Path(name).suffix:
        return Path(name)
    return data_folder() / "checkpoints" / f"xray_{name}.safetensors"


def _classes(kind):
    from importlib import import_module

    module, *names = NETWORKS[kind]
    return (getattr(import_module(f".{module}", __name__), name) for name in names)
