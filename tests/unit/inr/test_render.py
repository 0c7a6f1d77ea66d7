"""Rendering: a box is a crop to the last bit, whatever is asked for and in whatever pieces."""

import numpy as np
import pytest
import torch

from helpers.inr.fields import (
    MLP,
    FeatureGrid,
    Field,
    Identity,
    PositionalEncoding,
    RadialEncoding,
    Softplus,
    Voxels,
    extent_of,
    paper_field,
    pyramid,
)
from helpers.inr.fields.encodings import coordinates
from helpers.inr.render import render, render_sequence

SIZE = (9, 31, 27)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def waves(octaves=5, activation="relu", seed=0):
    encoding = PositionalEncoding(octaves, 2)
    network = MLP(encoding.out_features, 32, 3, activation=activation, w0=3.0,
                  generator=seeded(seed))  # fmt: skip
    return Field(encoding, network, Softplus(0.3), (0.4, 1.0, 0.9))


FIELDS = {
    "waves": waves,
    "sine": lambda: waves(2, "sine"),
    "radial": lambda: Field(
        RadialEncoding(3), MLP(33, 40, 3, skips=[1], generator=seeded()), Softplus(1.0)
    ),
    "mito": lambda: paper_field("mito", generator=seeded()),
    "tubulin": lambda: paper_field("tubulin", generator=seeded()),
    "cryo": lambda: paper_field("cryo", generator=seeded()),
}


class Sequence(list):
    """What an archive looks like to the renderer."""

    shape = (4, 9, 8)


@pytest.fixture(scope="module")
def sequence():
    return Sequence(waves(seed=s) for s in range(5))


@pytest.mark.parametrize("name", FIELDS)
def test_a_box_is_a_crop_bit_for_bit(name):
    field = FIELDS[name]()
    whole = render(field, SIZE)
    assert (whole != whole[0, 0, 0]).any()
    rng = np.random.default_rng(0)
    for _ in range(8):
        z, y, x = corner = rng.integers(0, SIZE)
        d, h, w = (int(rng.integers(1, n - c + 1)) for n, c in zip(SIZE, corner, strict=True))
        part = render(field, SIZE, roi=[x, y, z, w, h, d])
        np.testing.assert_array_equal(part, whole[z : z + d, y : y + h, x : x + w])
    single = render(field, SIZE, roi=[26, 30, 8, 1, 1, 1])
    assert single.shape == (1, 1, 1) and single[0, 0, 0] == whole[8, 30, 26]


@pytest.mark.parametrize("name", ["waves", "mito"])
def test_pieces_change_no_bit(name):
    field = FIELDS[name]()
    whole = render(field, SIZE)
    for chunk in (8 * 27, 13 * 27 + 3, 31 * 27, 2 * 31 * 27 + 1, 10**9)[
        -2 if name == "mito" else 0 :
    ]:
        np.testing.assert_array_equal(render(field, SIZE, chunk=chunk), whole)


def test_no_piece_is_larger_than_asked_and_none_is_twice():
    field, asked = waves(), []
    original = field.volume
    field.volume = lambda size, roi: asked.append(roi) or original(size, roi)
    for chunk in (40, 31 * 27, 3000):
        asked.clear()
        render(field, SIZE, roi=[2, 3, 1, 20, 25, 7], chunk=chunk)
        seen = np.zeros(SIZE, int)
        for z, y, x, d, h, w in asked:
            assert d * h * w <= chunk
            seen[z : z + d, y : y + h, x : x + w] += 1
        assert seen.sum() == 20 * 25 * 7 and (seen[1:8, 3:28, 2:22] == 1).all()


def test_the_box_has_x_first_and_counts_from_one_when_asked():
    """Free voxels show which voxel was taken."""
    field = Voxels(SIZE, Identity())
    z, y, x = np.indices(SIZE)
    with torch.no_grad():
        field.values.copy_(torch.as_tensor(10_000 * z + 100 * y + x))
    part = render(field, SIZE, roi=[3, 5, 2, 2, 4, 6])
    assert part.shape == (6, 4, 2) and part[0, 0, 0] == 20_503 and part[-1, -1, -1] == 70_804
    same = render(field, SIZE, roi=[4, 6, 3, 2, 4, 6], one_based=True)
    np.testing.assert_array_equal(part, same)
    np.testing.assert_array_equal(
        render(field, SIZE, roi=[1, 1, 1, 27, 31, 9], one_based=True), render(field, SIZE)
    )


def test_values_are_those_at_the_voxel_centres():
    field = waves()
    with torch.no_grad():
        expected = field(coordinates(SIZE, field.extent))
    np.testing.assert_allclose(render(field, SIZE), expected, rtol=1e-5)
    assert render(field, SIZE).dtype == np.float32


