"""Frames of a movie kept as they are made: in memory, or on disk, where a stop loses none."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...io.files import save_h5, save_tif
from ...io.stacks import Stack

TIF = (".tif", ".tiff")
H5 = (".h5", ".hdf5")
KIND = "movie of helpers.xray"
KEYS, KEY_BYTES = "frame_keys", 16  # the name of the keys in a file; the length of each
Values = dict[str, np.ndarray]  # frames, and ensemble_std where there is one


class InMemory:
    """Frames in one array.

    Parameters
    ----------
    n : int
        Frames in all.
    """

    wants_keys = False
    arrays: dict[str, Any]

    def __init__(self, n: int) -> None:
        self.n, self.arrays = n, {}

    def get(self, n: int, key: str) -> Values | None:
        """Frame `n`, if it was made before, with this key."""
        return None

    def put(self, n: int, key: str, values: Values) -> None:
        """Keep frame `n`."""
        for name, value in values.items():
            if name not in self.arrays:
                self.arrays[name] = np.empty((self.n, *value.shape), value.dtype)
            self.arrays[name][n] = value

    def finish(
        self, tree: Mapping[str, Any], notes: Mapping[str, Any], calibration: Mapping[str, Any]
    ) -> dict[str, Any]:
        """All frames, as they are read from now on."""
        return self.arrays


class OnDisk(InMemory):
    """Frames in a Zarr folder, one chunk each, and at the end in the file that was asked for.

    A frame counts when its key stands behind it, so a process that is killed loses the frame that
    it works on. Chunks carry a checksum: half a chunk is found, and the frame made again.

    Parameters
    ----------
    out : Path
        Ends in ``.zarr``, ``.h5`` or ``.tif``. Until an .h5 or .tif is complete, the frames lie
        beside it in ``<out>.unfinished``.
    n : int
    names : sequence of str
        Of the images of a frame.
    resume : bool
        Take the frames that are there with the same key.
    """

    wants_keys = True

    def __init__(self, out: Path, n: int, names: Sequence[str], resume: bool) -> None:
        import zarr

        super().__init__(n)
        self.out, self.names, self.zarr = out, names, zarr
        self.folder = out if out.suffix == ".zarr" else out.with_name(out.name + ".unfinished")
        if self.folder.exists() and not self._is_ours():
            raise FileExistsError(f"{self.folder} holds something else: choose another name")
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.group = zarr.open_group(self.folder, mode="a", attributes={"kind": KIND})
        self.arrays = dict(self.group.arrays())
        self.before = self._complete() if resume and out != self.folder and out.is_file() else {}

    def _is_ours(self) -> bool:
        try:
            return self.zarr.open_group(self.folder, mode="r").attrs.get("kind") == KIND
        except (OSError, ValueError, TypeError):
            return not any(self.folder.iterdir()) if self.folder.is_dir() else False

    def get(self, n: int, key: str) -> Values | None:
        """Frame `n`, if it is there, whole, and has this key."""
        for arrays in (self.arrays, self.before):
            try:
                keys = arrays[KEYS]
                if keys.shape[0] != self.n or keys[n].tobytes().hex() != key:
                    continue
                values = {name: np.asarray(arrays[name][n]) for name in self.names}
            except Exception:  # half a chunk: codecs and stores have errors of their own
                continue
            if arrays is self.before:
                self.put(n, key, values)
            return values
        return None

    def put(self, n: int, key: str, values: Values) -> None:
        """Write frame `n`, and then its key."""
        mark = np.frombuffer(bytes.fromhex(key), np.uint8)
        with self.zarr.config.set({"array.write_empty_chunks": True}):
            self._array(KEYS, mark)[n] = 0  # what was there is whole no longer
            for name, value in values.items():
                self._array(name, value)[n] = value
            self._array(KEYS, mark)[n] = mark

    def _array(self, name: str, value: np.ndarray) -> Any:
        shape, known = (self.n, *value.shape), self.arrays.get(name)
        if known is None or known.shape != shape or known.dtype != value.dtype:
            from zarr.codecs import Crc32cCodec, ZstdCodec

            self.arrays[name] = self.group.create_array(
                name,
                shape=shape,
                dtype=value.dtype,
                chunks=(1, *value.shape),
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
                dimension_names=("t", "y", "x") if value.ndim == 2 else None,
                overwrite=True,
            )
        return self.arrays[name]

    def finish(
        self, tree: Mapping[str, Any], notes: Mapping[str, Any], calibration: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write what is left, and give the frames as they are read from the file."""
        images = {name: self.arrays[name] for name in (*self.names, KEYS)}
        if self.folder == self.out:
            for name in self.arrays.keys() - images.keys():
                del self.group[name]  # of an earlier call
            for name, value in _flat(tree):
                self.group.create_array(name, data=np.asarray(value), overwrite=True)
            self.group.attrs.update(dict(notes))
            return {name: Stack(self.out / name) for name in self.names}
        if self.out.suffix in H5:
            save_h5(self.out, {**images, **tree}, notes)
        else:
            keys = {KEYS: np.asarray(images[KEYS]).tobytes().hex()}
            facts = {**notes, **keys}
            save_tif(self.out, images["frames"], axes="TYX", attributes=facts, **calibration)
        shutil.rmtree(self.folder)
        if self.out.suffix in H5:
            return {name: Stack(self.out, dataset=name) for name in self.names}
        return {"frames": Stack(self.out)}

    def _complete(self) -> dict[str, Any]:
        """Frames of the file that an earlier call has completed."""
        try:
            if self.out.suffix in TIF:
                return {"frames": Stack(self.out), KEYS: _keys_of(self.out)}
            stacks: dict[str, Any] = {n: Stack(self.out, dataset=n) for n in self.names}
            with h5py.File(self.out) as file:
                return stacks | {KEYS: file[KEYS][...]}
        except (OSError, ValueError, KeyError):
            return {}


def store(out: str | Path | None, n: int, resume: bool, ensemble_std: bool) -> InMemory:
    """Room for n frames; a ValueError where `out` cannot hold them."""
    if out is None:
        return InMemory(n)
    out = Path(out)
    if out.suffix not in (".zarr", *H5, *TIF):
        raise ValueError(f"out ends in {out.suffix!r}: use .zarr, .h5 or .tif")
    if ensemble_std and out.suffix in TIF:
        raise ValueError("a .tif has room for the frames alone: use .h5 or .zarr with ensemble_std")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is not a folder: make it first")
    try:
        names = ("frames", "ensemble_std") if ensemble_std else ("frames",)
        return OnDisk(out, n, names, resume)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: out= needs zarr, pip install zarr") from error


def _keys_of(path: Path) -> np.ndarray:
    """The keys (n, bytes) of the frames of a .tif, none where another program wrote it."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        text = str((file.imagej_metadata or {}).get("Info", ""))
    found = re.search(rf"^{KEYS} = ([0-9a-f]+)$", text, re.M)
    keys = np.frombuffer(bytes.fromhex(found[1] if found else ""), np.uint8)
    return keys.reshape(-1, KEY_BYTES)


def _flat(tree: Mapping[str, Any], where: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for name, value in tree.items():
        at = where + name
        leaves += _flat(value, at + "/") if isinstance(value, Mapping) else [(at, value)]
    return leaves
