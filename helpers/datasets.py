"""Measured data by name, checked to the last bit; their simulated twins when there is no network.

`load` looks in ``HELPERS_DATA_DIR`` and its folder of the data set's name, then in the cache, then
downloads. Only a missing network
leads to the twin, and the data set says so. A damaged file is an error, never a twin.

Some data sets are large, or are published without a checksum: their cards say how a reader fetches
them by hand. They are checked by shape, and opened without being loaded.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import pkgutil
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pooch
import requests
from scipy.io import loadmat

from .io.files import load_h5, load_tif
from .io.stacks import Stack

__all__ = ["Dataset", "data_folder", "describe", "fetch", "load", "names"]

Card: TypeAlias = dict[str, Any]
Origin: TypeAlias = Literal["local", "cache", "download", "twin"]

TIMEOUT = (5, 30)  # seconds to connect, and between two pieces of a file


class NoNetwork(ConnectionError):
    """The data are not on this machine and cannot be reached."""


@dataclass(frozen=True)
class Dataset:
    """Arrays with what is known about them, and where they come from.

    Parameters
    ----------
    name : str
        Name in the registry.
    arrays : dict of str -> numpy.ndarray, or helpers.io.Stack where fetched by hand
        The data; ``dataset["HAADF"]`` is short for ``dataset.arrays["HAADF"]``.
    card : dict
        Facts: citation, licence, source, atomic numbers, `pixel_size` and `unit` (None and "px"
        where the pixel size is not known), acquisition.
    origin : "local", "cache", "download" or "twin"
        Where the arrays come from; "twin" is a simulation.

    Examples
    --------
    >>> twin = Dataset("a", {"HAADF": np.ones((2, 3))}, {"title": "A crystal"}, "twin")
    >>> twin["HAADF"].shape
    (2, 3)
    >>> print(twin.note)
    simulated twin, not the measurement: set HELPERS_DATA_DIR or allow the download
    """

    name: str
    arrays: dict[str, np.ndarray] | dict[str, Stack] = field(repr=False)
    card: Card = field(repr=False)
    origin: Origin

    def __getitem__(self, key: str) -> np.ndarray | Stack:
        if key not in self.arrays:
            raise KeyError(f"{key!r} is not in {self.name!r}, which has {', '.join(self.arrays)}")
        return self.arrays[key]

    @property
    def is_twin(self) -> bool:
        """True for a simulation that stands in for the measurement."""
        return self.origin == "twin"

    @property
    def note(self) -> str:
        """Sentence that a page must say about these data."""
        if self.is_twin:
            how = self.card.get("by_hand", "set HELPERS_DATA_DIR or allow the download")
            return f"simulated twin, not the measurement: {how}"
        return f"measured data ({self.origin}); {self.card['source']}; {self.card['licence']}"

    def __repr__(self) -> str:
        shapes = ", ".join(f"{key} {value.shape}" for key, value in self.arrays.items())
        return f"{self.name}: {shapes}\n{self.note}"

    def _repr_html_(self) -> str:
        title, note = html.escape(self.card.get("title", self.name)), html.escape(self.note)
        if not self.is_twin:
            return f"<p><b>{title}</b>: {note}</p>"
        return (
            '<div class="admonition warning twin" style="border-left:.3rem solid #d55e00">'
            f'<p class="admonition-title"><b>{title}</b></p>'
            f"<p>{note[0].upper()}{note[1:]}.</p></div>"
        )


def names() -> list[str]:
    """List the names that `load` knows.

    Examples
    --------
    >>> {"core_shell", "dysco3"} <= set(names())
    True
    """
    return sorted(registry())


def describe(name: str) -> Card:
    """Give the card of a data set: what it is, its licence and how to cite it.

    Examples
    --------
    >>> describe("dysco3")["atomic_numbers"]
    {'Sc': 21, 'Dy': 66, 'O': 8}
    """
    if name not in registry():
        raise ValueError(f"no data set is called {name!r}: use one of {', '.join(names())}")
    return dict(registry()[name])


def load(name: str) -> Dataset:
    """Load a data set: from ``HELPERS_DATA_DIR``, the cache or a download, else its twin.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        The name is unknown, or a file is not the published one: both checksums are given.
    FileNotFoundError
        ``HELPERS_DATA_DIR`` is not a folder.
    OSError
        The server answered with an error, or broke off twice.

    Notes
    -----
    ``HELPERS_OFFLINE=1`` forbids the download, ``HELPERS_CACHE_DIR`` moves the cache.
    """
    card = describe(name)
    try:
        path, origin = fetch(name)
    except NoNetwork:
        return Dataset(name, pkgutil.resolve_name(card["twin"])(), card, "twin")
    arrays = _stacks(path, card) if "files" in card else _part(_read(path), card)
    return Dataset(name, arrays, card, origin)


def fetch(name: str) -> tuple[Path, Origin]:
    """Give the checked file of a data set, downloaded to the cache if it must be.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    path : Path
        Of the folder, for data that are fetched by hand.
    origin : "local", "cache" or "download"

    Raises
    ------
    NoNetwork
        The file is not here and cannot be reached, or ``HELPERS_OFFLINE=1``, or a reader has to
        fetch it by hand.
    ValueError, FileNotFoundError, OSError
        As for `load`.
    """
    found = find(name)
    if found:
        return found
    card = describe(name)
    if "by_hand" in card:
        raise NoNetwork(f"{name} is not on this machine: {card['by_hand']}")
    if _is_set("HELPERS_OFFLINE"):
        raise NoNetwork(f"{card['file']} is not on this machine and HELPERS_OFFLINE is set")
    return _download(card), "download"


def find(name: str) -> tuple[Path, Origin] | None:
    """Look for the file of a data set on this machine.

    Returns
    -------
    (path, "local" or "cache") or None
        The file, its checksum verified; or the folder of files that were fetched by hand, their
        shapes verified.

    Raises
    ------
    ValueError, FileNotFoundError
        The file is not the published one, or ``HELPERS_DATA_DIR`` is not a folder.
    """
    card = describe(name)
    own = os.environ.get("HELPERS_DATA_DIR")
    if own and not Path(own).is_dir():
        raise FileNotFoundError(
            f"HELPERS_DATA_DIR is {own!r}, which is not a folder: correct or unset it"
        )
    # one folder for all files, or one for each set
    places = [Path(own), Path(own) / name, Path(own) / "measured" / name] if own else []
    folders: list[tuple[Path, Origin]] = [(place, "local") for place in places]
    for folder, origin in [*folders, (cache_folder(), "cache")]:
        if "files" in card:
            if _stacks(folder, card):
                return folder, origin
            continue
        for kept in (card, card.get("crop")):  # the published file, or the part that is used
            if kept and (path := folder / kept["file"]).exists():
                _verify(path, kept)
                return path, origin
    return None


def cache_folder() -> Path:
    """Give the folder that keeps downloads: ``HELPERS_CACHE_DIR`` or the system's place for it."""
    chosen = os.environ.get("HELPERS_CACHE_DIR")
    return Path(chosen or pooch.os_cache("computational-microscopy-book"))


