"""Recorded runs made again: what the record answers, where they diverge, and that nothing of them is ever performed."""

import json
from pathlib import Path
from typing import get_type_hints

import pytest

from activities.authority import AuthorityActivities
from activities.model import ModelActivities
from activities.records import RecordActivities
from activities.tool import ToolActivities
from policies.bundle import Bundle
from policies.errors import InvalidInput
from policies.routing import Route
from remit.apps import assemble
from remit.connection import CONVERTER
from remit.history import read_file
from remit.proof.capsule import written
from remit.replay import read_files
from remit.settings import Settings
from remit.whatif.forking import Changes, Forked, fork, route_of
from remit.whatif.recording import Recording, read
from remit.whatif.side import Beside, Line, Side, compared
from remit.whatif.stand_in import StandIn
from tests.builders import bundle
from tests.histories import stored
from tests.unit.test_capsule import capsule_from
from tests.wire.server import KEY, CannedServer
from tools import registry

LOOSER = bundle().policy.replace(">= 5000", ">= 30000")
STRICTER = bundle().policy.replace(">= 5000", ">= 1000")


async def recorded(settings: Settings, name: str) -> Recording:
    """The stored run of the scenario `name`."""
    catalog = assemble(settings).catalog
    registry.install(catalog)
    return await read([read_file(stored(name))], CONVERTER, catalog)


async def forked(
    settings: Settings,
    recording: Recording,
    since: int = 0,
    policy: str = "",
    prompt: str | None = None,
    route: Route | None = None,
) -> tuple[Forked, list[Beside]]:
    """The fork of `recording`, and it beside the recorded run."""
    parts = assemble(settings)
    new = Bundle(name="new", policy=policy, limits_toml=bundle().limits_toml) if policy else None
    changes = Changes(prompt=prompt, route=route, bundle=new)
    found = await fork(recording, since, changes, settings, parts.library, parts.catalog)
    return found, compared(Side.of(recording.summary, recording.messages), found.side)


def differing(rows: list[Beside]) -> list[tuple[int, str]]:
    return [(row.step, row.differs) for row in rows if row.differs]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of a home folder that doesn't exist; whoever writes a file into it is seen, and no server is where clients look."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:9")
    return Settings(home=tmp_path / "home")


async def test_a_run_with_nothing_changed_does_the_same_again(settings: Settings) -> None:
    """Same calls, same people, same end, from the record alone; and nothing is left behind: no ledger, no business."""
    found, rows = await forked(settings, await recorded(settings, "edited"))
    assert (differing(rows), found.asked, found.notes) == ([], (), ())
    assert found.side.status == "completed"
    assert not settings.home.exists()


async def test_a_capsule_is_run_again(settings: Settings, tmp_path: Path) -> None:
    """Redacted as it is, and wherever it came from: two people approve again, with keys of their own."""
    file = tmp_path / "run.capsule.gz"
    file.write_bytes(written(capsule_from("0.1.0/two_approvals")))
    catalog = assemble(settings).catalog
    registry.install(catalog)
    found, rows = await forked(settings, await read(read_files(file), CONVERTER, catalog))
    assert (differing(rows), found.asked, found.notes) == ([], (), ())
    line = next(row.fork for row in rows if row.step == 3)
    assert line is not None and line.people == ("ana@example.com: approve", "bo@example.com: approve")


async def test_what_people_rejected_is_simulated_where_the_policy_lets_it_through(settings: Settings) -> None:
    """It diverges there; the refund is marked as simulated, and no vendor hears of it."""
    found, rows = await forked(settings, await recorded(settings, "rejected"), policy=LOOSER)
    assert differing(rows) == [(3, "approvals")]
    line = rows[4].fork
    assert line is not None and (line.tool, line.status, line.people) == ("request_refund", "done", ())
    assert found.side.moved_cents == {"USD": 21_000}
    assert found.notes == (
        "simulated: `request_refund` on `Invoice:in_1007` of $210.00, which the recorded run didn't carry out so.",
    )
    assert not settings.home.exists()