@pytest.mark.parametrize("name", ["waves", "grid"])
def test_twice_as_many_voxels_average_to_the_same_volume(name):
    """Check 16: the finer rendering is the same object; half a voxel of shift would be seen."""
    field = waves(3)
    if name == "grid":
        shape, g = (6, 16, 14), seeded()
        encoding = FeatureGrid(pyramid(shape, 2)[:1], 4, std=0.5, generator=g)
        extent = extent_of(shape, (0.34, 0.2, 0.2))
        field = Field(encoding, MLP(4, 16, 2, generator=g), Softplus(0.3), extent)
    with torch.no_grad():
        field.network.layers[-1].weight.mul_(20)  # an object with contrast
    size = (12, 40, 36)
    once, twice = render(field, size), render(field, tuple(2 * n for n in size))
    blocks = twice.reshape(12, 2, 40, 2, 36, 2)
    level = np.sqrt(np.mean(once**2))
    difference = np.sqrt(np.mean((blocks.mean((1, 3, 5)) - once) ** 2)) / level
    shifted = np.sqrt(np.mean((blocks[:, 0, :, 0, :, 0] - once) ** 2)) / level
    assert difference < 0.06 and shifted / difference > 1.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roi": [0, 0, 0, 5, 5]}, r"expected six whole numbers \[x, y, z, w, h, d\]"),
        ({"roi": [0, 0, 0.5, 5, 5, 5]}, "expected six whole numbers"),
        ({"roi": [0, 0, 0, 5, 0, 5]}, "roi is empty along y: its size is 0"),
        ({"roi": [0, 0, 0, -2, 5, 5]}, "roi is empty along x"),
        ({"roi": [20, 0, 0, 8, 5, 5]}, "along x: voxels 20 to 27, but counted from 0 .* 0 to 26"),
        ({"roi": [0, -1, 0, 5, 5, 5]}, "leaves the volume along y"),
        ({"roi": [0, 0, 5, 5, 5, 5]}, "along z: voxels 5 to 9, but counted from 0 .* 0 to 8"),
        ({"roi": [0, 1, 1, 5, 5, 5], "one_based": True}, "along x: voxels 0 to 4, but counted fr"),
        ({"roi": [24, 1, 1, 5, 5, 5], "one_based": True}, "counted from 1 .* has 1 to 27"),
        ({"size": (9, 31)}, r"expected whole numbers \(Z, Y, X\)"),
        ({"size": (0, 31, 27)}, "at least 1"),
        ({"chunk": 26}, "chunk is 26: at least a row, 27 voxels"),
    ],
)
def test_bad_requests_are_refused_before_any_work(change, message):
    field = waves()
    field.volume = lambda *args: pytest.fail("the field was evaluated")
    with pytest.raises(ValueError, match=message):
        render(field, **{"size": SIZE} | change)


def test_a_span_of_time(sequence):
    everything = render_sequence(sequence)
    assert everything.shape == (5, 4, 9, 8)
    for t in range(5):
        np.testing.assert_array_equal(everything[t], render(sequence[t], sequence.shape))
    np.testing.assert_array_equal(render_sequence(sequence, (1, 3)), everything[1:3])
    np.testing.assert_array_equal(
        render_sequence(sequence, [2, 3], one_based=True), everything[1:3]
    )
    np.testing.assert_array_equal(render_sequence(sequence, (5, 5), one_based=True)[0],
                                  everything[4])  # fmt: skip
    part = render_sequence(sequence, (0, 2), [1, 2, 3, 4, 5, 1])
    np.testing.assert_array_equal(part, everything[:2, 3:4, 2:7, 1:5])
    assert render_sequence(sequence, (0, 1), size=(8, 18, 16)).shape == (1, 8, 18, 16)


@pytest.mark.parametrize(
    ("t_range", "one_based", "message"),
    [
        ((2, 2), False, "t_range 2 to 2 holds no frame .counted from 0, the last not"),
        ((3, 1), False, "holds no frame"),
        ((3, 2), True, "holds no frame .counted from 1, the last included"),
        ((0, 6), False, "at most 0 to 5 for its 5 frames"),
        ((-1, 2), False, "leaves the sequence"),
        ((0, 2), True, "at most 1 to 5 for its 5 frames"),
        ((1, 6), True, "leaves the sequence"),
        ((1,), False, "expected two whole numbers"),
        ((0.5, 2), False, "expected two whole numbers"),
    ],
)
def test_a_span_without_frames_is_refused(sequence, t_range, one_based, message):
    with pytest.raises(ValueError, match=message):
        render_sequence(sequence, t_range, one_based=one_based)


def test_a_bad_box_is_refused_before_the_first_frame():
    broken = Sequence([None, None])
    with pytest.raises(ValueError, match="leaves the volume"):
        render_sequence(broken, (0, 2), [0, 0, 0, 9, 1, 1])
