"""Toy folders on disk: conversion, lists, samples, and that no target is given away."""

import numpy as np
import pytest
from PIL import Image

from helpers.xray.data import VirtualPairs, convert_reds, read_meta_info, stack
from helpers.xray.data.folders import pad_sample
from helpers.xray.data.samples import Sample, augment


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_reds(root, n_frames=3, clips=("000", "001"), splits=("train",), seed=0):
    rng = np.random.default_rng(seed)
    for split in splits:
        for clip in clips:
            for n in range(n_frames):
                sharp = rng.integers(0, 256, (8, 12, 3), np.uint8)
                coarse = rng.integers(0, 256, (2, 3, 3), np.uint8)
                write_png(root / f"{split}_sharp" / clip / f"{n:08d}.png", sharp)
                write_png(root / f"{split}_sharp_bicubic/X4" / clip / f"{n:08d}.png", coarse)
    return root


def write_clips(root, lengths, shape=(8, 12), lr_shape=None, dtype=np.uint8):
    """Frames whose grey value tells their number, so that a leak would be seen."""
    for name, length in lengths.items():
        for n in range(length):
            lr = lr_shape or tuple(-(-s // 4) for s in shape)
            write_png(root / "hr" / name / f"{n:08d}.png", np.full(shape, n, dtype))
            write_png(root / "lr" / name / f"{n:08d}.png", np.full(lr, n, dtype))
    return root / "hr", root / "lr"


# REDS


def test_conversion_gives_luma_in_three_equal_channels(tmp_path):
    src = write_reds(tmp_path / "reds", splits=("train", "val"))
    result = convert_reds(src, tmp_path / "grey")
    assert set(result) == {"train", "val"}
    for split, (hr, lr, _) in result.items():
        assert hr == tmp_path / "grey" / f"{split}_sharp_mono_1ch"
        assert lr == tmp_path / "grey" / f"{split}_sharp_mono_1ch_bicubic" / "X4"
        for old, new in ((f"{split}_sharp", hr), (f"{split}_sharp_bicubic/X4", lr)):
            assert len(list(new.rglob("*.png"))) == 6
            for path in new.rglob("*.png"):
                grey = np.asarray(Image.open(path))
                colour = np.asarray(Image.open(src / old / path.relative_to(new))).astype(float)
                luma = colour @ [0.299, 0.587, 0.114]
                assert (grey == grey[..., :1]).all() and grey.shape == colour.shape
                assert np.abs(grey[..., 0] - luma).max() <= 0.51


def test_the_list_of_converted_clips_is_read_back(tmp_path):
    result = convert_reds(write_reds(tmp_path / "reds", n_frames=4), tmp_path)["train"]
    clips = read_meta_info(result.meta_info)
    assert clips == [("000", 4, (8, 12, 3), None), ("001", 4, (8, 12, 3), None)]
    assert len(VirtualPairs(result.hr, result.lr, clips)) == 4


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda r: (r / "train_sharp_bicubic/X4/001/00000002.png").unlink(),
            ValueError,
            r"1 frames of .*train_sharp are not in .*X4: 001/00000002.png",
        ),
        (
            lambda r: (r / "train_sharp/000/00000001.png").unlink(),
            ValueError,
            r"1 frames of .*X4 are not in .*train_sharp: 000/00000001.png",
        ),
        (
            lambda r: write_png(
                r / "train_sharp_bicubic/X4/000/00000000.png", np.zeros((2, 2, 3), np.uint8)
            ),
            ValueError,
            "is 2 x 2 and .* 8 x 12: expected 4 times",
        ),
        (lambda r: (r / "train_sharp").rename(r / "x"), FileNotFoundError, "neither train_sharp"),
        (lambda r: (r / "train_sharp_bicubic").rename(r / "x"), FileNotFoundError, "X4 is not a"),
    ],
)
def test_a_spoilt_data_set_is_named_before_anything_is_written(tmp_path, spoil, error, message):
    src = write_reds(tmp_path / "reds")
    spoil(src)
    with pytest.raises(error, match=message):
        convert_reds(src, tmp_path / "grey")
    assert not (tmp_path / "grey").exists()


