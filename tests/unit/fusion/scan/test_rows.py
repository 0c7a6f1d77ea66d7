"""Rows of a scan that drift and jump, on fields that are known at any place."""

from tests.benchmarks.fusion_register import drift


def test_rows_are_found_to_what_their_counts_tell():
    rows = {row[:2]: row[2:] for row in drift().rows}
    y, x, _, _, _ = rows["slow, by rows", 50]
    assert y < 0.17 and x < 0.14, "0.2 without the noise of each pixel"
    for dose in (50, 500):
        _, x, _, _, least = rows["slow, and rows that jump by 0.1, 0.5", dose]
        assert x < 1.7 * least
