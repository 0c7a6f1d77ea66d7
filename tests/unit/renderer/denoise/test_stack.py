"""No pixel sees itself, so the image is learned and not the noise; how well, against filters."""

import math

import numpy as np
import pytest
import torch

from helpers import checkpoints
from helpers.metrics import psnr
from helpers.noise import EMCCD, SCMOS, Poisson, PoissonGauss
from helpers.renderer.data import Pairs
from helpers.renderer.denoise import BlindSpot, apply, denoise, filters, load, train, with_the_pixel
from helpers.renderer.denoise.blindspot import save
from helpers.renderer.denoise.stack import noise_line
from helpers.renderer.simulate import filament_images

PEAK, READ = 40.0, 4.0


def recorded(seed, n=20, shape=(128, 128)):
    clean = filament_images(n, shape, peak=PEAK, seed=seed)
    noisy = PoissonGauss(READ).sample(clean, np.random.default_rng((seed, 1)))
    return clean, noisy.astype("float32")


def db(estimate, truth):
    """Mean over images, so that no single one decides."""
    pairs = zip(estimate, truth, strict=True)
    return float(np.mean([psnr(e, t, data_range=PEAK) for e, t in pairs]))


def network(**options):
    options = {"width": 8, "centre": 5.0, "scale": 5.0, "noise": (READ, 1.0)} | options
    return BlindSpot(generator=torch.Generator().manual_seed(0), **options)


def slopes(net, image, y, x, part):
    image = image.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(image)[part][0, y, x], image)
    return slope[0]


@pytest.mark.parametrize("shape", [(18, 18), (19, 23), (13, 20)])
@pytest.mark.parametrize("part", [0, 1], ids=["mean", "spread"])
def test_no_prediction_depends_on_its_own_pixel(shape, part):
    """At every pixel, the border too, for weights of any size, and exactly."""
    net, image = network(depth=2), torch.randn(1, *shape) * 20
    for weight in net.parameters():  # larger than a training makes them
        weight.data.mul_(3)
    for y in range(shape[0]):
        for x in range(shape[1]):
            assert float(slopes(net, image, y, x, part)[y, x]) == 0


def test_the_derivative_is_no_artefact_a_changed_pixel_changes_only_others():
    net, image = network(), torch.randn(1, 30, 30) * 20
    changed = image.clone()
    changed[0, 14, 17] += 1000
    difference = (net(changed)[0] - net(image)[0])[0].abs()
    assert difference[14, 17] == 0 and math.log10(difference[14, 16]) > -2


def test_neighbours_near_and_far_are_seen_but_for_the_grid():
    net, image = network(depth=2), torch.randn(1, 31, 31) * 5
    seen = slopes(net, image, 15, 15, 0) != 0
    offsets = torch.arange(-15, 16)
    far = (offsets[:, None].abs() > net.reach) | (offsets.abs() > net.reach)
    assert not seen[far].any()
    grid = (offsets[:, None] % 3 == 0) & (offsets % 3 == 0)
    assert not seen[grid].any()
    near = (offsets[:, None].abs() <= 2) & (offsets.abs() <= 2) & ~grid
    assert seen[near].all() and seen.float().sum() > 100


def test_a_network_that_is_not_blind_sees_itself():
    image = torch.randn(1, 24, 24) * 5
    assert float(slopes(network(blind=False), image, 11, 11, 0)[11, 11]) != 0


def test_the_posterior_is_that_of_two_measurements():
    m, s, y, n = (torch.tensor(v, dtype=torch.float64) for v in (3.0, 2.0, 7.0, 5.0))
    mean, spread = with_the_pixel(m, s, y, n)
    grid = torch.linspace(-40, 50, 200_001, dtype=torch.float64)
    weight = (-((grid - m) ** 2) / (2 * s**2) - (grid - y) ** 2 / (2 * n)).exp()
    weight /= weight.sum()
    assert float(mean) == pytest.approx(float((weight * grid).sum()), abs=1e-6)
    variance = (weight * (grid - mean) ** 2).sum()
    assert float(spread) == pytest.approx(float(variance.sqrt()), abs=1e-6)


def test_the_loss_is_least_at_the_truth():
    """Mean and spread of the best constant prediction are those of the data."""
    images = torch.randn(1, 60, 60, generator=torch.Generator().manual_seed(1)) * 4 + 30
    net = network(noise=None, centre=0.0, scale=1.0, depth=1)
    free = torch.nn.Parameter(torch.tensor([25.0, 2.0]))
    net.forward = lambda x: (free[0].expand_as(x), free[1].expand_as(x))
    optimizer = torch.optim.Adam([free], 0.2)
    for _ in range(300):
        optimizer.zero_grad()
        net.loss(images).backward()
        optimizer.step()
    assert free.tolist() == pytest.approx([float(images.mean()), float(images.std())], abs=0.02)


