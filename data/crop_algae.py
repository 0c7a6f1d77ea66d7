"""Cut the 89 published images of algae to the part that the book uses, in one file.

python data/crop_algae.py FOLDER_WITH_THE_89_TIFS algae_288.npz
"""

import argparse
import re
from pathlib import Path

import numpy as np
import tifffile

FIRST, SIDE = (390, 300), 288


def main() -> None:
    """Read the folder that the command names, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    told = parser.parse_args()
    paths = sorted(told.folder.glob("img_y*_x*.tif"))
    if len(paths) != 89:
        parser.error(f"{told.folder} has {len(paths)} files img_y*_x*.tif: 89 are published")
    numbers = [[int(n) for n in re.findall(r"y(\d+)_x(\d+)", path.name)[0]] for path in paths]
    part = tuple(slice(start, start + SIDE) for start in FIRST)
    np.savez_compressed(
        told.target,
        images=np.stack([tifffile.imread(path)[part] for path in paths]),
        led_index_yx=np.array(numbers),
        crop_yx=np.array(FIRST),
        pixel_um=6.5 / 10.07,
        wavelength_um=0.63,
        na=0.25,
        index=1.33,
        led_pitch_um=4e3,
        led_distance_um=79e3,
        led_centre_index=17,
    )


if __name__ == "__main__":
    main()