def test_meta_info_may_tell_of_context(tmp_path):
    path = tmp_path / "meta.txt"
    path.write_text("000 100 (720,1280,3)\n\n2234 20 (400, 250, 1) 128\n")
    assert read_meta_info(path) == [
        ("000", 100, (720, 1280, 3), None),
        ("2234", 20, (400, 250, 1), 128),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("000 100", "line 1: '000 100', expected such as"),
        ("000 100 (7,7,3)\n001 ten (7,7,3)", "line 2"),
        ("000 9 (7,7,3)\n000 9 (7,7,3)", "line 2: clip 000 is there twice"),
        ("\n", "names no clip"),
    ],
)
def test_bad_meta_info_is_named(tmp_path, text, message):
    path = tmp_path / "meta.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_meta_info(path)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_meta_info(tmp_path / "none.txt")


# Samples


def values(sample):
    """The frame numbers that the pictures of a sample show."""
    return [round(255 * float(image.mean())) for image in (*sample.lr, *sample.hr, sample.target)]


def test_an_evaluated_sample_holds_the_frames_of_the_table(tmp_path):
    pairs = VirtualPairs(*write_clips(tmp_path, {"a": 45, "b": 21}), key_every=20)
    assert len(pairs) == 2 * 19 + 19
    index = [s.target for _, s in pairs.selections].index(37)
    sample = pairs[index]
    assert values(sample) == [36, 37, 38, 20, 40, 37]
    assert sample.tau == np.float32(17 / 20)
    assert sample.lr.shape == (3, 1, 2, 3) and sample.lr.dtype == np.float32
    assert sample.hr.shape == (2, 1, 8, 12) and sample.target.shape == (1, 8, 12)
    batch = stack([pairs[0], augment(sample, 8, np.random.default_rng(0))][:1])
    assert batch.hr.shape == (1, 2, 1, 8, 12)


@pytest.mark.parametrize("key_every", [None, 5, 20])
def test_no_target_is_among_its_inputs(tmp_path, key_every):
    """Seen in the pictures themselves, for every sample, at both ends of every clip."""
    folders = write_clips(tmp_path, {"a": 3, "b": 26} if key_every is None else {"b": 26})
    pairs = VirtualPairs(*folders, key_every=key_every, repeats=3 if key_every is None else 1)
    for i in range(len(pairs)):
        *lr, before, after, target = values(pairs[i])
        assert before < target < after and lr[1] == target
        assert pairs[i].tau == pytest.approx((target - before) / (after - before))
        if key_every:
            assert before % key_every == 0 and after == before + key_every
    firsts = {values(pairs[i])[5] for i in range(len(pairs))}
    assert {None: set(range(1, 25)), 5: set(range(25)) - {0, 5, 10, 15, 20}}.get(
        key_every, set(range(1, 20))
    ) == firsts


def test_drawn_gaps_are_random_reproducible_and_bounded(tmp_path):
    folders = write_clips(tmp_path, {"a": 40})
    draws = {"max_gap": 6, "repeats": 20, "intervals": (1, 3)}
    pairs = VirtualPairs(*folders, **draws, seed=1)
    again = VirtualPairs(*folders, **draws, seed=1)
    other = VirtualPairs(*folders, **draws, seed=2)
    assert len(pairs) == 20 * 38
    assert pairs.selections == again.selections != other.selections
    middle = [s for _, s in pairs.selections if 10 <= s.target < 30]
    for gaps in ([s.target - s.hr[0] for s in middle], [s.hr[1] - s.target for s in middle]):
        assert set(gaps) == set(range(1, 7))
        assert abs(np.mean(gaps) - 3.5) < 0.3
    assert {s.lr[2] - s.lr[1] for s in middle} == {1, 3}
    assert all(0 <= f < 40 for _, s in pairs.selections for f in (*s.lr, *s.hr))