def test_it_beats_the_noise_and_the_best_filter():
    """A fifth of the default training; the filter may choose its setting with the truth."""
    clean, noisy = recorded(2000, n=4)
    result = denoise(noisy, PoissonGauss(READ), n_steps=200, seed=2000, device="cpu")

    def means(images, strength):
        return filters.stabilised_means(images, strength, read_variance=READ, patch=5, reach=10)

    _, best, _ = filters.best_by_truth(means, [0.7, 0.85], noisy, clean)
    reached = db(result.images, clean)
    assert reached > db(noisy, clean) + 9
    assert reached > db(best, clean) + 1
    assert reached > db(result.blind, clean) + 0.3, "the pixel itself is worth something"
    assert result.noise == (READ, 1.0) and result.training.n_steps == 200


def test_hot_pixels_cost_only_themselves():
    """Half a per cent of them, found or told; the others are denoised as well as without."""
    clean, noisy = recorded(2011, n=4)
    hot = np.random.default_rng(0).random(noisy.shape[1:]) < 0.005
    spoilt = np.where(hot, 2000, noisy).astype("float32")
    options = {"n_steps": 120, "seed": 0, "device": "cpu"}

    def elsewhere(result):
        errors = (result.images - clean)[:, ~hot]
        return 10 * np.log10(PEAK**2 / np.mean(errors**2))

    without = elsewhere(denoise(noisy, PoissonGauss(READ), **options))
    with pytest.warns(UserWarning, match="stand out from all their neighbours"):
        found = denoise(spoilt, PoissonGauss(READ), **options)
    told = denoise(spoilt, PoissonGauss(READ), mask=~hot, **options)
    assert told.n_masked == 4 * hot.sum() and found.n_masked >= 0.95 * told.n_masked
    assert elsewhere(found) > without - 1 and elsewhere(told) > without - 1
    assert np.abs(told.images - clean)[:, hot].max() < 2 * PEAK  # from the neighbours


def test_a_map_of_read_noise_is_used():
    """Noisy columns weigh less, in the training and where the pixel is put back."""
    clean, _ = recorded(2012, n=4)
    variance = np.where(np.arange(128) % 8 == 0, 400.0, 1.0) * np.ones((128, 1))
    noisy = PoissonGauss(variance).sample(clean, np.random.default_rng(1)).astype("float32")
    options = {"n_steps": 120, "seed": 0, "device": "cpu"}
    aware = denoise(noisy, SCMOS(variance), **options)
    blunt = denoise(noisy, PoissonGauss(float(variance.mean())), **options)
    assert db(aware.images, clean) > db(blunt.images, clean)


def test_the_card_of_the_shipped_network_is_true():
    """On images of seeds that neither training nor page has, part of those on the card."""
    net = load(device="cpu")
    said = net.card["metric"]
    gains = []
    for seed in (1000, 1001, 1002):
        clean, noisy = recorded(seed, n=2)
        gains.append(db(apply(net, noisy).images, clean) - db(noisy, clean))
    assert np.mean(gains) == pytest.approx(said["denoised"] - said["noisy"], abs=0.7)
    assert min(gains) > 12 and net.card["steps"] == 6000
    assert "no clean ones" in net.card["data"] and net.noise == (READ, 1.0)


def test_a_network_comes_back_from_its_file(tmp_path):
    net = network(depth=2, noise=None, blind=False)
    card = {"data": "none", "seed": 0, "steps": 0, "metric": {}}
    save(net, tmp_path / "net.safetensors", card)
    again = load(tmp_path / "net.safetensors", "cpu")
    assert again.settings == net.settings and again.card["seed"] == 0 and not again.blind
    image = torch.randn(1, 20, 20)
    assert torch.allclose(again(image)[0], net(image)[0], atol=0.02)
    data = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated"):
        load(tmp_path / "half.safetensors")
    checkpoints.save(tmp_path / "other.safetensors", {"model": {}}, card)
    with pytest.raises(ValueError, match="holds no blind-spot network"):
        load(tmp_path / "other.safetensors")


def test_without_a_hole_the_noise_is_learned():
    clean, noisy = recorded(1, n=3)
    controls = {}
    for blind in (True, False):
        net = network(blind=blind)
        train(net, noisy, n_steps=100, patch=48, learning_rate=1e-2, device="cpu")
        controls[blind] = db(apply(net, noisy).images, clean)
    before = db(noisy, clean)
    assert controls[True] > before + 5
    assert controls[False] < controls[True] - 3


def test_with_clean_targets_the_loss_is_their_squared_error():
    """The data of `Pairs`, which a trainer hands to the network as images and targets."""
    clean, noisy = recorded(1, n=2, shape=(48, 48))
    net = network(blind=False)
    images, targets = (torch.from_numpy(t) for t in Pairs(noisy, clean, (24, 24), n=1)[0])
    loss = net.loss(images[None], targets[None]).item()
    by_hand = ((net(images[None])[0] - targets) / 5).square().mean()
    assert loss == pytest.approx(by_hand.item(), rel=1e-6)
    history = train(net, noisy, clean, n_steps=40, patch=48, device="cpu").history
    assert history[-5:].mean() < 0.7 * history[0]


