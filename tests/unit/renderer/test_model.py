"""Any encoder with any mapper and renderer that fit together; all others are refused in words."""

import itertools
import math

import numpy as np
import pytest
import torch

from helpers.noise import SCMOS, Poisson, PoissonGauss
from helpers.optics import Pupil
from helpers.renderer import renderers
from helpers.renderer.encoders import ConvEncoder, PerImage, UNet
from helpers.renderer.feedback import Concat, Correlate, Difference
from helpers.renderer.mappers import Centroid, Direct, ImageMapper, Stacked
from helpers.renderer.model import FitModel
from helpers.renderer.renderers import Gaussian2D, Gaussian3D, Passthrough, Template
from tests.margins.seeds import within

SHAPE = (24, 40)  # neither square nor a multiple of 16
B = 3


def bump(*shape):
    """A smooth blob with its peak in the middle."""
    axes = (torch.arange(n) - (n - 1) / 2 for n in shape)
    return sum(a**2 / 4 for a in torch.meshgrid(*axes, indexing="ij")).neg().exp()


SPOTS = {
    "Gaussian2D": lambda: Gaussian2D(SHAPE),
    "Gaussian2D elliptical": lambda: Gaussian2D(SHAPE, elliptical=True),
    "Gaussian3D": lambda: Gaussian3D(SHAPE),
    "Template": lambda: Template(SHAPE, bump(17, 17)),
    "Spline2D": lambda: renderers.Spline2D(SHAPE, bump(15, 15)),
    "Spline3D": lambda: renderers.Spline3D(SHAPE, bump(7, 15, 15), z_step=0.1),
    "FourierOptics": lambda: renderers.FourierOptics(
        SHAPE, Pupil(1.2, 0.6, 1.33, 0.1, samples=32), modes=(5, 6)
    ),
}
PIXELS = {
    "Convolution": lambda: renderers.Convolution(SHAPE, bump(7, 7)),
    "Passthrough": lambda: Passthrough(SHAPE),
}
NUMBERS = {
    "ConvEncoder": lambda: ConvEncoder(SHAPE),
    "PerImage": lambda: PerImage(SHAPE, B),
}
MAPS = {
    "UNet": lambda: UNet(SHAPE, width=4),
    "UNet of any size": lambda: UNet(width=4, depth=3),
    "PerImage": lambda: PerImage(SHAPE, B),
}
COMBINATIONS = [
    *itertools.product(NUMBERS.items(), [Direct, Stacked], SPOTS.items()),
    *itertools.product(MAPS.items(), [Centroid], SPOTS.items()),
    *itertools.product(MAPS.items(), [ImageMapper], PIXELS.items()),
]


