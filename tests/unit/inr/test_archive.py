"""A film in a file: what comes back, how large it is, and what a broken file says."""

import copy

import numpy as np
import pytest
import torch

from helpers.inr import archive as module
from helpers.inr.archive import SequenceArchive, load, save
from helpers.inr.fields import (
    MLP,
    FeatureGrid,
    Field,
    HashGrid,
    Identity,
    PositionalEncoding,
    RadialEncoding,
    ReLU,
    Softplus,
    Voxels,
    extent_of,
    paper_field,
)
from helpers.inr.fields.field import Index
from helpers.inr.fields.grids import PlaneGrid
from helpers.inr.phantoms import mitochondria
from helpers.inr.render import render, render_sequence

SHAPE, VOXEL = (8, 28, 28), (0.34, 0.2171, 0.2171)
CARD = {"data": "phantom", "seed": 1, "steps": 10, "metric": {"psnr": 30.0}}
KINDS = {
    "waves": lambda g: PositionalEncoding(4, 2, pi=False),
    "radial": lambda g: RadialEncoding(3),
    "grid": lambda g: FeatureGrid([(4, 7, 7), (8, 14, 14)], 2, generator=g),
    "planes": lambda g: PlaneGrid([(8, 14, 14)], 4, combine="sum", generator=g),
    "hash": lambda g: HashGrid(3, 2, log2_size=6, finest=16, generator=g),
}


def make(kind="grid", *, seed=0, head=None):
    g = torch.Generator().manual_seed(seed)
    encoding = KINDS[kind](g)
    network = MLP(encoding.out_features, 12, 3, skips=[0], activation="leaky_relu", generator=g)
    return Field(encoding, network, head or Softplus(0.4, scale=5.0), extent_of(SHAPE, VOXEL))


def film(n=4, kind="grid", **options):
    """Frames that drift from the first one, as a chain of fits does."""
    frames, g = [make(kind)], torch.Generator().manual_seed(9)
    for _ in range(n - 1):
        frame = copy.deepcopy(frames[-1])
        with torch.no_grad():
            for p in frame.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=g) * p.std(correction=0))
        frames.append(frame)
    return frames, SequenceArchive.from_fields(frames, SHAPE, card=CARD, **options)


def psnr(estimate, truth):
    return 10 * np.log10(truth.max() ** 2 / np.mean((estimate - truth) ** 2))


@pytest.fixture(scope="module")
def fitted():
    """Six frames of a moving phantom, each fitted from the one before."""
    truth = [10 * mitochondria(SHAPE, VOXEL, seed=2, t=0.1 * t, n_tubes=4) for t in range(6)]
    g = torch.Generator().manual_seed(0)
    field = Field(
        FeatureGrid([(6, 20, 20)], 1, generator=g),
        MLP(1, 8, 2, generator=g),
        Softplus(float(truth[0].mean())),
        extent_of(SHAPE, VOXEL),
    )
    frames = []
    for number, target in enumerate(map(torch.as_tensor, truth)):
        adam = torch.optim.Adam(field.parameters(), lr=3e-2)
        for _ in range(200 if number == 0 else 40):
            adam.zero_grad()
            (field.volume(SHAPE) - target).square().mean().backward()
            adam.step()
        frames.append(copy.deepcopy(field))
    return truth, frames


