"""The inputs of all jobs, made once."""

import pytest

from tests.unit.jobs.cases import make


@pytest.fixture(scope="session")
def case(tmp_path_factory):
    """Give the case of a job by its name."""
    made = {}

    def give(name):
        if name not in made:
            made[name] = make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return give
