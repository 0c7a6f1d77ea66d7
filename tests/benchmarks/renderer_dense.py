r"""Dense fields: a network that learns from frames alone, beside the joint fit and the bound.

The network reads a frame and gives for each pixel k the probability :math:`p_k` that a molecule
is there, its place around the pixel's centre, its photons :math:`N_k`, its depth if the lens is
astigmatic, and one background for the frame. The renderer draws the spot :math:`h_k`, and the
likelihood of the measured frame is all the network learns from. There are no labels.

The hard part is that a molecule is there or it is not. Let :math:`s_k \in \{0, 1\}` say so, and
:math:`q(s) = \prod_k p_k^{s_k} (1 - p_k)^{1 - s_k}`. The loss is the negative evidence lower bound
of variational inference,

.. math:: -\,\mathrm E_q \log p\Big(d \,\Big|\, b + \sum_k s_k N_k h_k\Big)
          + \sum_k \mathrm{KL}(p_k \,\|\, \rho) + \sum_k p_k \frac{\log^2(N_k / N)}{2 w^2} .

The share of pixels with a molecule, :math:`\rho`, sets the price of one more. The last term says
how bright molecules are. The sum over all s is out of reach, and samples of s make noisy
gradients. But under q the frame has the mean :math:`\mu = b + \sum_k p_k N_k h_k` and the variance
:math:`v = \sum_k p_k (1 - p_k) N_k^2 h_k^2`, and to second order

.. math:: -\,\mathrm E_q \log p = \sum_i \mu_i - d_i \log \mu_i + \frac{d_i}{2 \mu_i^2}\, v_i .

The last term makes the network decide. Without it, half a molecule in each of two pixels draws the
frame as well as a whole one in one of them. With it, and for small signals, the loss is linear in
every single :math:`p_k`, so its minima lie at 0 and 1. Its weight rises from 0 to 1 in the first
half of the training: the network learns first where light comes from, then from which pixel.
"""

from __future__ import annotations

import math
import tempfile
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from helpers.noise import Poisson
from helpers.renderer.detect import localize, match
from helpers.renderer.encoders import UNet
from helpers.renderer.mle import crlb
from helpers.renderer.renderers import Gaussian2D, Gaussian3D
from helpers.renderer.renderers.gaussian import _shares
from helpers.renderer.simulate import crowded_frames
from helpers.renderer.train import Trainer

from .harness import Table, threads
from .renderer_crowded import _astigmatic_frames

PIXEL, SIGMA, BACKGROUND = 0.1, 1.3, 10.0  # µm, px, photo-electrons
LIGHT = {False: 1000.0, True: 3000.0}  # photons, without and with the lens
SHARE, SPREAD = 0.01, 0.2  # of pixels with a molecule; of the logarithm of the photons
SIDE, BATCH, STEPS, RATE = 16, 64, 1200, 4e-3  # of the training
SEEDS, UNSEEN = (0, 1), 2000
FLAT = {0.2: 200, 0.5: 200, 1.0: 100, 2.0: 60, 4.0: 40}  # molecules per µm²: frames of 32 x 32 px
DEEP = {0.2: 60, 2.0: 12}  # frames of 64 x 64 px


