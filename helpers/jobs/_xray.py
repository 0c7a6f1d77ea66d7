"""The jobs `xray-convert`, `xray-train` and `xray-infer`: two cameras, from frames to a movie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch

from ..io.files import load_h5, save_h5, save_tif
from ..scale import map_chunks
from ..training.schedule import Schedule
from ..xray._shipped import NETWORKS, load, save
from ..xray.calibrate._spatial import SpatialCalibration
from ..xray.data.folders import ActualPairs, VirtualPairs
from ..xray.data.recording import read_recording
from ..xray.data.reds import convert_reds, read_meta_info
from ..xray.edvr.network import EDVR
from ..xray.flowfuse import FlowFuse
from ..xray.reconstruct.movie import _Samples as Samples
from ..xray.reconstruct.movie import reconstruct
from ..xray.score import evaluate
from ..xray.swin.network import SwinXVR
from ..xray.train.loop import train
from ..xray.train.losses import PoissonLR
from ._declare import AtLeast, Count, File, Positive
from ._run import Outcome, Task, assembled, uninterrupted

if TYPE_CHECKING:
    from distributed import Client

FAMILIES: dict[str, Any] = {"flowfuse": FlowFuse, "edvr": EDVR, "swin": SwinXVR}


def two(numbers: Sequence[float]) -> None:
    """Raise a ValueError unless there are two numbers, of the fast and of the slow camera."""
    if len(numbers) != 2:
        raise ValueError("give two numbers, of the fast and of the slow camera")


def trained(name: str) -> None:
    """Raise a ValueError unless it is the name of a shipped network, or a file of one."""
    if name not in NETWORKS and not Path(name).is_file():
        raise ValueError(f"use {', '.join(FAMILIES)}, or a file of xray-train")


def xray_convert(task: Task) -> Outcome:
    """Turn the colour frames of REDS into grey ones.

    Parameters
    ----------
    task : Task
        Folder of REDS, with train_sharp and train_sharp_bicubic/X4; val_sharp too, if it is there.

    Returns
    -------
    Outcome
        A folder with the grey frames of both resolutions and the list of the clips.
    """
    parts = convert_reds(task.path, task.folder, resume=task.resume, progress=task.progress)
    clips = {name: len(read_meta_info(part.meta_info)) for name, part in parts.items()}
    lists = [part.meta_info for part in parts.values()]
    return Outcome(task.folder, lists, {f"clips_{name}": n for name, n in clips.items()})


def xray_train(
    task: Task,
    *,
    network: Literal["flowfuse", "edvr", "swin"] = "flowfuse",
    size: Literal["small", "full", "actual"] = "small",
    start: Annotated[str, trained] | None = None,
    n_steps: Count = 1500,
    learning_rate: Positive = 1.5e-3,
    batch: Count = 4,
    patch: Annotated[int, AtLeast(4)] = 64,
    photons: Annotated[list[float], two] | None = None,
    max_gap: Count = 20,
    intervals: list[int] | None = None,
    save_every: Count = 200,
    seed: int = 0,
) -> Outcome:
    """Train a fusion network on the frames of xray-convert.

    Parameters
    ----------
    task : Task
        Folder of xray-convert. Clips named val judge the network; without them the last clip does.
    network : str
        Kind of the network.
    size : str
        Of the network; full is that of the papers, actual the wider EDVR for real recordings.
    start : str, optional
        Trained network to start from: the name of a shipped one, or a file.
    n_steps : int
        Steps of Adam.
    learning_rate : float
        After the warm-up.
    batch : int
        Samples of a step.
    patch : int
        Side of the squares that are cut out, in sharp pixels, a multiple of 4.
    photons : list of float, optional
        Least and most photons of the open beam in a coarse pixel: their noise is drawn for each
        sample. Left out, no noise is added.
    max_gap : int
        Longest gap to a key frame, in frames.
    intervals : list of int, optional
        Steps from coarse frame to coarse frame, one of which is drawn; 1 if left out.
    save_every : int
        Steps between two checkpoints; a kill loses at most so many.
    seed : int
        Of weights, gaps, squares and noise.

    Returns
    -------
    Outcome
        The network, for xray-infer.
    """
    schedule = Schedule(
        n_steps=n_steps,
        learning_rate=learning_rate,
        batch=batch,
        patch=patch,
        save_every=save_every,
    )
    noise = None if photons is None else PoissonLR(*photons)
    generator = torch.Generator().manual_seed(seed)
    net = load(start, "cpu") if start else FAMILIES[network].preset(size, generator=generator)
    drawn = {"max_gap": max_gap, "intervals": tuple(intervals or [1]), "seed": seed}
    data: Any
    data, judge = _clips(task.path, drawn)
    result = train(
        net,
        data,
        schedule=schedule,
        noise=noise,
        checkpoint=task.unfinished("training.safetensors"),
        generator=torch.Generator().manual_seed(seed),
        progress=task.progress,
        device=task.device,
    )
    uninterrupted(result)
    score = evaluate(result.net, judge)
    metric = {"psnr": float(np.mean(score.psnr)), "ssim": float(np.mean(score.ssim))}
    target = task.folder / "network.safetensors"
    card = {"data": f"{len(data)} samples of {task.path.name}", "seed": seed, "steps": n_steps}
    save(result.net.cpu(), target, card | {"metric": metric})
    return Outcome(target, [target], {"samples": len(data), "loss": result.history[-1], **metric})


def xray_infer(
    task: Task,
    *,
    network: Annotated[str, trained] = "flowfuse",
    calibration: File | None = None,
    mode: Literal["continuous", "double"] = "continuous",
    white: Annotated[list[float], two] | None = None,
    dark: Annotated[list[float], two] | None = None,
    offset_ns: int = 0,
    mirrored: bool = True,
    pixel_size: Positive | None = None,
    tile: Count = 256,
    overlap: Annotated[int, AtLeast(0)] = 64,
    ensemble_std: bool = False,
    chunk: Count = 8,
    client: Client | None = None,
) -> Outcome:
    """Make the sharp, fast movie of an experiment with two cameras.

    Parameters
    ----------
    task : Task
        Folder of a recording, or an .h5 file with the frames as transmission on one grid and one
        clock: lr (T, y, x), hr (K, 4y, 4x), and key_times (K,) in fast frames.
    network : str
        Name of a shipped network (flowfuse, edvr, swin), or a file of xray-train.
    calibration : Path, optional
        .h5 file of helpers.xray.calibrate.SpatialCalibration.save; a recording needs one.
    mode : str
        A frame for every moment of the fast camera; or each sharp frame held out and predicted,
        which has a score.
    white : list of float, optional
        Open beam of the fast and of the slow camera in grey levels; left out, a guess.
    dark : list of float, optional
        Signal without beam of the two cameras; 0 if left out.
    offset_ns : int
        How much later than its own clock says the slow camera is.
    mirrored : bool
        The slow camera looks through one mirror more than the fast one.
    pixel_size : float, optional
        Of the sharp camera in µm.
    tile : int
        Side of the tiles in sharp pixels.
    overlap : int
        Of neighbouring tiles, in sharp pixels.
    ensemble_std : bool
        Predict each frame four times, and give the standard deviation too.
    chunk : int
        Frames that are kept together; a stop loses one such chunk.
    client : distributed.Client, optional

    Returns
    -------
    Outcome
        The movie; beside it an .h5 file with times, inputs and scores of the frames.
    """
    opened = partial(
        _opened,
        task.path,
        calibration,
        mode,
        white=None if white is None else tuple(white),
        dark=tuple(dark or (0.0, 0.0)),
        offset_ns=offset_ns,
        mirrored=mirrored,
    )
    samples = opened()
    work = partial(
        _frames,
        opened=opened,
        key=task.key,  # the path stands for a folder, whose content is in the key
        network=network,
        mode=mode,
        tile=tile,
        overlap=overlap,
        ensemble_std=ensemble_std,
        device=task.device,
    )
    done = map_chunks(
        work,
        list(range(len(samples))),
        task.unfinished("frames"),
        chunk=chunk,
        client=client,
        resume=task.resume,
        progress=task.progress,
    )
    parts: Any = done.open()
    target, more = task.folder / "movie.tif", task.folder / "movie.h5"
    files = [target, more]
    known: dict[str, Any] = {} if pixel_size is None else {"pixel_size": pixel_size, "unit": "µm"}
    for name in ("frames", "ensemble_std"):
        if name in parts:
            file = target if name == "frames" else task.folder / f"{name}.tif"
            with assembled(task.folder, parts[name].shape) as frames:
                for at in range(0, len(frames), chunk):
                    frames[at : at + chunk] = parts[name][at : at + chunk]
                save_tif(file, frames, axes="TYX", **known)
            files.append(file)
    selections = samples.selections
    tree: dict[str, Any] = {
        "times": samples.times,
        "tau": np.array([s.tau for s in selections]),
        "inputs": {
            "fast": np.array([s.lr for s in selections]),
            "keys": np.array([s.hr for s in selections]),
        },
    }
    scores = {k: parts[k][:] for k in ("psnr", "ssim", "aad") if k in parts}
    if samples.valid is not None:
        tree["valid"] = samples.valid
    if scores:
        tree["table"] = {"time": tree["times"], "tau": tree["tau"], **scores}
    notes: dict[str, Any] = {"mode": mode, "network": network}
    if pixel_size is not None:
        notes["pixel_size_um"] = pixel_size
    save_h5(more, tree, notes)
    told: dict[str, Any] = {
        "frames": len(samples),
        "frames_new": min(done.n_new * chunk, len(samples)),
    }
    told |= {k: float(np.mean(v)) for k, v in scores.items()}
    return Outcome(target, sorted(set(files)), told)


def _clips(folder: Path, drawn: dict[str, Any]) -> tuple[VirtualPairs, VirtualPairs]:
    """Samples to train on, and samples to judge by."""

    def pairs(split: str, clips: Any, **options: Any) -> VirtualPairs:
        hr, lr = folder / f"{split}_sharp_mono_1ch", folder / f"{split}_sharp_mono_1ch_bicubic/X4"
        return VirtualPairs(hr, lr, clips, **options)

    known = read_meta_info(folder / "train_meta_info.txt")
    if (folder / "val_meta_info.txt").exists():
        held = "val", read_meta_info(folder / "val_meta_info.txt")
    elif len(known) > 1:
        known, held = known[:-1], ("train", known[-1:])
    else:
        raise ValueError(f"{folder} has one clip: another one must judge the network")
    return pairs("train", known, **drawn), pairs(*held, key_every=min(20, held[1][0].n_frames - 1))


@cache
def _opened(
    path: Path,
    calibration: Path | None,
    mode: str,
    *,
    white: Any,
    dark: Any,
    offset_ns: int,
    mirrored: bool,
) -> Samples:
    """Samples of a recording, or of a movie on one grid; a process opens them once."""
    if path.is_dir():
        if calibration is None:
            raise ValueError(f"{path} is a recording: it needs --calibration")
        recording = read_recording(path, mirrored=mirrored, offset_ns=offset_ns)
        found = SpatialCalibration.load(calibration)
        movie: Any = ActualPairs(recording, found, mode=mode, white=white, dark=dark)
    elif path.suffix.lower() in (".h5", ".hdf5"):
        tree, _ = load_h5(path)
        lacks = [name for name in ("lr", "hr", "key_times") if name not in tree]
        if lacks:
            raise ValueError(
                f"{path} has no {', '.join(lacks)}: it has {', '.join(tree) or 'none'}"
            )
        movie = SimpleNamespace(truth=None, **{k: tree[k] for k in ("lr", "hr", "key_times")})
    else:
        raise ValueError(f"{path} is no recording: give its folder, or an .h5 file with lr and hr")
    return Samples(movie, mode)


@dataclass
class _Part:
    """Some of the samples of a movie, as `reconstruct` takes them."""

    samples: Samples
    numbers: Sequence[int]

    def __post_init__(self) -> None:
        self.selections = [self.samples.selections[n] for n in self.numbers]
        self.shape, self.valid = self.samples.shape, self.samples.valid

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Any:
        return self.samples.sample(self.numbers[i])


@cache
def _network(name: str, device: str | None) -> torch.nn.Module:
    return load(name, device)


def _frames(
    block: Sequence[int],
    start: int,
    *,
    opened: Any,
    key: str,
    network: str,
    mode: str,
    device: str | None,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Frames of one chunk, with their scores where they have a truth."""
    part: Any = _Part(opened(), block)
    # the camera is that of the whole movie, not of a chunk
    camera = part.samples.on_grid
    found = reconstruct(
        _network(network, device), part, mode, camera=camera, device=device, **options
    )
    result = {"frames": found.frames}
    if found.ensemble_std is not None:
        result["ensemble_std"] = found.ensemble_std
    if found.score is not None:
        result |= {name: np.asarray(getattr(found.score, name)) for name in ("psnr", "ssim", "aad")}
    return result
