"""A provider that wants to be left alone: its runs wait as long as they may, and ask no more than they should."""

from pathlib import Path

from pydantic import SecretStr

from tests.wire.server import CannedServer
from tests.workflow.conftest import SetLimits, time_skipping


async def test_a_busy_provider_is_waited_for_and_fails_no_run(home: Path, set_limits: SetLimits) -> None:
    """A 429 that asks for five minutes is met once; the run waits past all attempts of a call, until its wall time is over.

    The limits go by a real clock, so that the five minutes never end where Temporal skips time.
    """
    set_limits(wall_seconds=7200)
    async with CannedServer() as vendor:
        vendor.answer({"error": {"message": "slow down"}}, 429, {"retry-after": "300"})
        async with time_skipping(home, openai_base_url=f"{vendor.url}/v1", openai_api_key=SecretStr("k")) as engine:
            run = await engine.remit.start("billing-resolution", {"ticket_id": "T-1001"})
            result = await run.result()
        assert (result.outcome, result.stopped_by) == ("stopped", "wall_seconds")
        assert len(vendor.bodies) == 1