def test_the_camera_is_found():
    """Where the images have smooth places: intercept and slope, also in grey levels."""
    y, x = np.mgrid[:64, :64]
    clean = 5 + 45 * np.exp(-((x - 32) ** 2 + (y - 26) ** 2) / 500.0)
    clean = np.stack([clean, np.roll(clean, 20, 1)])
    counts = PoissonGauss(9.0).sample(clean, np.random.default_rng(3))
    options = {"n_steps": 200, "patch": 48, "width": 12, "device": "cpu"}
    intercept, slope = denoise(counts, **options).noise
    assert slope == pytest.approx(1, abs=0.15) and intercept == pytest.approx(9, abs=3)
    grey = denoise(100 + 0.5 * counts, **options)
    assert grey.noise[1] == pytest.approx(0.5, abs=0.075)
    assert np.std(grey.images - 100 - 0.5 * clean) < 0.35 * np.std(0.5 * (counts - clean))


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path):
    _, noisy = recorded(2, n=3, shape=(48, 48))
    options = {"n_steps": 12, "width": 4, "patch": 30, "device": "cpu", "seed": 3}
    whole = denoise(noisy, PoissonGauss(READ), folder=tmp_path / "a", **options)
    run = {"folder": tmp_path / "b"} | options
    denoise(noisy, PoissonGauss(READ), callback=lambda step: step == 5, **run)
    resumed = denoise(noisy, PoissonGauss(READ), **run)
    assert resumed.training.resumed == 5
    np.testing.assert_array_equal(resumed.training.history, whole.training.history)
    np.testing.assert_array_equal(resumed.images, whole.images)
    other = denoise(noisy, PoissonGauss(READ), **options | {"seed": 4})
    assert (other.images != whole.images).any()


def test_nothing_is_kept_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    _, noisy = recorded(2, n=2, shape=(24, 24))
    folder = denoise(noisy, Poisson(), n_steps=1, width=4, device="cpu").training.folder
    assert not folder.exists() and not (tmp_path / "runs").exists()


def test_strips_and_single_images_give_the_same(monkeypatch):
    _, noisy = recorded(4, n=2, shape=(70, 41))
    net = network(depth=3)
    whole = apply(net, noisy)
    monkeypatch.setattr("helpers.renderer.denoise.stack.AT_ONCE", 500)
    strips = apply(net, noisy)
    np.testing.assert_allclose(strips.images, whole.images, atol=2e-5)
    np.testing.assert_allclose(apply(net, noisy[1]).images, whole.images[1], atol=2e-5)
    tensor = apply(net, torch.from_numpy(noisy)).images
    assert torch.is_tensor(tensor) and torch.allclose(tensor, torch.from_numpy(whole.images))


def test_turning_the_image_turns_the_result():
    _, noisy = recorded(5, n=1, shape=(33, 33))
    net = network()
    turned = apply(net, np.ascontiguousarray(np.rot90(noisy, axes=(1, 2))))
    expected = np.rot90(apply(net, noisy).images, axes=(1, 2))
    np.testing.assert_allclose(turned.images, expected, atol=1e-4)


def test_noise_models_become_lines():
    _, noisy = recorded(2, n=2, shape=(24, 24))
    options = {"n_steps": 1, "width": 4, "device": "cpu"}
    assert denoise(noisy, Poisson(), **options).noise == (0.0, 1.0)
    assert denoise(noisy, EMCCD(100.0, 400.0), **options).noise == (0.04, 2.0)
    with pytest.raises(ValueError, match="noise is object: give Poisson"):
        denoise(noisy, object(), **options)
    with pytest.raises(ValueError, match="a map of .24, 23. but images are"):
        denoise(noisy, PoissonGauss(np.ones((24, 23))), **options)
    with pytest.raises(ValueError, match=r"mask is \(3, 3\) but images are"):
        denoise(noisy, Poisson(), mask=np.ones((3, 3), bool), **options)
    with pytest.raises(ValueError, match="trained for a noise of"):
        denoise(noisy, Poisson(), network=network(), **options)


def test_images_that_cannot_be_denoised_are_refused():
    good = np.random.default_rng(0).random((2, 24, 24))
    bad = good.copy()
    bad[1, 3, 4] = np.nan
    for images, message in (
        (bad, "NaN or infinity"),
        (good[:, :8], "12 x 12"),
        (good[None], "stack"),
        (np.full((2, 24, 24), 3.0), "all pixels are 3"),
        (good[:0], "stack"),
    ):
        with pytest.raises(ValueError, match=message):
            denoise(images, Poisson(), device="cpu")
    with pytest.raises(ValueError, match="at least 12 px"):
        train(network(), good, patch=8)
    with pytest.raises(ValueError, match="targets"):
        train(network(), good, good[:1])
    with pytest.raises(ValueError, match="too few to tell"):
        noise_line(np.ones(1000), np.ones(1000))
