"""One `remit dev` for the command-line tests of a test process."""

from collections.abc import Generator

import pytest

from tests.console import Console, DevEngine


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Generator[DevEngine]:
    """A running `remit dev`."""
    found = DevEngine(tmp_path_factory.mktemp("dev") / ".remit")
    yield found
    found.stop()


@pytest.fixture
def console(dev: DevEngine) -> Console:
    """A terminal beside it."""
    return dev.console
