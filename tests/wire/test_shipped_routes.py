"""Every shipped route keeps its vendor's rules, over whole conversations: a server that enforces them takes each request."""

import pytest

from activities import prices
from tests.wire.rules.server import Say
from tests.wire.talking import AGENTS, LOOK, VENDORS, choices, talking
from workflows.messages import Window

END = Say("", (("final_answer", {"outcome": "resolved", "summary": "Done."}),))
ROUTES = [(agent, vendor, tier) for agent in AGENTS for vendor in VENDORS for tier in (0, 1)]


@pytest.mark.parametrize(("agent", "vendor", "tier"), ROUTES)
async def test_a_conversation_of_a_shipped_agent_is_taken(agent: str, vendor: str, tier: int) -> None:
    """Parallel calls, a refused one, three turns and the end."""
    async with talking(agent) as talk:
        choice = choices(agent, vendor)[tier]
        for _ in range(3):
            answer = await talk.turn(choice, LOOK)
            assert (answer.stop, len(answer.message.tool_calls)) == ("tool_calls", 2)
        last = await talk.turn(choice, END)
        assert [call.name for call in last.message.tool_calls] == ["final_answer"]
        assert talk.server.broken == []


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_conversation_goes_on_after_a_window(vendor: str) -> None:
    """What is bound to a prefix that isn't sent any more is left out with it."""
    async with talking() as talk:
        choice = choices("support-triage", vendor)[0]
        await talk.turn(choice, LOOK)
        await talk.turn(choice, LOOK)
        talk.window = Window(until=4, made_at=len(talk.messages))
        await talk.turn(choice, LOOK)
        await talk.turn(choice, END)
        assert talk.server.broken == []


@pytest.mark.parametrize("first", VENDORS)
@pytest.mark.parametrize("second", VENDORS)
async def test_a_conversation_goes_on_at_another_vendor_and_back(first: str, second: str) -> None:
    """A fallback in the middle, or another tier: each vendor gets what it gave, and nothing of another's."""
    async with talking() as talk:
        one, other = choices("support-triage", first)[0], choices("support-triage", second)[1]
        for choice in (one, other, other, one, one):
            await talk.turn(choice, LOOK)
        await talk.turn(one, END)
        assert talk.server.broken == []


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_prefix_is_read_from_the_cache(vendor: str) -> None:
    """A turn reads the one before it from the cache, another run shares what comes first, and both are priced so."""
    async with talking() as talk:
        choice = choices("support-triage", vendor)[0]
        first = (await talk.turn(choice, LOOK)).usage
        second = (await talk.turn(choice, LOOK)).usage
        assert second.cached_input_tokens >= 0.9 * first.input_tokens
        assert second.cached_input_tokens + second.cache_write_tokens <= second.input_tokens
        talk.messages = talk.messages[:1]
        other = (await talk.turn(choice, LOOK)).usage
        assert other.cached_input_tokens > 0.8 * other.input_tokens
        written = second.model_copy(update={"cached_input_tokens": 0, "cache_write_tokens": 0})
        assert prices.cost(choice, second)[0] < prices.cost(choice, written)[0]
        assert talk.server.broken == []