class DenseNet(nn.Module):
    """A U-Net that gives a possible molecule for each pixel, and the likelihood that trains it.

    Parameters
    ----------
    lens : bool
        Astigmatic spots, with a depth.
    seed : int
        Of the weights.
    """

    def __init__(self, lens: bool, seed: int = 0) -> None:
        super().__init__()
        self.lens, self.light = lens, LIGHT[lens]
        shape = (SIDE, SIDE)  # the widths of spots do not depend on it
        self.psf = (Gaussian3D(shape) if lens else Gaussian2D(shape)).requires_grad_(False)
        self.unet = UNet(
            width=16, depth=1, out_channels=5 + lens, typical=5.0,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        with torch.no_grad():
            self.unet.head.weight *= 0.3
            self.unet.head.bias.zero_()
            self.unet.head.bias[0] = math.log(SHARE)
        self.decide = 1.0  # weight of the variance

    def forward(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps (B, Y, X) by name: logit of p, place in px from the centre, photons, depth."""
        root = 2 * (frames.clamp(min=0) + 3 / 8).sqrt()  # noise of 1, whatever the light
        maps = self.unet(root - 2 * math.sqrt(BACKGROUND)).unbind(1)
        down, right = (torch.arange(n) - (n - 1) / 2 for n in frames.shape[1:])
        found = {
            "logit": maps[0],
            "x": right + maps[1].tanh(),
            "y": down[:, None] + maps[2].tanh(),
            # so narrow that two dim molecules cannot stand for a bright one
            "photons": self.light * (0.3 * maps[3].tanh()).exp(),
            "background": BACKGROUND * maps[4].mean((1, 2)).exp(),
        }
        return found | ({"z": 0.6 * maps[5].tanh()} if self.lens else {})

    def expected(self, found: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance (B, Y, X) of the frame over what may be there."""
        height, width = found["logit"].shape[1:]
        flat = {name: value.flatten(1) for name, value in found.items() if value.ndim == 3}
        sigma_x, sigma_y = self.psf.widths(flat | {"sigma": torch.full_like(flat["x"], SIGMA)})
        across = _shares(flat["x"], sigma_x, width)
        down = _shares(flat["y"], sigma_y, height)
        p, photons = flat["logit"].sigmoid(), flat["photons"]
        mean = torch.einsum("bky,bkx->byx", (p * photons)[..., None] * down, across)
        light = (p * (1 - p) * photons**2)[..., None]
        variance = torch.einsum("bky,bkx->byx", light * down**2, across**2)
        return mean + found["background"][:, None, None], variance

    def loss(self, frames: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        """Negative evidence lower bound per pixel, without what depends on the frames alone."""
        found = self(frames)
        mean, variance = self.expected(found)
        misfit = mean - frames * mean.log() + self.decide * frames / (2 * mean**2) * variance
        logit = found["logit"]
        yes, no = functional.logsigmoid(logit), functional.logsigmoid(-logit)
        p = logit.sigmoid()
        price = p * (yes - math.log(SHARE)) + (1 - p) * (no - math.log1p(-SHARE))
        odd = p * (found["photons"] / self.light).log() ** 2 / (2 * SPREAD**2)
        return (misfit + price + odd).mean()


def read(found, least=0.5):
    """Table of the molecules in the maps of a network.

    A pixel counts if its probability is at least `least`. So does the highest one among its
    neighbours, if it gets there with the four beside it that do not count by themselves.
    """
    p = found["logit"].sigmoid()
    weak = torch.where(p < least, p, 0.0)[:, None]
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]]).to(p)[None, None]
    shared = functional.conv2d(weak, cross, padding=1)[:, 0]
    highest = weak == functional.max_pool2d(p[:, None], 3, 1, 1)
    frame, row, column = ((p >= least) | (highest[:, 0] & (shared >= least))).nonzero(as_tuple=True)
    names = [name for name in ("x", "y", "z", "photons") if name in found]
    table = {name: found[name][frame, row, column].numpy() for name in names}
    return {"frame": frame.numpy()} | table


def scene(lens, n, side, density, seed):
    """Frames (n, side, side) of that many molecules per µm², and their truth."""
    if lens:
        return _astigmatic_frames(n, side, PIXEL, density, seed)
    most = 2 * math.ceil(density * (0.8 * side * PIXEL) ** 2) + 8
    return crowded_frames(
        n, (side, side), emitters=most, present=density * (0.8 * side * PIXEL) ** 2 / most,
        photons=(800, 1200), background=(BACKGROUND, BACKGROUND), sigma=SIGMA, read_noise=0,
        extent=0.8, seed=seed,
    )  # fmt: skip


