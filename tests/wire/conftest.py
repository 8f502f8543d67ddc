"""Starts aimock, a fake of both vendors' APIs, once per test process; fixtures are in `fixtures.json`, keyed by model."""

import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from activities.providers.google import GoogleProvider, Vertex
from tests.wire.packages import NODE, install
from tests.wire.server import KEY, CannedServer, Provider, ProviderName, provider_at

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"


@pytest.fixture(scope="session")
def aimock() -> Iterator[str]:
    """URL of a running aimock that takes `KEY` as its only key."""
    install(HERE)
    command = [
        NODE,
        MODULES / "@copilotkit/aimock/dist/cli.js",
        *("--port", "0", "--fixtures", HERE / "fixtures.json", "--strict", "--validate-on-load"),
    ]
    environment = {**os.environ, "AIMOCK_API_KEYS": KEY}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        said: list[str] = []
        url = ""
        for line in process.stdout:
            said.append(line)
            if "listening on" in line:
                url = line.split()[-1]
                break
        try:
            if not url:
                pytest.fail(f"aimock didn't start:\n{''.join(said)}", pytrace=False)
            # A full pipe would stop it.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield url
        finally:
            process.kill()


@pytest.fixture
async def server() -> AsyncIterator[CannedServer]:
    async with CannedServer() as running:
        yield running


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Provider]]:
    """Makes a provider for a URL, and closes it after the test."""
    made: list[Provider] = []

    def make(name: ProviderName, url: str, key: str = KEY) -> Provider:
        made.append(provider_at(name, url, key))
        return made[-1]

    yield make
    for provider in made:
        await provider.aclose()


@pytest.fixture
async def google() -> AsyncIterator[Callable[..., GoogleProvider]]:
    """Makes a provider of Google's models for a URL, and closes it after the test."""
    made: list[GoogleProvider] = []

    def make(url: str, key: str = KEY, vertex: Vertex | None = None) -> GoogleProvider:
        made.append(GoogleProvider("" if vertex else key, url, vertex))
        return made[-1]

    yield make
    for provider in made:
        await provider.aclose()
