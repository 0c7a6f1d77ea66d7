"""The measured file, where it is on this machine."""

import pytest

from helpers import datasets


@pytest.fixture(scope="session")
def measured():
    """Path of the Bruker file; skip where it is not on this machine."""
    pytest.importorskip("rsciio")
    found = datasets.find("pd_tio2_edx")
    if found is None:
        pytest.skip("the measured pd_tio2_edx data are not here: set HELPERS_DATA_DIR")
    return found[0]
