"""Input checks and initial estimates of a pupil retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..._arrays import Array, is_tensor, to_numpy, to_tensor
from ...devices import pick_device
from ...noise._checks import NoiseModel
from ...noise.counting import Poisson
from ...optics._zernike import zernike
from ...optics.pupil import Pupil

PLACE = "x", "y", "z", "photons", "background"
GAUGE = (0, 1, 2, 4)  # piston, tilts, defocus: invisible, or done by x, y, z as well
SHARED = 4  # this many pixels with the largest value: the camera ends there


def wide_tensor(images: Array, device: str | torch.device | None) -> torch.Tensor:
    """On the device of the work, in the widest floating type that it has."""
    t = to_tensor(images)
    t = t.to(t.device if device is None and is_tensor(images) else pick_device(device))
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)


def checked_modes(modes: Sequence[int], pupil: Pupil) -> tuple[int, ...]:
    """The OSA indices as a tuple, if they can be fitted."""
    modes = tuple(int(j) for j in modes)
    if not modes or len(set(modes)) < len(modes):
        raise ValueError(f"modes are {modes}: give each OSA index once, and at least one")
    for j in modes:
        zernike(j)
        if j in GAUGE:
            raise ValueError(
                f"mode {j} cannot be fitted: piston (0) is invisible, and what tilts (1, 2) and "
                "defocus (4) do, x, y and z do as well; leave it out"
            )
    if any(np.ndim(c) for c in (pupil.zernikes or {}).values()):
        raise ValueError("the pupil has a batch of Zernikes: give one number for each")
    return modes


def checked_planes(z: Array, n_planes: int) -> list[float]:
    """The planes in µm as a list, if a pupil can be told from them."""
    z = np.asarray(to_numpy(z), dtype=float)
    if z.shape != (n_planes,):
        raise ValueError(f"z has shape {z.shape} for {n_planes} planes: give one z for each")
    if not np.isfinite(z).all():
        raise ValueError("z holds NaN or infinite values: give the height of every plane in µm")
    different, span = len(np.unique(z)), float(np.ptp(z))
    if different < 2:
        raise ValueError(
            "all planes have the same z: one plane cannot tell a wavefront from its twin, give two "
            "or more; for single images of many emitters see retrieve_from_blinks"
        )
    if not 0.02 <= span <= 40:
        raise ValueError(
            f"z spans {span:g}: it is counted in µm, and a stack of beads spans about 1 µm; "
            "divide nm by 1000"
        )
    return z.tolist()


def checked_images(
    images: torch.Tensor, mask: Array | None, saturation: float | None, noise: NoiseModel
) -> tuple[torch.Tensor, torch.Tensor, float | None]:
    """Images with a number everywhere, 1 where a pixel counts, and the level of saturation."""
    use = torch.ones_like(images, dtype=torch.bool)
    if mask is not None:
        given = to_tensor(mask, images.device, torch.bool)
        if given.ndim == images.ndim - 1 and images.shape[1] == 1 and len(given) == len(images):
            given = given[:, None]  # one for each blink
        try:
            use = use & given.expand(images.shape)
        except RuntimeError as error:
            raise ValueError(
                f"mask is {tuple(given.shape)} and images are {tuple(images.shape)}: give it the "
                "shape of the images, or of one image"
            ) from error
    bad = int((~images.isfinite() & use).sum())
    if bad:
        raise ValueError(f"{bad} pixels are NaN or infinite: leave them out by `mask`")
    images = torch.where(use, images, 0)
    level = _shared_maximum(images[use]) if saturation is None else float(saturation)
    if level is not None:
        use = use & (images < level)
    if not bool(use.flatten(1).any(1).all()):
        raise ValueError("an image has no pixel left: check mask and saturation")
    lowest = float(images.min())
    if lowest < 0 and isinstance(noise, Poisson):
        raise ValueError(
            f"images go down to {lowest:.4g} photo-electrons, which shot noise cannot: give the "
            "noise of the camera, such as noise=SCMOS(variance), or check the offset"
        )
    return images, use.to(images), level


def _shared_maximum(values):
    """The largest value if it is bright and several pixels share it, as at a camera's limit."""
    if not len(values):
        return None
    top = values.max()
    shared = int((values == top).sum())
    return float(top) if shared >= SHARED and float(top) > 100 else None


def places_of_beads(images: torch.Tensor, use: torch.Tensor) -> torch.Tensor:
    """Start of beads (B, 5): the light's middle in the mean of all planes, and the border."""
    count = use.sum(1).clamp(min=1)
    mean = (images * use).sum(1) / count
    border = torch.cat([mean[:, [0, -1]].flatten(1), mean[:, 1:-1, [0, -1]].flatten(1)], 1)
    background = border.median(1).values.clamp(min=0.01)
    light = (mean - background[:, None, None]).clamp(min=0)
    light = light * (light > 0.1 * light.amax((1, 2), keepdim=True))
    total = light.sum((1, 2)).clamp(min=1e-6)
    down, along = (torch.arange(n).to(mean) - (n - 1) / 2 for n in mean.shape[1:])
    x = (light.sum(1) * along).sum(1) / total
    y = (light.sum(2) * down).sum(1) / total
    photons = (mean - background[:, None, None]).sum((1, 2)).clamp(min=10)
    return torch.stack([x, y, torch.zeros_like(x), photons, background], 1)


def tells_above_from_below(pupil: Pupil) -> bool:
    """True if the pupil and its twin differ."""
    if pupil.phase_map is not None or pupil.medium_index is not None:
        return True
    known = pupil.zernikes or {}
    return any(float(c) and zernike(j).m % 2 == 0 and j not in GAUGE for j, c in known.items())


def places_of_fit(fit: Any, images: torch.Tensor) -> torch.Tensor:
    """Places (B, 5) of an earlier fit."""
    places = np.stack([np.atleast_1d(to_numpy(getattr(fit, name))) for name in PLACE], 1)
    if len(places) != len(images):
        raise ValueError(
            f"the start has {len(places)} emitters but there are {len(images)} images: give the "
            "images that it was found from"
        )
    return torch.as_tensor(places).to(images)


def coefficients_of(pupil: Pupil, modes: Sequence[int], images: torch.Tensor) -> torch.Tensor:
    """The pupil's Zernikes as a tensor (K,), zero where it has none."""
    return images.new_tensor([float((pupil.zernikes or {}).get(j, 0.0)) for j in modes])
