"""The jobs `xray-convert`, `xray-train` and `xray-train-calibrator`: from clips to networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import torch

from ..training.schedule import Schedule
from ..xray._shipped import NETWORKS, load, save
from ..xray.calibrate.calibrator import end_point_error, train_calibrator
from ..xray.calibrate.misalign import Misaligned, Misalignments
from ..xray.cameras import SCALE, Transform, coarsen
from ..xray.data.folders import VirtualPairs
from ..xray.data.reds import Clip, convert_reds, frames_of, read_meta_info, read_png
from ..xray.edvr.network import EDVR
from ..xray.flow import FlowNet
from ..xray.flowfuse import FlowFuse
from ..xray.score import evaluate
from ..xray.swin.network import SwinXVR
from ..xray.train.loop import train
from ..xray.train.losses import PoissonLR
from ._declare import AtLeast, Count, Exactly, NotNegative, Positive, positive
from ._run import Outcome, Task, uninterrupted

FAMILIES: dict[str, Any] = {"flowfuse": FlowFuse, "edvr": EDVR, "swin": SwinXVR}
two = Exactly(2, "numbers, of the fast and of the slow camera")
two_positive = Exactly(2, "positive numbers, of the fast and of the slow camera", positive)


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
    n_steps: Count | None = None,
    learning_rate: Positive | None = None,
    batch: Count | None = None,
    patch: Annotated[int, AtLeast(4)] | None = None,
    photons: Annotated[list[float], two] | None = None,
    max_gap: Count = 20,
    intervals: list[int] | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    save_every: Count | None = None,
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
        Of the network; full is that of the papers, actual the wider swin for real recordings.
        Numbers left out below are those of its published training; of a small one, in brackets.
    start : str, optional
        Trained network to start from: the name of a shipped one, or a file.
    n_steps : int
        Steps of Adam (1500).
    learning_rate : float
        After the warm-up (0.0015).
    batch : int
        Samples of a step (4).
    patch : int
        Side of the squares that are cut out, in sharp pixels, a multiple of 4 (64).
    photons : list of float, optional
        Least and most photons of the open beam in a coarse pixel: their noise is drawn for each
        sample. Left out, no noise is added.
    max_gap : int
        Longest gap to a key frame, in frames.
    intervals : list of int, optional
        Steps from coarse frame to coarse frame, one of which is drawn; 1 if left out.
    precision : str
        Of the large products; bfloat16 makes a large network faster on a GPU that has it.
    save_every : int
        Steps between two checkpoints (200); a kill loses at most so many.
    seed : int
        Of weights, gaps, squares and noise.

    Returns
    -------
    Outcome
        The network, for xray-infer.
    """
    kind = FAMILIES[network]
    asked = {
        "n_steps": n_steps,
        "learning_rate": learning_rate,
        "batch": batch,
        "patch": patch,
        "save_every": save_every,
    }
    schedule = replace(
        kind.recipes.get(size, Schedule()),
        **{name: value for name, value in asked.items() if value is not None},
    )
    noise = None if photons is None else PoissonLR(*photons)
    generator = torch.Generator().manual_seed(seed)
    net = load(start, "cpu") if start else kind.preset(size, generator=generator)
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
        precision=precision,
        progress=task.progress,
        device=task.device,
    )
    uninterrupted(result)
    score = evaluate(result.net, judge)
    metric = {"psnr": float(np.mean(score.psnr)), "ssim": float(np.mean(score.ssim))}
    target = task.folder / "network.safetensors"
    card = {
        "data": f"{len(data)} samples of {task.path.name}",
        "seed": seed,
        "steps": result.n_steps,
        "precision": precision,
        "metric": metric,
    }
    save(result.net.cpu(), target, card)
    return Outcome(target, [target], {"samples": len(data), "loss": result.history[-1], **metric})