def test_registered_coarse_frames_are_binned(tmp_path):
    hr, lr = write_clips(tmp_path, {"a": 5}, lr_shape=(8, 12))
    picture = np.arange(96, dtype=np.uint8).reshape(8, 12)
    write_png(lr / "a" / "00000002.png", picture)
    sample = VirtualPairs(hr, lr, key_every=4)[1]
    expected = picture.reshape(2, 4, 3, 4).mean((1, 3)) / 255
    np.testing.assert_allclose(sample.lr[1, 0], expected, atol=1e-6)


def test_sixteen_bits_and_equal_channels_are_read(tmp_path):
    hr, lr = write_clips(tmp_path, {"a": 5}, dtype=np.uint16)
    write_png(hr / "a" / "00000002.png", np.full((8, 12), 65535, np.uint16))
    write_png(hr / "a" / "00000000.png", np.full((8, 12, 3), 51, np.uint8))
    sample = VirtualPairs(hr, lr, key_every=4)[1]
    assert sample.target.max() == sample.target.min() == 1
    np.testing.assert_allclose(sample.hr[0], 0.2)


def test_sizes_that_do_not_divide_are_padded_not_cropped(tmp_path):
    folders = write_clips(tmp_path, {"a": 5}, shape=(10, 15))
    write_png(folders[0] / "a" / "00000002.png", np.arange(150, dtype=np.uint8).reshape(10, 15))
    sample = VirtualPairs(*folders, key_every=4, stride=4)[1]
    assert sample.lr.shape == (3, 1, 4, 4)
    assert sample.hr.shape == (2, 1, 16, 16) and sample.target.shape == (1, 16, 16)
    picture = np.rint(sample.target[0] * 255).astype(int)
    np.testing.assert_array_equal(picture[:10, :15], np.arange(150).reshape(10, 15))
    np.testing.assert_array_equal(picture[10:, :15], np.tile(picture[9, :15], (6, 1)))


def test_padding_leaves_what_fits():
    zeros = np.zeros
    sample = Sample(zeros((3, 1, 4, 8)), zeros((2, 1, 16, 32)), 0.5, None)
    assert pad_sample(sample, 4).hr.shape == (2, 1, 16, 32)
    assert pad_sample(sample, 3).hr.shape == (2, 1, 24, 36)
    assert pad_sample(sample, 3).target is None


@pytest.mark.parametrize(
    ("lengths", "spoil", "options", "message"),
    [
        ({"a": 2}, None, {}, "a has 2 frames: at least three"),
        ({"a": 9}, "hr/a/00000004.png", {}, "1 frames of .*lr are not in .*hr: a/00000004"),
        ({"a": 9}, "lr/a/00000004.png", {}, "1 frames of .*hr are not in .*lr"),
        ({"a": 9}, None, {"clips": 8}, "holds 9 frames but the meta-info tells of 8"),
        ({"a": 9}, None, {"clips": 10}, "holds 9 frames but the meta-info tells of 10"),
        ({"a": 9}, None, {"key_every": 20}, "lower key_every"),
        ({"a": 9}, None, {"max_gap": 0}, "must be 1 or more"),
        ({}, None, {}, "is not a folder"),
    ],
)
def test_folders_that_disagree_are_named(tmp_path, lengths, spoil, options, message):
    folders = write_clips(tmp_path, lengths)
    if spoil:
        (tmp_path / spoil).unlink()
    if "clips" in options:
        (tmp_path / "meta.txt").write_text(f"a {options['clips']} (8,12,1)")
        options = {"clips": read_meta_info(tmp_path / "meta.txt")}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        VirtualPairs(*folders, **options)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((3, 3), np.uint8), "coarse frames of 3 x 3, expected 2 x 3, a quarter of"),
        (np.arange(18, dtype=np.uint8).reshape(2, 3, 3), "is in colour"),
        (None, "not a whole PNG"),
    ],
)
def test_pictures_of_another_kind_are_named(tmp_path, picture, message):
    hr, lr = write_clips(tmp_path, {"a": 5})
    for n in range(5):
        path = lr / "a" / f"{n:08d}.png"
        path.write_bytes(b"\x89PNG") if picture is None else write_png(path, picture)
    with pytest.raises(ValueError, match=message):
        VirtualPairs(hr, lr, key_every=4)[0]