def data_folder() -> Path:
    """Give the folder `data` of the source tree, else the copy that was installed."""
    source = Path(__file__).parents[1]
    if (source / "pyproject.toml").exists() and (source / "data" / "registry.json").exists():
        return source / "data"
    return Path(__file__).with_name("_data")


@cache
def registry() -> dict[str, Card]:
    """Read ``data/registry.json``: the card of every data set by name."""
    path = data_folder() / "registry.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} was not installed: install the package again")
    return json.loads(path.read_text("utf-8"))


def _part(arrays: dict[str, np.ndarray], card: Card) -> dict[str, np.ndarray]:
    """The pages of a stack that the card names, under that name; else all arrays."""
    for name, (start, end) in card.get("part", {}).items():
        if name not in arrays:  # the whole stack, and not the part alone
            return {name: arrays["image"][start:end]}
        return {name: arrays[name]}
    return arrays


def _is_set(flag: str) -> bool:
    return os.environ.get(flag, "0") not in ("", "0")


def _download(card: Card) -> Path:
    book = pooch.create(
        cache_folder(),
        base_url="",
        registry={card["file"]: f"sha256:{card['sha256']}"},
        urls={card["file"]: card["url"]},
        retry_if_failed=1,
    )
    # a built page must stay free of bars and of pooch's log, which would be warnings there
    pooch.get_logger().setLevel("WARNING")
    http = pooch.HTTPDownloader(progressbar=not _is_set("HELPERS_STATIC"), timeout=TIMEOUT)
    try:
        return Path(book.fetch(card["file"], downloader=http))
    except (requests.ConnectionError, requests.Timeout) as error:
        raise NoNetwork(f"{card['url']} cannot be reached: {error}") from error
    except requests.RequestException as error:
        raise OSError(
            f"the download of {card['url']} failed ({error}): try again later, fetch the file by "
            f"hand into a folder named by HELPERS_DATA_DIR, or set HELPERS_OFFLINE=1 for the twin"
        ) from error
    except ValueError as error:  # pooch found another checksum, and kept no file
        raise ValueError(
            f"{card['url']} gave another file, expected sha256 {card['sha256']} ({error}): "
            "a proxy may have answered; fetch it by hand into a folder named by HELPERS_DATA_DIR"
        ) from error