def xray_train_calibrator(
    task: Task,
    *,
    size: Literal["small", "full"] = "small",
    start: Annotated[str, trained] | None = None,
    judge: Annotated[str, trained] | None = None,
    weight: NotNegative = 10.0,
    n_steps: Count = 1000,
    learning_rate: Positive = 5e-4,
    batch: Count = 4,
    patch: Annotated[int, AtLeast(32)] = 64,
    photons: Annotated[list[float], two_positive] | None = None,
    turn: NotNegative = 0.05,
    stretch: NotNegative = 0.02,
    shift: NotNegative = 8.0,
    max_gap: Count = 20,
    precision: Literal["float32", "bfloat16"] = "float32",
    save_every: Count = 200,
    seed: int = 0,
) -> Outcome:
    """Train a network that aligns two cameras.

    Parameters
    ----------
    task : Task
        Folder of xray-convert. Clips named val judge the network; without them the last clip does.
    size : str
        Of the network.
    start : str, optional
        Trained network to start from: calibrator, which is shipped, or a file.
    judge : str, optional
        Fusion network that judges the aligned frames as well: the name of a shipped one, or a
        file of xray-train. It is not changed.
    weight : float
        Of the judge's error beside that of the flow.
    n_steps : int
        Steps of Adam.
    learning_rate : float
        After the warm-up.
    batch : int
        Samples of a step.
    patch : int
        Side of the squares that are cut out, in sharp pixels, a multiple of 4.
    photons : list of float, optional
        Of the open beam, in a pixel of the fast and of the slow camera; 3000 and 4000 if left
        out.
    turn : float
        Largest rotation that is drawn, in radians.
    stretch : float
        Largest change of the pixel size along x and along y, as a share of it.
    shift : float
        Largest shift of the middle of the field, in sharp pixels.
    max_gap : int
        Longest gap to a key frame, in frames.
    precision : str
        Of the large products; bfloat16 makes the full network faster on a GPU that has it. Fits of
        the flow and the loss stay float32.
    save_every : int
        Steps between two checkpoints; a kill loses at most so many.
    seed : int
        Of weights, moments, squares, transforms and noise.

    Returns
    -------
    Outcome
        The network, for helpers.xray.load.
    """
    schedule = Schedule(
        n_steps=n_steps,
        learning_rate=learning_rate,
        warmup=min(50, n_steps // 2),
        batch=batch,
        clip=1.0,
        save_every=save_every,
    )
    data, judged = (
        _MisalignedClips(
            task.path / f"{split}_sharp_mono_1ch",
            [(clip.name, clip.n_frames) for clip in clips],
            patch,
            tuple(photons or (3000.0, 4000.0)),
            max_gap,
            {"turn": turn, "stretch": stretch, "shift": shift},
        )
        for split, clips in _splits(task.path)
    )
    evaluator = None if judge is None else load(judge, "cpu")
    if isinstance(evaluator, FlowNet):
        raise ValueError(f"{judge} aligns two cameras and fuses nothing: name another judge")
    result = train_calibrator(
        _flow_network(start, size, seed),
        evaluator,
        data,  # type: ignore[arg-type]  # it has `draw`
        schedule=schedule,
        weight=weight,
        checkpoint=task.unfinished("training.safetensors"),
        generator=torch.Generator().manual_seed(seed),
        precision=precision,
        progress=task.progress,
        device=task.device,
    )
    uninterrupted(result)
    errors = end_point_error(result.net, judged, 32, seed=seed, device=task.device)  # type: ignore
    metric = {"end_point_error_px": float(np.mean(errors))}
    target = task.folder / "network.safetensors"
    card = {
        "data": f"clips of {task.path.name}, misaligned",
        "seed": seed,
        "steps": n_steps,
        "precision": precision,
        "metric": metric,
    }
    save(result.net.cpu(), target, card)
    told = {"loss": float(result.history[-1, 0]), **metric}
    return Outcome(target, [target], told)


def _flow_network(start: str | None, size: str, seed: int) -> FlowNet:
    """A network to be trained: that of a file, or one with fresh weights of this seed."""
    if start is not None:
        net = load(start, "cpu")
        if not isinstance(net, FlowNet):
            raise ValueError(f"{start} fuses frames: start from calibrator, or from a file of it")
        return net
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(seed)
        return FlowNet.preset(size)


class _MisalignedClips:
    """Moments of clips on disk as `Misalignments` has them of movies; a frame is read when drawn.

    Parameters
    ----------
    folder : Path
        Of the sharp frames, ``<clip>/<frame>.png``.
    clips : list of (str, int)
        Names and lengths.
    patch : int
        Side of the squares in sharp pixels.
    photons : (float, float)
        Of the open beam, of the fast and of the slow camera.
    max_gap : int
    ranges : dict
        ``turn``, ``stretch`` and ``shift`` of `Misalignments`.
    """

    def __init__(
        self,
        folder: Path,
        clips: list[tuple[str, int]],
        patch: int,
        photons: tuple[float, ...],
        max_gap: int,
        ranges: dict[str, float],
    ) -> None:
        if patch % SCALE:
            raise ValueError(f"patch is {patch}: give a multiple of {SCALE}")
        frames: dict[str, list[Path]] = {}
        for name, path in frames_of(folder).items():
            frames.setdefault(name.partition("/")[0], []).append(path)
        for name, length in clips:
            found = len(frames.get(name, ()))
            if found != length or length < 3:
                raise ValueError(
                    f"{folder / name} holds {found} frames, and its list tells of {length}: at "
                    "least three are needed; convert the clips again"
                )
        self.files = [frames[name] for name, _ in clips]
        self.patch, self.photons, self.max_gap, self.ranges = patch, photons, max_gap, ranges

    def draw(self, rng: np.random.Generator) -> Misaligned:
        """Give a random square of a random moment, with a random transform."""
        files = self.files[int(rng.integers(len(self.files)))]
        t = int(rng.integers(1, len(files) - 1))
        before = int(rng.integers(1, min(self.max_gap, t) + 1))
        after = int(rng.integers(1, min(self.max_gap, len(files) - 1 - t) + 1))
        numbers = (t - 1, t, t + 1, t - before, t + after)
        frames = np.stack([read_png(files[number]) for number in numbers])
        corner = [int(rng.integers(max(1, n - self.patch + 1))) for n in frames.shape[1:]]
        sharp = frames[:, *(slice(at, at + self.patch) for at in corner)]
        if sharp.shape[1:] != (self.patch, self.patch):
            raise ValueError(
                f"the frames are {frames.shape[1]} x {frames.shape[2]}: give a smaller patch"
            )
        fast, slow = self.photons
        movie: Any = SimpleNamespace(
            truth=sharp[:3],
            lr=coarsen(sharp[:3]),
            hr=(rng.poisson(slow * sharp[3:]) / slow).astype(np.float32),
            key_times=np.array([1 - before, 1 + after]),
            experiment=SimpleNamespace(lr_photons=fast, hr_photons=slow),
            transform=Transform(),
            time_offset=0,
        )
        return Misalignments([movie], **self.ranges).draw(rng)


def _splits(folder: Path) -> list[tuple[str, list[Clip]]]:
    """Clips to train on, and clips to judge by; each with the beginning of its folder's name."""
    known = read_meta_info(folder / "train_meta_info.txt")
    if (folder / "val_meta_info.txt").exists():
        return [("train", known), ("val", read_meta_info(folder / "val_meta_info.txt"))]
    if len(known) < 2:
        raise ValueError(f"{folder} has one clip: another one must judge the network")
    return [("train", known[:-1]), ("train", known[-1:])]


def _clips(folder: Path, drawn: dict[str, Any]) -> tuple[VirtualPairs, VirtualPairs]:
    """Samples to train on, and samples to judge by."""

    def pairs(split: str, clips: list[Clip], **options: Any) -> VirtualPairs:
        hr, lr = folder / f"{split}_sharp_mono_1ch", folder / f"{split}_sharp_mono_1ch_bicubic/X4"
        return VirtualPairs(hr, lr, clips, **options)

    known, held = _splits(folder)
    return pairs(*known, **drawn), pairs(*held, key_every=min(20, held[1][0].n_frames - 1))
