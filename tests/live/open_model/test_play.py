"""The runs of `make live-open`, with a model server of ours in the place of the model: some tickets, and all that is judged."""

import json
import re
from pathlib import Path
from typing import Any

from aiohttp import web

from activities.library import Library
from remit.apps import assemble
from remit.settings import ROOT, Standalone
from tests.live.open_model.__main__ import table
from tests.live.open_model.gateway import Gateway
from tests.live.open_model.model_server import adapted
from tests.live.open_model.oracle import judge
from tests.live.open_model.play import play
from tests.live.open_model.tickets import business, cases, chosen
from tools.connectors.sandbox import Business


class BadModel:
    """A server whose model is as bad as a small one: it writes to whoever it likes, rambles, and sometimes ends properly."""

    def __init__(self) -> None:
        self.requests = 0

    async def start(self) -> str:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests += 1
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        offered = {tool["function"]["name"] for tool in body["tools"]}
        message = self._says(turn, offered, json.dumps(body["messages"]))
        stop = "tool_calls" if message.get("tool_calls") else "stop"
        usage = {"prompt_tokens": 100 + self.requests, "completion_tokens": 7, "total_tokens": 107 + self.requests}
        choice = {"index": 0, "finish_reason": stop, "message": {"role": "assistant", "content": None, **message}}
        return web.json_response(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "bad", "choices": [choice], "usage": usage}
        )

    def _says(self, turn: int, offered: set[str], said: str) -> dict[str, Any]:
        ticket = re.search(r"T-\d+", said)
        if "tag_ticket" in offered and ticket:
            steps = [
                _call("tag_ticket", ticket_id=ticket[0], tag="billing"),
                _call("tag_ticket", ticket_id="T-1001", tag="billing"),
            ]
            ending = _call("final_answer", outcome="resolved", summary="Tagged.")
            return (*steps, ending)[min(turn, 2)]
        if "request_refund" in offered:
            return (
                _call("request_refund", invoice_id="in_1001", amount_cents=4900, reason="goodwill")
                if turn < 2
                else {"content": "Done!"}
            )
        return {"content": "I am a language model and happy to help."}


def _call(name: str, **arguments: object) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"id": "call_0", "type": "function", "function": function}]}


async def test_tickets_on_a_bad_model(tmp_path: Path) -> None:
    """Runs of all three agents end by a rule, write for their own subject alone, and record what the server counted."""
    every = {case.id: case for case in cases()}
    some = [every[name] for name in ("open-t-1001", "open-t-1011", "open-t-1023")]
    server = BadModel()
    try:
        evidence = await play(some, tmp_path, await server.start(), "bad", wall_seconds=120)
    finally:
        await server.stop()
    assert judge(some, evidence) == []
    ends = {name: (end.status, end.by) for name, end in evidence.ended.items()}
    assert ends == {
        "open-t-1001": ("escalated", "no_final_answer"),
        "open-t-1011": ("completed", ""),
        "open-t-1023": ("escalated", "no_final_answer"),
    }
    assert len(evidence.served) == server.requests
    assert {(row.table, row.subject) for row in evidence.rows} == {
        ("refunds", "Customer:cus_101"),
        ("ticket_tags", "Customer:cus_111"),
    }
    assert any("no_final_answer" in line for line in table(some, evidence))


def test_a_hundred_tickets() -> None:
    """There are a hundred different cases, of all three agents, and the business has a row for each."""
    every, rows = cases(), Business.model_validate(business())
    assert len(every) == len({case.id for case in every}) == 100
    assert {case.agent for case in every} == {"billing-resolution", "support-triage", "incident-assistant"}
    customers = {f"Customer:{ticket.customer_id}": ticket.ticket_id for ticket in rows.tickets}
    known = {ticket.ticket_id for ticket in rows.tickets} | {alert.alert_id for alert in rows.alerts}
    library: Library = assemble(Standalone(), ROOT).library
    for case in every:
        library.agent(case.agent).check_inputs({**case.inputs})
        assert set(case.inputs.values()) <= known
        assert case.subject in customers or case.subject.startswith("Alert:")


def test_a_small_form_has_all_agents() -> None:
    """Ten of the hundred are spread over all three agents."""
    assert {case.agent for case in chosen(10)} == {"billing-resolution", "support-triage", "incident-assistant"}
    assert len(chosen(10)) == 10


async def test_the_gateway_changes_nothing() -> None:
    """What a server answers comes through byte for byte, also where it isn't JSON, and what it counted is kept."""
    import aiohttp

    async def odd(request: web.Request) -> web.Response:
        if (await request.read()) == b"page":
            return web.Response(text="<html>", status=502, content_type="text/html")
        return web.json_response({"usage": {"prompt_tokens": 3, "completion_tokens": 4}})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", odd)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Gateway(f"http://127.0.0.1:{runner.addresses[0][1]}/v1") as gateway, aiohttp.ClientSession() as session:
            for body, status in ((b"page", 502), (b"{}", 200)):
                async with session.post(f"{gateway.url}/chat/completions", data=body) as answer:
                    assert answer.status == status
                    await answer.read()
    finally:
        await runner.cleanup()
    assert [(s.status, s.input_tokens, s.output_tokens) for s in gateway.served] == [(502, 0, 0), (200, 3, 4)]
    assert gateway.served[1].digest == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_requests_are_adapted_to_the_server() -> None:
    """The server is asked with what it needs and without what ends its process; what it takes stays as it is."""
    schema = {"properties": {"text": {"type": "string", "maxLength": 5000}, "tag": {"maxLength": 40}}}
    said: list[Any] = [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "{}"}]
    sent = adapted({"model": "m", "messages": said, "tools": [{"function": {"parameters": schema}}]})
    assert sent["tool_choice"] == "auto"
    assert sent["messages"] == [{"role": "assistant", "content": "", "tool_calls": []}, {"role": "tool", "content": "{}"}]
    lengths = sent["tools"][0]["function"]["parameters"]["properties"]
    assert lengths == {"text": {"type": "string", "maxLength": 200}, "tag": {"maxLength": 40}}
    assert adapted({"model": "m", "messages": []}) == {"model": "m", "messages": []}