def _verify(path: Path, card: Card) -> None:
    got = pooch.file_hash(str(path))
    if got == card["sha256"] or _holds_what_is_published(path, card):
        return
    size = path.stat().st_size
    raise ValueError(
        f"{path} is not the published file: expected sha256 {card['sha256']} "
        f"({card['bytes']} bytes), got {got} ({size} bytes): delete it and load again"
    )


def _holds_what_is_published(path: Path, card: Card) -> bool:
    """Compare the arrays of a file that a reader makes: its bytes hang on the packer's version."""
    if "sha256_arrays" not in card:
        return False
    digest = hashlib.sha256()
    try:
        arrays = _read(path)
        for name in card["arrays"]:
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return False
    return digest.hexdigest() == card["sha256_arrays"]


def _stacks(folder: Path, card: Card) -> dict[str, Stack]:
    """Open the files of a card that a reader has put in a folder; an empty dict if there is none.

    They have no published checksum: their number of pages and pixels must be as on the card.
    """
    paths = {key: folder / file for key, file in card["files"].items()}
    missing = [path.name for path in paths.values() if not path.exists()]
    if len(missing) == len(paths):
        return {}
    if missing:
        raise FileNotFoundError(
            f"{folder} has only a part of the files: {', '.join(missing)} is not there: "
            f"{card['by_hand']}"
        )
    stacks = {key: Stack(path).frames for key, path in paths.items()}
    for key, stack in stacks.items():
        expected = card["arrays"][key]
        if any(n is not None and n != m for n, m in zip(expected, stack.shape, strict=True)):
            shape = " x ".join("any" if n is None else str(n) for n in expected)
            raise ValueError(
                f"{stack} is not the published file, which has {shape}: fetch it again from "
                f"{card['url']}"
            )
    return stacks


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read every array of a file by its kind."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    if path.suffix in (".h5", ".hdf5"):
        return load_h5(path)[0]
    if path.suffix in (".tif", ".tiff"):
        return {"image": load_tif(path).image}
    if path.suffix == ".mat":  # its single numbers are on the card
        return {k: v for k, v in loadmat(path).items() if k[0] != "_" and v.size > 1}
    if path.suffix == ".bcf":
        return _read_bcf(path)
    raise ValueError(f"{path.name}: use .npz, .h5, .tif, .mat or .bcf in the registry")


def _read_bcf(path: Path) -> dict[str, np.ndarray]:
    """Image and spectra of a Bruker file, and the energies in keV."""
    try:
        reader = import_module("rsciio.bruker").file_reader
    except ImportError as error:
        raise ValueError(f"{path} is read by rsciio: pip install rosettasciio") from error
    image, spectra = reader(str(path))
    axis = spectra["axes"][-1]
    energies = axis["offset"] + axis["scale"] * np.arange(axis["size"])
    return {"HAADF": image["data"], "EDX": spectra["data"], "energies": energies}