@pytest.mark.parametrize(("precision", "bytes_each"), [("float16", 2.0), ("int8", 1.0)])
def test_storage_costs_tenths_of_a_decibel(fitted, tmp_path, precision, bytes_each):
    """Check 19, on volumes better than any reconstruction on these pages."""
    truth, frames = fitted
    archive = SequenceArchive.from_fields(frames, SHAPE, precision=precision, card=CARD)
    save(tmp_path / "film.safetensors", archive)
    stored = render_sequence(load(tmp_path / "film.safetensors"))
    for volume, frame, target in zip(stored, frames, truth, strict=True):
        before = psnr(render(frame, SHAPE), target)
        assert 25 < before < 55
        assert before - psnr(volume, target) < 0.4
        assert psnr(volume, render(frame, SHAPE)) > 40, "the code is far finer than the fit"
    n = sum(p.numel() for p in frames[0].parameters())
    expected = 2 * n + 5 * bytes_each * n
    assert expected <= archive.n_bytes < 1.02 * expected + 150


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_field_comes_back(tmp_path, kind, precision):
    frames, archive = film(kind=kind, precision=precision)
    save(tmp_path / "film.safetensors", archive)
    back = load(tmp_path / "film.safetensors")
    assert len(back) == 4 and back.shape == SHAPE and back.card["seed"] == 1
    for t, (frame, other) in enumerate(zip(frames, back, strict=True)):
        assert other.extent == frame.extent and type(other.encoding) is type(frame.encoding)
        for (name, a), (again, b) in zip(
            frame.named_parameters(), other.named_parameters(), strict=True
        ):
            assert name == again
            # half precision of the base, and half a step of the difference
            near = 6e-4 * a.abs().max() + 6e-8
            if precision == "int8" and t:
                near = (
                    near + 0.51 * (a - dict(frames[0].named_parameters())[name]).abs().max() / 127
                )
            assert (a - b).abs().max() <= near, name
        np.testing.assert_array_equal(render(archive[t], SHAPE), render(other, SHAPE))


@pytest.mark.parametrize(
    "head", [Softplus(0.2), Softplus(0.2, scale=3.0), ReLU(0.01), Index(0.05, 1.33), Identity()]
)
def test_every_head_comes_back(tmp_path, head):
    frame = make(head=head)
    save(tmp_path / "a", SequenceArchive.from_fields([frame], SHAPE, card=CARD))
    np.testing.assert_allclose(
        render(load(tmp_path / "a")[0], SHAPE), render(frame, SHAPE), rtol=2e-3, atol=1e-4
    )


def test_voxels_and_the_published_network_come_back(tmp_path):
    voxels = Voxels((2, 3, 4), Softplus(1.0))
    with torch.no_grad():
        voxels.values.copy_(torch.linspace(-3, 3, 24).reshape(2, 3, 4))
    for frame, size in ((voxels, (2, 3, 4)), (paper_field("mito"), (3, 9, 9))):
        save(tmp_path / "a", SequenceArchive.from_fields([frame], size, card=CARD))
        np.testing.assert_allclose(
            render(load(tmp_path / "a")[0], size), render(frame, size), rtol=5e-3, atol=5e-4
        )


def test_brightness_over_time_survives(tmp_path):
    """Check 20: the scale of each frame reaches its volume, to the last per mille."""
    frames, scales = [make(), make(), make()], (1.0, 0.5, 0.25)
    archive = SequenceArchive.from_fields(frames, SHAPE, scales=scales, card=CARD)
    save(tmp_path / "a", archive)
    flux = render_sequence(load(tmp_path / "a")).sum((1, 2, 3))
    np.testing.assert_allclose(flux / flux[0], scales, rtol=1e-5)
    assert archive.deltas == {}, "frames that differ in brightness only cost nothing more"


def test_weights_that_all_frames_share_are_stored_once():
    frames = [make() for _ in range(5)]
    for t, frame in enumerate(frames):
        with torch.no_grad():
            frame.encoding.tables[1].add_(0.1 * t)
    archive = SequenceArchive.from_fields(frames, SHAPE)
    assert list(archive.deltas) == ["encoding.tables.1"]
    assert archive.deltas["encoding.tables.1"].shape[0] == 4


def test_frames_are_counted_like_a_list():
    frames, archive = film(3)
    np.testing.assert_array_equal(render(archive[-1], SHAPE), render(archive[2], SHAPE))
    assert len(list(archive)) == len(list(archive)) == 3
    for t in (3, -4):
        with pytest.raises(IndexError, match=f"frame {t}: the archive has 3 frames"):
            archive[t]
    weight = next(archive[1].parameters())
    with torch.no_grad():
        weight.zero_()
    assert next(archive[1].parameters()).abs().max() > 0, "a frame is a copy"


