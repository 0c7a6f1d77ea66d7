"""Draw the picture of the README: raw and fused maps of DyScO3, into book/_static/readme.webp.

Run from the root of the repository; the measured data must be there (`python -m helpers data`).
"""

from pathlib import Path

import numpy as np

from helpers import datasets, fusion, io, plots
from helpers._pictures import to_image, to_webp

ELEMENTS = ("Sc", "Dy", "O")


def main():
    """Fuse with the guide's settings and draw a corner of the field."""
    data = datasets.load("dysco3")
    if data.is_twin:
        raise SystemExit("the measured data are not here: the README shows them, not a twin")
    plots.use_style()
    haadf, maps = fusion.normalize(data["HAADF"], {e: data[e] for e in ELEMENTS})
    result = fusion.fuse(haadf, maps, ELEMENTS, solver="tutorial")
    raw = {"HAADF, measured": haadf, **{f"{e}, measured": m for e, m in maps.items()}}
    fused = {"HAADF, model": result.haadf, **{f"{e}, fused": m for e, m in result.maps.items()}}
    figure = plots.show_images(
        raw | fused, limits="each", crop=np.s_[70:130, 25:85], pixel_size=0.0262, colorbar=False
    )
    with io.atomic_path(Path("book/_static/readme.webp")) as path:
        path.write_bytes(to_webp(to_image(figure, density=2)[0], 80))


if __name__ == "__main__":
    main()
