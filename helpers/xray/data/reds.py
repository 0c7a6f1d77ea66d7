"""Folders of clips: the REDS data set turned grey, and lists of what a data set holds."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from ...io.files import atomic_path
from ..cameras import SCALE


class Clip(NamedTuple):
    """A line of a meta-info file."""

    name: str
    n_frames: int
    shape: tuple[int, int, int]
    context: int | None = None


class Reds(NamedTuple):
    """Folders that `convert_reds` has written for one part of the data set."""

    hr: pathlib.Path
    lr: pathlib.Path
    meta_info: pathlib.Path


def convert_reds(
    src: str | Path, dst: str | Path, *, resume: bool = False, progress: bool = False
) -> dict[str, Reds]:
    """Turn the colour frames of REDS into grey ones.

    Parameters
    ----------
    src : str or Path
        With ``train_sharp/<clip>/<frame>.png`` and ``train_sharp_bicubic/X4/<clip>/<frame>.png``,
        and the same for ``val`` if it is there :cite:p:`nah2019`.
    dst : str or Path
        Gets ``train_sharp_mono_1ch``, ``train_sharp_mono_1ch_bicubic/X4`` with the same names
        inside, and ``train_meta_info.txt``.
    resume : bool
        Keep frames that are there and younger than what they were made of.
    progress : bool
        Show a bar.

    Returns
    -------
    dict of str to Reds
        For each of "train" and "val" that was found.

    Raises
    ------
    FileNotFoundError, ValueError
        No such folder, clips or frames that only one of the resolutions has, or a coarse frame
        that is not a quarter of the sharp one. Nothing is written then.

    Notes
    -----
    The luma is that of ITU-R BT.601, ``0.299 R + 0.587 G + 0.114 B``, rounded; all three channels
    of the result hold it.
    """
    src, dst = Path(src), Path(dst)
    splits = [name for name in ("train", "val") if (src / f"{name}_sharp").is_dir()]
    if not splits:
        raise FileNotFoundError(f"{src} holds neither train_sharp nor val_sharp: give REDS itself")
    found = {}
    for split in splits:
        hr, lr = src / f"{split}_sharp", src / f"{split}_sharp_bicubic" / "X4"
        frames = {folder: frames_of(folder) for folder in (hr, lr)}
        same_frames(frames[hr], frames[lr], hr, lr)
        for name, path in frames[hr].items():
            with Image.open(path) as sharp, Image.open(frames[lr][name]) as coarse:
                if sharp.size != (SCALE * coarse.width, SCALE * coarse.height):
                    raise ValueError(
                        f"{frames[lr][name]} is {coarse.height} x {coarse.width} and {path} "
                        f"{sharp.height} x {sharp.width}: expected {SCALE} times as much"
                    )
        found[split] = frames
    total = sum(len(files) for frames in found.values() for files in frames.values())
    with tqdm(total=total, desc="frames", disable=not progress) as bar:
        return {
            split: _write_reds(split, frames, dst, resume, bar) for split, frames in found.items()
        }


def read_meta_info(path: str | Path) -> list[Clip]:
    """Read which clips a data set has, how long and how large they are.

    Parameters
    ----------
    path : str or Path
        Lines ``clip n_frames (H,W,C)``, with the number of context frames as an optional fourth
        field. Empty lines are skipped.

    Returns
    -------
    list of Clip

    Raises
    ------
    FileNotFoundError, ValueError
        No file, a line of another form, or a clip named twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: check the name")
    clips: dict[str, Any] = {}
    pattern = re.compile(r"(\S+)\s+(\d+)\s+\((\d+),\s*(\d+),\s*(\d+)\)(?:\s+(\d+))?\s*")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        match = pattern.fullmatch(line.strip())
        if not match:
            raise ValueError(
                f"{path}, line {number}: {line!r}, expected such as '000 100 (720,1280,3)'"
            )
        name, n_frames, *shape, context = match.groups()
        if name in clips:
            raise ValueError(f"{path}, line {number}: clip {name} is there twice")
        height, width, channels = map(int, shape)
        size = height, width, channels
        clips[name] = Clip(name, int(n_frames), size, None if context is None else int(context))
    if not clips:
        raise ValueError(f"{path} names no clip")
    return list(clips.values())


def frames_of(folder: Path) -> dict[str, Path]:
    """PNG files of all clips of a folder, by ``clip/frame``, in order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: check the name")
    return {
        f"{clip.name}/{path.name}": path
        for clip in sorted(folder.iterdir())
        if clip.is_dir()
        for path in sorted(clip.glob("*.png"))
    }


def same_frames(sharp: Iterable[str], coarse: Iterable[str], hr: Path, lr: Path) -> None:
    """Refuse two folders `hr` and `lr` unless both have the same frames, and any at all."""
    for here, there, owner, other in ((sharp, coarse, hr, lr), (coarse, sharp, lr, hr)):
        if lacking := [name for name in here if name not in there]:
            shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
            raise ValueError(
                f"{len(lacking)} frames of {owner} are not in {other}: {shown}. Copy both again"
            )
    if not sharp:
        raise ValueError(f"{hr} holds no <clip>/<frame>.png: check the folder and the meta-info")


def read_png(path: Path) -> np.ndarray:
    """A grey PNG as float32 from 0 to 1."""
    try:
        with Image.open(path) as picture:
            image = np.asarray(picture)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a whole PNG: it may be truncated, copy it") from error
    if image.ndim == 3:
        if (image[..., :1] != image[..., :3]).any():
            raise ValueError(f"{path} is in colour: turn it grey first (see convert_reds)")
        image = image[..., 0]
    top = 255 if image.dtype == np.uint8 else 65535
    return image.astype(np.float32) / top


def _write_reds(split: str, frames: Any, dst: Path, resume: bool, bar: Any) -> Reds:
    result = Reds(
        dst / f"{split}_sharp_mono_1ch",
        dst / f"{split}_sharp_mono_1ch_bicubic" / "X4",
        dst / f"{split}_meta_info.txt",
    )
    clips: dict[str, Any] = {}
    for folder, files in zip((result.hr, result.lr), frames.values(), strict=True):
        for name, path in files.items():
            out = folder / name
            out.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as picture:
                # frames appear whole, so one that is there is one
                if not (resume and out.exists() and out.stat().st_mtime >= path.stat().st_mtime):
                    with atomic_path(out) as temporary:
                        Image.merge("RGB", [picture.convert("L")] * 3).save(temporary, format="PNG")
                if folder == result.hr:
                    count, _ = clips.get(out.parent.name, (0, None))
                    clips[out.parent.name] = count + 1, (picture.height, picture.width, 3)
            bar.update()
    lines = [f"{name} {n} ({h},{w},{c})\n" for name, (n, (h, w, c)) in clips.items()]
    with atomic_path(result.meta_info) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return result