async def test_an_action_that_nobody_decided_on_waits_for_a_person(settings: Settings) -> None:
    """The fork stops there: nobody can say what they would have decided."""
    found, rows = await forked(settings, await recorded(settings, "auto_refund"), policy=STRICTER)
    assert found.side.status == "waiting_for_approval"
    line = next(row.fork for row in rows if row.step == 3)
    assert line is not None and (line.status, line.needed, line.people) == ("waiting", 1, ())
    assert differing(rows)[0] == (3, "approvals")


async def test_another_model_is_asked_from_the_step_on(settings: Settings) -> None:
    """With the other prompt and the recorded transcript. A read that isn't recorded is refused, and it goes on with that."""

    def says(name: str, arguments: dict[str, object]) -> dict[str, object]:
        function = {"name": name, "arguments": json.dumps(arguments)}
        message = {"role": "assistant", "content": None, "tool_calls": [{"id": name, "type": "function", "function": function}]}
        usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
        choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
        return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}

    async with CannedServer() as server:
        server.begin(says("get_invoice", {"invoice_id": "in_1001"}))
        server.answer(says("final_answer", {"outcome": "no_action", "summary": "Nothing to do."}))
        key = {"openai_api_key": KEY, "openai_base_url": f"{server.url}/v1"}
        priced = {"price_input_per_mtok": 1_000_000, "price_output_per_mtok": 1_000_000}
        mine = Settings.model_validate({**settings.model_dump(), **key, **priced})
        recording = await recorded(mine, "auto_refund")
        route = route_of("m", recording.capsule.route, mine)
        found, rows = await forked(mine, recording, since=2, prompt="Do nothing.", route=route)
        assert found.asked == (2, 3)
        system, *said = json.loads(server.bodies[0])["messages"]
        assert system["content"] == "Do nothing."
        assert [m["tool_calls"][0]["function"]["name"] for m in said if m["role"] == "assistant"] == [
            "get_ticket",
            "list_invoices",
        ]
    assert [row.differs for row in rows if row.step < 2] == ["", "", ""]
    line = next(row.fork for row in rows if row.step == 2)
    assert line == Line(
        step=2,
        index=0,
        tool="get_invoice",
        arguments='{"invoice_id": "in_1001"}',
        status="refused",
        reason="not_recorded",
        policy_ids=("reads",),
    )
    assert found.side.summary == "Nothing to do."
    assert found.side.cost_usd == pytest.approx(0.00202 + sum(t.cost_micro_usd for c, t in recording.turns if c.step < 2) / 1e6)


async def test_a_model_that_cannot_be_reached_is_said(settings: Settings) -> None:
    """The fork fails with the sentence of the call, and the recorded run isn't touched."""
    recording = await recorded(settings, "auto_refund")
    with pytest.raises(InvalidInput, match="No model can be reached"):
        route_of("m", recording.capsule.route, settings)
    route = route_of("openai:m", recording.capsule.route, settings)
    found, _ = await forked(settings, recording, since=3, route=route)
    assert (found.side.status, found.side.summary) == ("failed", "This worker has no key for `openai`.")


def test_whatever_a_run_asks_for_has_a_stand_in() -> None:
    """With the types of the activity whose place it takes: one without would be asked for until the run's time is over."""
    for owner in (AuthorityActivities, ModelActivities, RecordActivities, ToolActivities):
        for name, real in vars(owner).items():
            if hasattr(real, "__temporal_activity_definition"):
                mine, theirs = get_type_hints(getattr(StandIn, name)), get_type_hints(real)
                assert list(mine.values()) == list(theirs.values()), name


async def test_a_run_that_was_never_admitted_cannot_be_made_again(settings: Settings) -> None:
    """There is nothing to begin with."""
    with pytest.raises(InvalidInput, match="The run was never admitted, so there is nothing to run again"):
        await recorded(settings, "refused_start")
