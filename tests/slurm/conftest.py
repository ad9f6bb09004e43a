"""A cluster for the tests of this folder, which run by ``make test-slurm`` alone."""

import pytest

from tests.slurm.cluster import cluster, why_not


@pytest.fixture(scope="session")
def slurm():
    """The folder of a running cluster."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"NO SLURM HERE: {reason}")
    with cluster() as folder:
        yield folder