def test_results_of_fits_are_taken_too():
    class Result:
        field = make()

    assert len(SequenceArchive.from_fields([Result(), Result()], SHAPE)) == 2


def test_the_file_is_little_more_than_its_weights(tmp_path):
    _, archive = film(12)
    path = tmp_path / "film.safetensors"
    save(path, archive)
    assert 0 < path.stat().st_size - archive.n_bytes < 5000


@pytest.mark.parametrize("where", [0.02, 0.5, 0.999])
def test_a_truncated_file_says_so(tmp_path, where):
    path = tmp_path / "film.safetensors"
    save(path, film(2)[1])
    content = path.read_bytes()
    path.write_bytes(content[: int(where * len(content))])
    with pytest.raises(ValueError, match="film.safetensors is truncated or not a safetensors"):
        load(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "film.safetensors"
    save(path, film(2)[1])
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is corrupt, its checksum differs"):
        load(path)


def test_another_checkpoint_is_not_a_film(tmp_path):
    from helpers import checkpoints

    with pytest.raises(FileNotFoundError, match="is not a file"):
        load(tmp_path / "none")
    for state in ({"model": torch.ones(2)}, {"film": {"shape": (1, 2, 3)}}):
        checkpoints.save(tmp_path / "a", state, CARD)
        with pytest.raises(ValueError, match="holds no film"):
            load(tmp_path / "a")


def unlike():
    other = make()
    other.network = MLP(4, 12, 3, skips=[0], generator=torch.Generator())
    return other


def broken(value):
    frame = make()
    with torch.no_grad():
        frame.network.layers[0].bias[3] = value
    return frame


@pytest.mark.parametrize(
    ("frames", "options", "error", "message"),
    [
        ([], {}, ValueError, "there is no frame"),
        ([make()], {"precision": "int4"}, ValueError, "precision is 'int4': use 'float16' or"),
        ([make()], {"scales": [1, 2]}, ValueError, "2 scales for 1 frames"),
        ([make()], {"scales": [0.0]}, ValueError, "give one above zero"),
        ([make()], {"scales": [np.nan]}, ValueError, "give one above zero"),
        ([make(), unlike()], {}, ValueError, "frame 1 is built differently from frame 0"),
        ([make(), make(head=ReLU())], {}, ValueError, "frame 1 is built differently"),
        ([make(), broken(np.nan)], {}, ValueError, "frame 1: network.layers.0.bias is not finite"),
        ([broken(1e5)], {}, ValueError, "frame 0: network.layers.0.bias reaches 1e.05, too large"),
        ([make(head=torch.nn.Tanh())], {}, TypeError, "Tanh cannot be rebuilt from a file"),
    ],
)
def test_what_cannot_be_stored_is_named(frames, options, error, message):
    with pytest.raises(error, match=message):
        SequenceArchive.from_fields(frames, SHAPE, **options)


def test_a_film_without_a_card_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="the card lacks data, seed, steps, metric"):
        save(tmp_path / "a", SequenceArchive.from_fields([make()], SHAPE))
    assert not (tmp_path / "a").exists()


def test_the_global_seed_is_left_alone():
    _, archive = film(2)
    state = torch.random.get_rng_state()
    archive[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_module_of_the_fields_can_be_stored():
    """A new encoding or head that an archive forgets is noticed here."""
    from helpers.inr.fields import encodings, field, grids

    modules = {
        kind
        for file in (encodings, field, grids)
        for name, kind in vars(file).items()
        if name[0] != "_" and isinstance(kind, type) and issubclass(kind, torch.nn.Module)
    }
    assert modules | {torch.nn.Identity} == set(
        module.REBUILT
    )  # torch's own head, given out by the face
