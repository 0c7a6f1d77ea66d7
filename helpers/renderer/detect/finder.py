r"""The search for molecules in a batch of frames: propose, fit neighbours together, accept or not.

`helpers.renderer.detect.localize` is the way in, and says what is done and why.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree

from ..._arrays import to_numpy, to_tensor
from ...noise._checks import NoiseModel
from ..mle.estimate import fit
from ..mle.initial import planes
from ..mle.levenberg import noise_of
from ..renderers.base import Renderer
from . import _search_cpu
from .matched_filter import MatchedFilter, threshold

MOST = 12  # molecules fitted together
PROPOSE = 0.8  # a peak above this part of the threshold is tried
STEPS, TOLERANCE = 30, 0.02
PIECE = 2**18  # pixels that are searched at once
CACHE = 1_000_000  # numbers in the derivatives of the images that are fitted at once
FAR = 1e6  # px between frames, where neighbours are sought in all frames at once


@dataclass
class _Regions:
    """Pieces of frames, and what has been found in each so far."""

    images: Any  # tensor (R, h, w)
    use: Any  # bool tensor (R, h, w)
    noise: Any
    frame: np.ndarray  # (R,)
    middle: np.ndarray  # (R, 2): x, y of the piece's centre from that of its frame
    count: Any  # int tensor (R,)
    emitters: Any  # tensor (R, MOST, names)
    std: Any  # tensor (R, MOST, names)
    background: Any  # tensor (R,)
    background_std: Any
    deviance: Any
    converged: Any  # bool tensor (R, MOST)

    @classmethod
    def start(cls, images, use, noise, frame, middle, n_names):
        """Regions in which nothing has been found."""
        zeros = images.new_zeros(len(images))
        emitters = images.new_zeros((len(images), MOST, n_names))
        return cls(
            images, use, noise, frame, middle, zeros.long(), emitters, emitters.clone(),
            zeros, zeros.clone(), zeros.clone(), emitters[..., 0].bool(),
        )  # fmt: skip

    def update(self, index, new):
        """Replace the state of some regions by a trial `_Trial`."""
        n = new.emitters.shape[1]
        self.count[index] = n
        self.emitters[index, :n], self.std[index, :n] = new.emitters, new.std
        self.background[index], self.background_std[index] = new.background, new.background_std
        self.deviance[index], self.converged[index, :n] = new.deviance, new.converged


@dataclass
class _Trial:
    """A fit of some regions with the same number of molecules in each."""

    emitters: Any
    std: Any
    background: Any
    background_std: Any
    deviance: Any
    converged: Any

    def select(self, index):
        """The trial of some of the regions."""
        return _Trial(*(value[index] for value in vars(self).values()))


class Finder:
    """Finds the molecules of frames of one shape, with `false_alarms` per frame.

    The renderer makes a frame, or a region within it.
    """

    def __init__(
        self,
        renderer: Renderer,
        noise: NoiseModel,
        fixed: Mapping[str, float],
        shape: Sequence[int],
        false_alarms: float,
        device: torch.device,
    ) -> None:
        self.renderer, self.noise, self.fixed, self.shape = renderer, noise, fixed, shape
        main = ["x", "y", "photons"]
        own = [name for name, param in renderer.params.items() if param.per_emitter]
        self.names = main + [n for n in own if n not in main and n not in fixed]
        # an unknown depth has other spots in every plane, and each plane its filter
        unknown = "z" in self.names and math.isfinite(renderer.params["z"].transform.high)
        self.planes = planes(renderer.params["z"]) if unknown else []
        settings = [{**fixed, "z": plane} for plane in self.planes] or [dict(fixed)]
        self.filters = [MatchedFilter(renderer, setting, device) for setting in settings]
        self.filter = self.filters[len(self.filters) // 2]
        if (side := 2 * self.filter.reach + 1) > min(renderer.image_shape):
            raise ValueError(
                f"the point spread fills {side} px but there are {renderer.image_shape}: "
                "take larger frames or regions, or a narrower point spread"
            )
        roughness = sum(each.roughness for each in self.filters)
        self.threshold = threshold(roughness * math.prod(shape), false_alarms)
        params = [renderer.params[name] for name in self.names]
        # well inside the limits, so that a start is never on one
        self.low = torch.tensor([p.transform.low for p in params], device=device) + 1e-2
        self.high = torch.tensor([p.transform.high for p in params], device=device) - 1e-2
        self.usual = torch.tensor([p.start for p in params], device=device)

    def __call__(
        self, counts: torch.Tensor, use: torch.Tensor, first: int
    ) -> dict[str, np.ndarray]:
        """Columns by name of the molecules in `counts` (N, Y, X); their first frame is `first`."""
        if tuple(self.renderer.image_shape) == self.shape:
            regions, peaks = self._whole(counts, use), None
        else:
            regions, peaks = self._cut(counts, use)
        everything = torch.arange(len(regions.images), device=counts.device)
        for index, n in self._by_count(regions, everything):
            regions.update(index, self._fit(regions, index, regions.emitters[index, :n]))
        if peaks is not None:
            self._prune(regions, everything)
        self._grow(regions, everything)
        self._prune(regions, everything)
        columns = self._columns(regions, peaks)
        columns["frame"] = columns["frame"] + first
        return columns

    # regions

    def _whole(self, counts, use):
        n = len(counts)
        return _Regions.start(
            counts, use, self.noise, np.arange(n), np.zeros((n, 2)), len(self.names)
        )

    def _cut(self, counts, use):
        """Regions about the peaks of each frame, with the peaks that they hold as starts."""
        frame, row, column, light, plane = self._search(counts, use)
        height, width = self.renderer.image_shape
        first_row = (row - height // 2).clamp(0, self.shape[0] - height)
        first_column = (column - width // 2).clamp(0, self.shape[1] - width)
        rows = first_row[:, None] + torch.arange(height, device=row.device)
        columns = first_column[:, None] + torch.arange(width, device=row.device)
        place = frame[:, None, None], rows[:, :, None], columns[:, None, :]
        # x, y from the centre of the frame
        centre = (np.array(self.shape[::-1]) - 1) / 2
        corner = to_numpy(torch.stack([first_column, first_row], 1))
        middle = corner + (np.array([width, height]) - 1) / 2 - centre
        peaks = to_numpy(torch.stack([column, row], 1)) - centre
        regions = _Regions.start(
            counts[place], use[place], _cut_noise(self.noise, place[1:]), to_numpy(frame), middle,
            len(self.names),
        )  # fmt: skip
        # every region starts with all peaks that it holds
        peak, region, rank = _held_peaks(regions, peaks, (width / 2, height / 2))
        peak, region, rank = (index[rank < MOST] for index in (peak, region, rank))
        offset = torch.as_tensor(peaks[peak] - middle[region], dtype=counts.dtype)
        peak, region, rank = (
            torch.as_tensor(index, device=counts.device) for index in (peak, region, rank)
        )
        start = self.usual.to(counts).repeat(len(peak), 1)
        start[:, :2], start[:, 2] = offset.to(counts), light[peak]
        self._set_depth(start, plane[peak])
        regions.emitters[region, rank] = self._inside(start)
        regions.count += torch.bincount(region, minlength=len(regions.images))
        return regions, peaks

    def _search(self, counts, use):
        """Frame, row, column, light and plane of the peaks, a few frames at a time."""
        reach, level = math.ceil(self.filter.width), PROPOSE * self.threshold
        step = len(counts)
        if counts.device.type == "cpu":  # so that they stay in cache
            step = max(1, PIECE // counts[0].numel())
        found = []
        for first in range(0, len(counts), step):
            part = slice(first, first + step)
            significance, photons, plane = self._look(counts[part], use[part])
            frame, row, column = _peaks(significance, reach, level)
            more = photons[frame, row, column], plane[frame, row, column]
            found.append((frame + first, row, column, *more))
        return (torch.cat(columns) for columns in zip(*found, strict=True))

    def _look(self, counts, use):
        """The matched filter over whole frames, on a smooth background."""
        background = _smooth_background(counts, use, min(self.renderer.image_shape))
        weight = self.noise.information(background.clamp(min=1e-3)) * use
        residual = counts - background
        return self._filtered(residual, weight)

    def _filtered(self, residual, weight):
        """Significance and light of the plane that fits best, and that plane."""
        significance, photons = self.filters[0](residual, weight)
        best = torch.zeros_like(significance, dtype=torch.long)
        for k, each in enumerate(self.filters[1:], 1):
            other, light = each(residual, weight)
            better = other > significance
            significance = torch.where(better, other, significance)
            photons, best = torch.where(better, light, photons), best.masked_fill(better, k)
        return significance, photons, best

    def _set_depth(self, start, plane):
        """Depths of the planes that fit best, among the starts of molecules."""
        if self.planes:
            start[:, self.names.index("z")] = torch.as_tensor(self.planes).to(start)[plane]

    # the search

    def _grow(self, regions, active):
        """Add the likeliest molecule to each region as long as the likelihood asks for it."""
        while len(active):
            rate = self._rate(regions, active)
            residual = regions.images[active] - rate
            noise = noise_of(regions.noise, active)
            weight = noise.information(rate) * regions.use[active]
            significance, photons, plane = (a.flatten(1) for a in self._filtered(residual, weight))
            best, at = significance.max(1)
            tried = (best > PROPOSE * self.threshold) & (regions.count[active] < MOST)
            light, plane = (a.gather(1, at[:, None])[tried, 0] for a in (photons, plane))
            active, at = active[tried], at[tried]
            width = regions.images.shape[2]
            new = self.usual.to(light).repeat(len(active), 1)
            new[:, 0] = at % width - (width - 1) / 2
            new[:, 1] = at // width - (regions.images.shape[1] - 1) / 2
            new[:, 2] = light
            self._set_depth(new, plane)
            new = self._inside(new)
            accepted = [active[:0]]
            for index, n in self._by_count(regions, active):
                own = new[torch.searchsorted(active, index)]
                start = torch.cat([regions.emitters[index, :n], own[:, None]], 1)
                trial = self._fit(regions, index, start)
                gained = regions.deviance[index] - trial.deviance > self.threshold**2
                regions.update(index[gained], trial.select(gained))
                accepted.append(index[gained])
            active = torch.cat(accepted).sort().values

    def _prune(self, regions, active):
        """Take molecules away that the likelihood does not miss, the weakest first."""
        while len(active):
            changed = [active[:0]]
            for index, n in self._by_count(regions, active):
                if n == 0:
                    continue
                here, std = regions.emitters[index, :n], regions.std[index, :n, 2]
                ratio, weakest = (here[..., 2] / std).min(1)
                doubtful = ~(ratio > 1.5 * self.threshold)
                index, here, weakest = index[doubtful], here[doubtful], weakest[doubtful]
                stays = torch.arange(n, device=here.device) != weakest[:, None]
                rest = here[stays].reshape(len(index), n - 1, here.shape[2])
                trial = self._fit(regions, index, rest)
                lost = trial.deviance - regions.deviance[index] > self.threshold**2
                regions.update(index[~lost], trial.select(~lost))
                changed.append(index[~lost])
            active = torch.cat(changed).sort().values

    def _by_count(self, regions, active):
        """Regions with the same number of molecules, and that number, as it is now."""
        count = regions.count[active]
        return [(active[count == n], n) for n in count.unique().tolist()]

    def _fit(self, regions, index, emitters):
        """Fit some regions jointly, all with as many molecules as `emitters` (b, n, names)."""
        images, use = regions.images[index], regions.use[index]
        noise = noise_of(regions.noise, index)
        n = emitters.shape[1]
        if n == 0 or len(index) == 0:
            return self._empty(images, use, noise, emitters)
        before = regions.background[index]
        unknown = before <= 0
        if bool(unknown.any()):
            before = torch.where(unknown, _level(images, use), before)
        start = {name: emitters[..., k].contiguous() for k, name in enumerate(self.names)}
        per_fit = (1 + n * len(self.names)) * images[0].numel()
        fits = fit(
            images, self.renderer, noise, {**start, "background": before},
            fixed=self.fixed, mask=use, n_iter=STEPS, tol=TOLERANCE,
            chunk=max(8, CACHE // per_fit), device=images.device,
        )  # fmt: skip
        values, stds = (
            torch.stack([found[name].reshape(len(index), n) for name in self.names], -1).to(images)
            for found in (fits.params, fits.crlb_std)
        )
        level, level_std, deviance = (
            value.to(images)
            for value in (fits.params["background"], fits.crlb_std["background"], fits.deviance)
        )
        # a neighbour whose centre lies outside rests on the rim: no fault of the others
        ended = fits.converged | (fits.n_iter < STEPS)
        converged = ((values > self.low) & (values < self.high)).all(2) & ended[:, None]
        return _Trial(self._inside(values), stds, level, level_std, deviance, converged)

    def _empty(self, images, use, noise, emitters):
        """The fit of a level background alone, by two steps of Fisher scoring."""
        level = _level(images, use)
        for _ in range(2):
            rate = level[:, None, None].expand_as(images)
            slope = (noise.score(rate, images) * use).sum((1, 2))
            information = (noise.information(rate) * use).sum((1, 2)).clamp(min=1e-12)
            level = (level - slope / information).clamp(min=1e-3)
        rate = level[:, None, None].expand_as(images)
        wide = torch.float32 if images.device.type == "mps" else torch.float64
        each = noise.deviance(rate.to(wide), images.to(wide), reduction="none")
        deviance = (each * use).sum((1, 2)).to(images)
        none = emitters.new_zeros(emitters.shape[:2], dtype=torch.bool)
        return _Trial(emitters, emitters, level, information.rsqrt(), deviance, none)

    def _rate(self, regions, index):
        """Expected images of some regions as they stand."""
        rate = torch.empty_like(regions.images[index])
        for some, n in self._by_count(regions, index):
            params = {name: regions.emitters[some, :n, k] for k, name in enumerate(self.names)}
            level = regions.background[some]
            where = torch.searchsorted(index, some)
            if n:
                rate[where] = self.renderer.render({**params, **self.fixed, "background": level})
            else:
                rate[where] = level[:, None, None].expand(-1, *rate.shape[1:])
        return rate.clamp(min=1e-3)

    def _inside(self, emitters):
        return torch.minimum(torch.maximum(emitters, self.low), self.high)

    # the result

    def _columns(self, regions, peaks):
        n_regions = len(regions.images)
        held = torch.arange(MOST, device=regions.count.device) < regions.count[:, None]
        region = torch.arange(n_regions, device=held.device)[:, None].expand_as(held)[held]
        values, stds = regions.emitters[held], regions.std[held]
        chi2, masked = self._goodness(regions, region, values)
        owner = to_numpy(region)
        columns = {"frame": regions.frame[owner]}
        for k, name in enumerate(self.names):
            columns[name] = to_numpy(values[:, k]).astype(float)
            columns[f"{name}_std"] = to_numpy(stds[:, k]).astype(float)
        columns["x"] += regions.middle[owner, 0]
        columns["y"] += regions.middle[owner, 1]
        columns["background"] = to_numpy(regions.background[region]).astype(float)
        columns["background_std"] = to_numpy(regions.background_std[region]).astype(float)
        columns |= {"chi2": chi2, "masked": masked}
        columns["converged"] = to_numpy(regions.converged[held])
        kept = np.arange(len(owner))
        if peaks is not None:  # a molecule belongs to the region whose peak is nearest
            places = _in_all_frames(columns["frame"], np.stack([columns["x"], columns["y"]], 1))
            nearest = cKDTree(_in_all_frames(regions.frame, peaks)).query(places)[1]
            kept = np.flatnonzero(nearest == owner)
        kept = kept[np.lexsort([columns[name][kept] for name in ("x", "y", "frame")])]
        return {name: column[kept] for name, column in columns.items()}

    def _goodness(self, regions, region, values):
        """Mean squared residual about each molecule, and the pixels that do not count there."""
        everything = torch.arange(len(regions.images), device=region.device)
        rate = self._rate(regions, everything)
        use = regions.use.to(rate)
        chi2 = (regions.images - rate) ** 2 * regions.noise.information(rate) * use
        half = math.ceil(2 * self.filter.width)
        height, width = rate.shape[1:]
        column = (values[:, 0] + (width - 1) / 2).round().long().clamp(0, width - 1)
        row = (values[:, 1] + (height - 1) / 2).round().long().clamp(0, height - 1)

        def about(image):
            if image.device.type == "cpu":
                at = (index.numpy() for index in (region, row, column))
                return torch.from_numpy(_search_cpu.sums_about(image.numpy(), *at, half))
            side = 2 * half + 1
            image = F.avg_pool2d(F.pad(image, (half,) * 4)[:, None], (side, 1), 1)
            return side**2 * F.avg_pool2d(image, (1, side), 1)[region, 0, row, column]

        n_used, n_all = about(use), about(torch.ones_like(use))
        mean = about(chi2) / (n_used - values.shape[1]).clamp(min=1)
        return to_numpy(mean).astype(float), to_numpy((n_all - n_used).round()).astype(int)


def _cut_noise(noise, place):
    """The noise of regions: a map of variances is cut as the frames are."""
    variance = getattr(noise, "variance", None)
    if np.ndim(variance) < 2:
        return noise
    part = copy.copy(noise)  # its constructor may ask for more than a variance
    part.variance = to_tensor(variance, place[0].device)[place]
    return part


def _level(images, use):
    """Median of the pixels that count."""
    pixels = torch.where(use, images, torch.nan).flatten(1)
    return torch.nan_to_num(pixels.nanmedian(1).values).clamp(min=0.1)


def _peaks(significance, reach, level):
    """Frame, row and column of the highest pixels of their neighbourhoods."""
    if significance.device.type == "cpu":
        return torch.from_numpy(_search_cpu.peaks(significance.numpy(), reach, level)).unbind(1)
    top = F.max_pool2d(significance, (2 * reach + 1, 1), 1, (reach, 0))
    top = F.max_pool2d(top, (1, 2 * reach + 1), 1, (0, reach))
    return torch.nonzero((significance == top) & (significance > level), as_tuple=True)


def _smooth_background(counts, use, size):
    """Medians of blocks of pixels, interpolated."""
    height, width = counts.shape[1:]
    rows, columns = (max(1, round(n / size)) for n in (height, width))
    if counts.device.type == "cpu":
        levels = counts.new_empty(len(counts), rows, columns)
        edges = _edges(height, rows), _edges(width, columns)
        given = counts.contiguous().numpy(), use.contiguous().numpy()
        _search_cpu.block_medians(*given, *edges, levels.numpy())
    else:
        pixels = torch.where(use, counts, torch.nan)
        strips = pixels.tensor_split(rows, 1)
        blocks = [[_nanmedian(b) for b in strip.tensor_split(columns, 2)] for strip in strips]
        levels = torch.stack([torch.stack(line, 1) for line in blocks], 1)
    smooth = F.interpolate(levels[:, None], (height, width), mode="bilinear", align_corners=False)
    return smooth[:, 0].clamp(min=1e-3)


def _edges(n, parts):
    """Edges of `parts` pieces of `n` pixels, as `torch.tensor_split` cuts them."""
    sizes = np.full(parts, n // parts)
    sizes[: n % parts] += 1
    return np.concatenate([[0], np.cumsum(sizes)])


def _nanmedian(block):
    return torch.nan_to_num(block.flatten(1).nanmedian(1).values)


def _in_all_frames(frame, places):
    """Points (frame, x, y) in which different frames are never neighbours."""
    return np.column_stack([frame * FAR, places])


def _held_peaks(regions, peaks, half):
    """Pairs: a peak, and a region that holds it, with the peak's rank by distance there."""
    scale = [1.0, *half]
    points = _in_all_frames(regions.frame, peaks) / scale
    centres = _in_all_frames(regions.frame, regions.middle) / scale
    lists = cKDTree(points).query_ball_point(centres, 1.0, p=np.inf)
    region = np.repeat(np.arange(len(lists)), [len(some) for some in lists])
    peak = np.concatenate([np.asarray(some, int) for some in lists] or [np.zeros(0, int)])
    far = np.abs(peaks[peak] - peaks[region]).max(1)
    order = np.lexsort([far, region])
    region, peak = region[order], peak[order]
    rank = np.arange(len(region)) - np.searchsorted(region, region)
    return peak, region, rank
