"""The axis and the drift of a real tilt series, against points whose shadows are known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate, shift

from helpers.inr.tomography import ParallelBeam, sirt
from helpers.operators import check_adjoint

ANGLES = [-50.0, -10.0, 0.0, 35.0, 90.0]
SHAPE = (17, 15, 21)
POINT = (3.0, -2.0, 4.0)  # z, y, x from the middle
SHIFTS = np.array([[0.5, -1.0], [2.0, 0.25], [0.0, 0.0], [-1.25, 1.5], [0.3, -0.6]])


def blob(shape=SHAPE, centre=POINT, sigma=1.5):
    grids = [np.arange(n) - (n - 1) / 2 - c for n, c in zip(shape, centre, strict=True)]
    z, y, x = np.meshgrid(*grids, indexing="ij")
    return np.exp(-(z**2 + y**2 + x**2) / (2 * sigma**2))


def centres(images):
    """Centres of mass (N, 2) of images, from the middle."""
    axes = [np.arange(n) - (n - 1) / 2 for n in images.shape[1:]]
    total = images.sum((1, 2))
    along = (images.sum(2) @ axes[0]) / total
    return np.stack([along, (images.sum(1) @ axes[1]) / total], 1)


def expected(offset, turn, shifts, point=POINT):
    z, y, x = point
    theta, alpha = np.deg2rad(ANGLES), np.deg2rad(turn)
    s = x * np.cos(theta) + z * np.sin(theta)
    along = y * np.cos(alpha) + s * np.sin(alpha)
    across = s * np.cos(alpha) - y * np.sin(alpha) + offset
    return np.stack([along, across], 1) + shifts


GEOMETRIES = [
    {"offset": 2.4},
    {"shifts": SHIFTS},
    {"axis_deg": 8.0},
    {"offset": -1.3, "axis_deg": -6.0, "shifts": SHIFTS, "height": 19},
    {"offset": 0.7, "shifts": SHIFTS, "voxel_size": (0.5, 1.0, 1.0)},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_point_falls_where_the_equation_says(geometry):
    step = geometry.get("voxel_size", (1.0, 1.0, 1.0))[0]
    z, y, x = POINT
    volume = blob((round(17 / step), *SHAPE[1:]), (z / step, y, x))
    op = ParallelBeam(ANGLES, volume.shape, 31, **geometry)
    shifts = geometry.get("shifts", 0.0)
    wanted = expected(geometry.get("offset", 0.0), geometry.get("axis_deg", 0.0), shifts)
    if step != 1:  # the blob is as wide in voxels, so half as thick in z
        wanted = expected(geometry["offset"], 0.0, shifts)
    np.testing.assert_allclose(centres(op(volume)), wanted, atol=0.03)
    np.testing.assert_allclose(op(volume).sum((1, 2)), volume.sum(), rtol=0.01)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("axis", ["Y", "X"])
def test_the_adjoint_is_exact(geometry, axis):
    op = ParallelBeam(ANGLES, (6, 7, 8), 9, axis=axis, **geometry)
    assert check_adjoint(op) < 1e-13
    assert check_adjoint(op.select([0, 3])) < 1e-13
    moved = op.at({"offset": torch.tensor(0.4)}, interpolated=True)
    assert check_adjoint(moved) < 1e-13


def test_an_axis_along_x_is_the_same_with_both_axes_exchanged():
    volume = blob()
    settings = {"offset": 1.2, "axis_deg": 3.0, "shifts": SHIFTS}
    along_y = ParallelBeam(ANGLES, SHAPE, 31, **settings)(volume)
    other = volume.swapaxes(1, 2)
    op = ParallelBeam(ANGLES, other.shape, 31, axis="X", **settings)
    assert op.out_shape == (5, 31, 15)
    np.testing.assert_allclose(op(other).swapaxes(1, 2), along_y, atol=1e-12)


def test_a_straight_shift_moves_the_image():
    """Against scipy's spline: across exactly the trapezoids, along a cubic interpolation."""
    volume = blob()
    plain = ParallelBeam([20.0], SHAPE, 31)(volume)[0]
    moved = ParallelBeam([20.0], SHAPE, 31, shifts=[[0.6, -1.7]])(volume)[0]
    reference = shift(plain, (0.6, -1.7), order=5)
    assert np.abs(moved - reference).max() < 0.01 * plain.max()
    turned = ParallelBeam([20.0], SHAPE, 31, axis_deg=5.0, height=31)(volume)[0]
    padded = np.pad(plain, ((8, 8), (0, 0)))
    reference = rotate(padded, -5.0, reshape=False, order=5)
    mirrored = rotate(padded, 5.0, reshape=False, order=5)
    errors = [np.abs(turned - r).max() / plain.max() for r in (reference, mirrored)]
    assert min(errors) < 0.02 < 0.1 < max(errors)


def test_interpolated_values_agree_with_a_matrix_made_for_them():
    volume = blob(sigma=2.5)  # voxels are boxes, and blur a little more between pixels
    op = ParallelBeam(ANGLES, SHAPE, 31, offset=0.5)
    values = {"offset": torch.tensor(1.6, dtype=torch.float64), "shifts": torch.tensor(SHIFTS)}
    quick, made = op.at(values, interpolated=True)(volume), op.at(values)(volume)
    assert op.at(values).offset == pytest.approx(1.6)
    assert np.abs(quick - made).max() < 0.03 * made.max()


