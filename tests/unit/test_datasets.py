"""Data by name: every way in, every damage, and the twin only where there is no network."""

import hashlib
import os
import socket
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pooch
import pytest
import tifffile

from helpers import datasets
from helpers.datasets import Dataset, NoNetwork
from helpers.io import save_h5

ORIGINAL = dict(datasets.registry())
BY_HAND = sorted(name for name, card in ORIGINAL.items() if "by_hand" in card)
PUBLISHED = sorted(set(ORIGINAL) - set(BY_HAND))


@pytest.fixture
def crystal(tmp_path, monkeypatch):
    """A small published file, a registry with it, and a machine that has nothing yet."""
    folder = tmp_path / "published"
    folder.mkdir()
    values = np.random.default_rng(0).random((64, 64))
    np.savez(folder / "crystal.npz", HAADF=values, Sc=values / 2)
    data = (folder / "crystal.npz").read_bytes()
    card = {
        "title": "A crystal <small>",
        "file": "crystal.npz",
        "url": "http://127.0.0.1:1/crystal.npz",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "source": "a test",
        "licence": "CC0",
        "twin": "twins_of_the_tests:crystal",
    }
    twins = types.SimpleNamespace(crystal=lambda: {"HAADF": np.zeros((8, 8))})
    monkeypatch.setitem(sys.modules, "twins_of_the_tests", twins)
    monkeypatch.setattr(datasets, "registry", lambda: {"crystal": card})
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HELPERS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HELPERS_DATA_DIR", "HELPERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return types.SimpleNamespace(card=card, data=data, folder=folder, values=values)


