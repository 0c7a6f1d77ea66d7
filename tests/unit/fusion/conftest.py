"""The guide's two fusions, on the measured data or on the twins that stand in for them."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers import datasets
from helpers.fusion import normalize
from helpers.fusion._simulate import twin_core_shell, twin_dysco3

GUIDE = {
    "dysco3": {"lambda_chem": 0.08, "lambda_tv": 0.15, "background": 0.24, "n_iter_tv": 3},
    "core_shell": {"lambda_chem": 0.006, "lambda_tv": 0.022, "background": 0.01, "n_iter_tv": 6},
}
TWINS = {"dysco3": twin_dysco3, "core_shell": twin_core_shell}


def _problem(name, arrays, crop=...):
    """Normalised maps and HAADF, the guide's settings, and maps thresholded to start from."""
    numbers = datasets.describe(name)["atomic_numbers"]
    haadf, maps = normalize(arrays["HAADF"][crop], {e: arrays[e][crop] for e in numbers})
    start = {e: np.where(m < 0.2, 0, m) for e, m in maps.items()}
    return SimpleNamespace(
        maps=maps, haadf=haadf, numbers=numbers, settings=GUIDE[name], start=start
    )


@pytest.fixture(scope="session")
def measured():
    """Give a measured data set by name, ready to fuse; skip where it is not on this machine."""

    def load(name):
        if datasets.find(name) is None:
            pytest.skip(f"the measured {name} data are not here: set HELPERS_DATA_DIR")
        return _problem(name, datasets.load(name).arrays)

    return load


@pytest.fixture(scope="session")
def crystal():
    """A corner of the DyScO3 twin: 72 x 60, not square."""
    return _problem("dysco3", twin_dysco3(), np.s_[:72, :60])
