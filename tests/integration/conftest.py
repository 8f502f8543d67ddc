"""Fixtures of the integration tests: an environment without keys, and a library that a test may change."""

import shutil
from pathlib import Path

import pytest

import worker
from remit.settings import ROOT


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no setting of the machine that the tests run on."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "REMIT_PROVIDER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the agents and bundles, which the worker of this test reads; change it before the run starts."""
    root = tmp_path / "library"
    shutil.copytree(ROOT / "agents", root / "agents")
    shutil.copytree(ROOT / "policies" / "bundles", root / "policies" / "bundles")
    monkeypatch.setattr(worker, "ROOT", root)
    return root