@pytest.mark.parametrize("name", ["offset", "axis_deg", "shifts"])
def test_the_geometry_has_a_gradient(name):
    volume = torch.from_numpy(blob())
    op = ParallelBeam(ANGLES, SHAPE, 31, axis_deg=1.0)
    value = op.parameters()[name].double()
    weights = torch.randn(op.out_shape, generator=torch.Generator().manual_seed(0)).double()

    def loss(v):
        return (op.at({name: v})(volume) * weights).sum()

    value.requires_grad_()
    (slope,) = torch.autograd.grad(loss(value), value)
    direction = torch.ones_like(value)
    h = 1e-4
    with torch.no_grad():
        ends = [
            (op.at({name: value + s * h * direction}, interpolated=True)(volume) * weights).sum()
            for s in (1, -1)
        ]
    assert float((slope * direction).sum()) == pytest.approx(
        float(ends[0] - ends[1]) / (2 * h), rel=1e-3, abs=1e-4
    )


def test_what_the_object_does_as_well_is_no_drift():
    op = ParallelBeam(ANGLES, SHAPE)
    theta = torch.deg2rad(torch.tensor(ANGLES, dtype=torch.float64))
    of_object = torch.stack(
        [torch.full_like(theta, 2.0), 3 * torch.cos(theta) - torch.sin(theta)], 1
    )
    assert op.without_freedom("shifts", of_object).abs().max() < 1e-12
    kept = op.without_freedom("shifts", torch.tensor(SHIFTS))
    torch.testing.assert_close(op.without_freedom("shifts", kept), kept)
    assert float(kept.norm()) > 0.5


def test_a_detector_narrower_than_the_specimen_is_reconstructed_inside():
    rng = np.random.default_rng(0)
    volume = np.zeros((24, 3, 24))
    for _ in range(8):
        z, x = rng.integers(3, 19, 2)
        volume[z : z + 3, :, x : x + 3] += 1
    angles = np.linspace(0, 180, 40, endpoint=False)
    op = ParallelBeam(angles, volume.shape, 14)
    found = sirt(op, op(volume), 150, device="cpu").volume
    z, x = np.mgrid[:24, :24] - 11.5
    inside = np.hypot(z, x) < 6
    error = found[:, 1][inside] - volume[:, 1][inside]
    assert np.sqrt((error**2).mean()) < 0.35 * volume[:, 1][inside].std()


def test_coarse_and_cut_operators_see_the_same_specimen():
    volume = np.kron(blob((16, 8, 8)), np.ones((1, 2, 2)))
    settings = {"offset": 2.0, "shifts": np.tile([[2.0, -4.0]], (5, 1))}
    op = ParallelBeam(ANGLES, volume.shape, 32, **settings)
    coarse = op.coarsened(2)
    means = op(volume).reshape(5, 8, 2, 16, 2).mean((2, 4))
    assert coarse.out_shape == (5, 8, 16)
    np.testing.assert_allclose(coarse(volume[:, ::2, ::2]), means, atol=0.02 * means.max())
    part = op.block((4, 32))
    assert part.out_shape == (5, 4, 32)
    first = (16 - part.in_shape[1]) // 2
    inside = volume[:, first : first + part.in_shape[1]]
    np.testing.assert_allclose(part(inside), op(volume)[:, 6:10], atol=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axis": "Z"}, "'Y' or 'X'"),
        ({"offset": np.nan}, "offset is nan"),
        ({"axis_deg": 50.0}, "within 45"),
        ({"shifts": np.zeros((4, 2))}, r"\(5, 2\)"),
        ({"height": 0}, "height is 0"),
        ({"voxel_size": (0.0, 1.0, 1.0)}, "above zero"),
    ],
)
def test_a_wrong_geometry_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        ParallelBeam(ANGLES, SHAPE, **change)


def test_views_are_picked_by_numbers_or_by_a_mask():
    op = ParallelBeam(ANGLES, SHAPE, shifts=SHIFTS)
    mask = np.array([True, False, False, True, False])
    assert op.select(mask).angles_deg == op.select([0, 3]).angles_deg == (-50.0, 35.0)
    np.testing.assert_array_equal(op.select(mask).shifts, SHIFTS[[0, 3]])
    assert op.select(slice(1, 3)).angles_deg == (-10.0, 0.0)
    with pytest.raises(ValueError, match="9 is asked for, but there are 5"):
        op.select([9])
    with pytest.raises(ValueError, match="none of the projections"):
        op.select([])
    with pytest.raises(ValueError, match="mask has"):
        op.select(mask[:3])


def test_radians_are_noticed():
    with pytest.warns(UserWarning, match="are these radians"):
        ParallelBeam(np.linspace(0, np.pi, 7), SHAPE)


def test_sirt_goes_on_from_a_start():
    volume = blob((12, 3, 12), (0, 0, 0))
    op = ParallelBeam(np.arange(0, 180, 20.0), volume.shape)
    y = op(volume)
    whole = sirt(op, y, 20, device="cpu")
    half = sirt(op, y, 10, device="cpu")
    rest = sirt(op, y, 10, start=half.volume, device="cpu")
    np.testing.assert_allclose(rest.volume, whole.volume, atol=1e-9)
    with pytest.raises(ValueError, match="start has shape"):
        sirt(op, y, 1, start=volume[1:], device="cpu")
