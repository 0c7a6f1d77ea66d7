r"""Two x-ray cameras on one specimen: a fast coarse one and a slow sharp one.

Specimens come from `specimens`, the physics from `beamline`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..cameras import Transform
from .other_melt_pools import other_melt_pool
from .specimens import bubbles, cracks, melt_pool

SMALLEST = 64.0  # um
SCENES = {
    ("standard", "melt_pool"): melt_pool,
    ("standard", "bubbles"): bubbles,
    ("standard", "cracks"): cracks,
    ("other", "melt_pool"): other_melt_pool,
}


@dataclass(frozen=True)
class Experiment:
    r"""An experiment at a synchrotron, in physical units.

    Attributes
    ----------
    energy : float
        Of the x-rays, in keV.
    mu : float
        Absorption coefficient :math:`\mu` of the material, in 1/um.
    delta : float
        Decrement :math:`\delta` of its refractive index.
    distance : float
        From the specimen to the detectors, in m.
    plate : float
        Thickness of the plate along the beam, in um.
    hr_pixel : float
        Pixel of the sharp camera at the specimen, in um.
    source_blur, hr_psf, lr_psf : float
        Widths (standard deviations) of the blur by the source and by the two detectors, in pixels
        of the sharp camera.
    hr_photons, lr_photons : float
        Photons that one pixel counts in the open beam, in one frame.
    scene : str
        "melt_pool", "bubbles" or "cracks".
    generator : str
        "standard", or "other": the same physics, shapes and motions drawn by other code with
        other statistics (of a melt pool only), to test what was trained on the first.
    shape : (int, int)
        Pixels (Y, X) of the sharp camera, multiples of 4; the coarse one has a quarter of them.
    n_frames : int
        Of the fast camera, which sets the unit of time.
    key_every : int
        Frames of the fast camera from one frame of the slow one to the next.
    transform : Transform
        Where coarse pixels lie on the sharp camera; aligned by default.
    time_offset : float
        How much later than its own clock says the slow camera is, in frames of the fast one.
    clock_rate : float
        Frames of the fast camera that pass while the clock of the slow camera counts one.

    Examples
    --------
    >>> experiment = Experiment()
    >>> round(experiment.wavelength * 1e4, 3)  # in angstrom
    0.496
    >>> experiment.lr_shape
    (32, 32)
    """

    energy: float = 25.0
    mu: float = 3.8e-3
    delta: float = 1.35e-6
    distance: float = 0.3
    plate: float = 200.0
    hr_pixel: float = 2.0
    source_blur: float = 0.7
    hr_psf: float = 0.6
    lr_psf: float = 2.2
    hr_photons: float = 4000.0
    lr_photons: float = 3000.0
    scene: str = "melt_pool"
    generator: str = "standard"
    shape: tuple[int, int] = (128, 128)
    n_frames: int = 21
    key_every: int = 10
    transform: Transform = Transform()
    time_offset: float = 0.0
    clock_rate: float = 1.0

    def __post_init__(self) -> None:
        if (self.generator, self.scene) not in SCENES:
            known = ", ".join(f"{g} {s}" for g, s in SCENES)
            raise ValueError(f"no scene {self.generator} {self.scene}: there are {known}")
        if min(self.shape) < 4 or any(n % 4 for n in self.shape):
            raise ValueError(f"shape is {self.shape}: give two multiples of 4")
        if min(self.shape) * self.hr_pixel < SMALLEST:
            raise ValueError(
                f"the field is {self.shape} pixels of {self.hr_pixel} um: a specimen needs "
                f"{SMALLEST} um along both sides"
            )
        if self.n_frames < 3 or self.key_every < 1:
            raise ValueError(
                f"{self.n_frames} frames with a key every {self.key_every}: "
                "give three frames or more, and 1 or more between keys"
            )
        positive = ("energy", "hr_pixel", "hr_photons", "lr_photons", "plate", "clock_rate")
        zero = ("mu", "delta", "distance", "source_blur", "hr_psf", "lr_psf")
        for name in positive + zero:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name in positive and value == 0):
                raise ValueError(f"{name} is {value}: give a positive number")

    @property
    def wavelength(self) -> float:
        """In um."""
        return 1.23984198e-3 / self.energy

    @property
    def lr_shape(self) -> tuple[int, int]:
        """Pixels (y, x) of the coarse camera."""
        return self.shape[0] // 4, self.shape[1] // 4

    @property
    def lr_pixel(self) -> float:
        """Pixel of the coarse camera at the specimen, in um."""
        return 4 * self.hr_pixel