def pictures(n=B, shape=SHAPE, seed=0):
    """Spots at different places, with shot noise."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1, 1, (2, n, 1)) * np.array([[[shape[1] / 4]], [[shape[0] / 4]]])
    params = {"x": x[:, 0], "y": y[:, 0], "photons": 3000.0, "background": 10.0}
    return torch.from_numpy(rng.poisson(Gaussian2D(shape).render(params)).astype(np.float32))


@pytest.mark.parametrize("emitters", [1, 4])
@pytest.mark.parametrize(
    ("encoder", "mapper", "renderer"),
    COMBINATIONS,
    ids=[f"{e[0]}-{m.__name__}-{r[0]}" for e, m, r in COMBINATIONS],
)
def test_every_part_that_can_learn_does(encoder, mapper, renderer, emitters):
    torch.manual_seed(0)
    if mapper is ImageMapper and emitters > 1:
        with pytest.raises(TypeError):
            ImageMapper(emitters=emitters)
        return
    mapped = mapper() if mapper is ImageMapper else mapper(emitters=emitters)
    model = FitModel(encoder[1](), mapped, renderer[1](), Poisson())
    images = pictures()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, weights in before.items():  # a flat map would hide a part that is cut off
        if "numbers" in name:
            model.get_parameter(name).data += 0.1 * torch.randn_like(weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = model.loss(images)
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all() and p.grad.any(), name
        if name.endswith("head.weight"):  # every number, not only some
            assert p.grad.flatten(1).any(1).all(), name
        if name.endswith("numbers"):
            assert p.grad.transpose(0, 1).flatten(1).any(1).all(), name
    optimizer.step()
    assert torch.isfinite(model.loss(images))
    found = model.estimate(images)
    assert set(found) == set(model.renderer.params)
    for name, param in model.renderer.params.items():
        shape = (B, *SHAPE) if param.per_pixel else (B,)
        if param.per_emitter and emitters > 1:
            shape = (B, emitters)
        assert found[name].shape == shape
        assert within(found[name].detach(), param.transform.low, param.transform.high)


def test_background_counts_once_however_many_emitters():
    for emitters in (1, 4):
        model = FitModel(
            PerImage(SHAPE, 1), Direct(emitters=emitters), Gaussian2D(SHAPE), Poisson()
        )
        found = model.estimate(np.zeros((1, *SHAPE), np.float32))
        image = model(torch.zeros(1, *SHAPE))[0].detach()
        light = np.sum(found["photons"])
        total = float(image.sum())
        assert found["background"].shape == (1,)
        assert total == pytest.approx(light + found["background"][0] * image.numel(), rel=0.05)


def test_a_model_is_the_three_parts_after_each_other():
    encoder, mapper, spots = ConvEncoder(SHAPE), Direct(), Gaussian2D(SHAPE)
    model = FitModel(encoder, mapper, spots, Poisson())
    images = pictures()
    by_hand = spots.render(mapper(encoder(images)))
    torch.testing.assert_close(model(images), by_hand)
    expected = Poisson().nll(by_hand, images, reduction="mean")
    torch.testing.assert_close(model.loss(images), expected)
    given = model.estimate(images.numpy())
    assert all(isinstance(value, np.ndarray) for value in given.values())
    for name, value in model.estimate(images).items():
        np.testing.assert_allclose(given[name], value.detach().numpy(), rtol=1e-5)


def test_what_is_not_fitted_keeps_its_start():
    spots = Gaussian2D(SHAPE)
    model = FitModel(ConvEncoder(SHAPE), Direct(fit=("x", "y")), spots, Poisson())
    assert sorted(model.estimate(pictures())) == ["x", "y"]
    torch.testing.assert_close(
        model(pictures()), spots.render({**model.estimate(pictures()), "photons": 1000.0})
    )


@pytest.mark.parametrize("noise", [SCMOS(25.0), PoissonGauss(25.0)])
def test_any_likelihood_goes(noise):
    model = FitModel(ConvEncoder((9, 11)), Direct(), Gaussian2D((9, 11)), noise)
    images = pictures(2, (9, 11)) - 3  # read noise goes below zero
    loss = model.loss(images)
    loss.backward()
    assert torch.isfinite(loss)


def test_an_encoder_serves_the_model_it_was_given_to_last():
    encoder = ConvEncoder(SHAPE)
    first = FitModel(encoder, Direct(), Gaussian2D(SHAPE), Poisson())
    head = encoder.own_head.weight.clone()
    again = FitModel(encoder, Direct(), Gaussian2D(SHAPE), SCMOS(4.0))
    torch.testing.assert_close(encoder.own_head.weight, head)  # the same numbers, kept
    assert torch.equal(first(pictures()), again(pictures()))
    FitModel(encoder, Direct(), Gaussian3D(SHAPE), Poisson())
    with pytest.raises(ValueError, match="given to another model since"):
        first(pictures())


# Feedback


@pytest.mark.parametrize("feedback", [Concat, Difference, Correlate])
@pytest.mark.parametrize("encoder", ["ConvEncoder", "UNet"])
def test_an_encoder_sees_what_the_renderer_learned(feedback, encoder):
    torch.manual_seed(0)
    feedback = feedback()
    mapper = Direct() if encoder == "ConvEncoder" else Centroid()
    encoder = (NUMBERS | MAPS)[encoder]()
    template = Template(SHAPE, bump(17, 17))
    model = FitModel(encoder, mapper, template, Poisson(), feedback).double()
    images = pictures().double()
    before = model.estimate(images)["x"].detach()
    model.loss(images).backward()
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all() and p.grad.any(), name
    with torch.no_grad():
        template.raw[:, ::2] -= 5  # another template, the same images
    change = (model.estimate(images)["x"] - before).detach().abs().max()
    assert math.log10(change) > -9  # px; exactly 0 without feedback, and rounding is 1e-14


def test_only_correlate_lets_gradients_back_into_the_renderer():
    template = Template(SHAPE, bump(17, 17))
    for feedback, flows in ((Concat(), False), (Difference(), False), (Correlate(7), True)):
        feedback.connect(template)
        assert feedback(pictures(), template).requires_grad is flows


def test_correlate_finds_the_spot():
    template, feedback = Template(SHAPE, bump(17, 17)), Correlate(9)
    feedback.connect(template)
    images = pictures(1)
    found = feedback(images, template)[0, 1]
    where = torch.from_numpy(np.array(np.unravel_index(int(found.argmax()), SHAPE)))
    brightest = torch.from_numpy(np.array(np.unravel_index(int(images[0].argmax()), SHAPE)))
    assert (where - brightest).abs().max() <= 3 and found.max() > 3 * found.median().abs()


def test_the_state_is_the_picture_of_one_emitter():
    template = Template((25, 25), bump(17, 17))
    state = Concat().state(template).detach()
    assert state.max() == 1 and state.min() == 0
    torch.testing.assert_close(state, state.flip(0), atol=1e-4, rtol=0)
    assert state[12, 12] == 1


# What is refused


def test_a_field_in_tiles():
    field = PerImage((8, 8), field=(20, 24))
    model = FitModel(field, ImageMapper(), Passthrough((8, 8)), Poisson())
    with torch.no_grad():
        field.numbers.copy_(torch.arange(480.0).reshape(1, 1, 20, 24) / 100)
    corners = torch.tensor([[0, 0], [12, 16]])
    whole = FitModel(PerImage((20, 24)), ImageMapper(), Passthrough((20, 24)), Poisson())
    with torch.no_grad():
        whole.encoder.numbers.copy_(field.numbers)
    image = whole(torch.zeros(1, 20, 24))[0]
    tiles = model(torch.zeros(2, 8, 8), corners)
    torch.testing.assert_close(tiles[0], image[:8, :8])
    torch.testing.assert_close(tiles[1], image[12:, 16:])
    with pytest.raises(ValueError, match=r"from 0 to \[12, 16\]"):
        model(torch.zeros(1, 8, 8), torch.tensor([[13, 0]]))
    with pytest.raises(ValueError, match="say in `index` which they are"):
        model(torch.zeros(1, 8, 8))


def test_tiles_of_a_blurred_field_see_what_lies_around_them():
    kernel = bump(5, 5)
    blurred = renderers.Convolution((8, 8), kernel, margin=2)
    tiles = FitModel(PerImage((8, 8), field=(20, 24)), ImageMapper(), blurred, Poisson())
    whole = renderers.Convolution((20, 24), kernel, margin=2)
    whole = FitModel(PerImage((20, 24)), ImageMapper(), whole, Poisson())
    assert tiles.encoder.numbers.shape == whole.encoder.numbers.shape == (1, 2, 24, 28)
    with torch.no_grad():
        whole.encoder.numbers[:, 0].normal_()
        tiles.encoder.numbers.copy_(whole.encoder.numbers)
        image = whole(torch.zeros(1, 20, 24))[0]
        tile = tiles(torch.zeros(1, 8, 8), torch.tensor([[5, 16]]))[0]
    torch.testing.assert_close(tile, image[5:13, 16:24])
    with pytest.raises(ValueError, match="larger than its images .* use PerImage, or no margin"):
        FitModel(UNet(), ImageMapper(), blurred, Poisson())


def spots(encoder=None, mapper=None, renderer=None, noise=None, feedback=None):
    return FitModel(
        encoder or ConvEncoder(SHAPE),
        mapper or Direct(),
        renderer or Gaussian2D(SHAPE),
        noise or Poisson(),
        feedback,
    )


VOLUME = Passthrough((4, 8, 8))
MODEL = spots()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spots(renderer=Passthrough(SHAPE)), "in every pixel: use ImageMapper"),
        (lambda: spots(mapper=ImageMapper(), encoder=UNet()), "ImageMapper gives a value in every"),
        (lambda: spots(mapper=ImageMapper()), "ConvEncoder gives a few numbers .* use UNet or"),
        (lambda: spots(mapper=Centroid()), "but Centroid takes maps: use UNet or PerImage"),
        (lambda: spots(encoder=UNet()), "UNet gives maps, but Direct takes a few numbers"),
        (lambda: spots(renderer=Gaussian2D((24, 39))), r"for images \(24, 40\), .* \(24, 39\)"),
        (lambda: spots(UNet(), ImageMapper(), VOLUME), "makes volumes .* use PerImage"),
        (lambda: spots(PerImage(SHAPE), renderer=VOLUME, mapper=ImageMapper()), "the same shape"),
        (lambda: spots(mapper=Direct(fit=("x", "blur"))), "fit names blur but Gaussian2D has x, y"),
        (lambda: spots(mapper=Direct(fit=())), "nothing to find"),
        (lambda: spots(UNet(), Centroid(fit=("x", "photons"))), "Centroid finds places, but y is"),
        (lambda: spots(mapper=Stacked(fit=("background",))), "nothing to stack"),
        (lambda: spots(mapper=Direct(2, fit=("background",))), "no parameter of single emitters"),
        (lambda: Direct(emitters=0), "emitters is 0: give a whole number"),
        (lambda: Stacked(features=0), "features is 0"),
        (lambda: spots(feedback=Concat()), "Gaussian2D has no weights"),
        (
            lambda: spots(PerImage(SHAPE), renderer=Template(SHAPE), feedback=Concat()),
            "PerImage looks at no image",
        ),
        (lambda: Correlate(8), "size is 8: give an odd"),
        (lambda: Correlate(31).connect(Template(SHAPE)), "size is 31 but images are"),
        (lambda: PerImage((8, 8), field=(4, 9)), "no smaller than its tiles"),
        (lambda: spots(PerImage(SHAPE, field=(90, 90))), "one field .* leave out field"),
        (lambda: PerImage((8, 8), 0), "n_images is 0"),
        (lambda: spots(PerImage(SHAPE, start={"blur": 1})), "start holds blur: it can hold"),
        (lambda: ConvEncoder((8, 8, 8)), r"a network takes images \(Y, X\)"),
        (lambda: ConvEncoder((8, 8), spot=0), "give positive ones"),
        (lambda: UNet(depth=0), "depth is 0: give a whole number"),
        (lambda: UNet(typical=0), "typical is 0"),
        (lambda: UNet(SHAPE)(torch.zeros(1, 8, 8)), r"images are \(1, 8, 8\): give \(B, 24, 40\)"),
        (lambda: MODEL(torch.zeros(1, 40, 24)), r"\(1, 40, 24\): give \(B, 24, 40\)"),
        (lambda: MODEL.estimate(np.full((1, *SHAPE), np.nan)), "NaN or infinity among the images"),
        (lambda: spots(PerImage(SHAPE, 2))(pictures()), "3 images for a PerImage of 2"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((ConvEncoder, Direct(), Gaussian2D(SHAPE), Poisson()), "encoder is the class ConvEncoder"),
        ((ConvEncoder(SHAPE), Direct, Gaussian2D(SHAPE), Poisson()), "mapper is the class Direct"),
        ((ConvEncoder(SHAPE), Direct(), Gaussian2D(SHAPE), "poisson"), "give one of helpers.noise"),
    ],
)
def test_instances_are_wanted(parts, message):
    with pytest.raises(TypeError, match=message):
        FitModel(*parts)
