"""Fixtures of the workflow tests: the time-skipping server, and limits that a test may choose."""

import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.testing import WorkflowEnvironment

from remit.connection import CONVERTER
from tests.engine import Engine
from workflows.messages import SEARCH_ATTRIBUTES

TEST_SERVER = Path(sys.executable).parent / "temporal-test-server"


class SetLimits(Protocol):
    def __call__(self, **values: int | str) -> None: ...


@pytest.fixture
def set_limits(library: Path) -> SetLimits:
    """Changes ceilings in the bundle of `billing-resolution`; call it before the run starts."""
    path = library / "policies" / "bundles" / "refunds_v7" / "limits.toml"

    def change(**values: int | str) -> None:
        text = path.read_text()
        for name, value in values.items():
            shown = f'"{value}"' if isinstance(value, str) else str(value)
            text, found = re.subn(rf"^{name} = .*$", f"{name} = {shown}", text, flags=re.MULTILINE)
            assert found == 1, name
        path.write_text(text)

    return change


@asynccontextmanager
async def skipping_server() -> AsyncGenerator[WorkflowEnvironment]:
    """A server that skips time while somebody waits for a result, or sleeps by it."""
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(TEST_SERVER), data_converter=CONVERTER
    )
    async with environment:
        client = environment.client
        wanted = {key.name: IndexedValueType.ValueType(int(key.indexed_value_type)) for key in SEARCH_ATTRIBUTES}
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=wanted)
        )
        yield environment


@asynccontextmanager
async def time_skipping(home: Path, **overrides: object) -> AsyncGenerator[Engine]:
    """An engine on a server of its own that skips time while somebody waits for a result."""
    async with (
        skipping_server() as environment,
        Engine(environment.client, home, overrides=overrides, operated=False) as found,
    ):
        yield found


@pytest.fixture
async def skipping(home: Path) -> AsyncGenerator[Engine]:
    """An engine on a server that skips time."""
    async with time_skipping(home) as found:
        yield found
