"""Deformable convolution against plain convolution, a scalar loop, and numerical derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.xray.deform import DeformableConv, deform_conv2d


def scalar_reference(x, weight, offset, mask, bias, groups):
    """The definition, one number at a time: no array operation that the helper could share."""
    batch, channels, height, width = x.shape
    side = weight.shape[-1]
    y = torch.zeros(batch, len(weight), height, width, dtype=x.dtype)

    def pixel(b, c, row, column):
        inside = 0 <= row < height and 0 <= column < width
        return float(x[b, c, row, column]) if inside else 0.0

    def between(b, c, row, column):
        top, left = math.floor(row), math.floor(column)
        down, right = row - top, column - left
        return (
            (1 - down) * (1 - right) * pixel(b, c, top, left)
            + (1 - down) * right * pixel(b, c, top, left + 1)
            + down * (1 - right) * pixel(b, c, top + 1, left)
            + down * right * pixel(b, c, top + 1, left + 1)
        )

    for b, o, i, j in torch.cartesian_prod(*map(torch.arange, y.shape)).tolist():
        total = float(bias[o])
        for c in range(channels):
            group = c * groups // channels
            for t in range(side * side):
                channel = group * side * side + t
                row = i + t // side - side // 2 + float(offset[b, 2 * channel, i, j])
                column = j + t % side - side // 2 + float(offset[b, 2 * channel + 1, i, j])
                sample = between(b, c, row, column) * float(mask[b, channel, i, j])
                total += float(weight[o, c, t // side, t % side]) * sample
        y[b, o, i, j] = total
    return y


def arguments(
    *, groups=2, channels=4, outputs=3, size=(5, 6), side=3, dtype=torch.float64, reach=3.0, seed=0
):
    draw = torch.Generator().manual_seed(seed)
    taps = side * side * groups
    x = torch.randn(2, channels, *size, generator=draw, dtype=dtype)
    weight = torch.randn(outputs, channels, side, side, generator=draw, dtype=dtype)
    offset = reach * (2 * torch.rand(2, 2 * taps, *size, generator=draw, dtype=dtype) - 1)
    mask = torch.rand(2, taps, *size, generator=draw, dtype=dtype)
    bias = torch.randn(outputs, generator=draw, dtype=dtype)
    return x, weight, offset, mask, bias


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_without_displacement_it_is_a_convolution(groups, dtype, tolerance):
    x, weight, offset, mask, bias = arguments(groups=groups, size=(33, 47), dtype=dtype)
    y = deform_conv2d(x, weight, 0 * offset, torch.ones_like(mask), bias, groups)
    assert float((y - F.conv2d(x, weight, bias, padding=1)).abs().max()) < tolerance
    bare = deform_conv2d(x, weight, 0 * offset, None, groups=groups)
    assert float((bare - F.conv2d(x, weight, padding=1)).abs().max()) < tolerance


@pytest.mark.parametrize(("groups", "side"), [(1, 3), (2, 3), (4, 3), (2, 1), (1, 5)])
def test_it_is_the_definition_at_random_displacements(groups, side):
    x, weight, offset, mask, bias = arguments(groups=groups, side=side)
    expected = scalar_reference(x, weight, offset, mask, bias, groups)
    y = deform_conv2d(x, weight, offset, mask, bias, groups)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    single = deform_conv2d(*(a.float() for a in (x, weight, offset, mask, bias)), groups)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-4)


def test_the_first_number_of_a_tap_is_down_and_the_second_right():
    """All taps one pixel to the right is the convolution of the shifted image, inside."""
    x, weight, offset, mask, bias = arguments(size=(7, 9))
    for dy, dx in ((0, 1), (2, -1)):
        still = torch.zeros_like(offset)
        still[:, 0::2], still[:, 1::2] = dy, dx
        y = deform_conv2d(x, weight, still, torch.ones_like(mask), bias, 2)
        moved = F.conv2d(x.roll((-dy, -dx), (2, 3)), weight, bias, padding=1)
        torch.testing.assert_close(y[..., 1:4, 2:7], moved[..., 1:4, 2:7])


def test_a_displaced_tap_is_the_tap_that_its_channel_names():
    """Only the middle tap of the second group moves, and only at one pixel."""
    x, weight, offset, mask, bias = arguments()
    offset, mask = torch.zeros_like(offset), torch.ones_like(mask)
    before = deform_conv2d(x, weight, offset, mask, bias, 2)
    offset[0, 2 * (9 + 4), 2, 3] = 1.0  # dy
    after = deform_conv2d(x, weight, offset, mask, bias, 2)
    change = weight[:, 2:, 1, 1] @ (x[0, 2:, 3, 3] - x[0, 2:, 2, 3])
    torch.testing.assert_close((after - before)[0, :, 2, 3], change)
    after[0, :, 2, 3] = before[0, :, 2, 3]
    torch.testing.assert_close(after, before)


def test_far_outside_there_is_nothing():
    x, weight, offset, mask, bias = arguments()
    y = deform_conv2d(x, weight, offset + 100, mask, bias, 2)
    torch.testing.assert_close(y, bias[:, None, None].expand_as(y))


def test_a_line_of_pixels_has_no_width_to_divide_by():
    x, weight, offset, mask, bias = arguments(size=(1, 6))
    y = deform_conv2d(x, weight, offset, mask, bias, 2)
    torch.testing.assert_close(y, scalar_reference(x, weight, offset, mask, bias, 2))


def test_derivatives_are_right():
    inputs = arguments(size=(4, 3), channels=2, outputs=2)
    x, weight, offset, mask, bias = (a.requires_grad_() for a in inputs)
    assert torch.autograd.gradcheck(
        lambda *a: deform_conv2d(*a, groups=2), (x, weight, offset, mask, bias)
    )


def test_the_layer_starts_as_half_a_convolution_and_its_guide_moves_it():
    torch.manual_seed(0)
    layer = DeformableConv(8, groups=2)
    x, guide = torch.randn(2, 3, 8, 6, 7)
    bias = layer.conv.bias[:, None, None]
    torch.testing.assert_close(layer(x, guide) - bias, (layer.conv(x) - bias) / 2)
    with torch.no_grad():
        layer.guide.bias[:36] = torch.tensor([0.0, 1.0]).repeat(18)
        layer.guide.bias[36:] = 30.0  # masks of 1
    offset, mask = layer.displacements(guide)
    assert offset.shape == (3, 36, 6, 7) and mask.shape == (3, 18, 6, 7)
    assert bool((offset[:, 1::2] == 1).all()) and bool((mask == 1).all())
    moved = layer.conv(x.roll(-1, 3))
    torch.testing.assert_close(layer(x, guide)[..., 1:4], moved[..., 1:4], atol=1e-5, rtol=1e-5)


def test_gain_is_pixels_for_each_unit():
    slow, fast = DeformableConv(4, 1, gain=0.1), DeformableConv(4, 1)
    guide = torch.randn(1, 4, 5, 5)
    fast.guide.weight.data.normal_()
    slow.load_state_dict(fast.state_dict())
    (offset, mask), (larger, same) = slow.displacements(guide), fast.displacements(guide)
    torch.testing.assert_close(offset, 0.1 * larger)
    assert torch.equal(mask, same) and float(larger.detach().abs().max()) > 0


GOOD = arguments()


@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, torch.ones(4, 5, 6), r"give \(B, C, H, W\) and \(O, C, k, k\)"),
        (1, torch.ones(3, 2, 3, 3), r"weight \(3, 2, 3, 3\): give .* with the same C"),
        (1, torch.ones(3, 4, 2, 2), "the kernel is 2 x 2: give a square one with an odd side"),
        (1, torch.ones(3, 4, 3, 1), "the kernel is 3 x 1"),
        (2, torch.ones(2, 18, 5, 6), r"offset is \(2, 18, 5, 6\).* need \(2, 36, 5, 6\)"),
        (3, torch.ones(2, 36, 5, 6), r"mask is \(2, 36, 5, 6\).* need \(2, 18, 5, 6\)"),
        (3, torch.ones(2, 18, 6, 5), r"mask is .* need \(2, 18, 5, 6\)"),
        (4, torch.ones(4), r"bias is \(4,\): give one number for 3 outputs"),
        (5, 3, "groups is 3: give a whole number that divides 4 channels"),
        (5, 0, "groups is 0"),
    ],
)
def test_bad_input_is_named(position, wrong, message):
    call = [*GOOD, 2]
    call[position] = wrong
    with pytest.raises(ValueError, match=message):
        deform_conv2d(*call)
