"""Rooms and doors: what is public, how large a room is, and which way imports go."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from importlib import import_module

import pytest

from tests.book_files import ROOT, source, toc_pages
from tests.doors import (
    PACKAGE,
    PARTS,
    dotted,
    faces,
    imports,
    own_names,
    page_imports,
    rooms,
)
from tests.meta.test_public_paths import NAMES

FACES = faces()
ROOMS = dict(rooms())
BESIDES = {"inr.fit.losses"}  # a module that its room gives out whole
PAGES = [page for page in toc_pages() if "/api/" not in page]


@pytest.mark.parametrize("face", FACES)
def test_a_face_gives_what_it_lists(face):
    module = import_module(f"helpers.{face}")
    assert module.__doc__
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        assert hasattr(module, name), f"helpers.{face}.{name}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_a_face_and_no_other_door(room):
    """Every public function of a room is given out by its face, or by none."""
    private = room == "" or any(part in ("cpu", "backends") for part in room.split("."))
    assert private or room in FACES
    for path in ROOMS[room]:
        own_face = room in ("", *PARTS) and room != "fusion" and path.stem[0] != "_"
        assert (dotted(path) in FACES) == (own_face or dotted(path) in BESIDES), path


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_two_to_eight_files(room):
    assert 2 <= len(ROOMS[room]) <= (14 if room == "" else 8)


def test_the_reference_shows_every_face_once():
    texts = "".join(page.read_text("utf-8") for page in (ROOT / "book" / "api").glob("*.md"))
    shown = re.findall(r"^\.\. automodule:: helpers\.?([\w.]*)$", texts, re.M)
    assert len(shown) == len(set(shown))
    assert set(shown) == {face for face in FACES if own_names(face)}


def sorted_or_circle(graph):
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def files():
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def test_no_file_imports_in_a_circle():
    """Imports inside functions count as well."""
    graph = {dotted(path): set(imports(path)) - {dotted(path)} for path in files()}
    order = sorted_or_circle(graph)
    assert len(order) > 100


def test_no_room_imports_in_a_circle():
    """A room inside a room (`mle.cpu` in `mle`) counts as that room."""
    graph = {}
    for path in files():
        home = room_of(dotted(path))
        into = {room_of(module) for module in imports(path)} - {home, ""}
        if home:
            graph.setdefault(home, set()).update(into)
    assert "renderer.mle" in sorted_or_circle(graph)


def room_of(module):
    """The room of a module: two levels at most; a part's own modules are rooms of their own."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] in PARTS else ""


# 310 at first; check_camera and CameraCheck brought two, fusion.counts five, fusion.scan seven,
# inr.align two, the x-ray camera six: CoarseCamera, calibrate.camera, adaptive_blend,
# bayesian_fusion, RandomCamera, motion_groups,
# beads two, drift and blinks five, a beamtime's folder two: xray.data.flat and read_frames,
# two colour channels two, Fourier ptychography seven: Ptychography, led_directions,
# fit_transmission, TransmissionFit, explained, align.leds, LedAlignment, and square_spiral,
# an astigmatic lens two: calibrate_astigmatism, Astigmatism,
# the views of a light field two: align.views, ViewAlignment,
# heads of a complex contrast two: fields.Contrast, fields.Transmission
NAMES_AT_MOST = 357


def test_there_are_few_public_names():
    counts = {face: len(own_names(face)) for face in FACES}
    assert sum(counts.values()) <= NAMES_AT_MOST, counts
    assert max(counts.values()) <= 18, counts


@pytest.mark.parametrize("face", FACES)
def test_a_public_name_is_used_on_a_page_or_promised(face):
    text = "".join(source(page) for page in PAGES)
    promised = {name for module, name in NAMES if module == f"helpers.{face}"}
    for name in own_names(face):
        thing = getattr(import_module(f"helpers.{face}"), name)
        result = hasattr(thing, "__dataclass_fields__") or hasattr(thing, "_fields")
        used = re.search(rf"\b{name}\b", text)
        assert used or name in promised or result, f"helpers.{face}.{name} is used nowhere"


def test_a_page_comes_through_few_doors():
    """At most three statements a page on average, and few paths to remember over the book."""
    found = {page: page_imports(source(page)) for page in PAGES if "{code-cell}" in source(page)}
    statements = {page: len(paths) for page, paths in found.items()}
    assert sum(statements.values()) / len(found) <= 3, statements
    assert len({path for paths in found.values() for path in paths}) <= 25