def train(lens, seed, steps=STEPS, callback=None):
    """A trained network, and the processor seconds that it took."""
    net = DenseNet(lens, seed)
    net.decide = 0.0

    def draw(n, rng):
        """Fresh frames of 0.2 to 4 molecules per µm²; where the molecules are is thrown away."""
        densities, seeds = 0.2 * 20 ** rng.random(8), rng.integers(2**62, size=8)
        pairs = zip(densities, seeds.tolist(), strict=True)
        return np.concatenate([scene(lens, n // 8, SIDE, *pair)[0] for pair in pairs])

    def after(step):
        net.decide = min(1.0, 2 * step / steps)
        return callback and callback(step)

    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            net, draw, n_steps=steps, learning_rate=RATE, batch=BATCH, seed=seed, folder=folder,
            callback=after, save_every=steps, device="cpu",
        ).fit()  # fmt: skip
    return net.eval(), time.process_time() - start


def run(options):
    """Train, then score network and joint fit on the same frames; processor time of one thread."""
    del options
    with threads(1):
        for lens in (False, True):
            localize(scene(lens, 2, 32, 0.5, 0)[0], _psf(lens), device="cpu")  # compiles
        cost = []
        for lens, frames in ((False, FLAT), (True, DEEP)):
            nets, seconds = zip(*(train(lens, seed) for seed in SEEDS), strict=True)
            yield _scores(lens, frames, nets)
            cost.append((_kind(lens), *_cost(nets[0], seconds)))
        yield Table(
            "training of a network, without labels",
            ("", "weights", "steps", "frames of 16 x 16 px", "CPU s", "+-", "TFLOP"),
            cost,
            [f"{len(SEEDS)} trainings each; +- is the standard deviation between them; FLOP of "
             "convolutions and matrix products, forward and backward"],
        )  # fmt: skip


def _kind(lens):
    return "astigmatic" if lens else "in the plane"


def _psf(lens):
    return Gaussian3D((17, 17)) if lens else SIGMA


def _scores(lens, frames, nets):
    side = 64 if lens else 32
    table = Table(
        f"{_kind(lens)}, {side} x {side} px of 0.1 µm, {LIGHT[lens]:.0f} photons, 10 of background",
        (
            "molecules per µm²", "", "molecules", "recall", "Jaccard", "lateral RMSE nm",
            "axial RMSE nm", "efficiency %", "frames/s",
        ),
        notes=[
            "pairs within 250 nm in the plane and 500 nm in depth; efficiency as in the challenge "
            f"of 2016; {len(nets)} networks, their mean and standard deviation; bounds are of "
            "molecules that stand alone, and the median of all in a frame fitted together",
        ],
    )  # fmt: skip
    for density, n in frames.items():
        counts, truth = scene(lens, n, side, density, UNSEEN)
        found, seconds = _timed(lambda c=counts: localize(c, _psf(lens), device="cpu"))
        fit = _numbers(lens, found, truth, n / seconds)
        learned = []
        for net in nets:
            found, seconds = _timed(lambda c=counts, net=net: _predict(net, c))
            learned.append(_numbers(lens, found, truth, n / seconds))
        alone, together = _bounds(lens, truth, n, side)
        blank = (math.nan,) * 2
        table.rows += [
            (density, "joint fit", len(truth), *fit),
            (density, "network", len(truth), *np.mean(learned, 0).tolist()),
            (density, "+-", len(truth), *np.std(learned, 0, ddof=1).tolist()),
            (density, "bound, alone", len(truth), *blank, *alone, *blank),
            (density, "bound, together", len(truth), *blank, *together, *blank),
        ]
    return table


def _timed(call):
    start = time.process_time()
    return call(), time.process_time() - start


@torch.no_grad()
def _predict(net, frames):
    return read(net(torch.from_numpy(frames)))


def _numbers(lens, found, truth, speed):
    result = match(found, truth, 0.25 / PIXEL, 0.5 if lens else None)
    lateral = 1e3 * PIXEL * math.sqrt(2) * result.rmse
    axial = 1e3 * result.rmse_z
    return result.recall, result.jaccard, lateral, axial, result.efficiency(PIXEL), speed


def _bounds(lens, truth, n, side):
    """Lateral and axial bound in nm: root mean square alone, median in the frame."""
    psf = (Gaussian3D if lens else Gaussian2D)((side, side))
    shared = {"background": BACKGROUND} | ({} if lens else {"sigma": SIGMA})
    names, fixed = ("x", "y", "z") if lens else ("x", "y"), () if lens else ("sigma",)
    light = np.full(len(truth), LIGHT[lens]) if lens else truth["photons"]
    columns = {name: truth[name] for name in names} | {"photons": light}
    alone, together = [], []
    for k in range(n):
        own = {name: value[truth["frame"] == k] for name, value in columns.items()}
        if len(own["x"]):
            one = crlb(psf, own | shared, Poisson(), fixed=fixed)
            rows = {name: value[None] for name, value in own.items()}
            all_of_them = crlb(psf, rows | shared, Poisson(), fixed=fixed)
            alone.append(np.stack([one[name] for name in names]))
            together.append(np.stack([all_of_them[name].reshape(-1) for name in names]))
    alone, together = np.concatenate(alone, 1), np.concatenate(together, 1)

    def nm(bounds, average):
        lateral = 1e3 * PIXEL * float(average(np.hypot(bounds[0], bounds[1])))
        return lateral, 1e3 * float(average(bounds[2])) if lens else math.nan

    return nm(alone, lambda b: np.sqrt(np.mean(b**2))), nm(together, np.median)


def _cost(net, seconds):
    """Weights, steps, frames, mean and spread of the seconds, TFLOP of a whole training."""
    frames = torch.full((1, SIDE, SIDE), BACKGROUND)
    with FlopCounterMode(display=False) as counter:
        net.loss(frames).backward()
    net.zero_grad()
    seen = STEPS * BATCH
    weights = sum(p.numel() for p in net.unet.parameters())
    spread = float(np.std(seconds, ddof=1))
    flop = counter.get_total_flops() * seen / 1e12
    return weights, STEPS, seen, float(np.mean(seconds)), spread, flop
