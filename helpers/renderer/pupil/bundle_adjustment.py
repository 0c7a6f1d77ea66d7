r"""One pupil shared by many emitters, each with its own place: all fitted together.

In photogrammetry this is called a bundle adjustment. The emitters meet only in the pupil, so the
large system of equations falls apart into a small one for each emitter and one for the pupil.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ._checks import PLACE

DAMPING, LEAST, MOST = 1e-3, 1e-9, 1e9
NARROWEST, WIDEST = 0.25, 5.0  # px: the least blur that pixels can tell, and the largest
AT_ONCE = 2**17  # cells of pupils: what stays in a processor's cache


@dataclass
class Bundle:
    """Images of B emitters in P planes each, and the renderer that explains them.

    Attributes
    ----------
    images, mask : tensor (B, P, Y, X)
        Photo-electrons; 1 where a pixel counts, else 0.
    planes : tensor (P,)
        What is added to the z of every emitter, in µm.
    renderer : FourierOptics
        With the K modes to fit, in the precision of the images.
    noise : object
        A model of `helpers.noise`.
    """

    images: Any
    mask: Any
    planes: Any
    renderer: Any
    noise: Any

    def equations(
        self, coefficients: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Deviance (B,), gradient (B, K + 5) and Fisher information (B, K + 5, K + 5).

        `coefficients` (K,) are in waves RMS; `places` (B, 5) are x, y, z, photons, background.
        """
        self.set(coefficients)
        parts = [self._equations(part, places[part]) for part in self._parts()]
        deviance, gradient, information = map(torch.cat, zip(*parts, strict=True))
        return deviance, gradient, information

    def rates(self, coefficients: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Expected images (B, P, Y, X)."""
        self.set(coefficients)
        with torch.no_grad():
            parts = [self.renderer.render(self._params(places[part])) for part in self._parts()]
        return torch.cat(parts).view(self.images.shape)

    def set(self, coefficients: torch.Tensor) -> None:
        """Give the renderer these coefficients."""
        with torch.no_grad():
            self.renderer.coefficients.copy_(coefficients)

    def _parts(self):
        size = self.renderer.pupil.samples**2 * len(self.planes)
        at_once = AT_ONCE if self.images.device.type == "cpu" else 64 * AT_ONCE
        step = max(1, at_once // size)
        return [slice(first, first + step) for first in range(0, len(self.images), step)]

    def _params(self, places):
        spread = places[..., None].expand(-1, -1, len(self.planes))
        params = dict(zip(PLACE, spread.unbind(1), strict=True))
        params["z"] = params["z"] + self.planes
        return {name: value.flatten() for name, value in params.items()}

    @torch.no_grad()
    def _equations(self, part, places):
        counts, mask = self.images[part], self.mask[part]
        rate, slopes = self.renderer.jacobian(self._params(places), ("coefficients", *PLACE))
        rate = rate.view(counts.shape).clamp(min=1e-6)
        slopes = slopes.unflatten(0, counts.shape[:2]).transpose(1, 2).flatten(2)
        deviance = (self.noise.deviance(rate, counts, reduction="none") * mask).flatten(1).sum(1)
        score = (self.noise.score(rate, counts) * mask).flatten(1)
        information = (self.noise.information(rate) * mask).flatten(1)
        gradient = (slopes @ score[..., None])[..., 0]
        return deviance, gradient, (slopes * information[:, None]) @ slopes.mT

    def minimize(
        self,
        coefficients: torch.Tensor,
        places: torch.Tensor,
        n_iter: int,
        tol: float,
        watch: Callable[..., Any] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[float], bool]:
        r"""Levenberg-Marquardt by Fisher scoring from `coefficients` (K,) and `places` (B, 5).

        Stops when the step that is wanted is shorter than `tol` standard deviations, over all
        parameters together. Gives coefficients, places, the deviance of each emitter, the total
        deviance at the start and after each step, and whether it converged.

        Information and gradient have blocks of the pupil (c), of each emitter (b), and between
        them. Eliminating the emitters leaves the Schur complement

        .. math:: \Big(F_{cc} - \sum_b F_{cb} F_{bb}^{-1} F_{bc}\Big)\, \delta_c
            = -g_c + \sum_b F_{cb} F_{bb}^{-1} g_b ,

        a system of K equations. The diagonals of the blocks are raised by a damping that falls when
        a step lowers the deviance and rises when it does not.
        """
        now = self.equations(coefficients, places)
        history, damping, converged = [float(now[0].sum())], DAMPING, False
        for _ in range(n_iter):
            by_pupil, by_place, wanted = self._step(*now[1:], damping, places.shape[1])
            moved = places + by_place
            moved[:, 3:] = moved[:, 3:].maximum(0.1 * places[:, 3:])  # light stays positive
            total = math.inf
            if moved.isfinite().all() and by_pupil.isfinite().all():
                trial = self.equations(coefficients + by_pupil, moved)
                total = float(trial[0].sum())
            if total < history[-1]:  # false for NaN
                coefficients, places, now = coefficients + by_pupil, moved, trial
                damping = max(damping / 10, LEAST)
                if watch:
                    watch(coefficients, total)
            else:
                damping = min(damping * 10, MOST)
            history.append(min(total, history[-1]) if total == total else history[-1])
            if converged := wanted < tol**2:
                break
        return coefficients, places, now[0], history, converged

    def _step(self, gradient, information, damping, n_places=5):
        """Steps of pupil (K,) and places (B, 5), and the squared length of the undamped one."""
        k = information.shape[1] - n_places
        # units differ by many decades: with a unit diagonal float32 can solve it, too
        diagonal = information.diagonal(dim1=1, dim2=2).clamp(min=1e-30)
        scale = torch.cat([diagonal[:, :k].sum(0).expand(len(diagonal), -1), diagonal[:, k:]], 1)
        scale = scale.rsqrt()
        gradient = gradient * scale
        information = information * scale[:, :, None] * scale[:, None, :]
        eye = torch.eye(information.shape[1]).to(information) * damping
        pupil, rest, inner = schur(information, k, eye)
        g_pupil, g_place = gradient[:, :k].sum(0), gradient[:, k:, None]
        solved = torch.linalg.solve(inner, g_place)
        by_pupil = -torch.linalg.solve(pupil, g_pupil - (rest @ solved).sum(0)[:, 0])
        back = torch.linalg.solve(inner, rest.mT @ by_pupil[:, None])
        by_place = -(solved + back)[..., 0]
        wanted = -float((g_pupil * by_pupil).sum() + (g_place[..., 0] * by_place).sum())
        return by_pupil * scale[0, :k], by_place * scale[:, k:], wanted * (1 + damping)

    def covariance(
        self, coefficients: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Bound on the covariance of the coefficients (K, K), and of each place (B, 5, 5)."""
        k = len(coefficients)
        _, _, information = self.equations(coefficients, places)
        scale = information.diagonal(dim1=1, dim2=2).sum(0).clamp(min=1e-30).rsqrt()
        information = information * scale[:, None] * scale
        pupil, rest, inner = schur(information, k, torch.zeros_like(information[0]))
        of_pupil = torch.linalg.inv(pupil)
        through = torch.linalg.solve(inner, rest.mT)
        of_place = torch.linalg.inv(inner) + through @ of_pupil @ through.mT
        of_pupil = of_pupil * scale[:k, None] * scale[:k]
        return of_pupil, of_place * scale[k:, None] * scale[k:]


@dataclass
class MeasuredBundle(Bundle):
    """A bundle with a blur that all share, and light of its own in each plane.

    The coefficients (K + 1,) end with the standard deviation of the blur in px if that is fitted.
    Places (B, 3 + 2 P) are x, y, z, photons of each plane and background of each plane, or
    (B, 5) as in `Bundle`.
    """

    blur: float = 0.0
    fits_blur: bool = False
    each_plane: bool = False

    def set(self, coefficients: torch.Tensor) -> None:
        """Give the renderer these coefficients, and the last one to the blur if it is fitted."""
        if self.fits_blur:
            self.blur = min(max(float(coefficients[-1].abs()), NARROWEST), WIDEST)
            coefficients = coefficients[:-1]
        super().set(coefficients)

    def rates(self, coefficients: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Expected images (B, P, Y, X)."""
        return self._blurred(super().rates(coefficients, places), self.blur)

    def _params(self, places):
        if not self.each_plane:
            return super()._params(places)
        n = len(self.planes)
        params = {name: places[:, k, None].expand(-1, n) for k, name in enumerate("xyz")}
        params |= {"photons": places[:, 3 : 3 + n], "background": places[:, 3 + n :]}
        params["z"] = params["z"] + self.planes
        return {name: value.flatten() for name, value in params.items()}

    @torch.no_grad()
    def _equations(self, part, places):
        counts, mask = self.images[part], self.mask[part]
        rate, slopes = self.renderer.jacobian(self._params(places), ("coefficients", *PLACE))
        sharp = rate
        rate, slopes = self._blurred(rate, self.blur), self._blurred(slopes, self.blur)
        if self.fits_blur:
            step = 1e-3
            change = self._blurred(sharp, self.blur + step) - self._blurred(sharp, self.blur - step)
            k = len(self.renderer.modes)
            slopes = torch.cat([slopes[:, :k], change[:, None] / (2 * step), slopes[:, k:]], 1)
        rate = rate.view(counts.shape).clamp(min=1e-6)
        slopes = slopes.unflatten(0, counts.shape[:2]).transpose(1, 2)
        if self.each_plane:
            alone = torch.eye(len(self.planes)).to(slopes)[:, :, None, None]
            light, level = (s[:, None] * alone for s in (slopes[:, -2], slopes[:, -1]))
            slopes = torch.cat([slopes[:, :-2], light, level], 1)
        slopes = slopes.flatten(2)
        deviance = (self.noise.deviance(rate, counts, reduction="none") * mask).flatten(1).sum(1)
        score = (self.noise.score(rate, counts) * mask).flatten(1)
        information = (self.noise.information(rate) * mask).flatten(1)
        gradient = (slopes @ score[..., None])[..., 0]
        return deviance, gradient, (slopes * information[:, None]) @ slopes.mT

    @staticmethod
    def _blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
        """Images (..., Y, X) under a Gaussian of `sigma` px; at the rim the light goes on."""
        if sigma < 0.05:
            return images
        reach = math.ceil(4 * max(sigma, 0.5))
        at = torch.arange(-reach, reach + 1).to(images)
        kernel = torch.exp(-(at**2) / (2 * sigma**2))
        kernel = kernel / kernel.sum()
        flat = images.reshape(-1, 1, *images.shape[-2:])
        flat = torch.nn.functional.pad(flat, (reach,) * 4, mode="replicate")
        flat = torch.nn.functional.conv2d(flat, kernel[None, None, :, None])
        return torch.nn.functional.conv2d(flat, kernel[None, None, None]).view(images.shape)


def schur(
    information: torch.Tensor, k: int, extra: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pupil's equations without the places; the blocks between them; those of the places.

    `information` (B, K + 5, K + 5) belongs to each emitter; `extra` is added to the diagonal
    blocks, once for the pupil.
    """
    inner = information[:, k:, k:] + extra[k:, k:]
    rest = information[:, :k, k:]
    pupil = information[:, :k, :k].sum(0) + extra[:k, :k]
    return pupil - (rest @ torch.linalg.solve(inner, rest.mT)).sum(0), rest, inner
