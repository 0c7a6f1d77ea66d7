"""Coarse frames of a camera that is drawn anew for each sample of a training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..cameras import CoarseCamera
from ..data.samples import CameraSample

Range = tuple[float, float]


@dataclass(frozen=True)
class RandomCamera:
    r"""Record a sample again, with another coarse camera and its faults.

    Attributes
    ----------
    as_recorded : float
        Share of the samples whose coarse frames stay as they are; only a calibration that is not
        exact is drawn for them.
    sigma : (float, float)
        Blur in sharp pixels, uniform; a tenth of the samples have none.
    photons : (float, float)
        Of the open beam in a coarse pixel; the logarithm is uniform.
    gain : (float, float)
        Reading of the open beam, uniform.
    flicker : float
        Largest rms change of the beam from frame to frame; half of the samples have none.
    pattern : float
        Largest rms of the differences in gain between pixels; half of the samples have none.
    hot : float
        Share of the samples with one to three pixels that read too much, as those do that a repair
        has missed.
    saturated : (float, float)
        Level at which both cameras saturate, in a tenth of the samples.
    sigma_error, gain_error, photons_error : float
        Standard errors of the calibration that the network is told; that of the photons is
        relative, as is that of the gain.

    Notes
    -----
    With the truth x of the three moments and what is drawn,
    :math:`y = g\, b_t\, (1 + p)\, \mathrm{Poisson}(N A_\sigma x) / N`: beam :math:`b_t`, pattern
    p. Used by the script that trains the network of :doc:`/book/xray/05_fuse`.
    """

    as_recorded: float = 0.3
    sigma: Range = (0.0, 3.5)
    photons: Range = (100.0, 10_000.0)
    gain: Range = (0.9, 1.1)
    flicker: float = 0.02
    pattern: float = 0.03
    hot: float = 0.1
    saturated: Range = (0.85, 1.0)
    sigma_error: float = 0.05
    gain_error: float = 0.003
    photons_error: float = 0.1

    def __call__(self, sample: CameraSample, rng: np.random.Generator) -> CameraSample:
        """The sample with coarse frames, key frames and the camera that the network is told.

        Parameters
        ----------
        sample : CameraSample
            Whole, with its camera and with `seen`, the truth of its three coarse frames.
        rng : numpy.random.Generator
        """
        if getattr(sample, "seen", None) is None:
            raise ValueError(
                "the sample lacks the truth of its coarse frames: give MoviePairs(..., frames=True)"
            )
        sigma, gain, offset, photons = map(float, sample.camera)
        camera = CoarseCamera(sigma, gain=gain, offset=offset, photons=photons)
        lr, hr = sample.lr, sample.hr
        if rng.random() >= self.as_recorded:
            camera = CoarseCamera(
                # plain bins, without a blur, are common and lie at the end of the range
                sigma=0.0 if rng.random() < 0.1 else rng.uniform(*self.sigma),
                gain=rng.uniform(*self.gain),
                photons=float(np.exp(rng.uniform(*np.log(self.photons)))),
            )
            lr, hr = self._record(sample, camera, rng)
        told = (
            max(0.0, camera.sigma + self.sigma_error * rng.normal()),
            camera.gain * (1 + self.gain_error * rng.normal()),
            camera.offset,
            camera.photons * np.exp(self.photons_error * rng.normal()),
        )
        return sample._replace(
            lr=lr.astype(np.float32),
            hr=hr.astype(np.float32),
            camera=np.array(told, np.float32),
            seen=None,
        )

    def _record(
        self, sample: CameraSample, camera: CoarseCamera, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        if sample.seen is None or camera.photons is None:
            raise ValueError("a camera is drawn for samples with `seen`, with a number of photons")
        seen = CoarseCamera(camera.sigma)(sample.seen)
        lr = rng.poisson(seen.clip(0) * camera.photons) / camera.photons
        hr = sample.hr
        if rng.random() < 0.5:
            rms = rng.uniform(0, self.flicker)
            lr = lr * (1 + rms * rng.normal(size=(3, 1, 1, 1)))
            hr = hr * (1 + rms * rng.normal(size=(2, 1, 1, 1)))
        if rng.random() < 0.5:
            lr = lr * (1 + rng.uniform(0, self.pattern) * rng.normal(size=lr.shape[1:]))
        if rng.random() < 0.1:
            level = rng.uniform(*self.saturated)
            lr, hr = np.minimum(lr, level), np.minimum(hr, level)
        if rng.random() < self.hot:
            for _ in range(rng.integers(1, 4)):
                y, x = (rng.integers(n) for n in lr.shape[-2:])
                lr[..., y, x] += rng.uniform(-0.3, 0.3)
        return camera.gain * lr, hr
