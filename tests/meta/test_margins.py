"""Every assertion that rests on chance has its margin on file (tests/tools tests the measuring)."""

from __future__ import annotations

from tests.margins import store

MEASURE = "run `python -m tests.margins`, mend what it prints, and commit what it wrote"


def test_every_file_was_measured_as_it_is_now():
    why = [f"{path} {reason}" for path, reason in store.stale().items()]
    assert not why, "\n".join([MEASURE, *why])


def test_every_margin_is_wide_enough():
    found = [f"{path}: {entry}" for path, entry in store.fragile()]
    assert not found, "\n".join([f"margins below {store.Z} standard deviations:", *found])