@pytest.fixture
def server(crystal):
    """A web server that answers with `server.answer(request)` and counts the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            web.requests += 1
            web.answer(self)

        def log_message(self, *args):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.requests = 0
    threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
    crystal.card["url"] = f"http://127.0.0.1:{web.server_port}/crystal.npz"
    yield web
    web.shutdown()
    web.server_close()


def send(data, length=None, status=200):
    def answer(request):
        request.send_response(status)
        request.send_header("Content-Length", str(length or len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def cached(tmp_path):
    folder = tmp_path / "cache"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_a_good_download_is_kept_and_used_again(crystal, server, tmp_path):
    server.answer = send(crystal.data)
    first, second = datasets.load("crystal"), datasets.load("crystal")
    assert (first.origin, second.origin, server.requests) == ("download", "cache", 1)
    np.testing.assert_array_equal(second["HAADF"], crystal.values)
    assert not first.is_twin and first.note.startswith("measured data (download); a test; CC0")


def test_a_built_page_gets_no_chatter(crystal, server, monkeypatch, capfd, caplog):
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    pooch.get_logger().setLevel("INFO")
    server.answer = send(crystal.data)
    monkeypatch.setenv("HELPERS_STATIC", "1")
    datasets.load("crystal")
    assert capfd.readouterr() == ("", "") and caplog.records == []


def test_an_altered_download_is_an_error_and_is_not_kept(crystal, server, tmp_path):
    server.answer = send(crystal.data[:-1] + b"x")
    with pytest.raises(ValueError, match=f"expected sha256 {crystal.card['sha256']}") as caught:
        datasets.load("crystal")
    assert crystal.card["url"] in str(caught.value) and cached(tmp_path) == []


def test_a_truncated_download_is_an_error_and_is_not_kept(crystal, server, tmp_path):
    server.answer = send(crystal.data[: len(crystal.data) // 2], length=len(crystal.data))
    with pytest.raises(OSError, match="failed .*HELPERS_OFFLINE=1 for the twin"):
        datasets.load("crystal")
    assert server.requests == 2, "it is tried once more"
    assert cached(tmp_path) == []


def test_one_hiccup_is_tried_again(crystal, server):
    def answer(request):
        (send(b"", status=503) if server.requests == 1 else send(crystal.data))(request)

    server.answer = answer
    assert datasets.load("crystal").origin == "download" and server.requests == 2


def test_a_missing_page_is_an_error_not_a_twin(crystal, server):
    server.answer = send(b"gone", status=404)
    with pytest.raises(OSError, match="404"):
        datasets.load("crystal")


def test_no_network_gives_the_twin_and_says_so(crystal):
    with socket.socket() as free:  # a port that refuses
        free.bind(("127.0.0.1", 0))
        crystal.card["url"] = f"http://127.0.0.1:{free.getsockname()[1]}/crystal.npz"
    twin = datasets.load("crystal")
    assert twin.is_twin and twin["HAADF"].shape == (8, 8)
    assert "not the measurement" in twin.note and twin.note in repr(twin)
    shown = twin._repr_html_()
    assert "warning" in shown and "imulated twin" in shown and "A crystal &lt;small&gt;" in shown
    with pytest.raises(NoNetwork, match="cannot be reached"):
        datasets.fetch("crystal")


def test_offline_asks_nobody(crystal, server, monkeypatch):
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    server.answer = send(crystal.data)
    assert datasets.load("crystal").is_twin and server.requests == 0


def test_the_readers_own_folder_comes_first(crystal, server, monkeypatch):
    monkeypatch.setenv("HELPERS_DATA_DIR", str(crystal.folder))
    server.answer = send(crystal.data)
    found = datasets.load("crystal")
    assert found.origin == "local" and server.requests == 0
    assert "warning" not in found._repr_html_() and "CC0" in found._repr_html_()


def test_an_empty_readers_folder_is_passed_over(crystal, server, monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("HELPERS_DATA_DIR", str(tmp_path / "mine"))
    server.answer = send(crystal.data)
    assert datasets.load("crystal").origin == "download"


@pytest.mark.parametrize("damage", [lambda d: d[:1000], lambda d: d[:-1] + b"x", lambda d: b""])
@pytest.mark.parametrize("place", ["HELPERS_DATA_DIR", "HELPERS_CACHE_DIR"])
def test_a_damaged_file_is_an_error_even_offline(crystal, monkeypatch, damage, place):
    bad = damage(crystal.data)
    (crystal.folder / "crystal.npz").write_bytes(bad)
    monkeypatch.setenv(place, str(crystal.folder))
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    with pytest.raises(ValueError, match="delete it and load again") as caught:
        datasets.load("crystal")
    for part in ("crystal.npz", crystal.card["sha256"], hashlib.sha256(bad).hexdigest()):
        assert part in str(caught.value)


def test_a_data_folder_that_does_not_exist_is_an_error(crystal, monkeypatch, tmp_path):
    monkeypatch.setenv("HELPERS_DATA_DIR", str(tmp_path / "typo"))
    with pytest.raises(FileNotFoundError, match="typo.*correct or unset it"):
        datasets.load("crystal")


def test_unknown_names_and_keys_list_the_known_ones(crystal):
    with pytest.raises(ValueError, match="no data set is called 'quartz': use one of crystal"):
        datasets.load("quartz")
    with pytest.raises(KeyError, match="'Ti' is not in 'a', which has HAADF"):
        Dataset("a", {"HAADF": np.ones(2)}, {}, "twin")["Ti"]


def test_h5_and_tif_are_read_too(crystal, monkeypatch):
    save_h5(crystal.folder / "a.h5", {"Co": crystal.values})
    tifffile.imwrite(crystal.folder / "a.tif", crystal.values)
    monkeypatch.setenv("HELPERS_DATA_DIR", str(crystal.folder))
    for file, key in (("a.h5", "Co"), ("a.tif", "image")):
        digest = hashlib.sha256((crystal.folder / file).read_bytes()).hexdigest()
        crystal.card |= {"file": file, "sha256": digest}
        np.testing.assert_array_equal(datasets.load("crystal")[key], crystal.values)


def test_a_part_of_a_stack_and_a_file_that_holds_only_the_part(crystal, monkeypatch):
    stack = np.arange(10 * 4 * 5, dtype="uint16").reshape(10, 4, 5)
    tifffile.imwrite(crystal.folder / "a.tif", stack)
    np.savez(crystal.folder / "b.npz", movie=stack[3:7], first=3)
    monkeypatch.setenv("HELPERS_DATA_DIR", str(crystal.folder))
    digests = {
        f: hashlib.sha256((crystal.folder / f).read_bytes()).hexdigest() for f in ("a.tif", "b.npz")
    }
    crop = {"file": "b.npz", "sha256": digests["b.npz"], "bytes": None}
    crystal.card |= {"file": "a.tif", "sha256": digests["a.tif"], "crop": crop}
    crystal.card["part"] = {"movie": [3, 7]}
    np.testing.assert_array_equal(datasets.load("crystal")["movie"], stack[3:7])
    (crystal.folder / "a.tif").unlink()
    np.testing.assert_array_equal(datasets.load("crystal")["movie"], stack[3:7])


def test_a_file_that_a_reader_makes_is_known_by_its_arrays(crystal, monkeypatch):
    """Packers differ, and so do the bytes of two files with the same arrays."""
    monkeypatch.setenv("HELPERS_DATA_DIR", str(crystal.folder))
    np.savez(crystal.folder / "crystal.npz", first=3, movie=crystal.values)
    whole = hashlib.sha256(crystal.values.tobytes()).hexdigest()
    crystal.card |= {"arrays": {"movie": crystal.values.shape}, "sha256_arrays": whole}
    np.testing.assert_array_equal(datasets.load("crystal")["movie"], crystal.values)
    np.savez(crystal.folder / "crystal.npz", movie=crystal.values + 1)
    with pytest.raises(ValueError, match="delete it and load again"):
        datasets.load("crystal")
    (crystal.folder / "crystal.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match="delete it and load again"):
        datasets.load("crystal")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_cards_are_complete(name):
    card = ORIGINAL[name]
    assert len(card["sha256"]) == 64 and card["url"].endswith(card["file"])
    if "atomic_numbers" in card:
        assert set(card["arrays"]) == {"HAADF", *card["atomic_numbers"]}
    assert {"title", "licence", "citation", "source", "pixel_size", "unit"} <= set(card)


def dtypes(card):
    """Kinds of numbers of a card: one for all arrays, or one for each."""
    return set(card["dtype"].values()) if isinstance(card["dtype"], dict) else {card["dtype"]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_twins_look_like_the_measurements(name, monkeypatch, tmp_path):
    monkeypatch.delenv("HELPERS_DATA_DIR", raising=False)
    monkeypatch.setenv("HELPERS_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    twin = datasets.load(name)
    shapes = {key: list(value.shape) for key, value in twin.arrays.items()}
    assert twin.is_twin and shapes == ORIGINAL[name]["arrays"]
    assert {str(value.dtype) for value in twin.arrays.values()} == dtypes(ORIGINAL[name])
    beside = {"energies", "aberration"}  # no images
    images = [value for key, value in twin.arrays.items() if key not in beside]
    assert all(value.min() >= 0 and value.std() > 0 for value in images)


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """A card of data that are fetched by hand, and a folder with its files."""
    folder = tmp_path / "mine"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 4000, (6, 30, 40)).astype("uint16")
    tifffile.imwrite(folder / "short.tif", frames)
    tifffile.imwrite(folder / "long.tif", frames // 2)
    card = {
        "title": "Cells",
        "file": "short.tif",
        "files": {"noisy": "short.tif", "clean": "long.tif"},
        "url": "https://doi.org/10.0/0",
        "by_hand": "put short.tif and long.tif into HELPERS_DATA_DIR",
        "arrays": {"noisy": [None, 30, 40], "clean": [6, 30, 40]},
        "source": "a test",
        "licence": "CC0",
        "twin": "twins_of_the_tests:cells",
    }
    twins = types.SimpleNamespace(cells=lambda: {"noisy": np.zeros((2, 8, 8))})
    monkeypatch.setitem(sys.modules, "twins_of_the_tests", twins)
    monkeypatch.setattr(datasets, "registry", lambda: {"cells": card})
    monkeypatch.setenv("HELPERS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HELPERS_DATA_DIR", str(folder))
    monkeypatch.delenv("HELPERS_OFFLINE", raising=False)
    return types.SimpleNamespace(card=card, folder=folder, frames=frames)


def test_files_fetched_by_hand_are_opened(cells):
    data = datasets.load("cells")
    assert data.origin == "local" and datasets.find("cells") == (cells.folder, "local")
    np.testing.assert_array_equal(data["noisy"][3], cells.frames[3])
    np.testing.assert_array_equal(np.asarray(data["clean"]), cells.frames // 2)
    assert data["noisy"].shape == (6, 30, 40) and "measured data" in data.note


def test_without_them_the_twin_says_how_to_fetch_them(cells, monkeypatch, tmp_path):
    monkeypatch.delenv("HELPERS_DATA_DIR")
    twin = datasets.load("cells")
    assert twin.is_twin and twin.note.endswith("put short.tif and long.tif into HELPERS_DATA_DIR")
    with pytest.raises(NoNetwork, match="put short.tif"):
        datasets.fetch("cells")


def test_a_part_of_them_or_another_file_is_an_error(cells):
    tifffile.imwrite(cells.folder / "long.tif", cells.frames[:5])
    with pytest.raises(ValueError, match="long.tif: 5 x 30 x 40, uint16.*published .* 6 x 30 x 40"):
        datasets.load("cells")
    whole = (cells.folder / "short.tif").read_bytes()
    (cells.folder / "short.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="stops in the middle"):
        datasets.load("cells")
    (cells.folder / "long.tif").unlink()
    with pytest.raises(FileNotFoundError, match="long.tif is not there: put short.tif and"):
        datasets.load("cells")


@pytest.mark.parametrize("name", BY_HAND)
def test_cards_of_files_to_fetch_by_hand_say_what_to_do(name):
    card = ORIGINAL[name]
    files = card.get("files", {"": card["file"]})  # several, or one with a checksum
    assert "sha256" in card or set(files) == set(card["arrays"])
    assert {"title", "licence", "citation", "source", "pixel_size", "unit", "url"} <= set(card)
    for file in files.values():
        assert file in card["by_hand"]
    assert card["url"] in card["by_hand"] and "HELPERS_DATA_DIR" in card["by_hand"]


@pytest.mark.parametrize("name", BY_HAND)
def test_their_twins_are_grey_levels_too(name, monkeypatch, tmp_path):
    monkeypatch.delenv("HELPERS_DATA_DIR", raising=False)
    monkeypatch.setenv("HELPERS_CACHE_DIR", str(tmp_path))
    twin, again = datasets.load(name), datasets.load(name)
    assert twin.is_twin and set(twin.arrays) == set(ORIGINAL[name]["arrays"])
    for key, value in twin.arrays.items():
        expected = ORIGINAL[name].get("dtype", "uint16")
        expected = expected if isinstance(expected, str) else expected[key]
        assert value.dtype == expected and value.ndim == len(ORIGINAL[name]["arrays"][key])
        assert value.std() > 0
        np.testing.assert_array_equal(value, again[key])


@pytest.mark.skipif("HELPERS_DATA_DIR" not in os.environ, reason="HELPERS_DATA_DIR is not set")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_real_files_are_what_their_cards_say(name):
    data = datasets.load(name)
    assert data.origin == "local"
    shapes = {key: list(value.shape) for key, value in data.arrays.items()}
    assert shapes == data.card["arrays"]
    assert {str(value.dtype) for value in data.arrays.values()} == dtypes(data.card)
