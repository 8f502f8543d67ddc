"""Ten checks of a model behind a provider of ours: what each asks, and what it takes for a right answer."""

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from activities import answers, prices
from activities.providers.base import Completion, ModelProvider, ModelRequest, ProviderError, ToolOffer
from policies.errors import PriceUnknown
from policies.routing import ModelChoice
from workflows.answer import final_answer
from workflows.messages import (
    FINAL_ANSWER,
    AssistantMessage,
    FinalAnswer,
    Message,
    TokenUsage,
    ToolMessage,
    UserMessage,
)

__all__ = ["CEILING_MICRO_USD", "CHECKS", "Check", "Found", "Session", "run"]

CEILING_MICRO_USD = 10_000
"""One cent: no further check begins once a session has cost so much."""
DEFAULT_MOST = 4096
CUT_OFF_AT = 16
"""The smallest limit of output tokens that every vendor takes."""
NOBODYS_MODEL = "remit-has-no-such-model"
SYSTEM = "You help the support desk of a small company. Be brief. Use the tools that you are given when they fit."

BALANCE = ToolOffer(
    name="read_balance",
    description="Read the balance of one customer's account, in cents.",
    parameters={
        "type": "object",
        "properties": {"customer_id": {"type": "string", "description": "Customer id, for example cus_101."}},
        "required": ["customer_id"],
        "additionalProperties": False,
    },
)
FINAL = ToolOffer(
    name=FINAL_ANSWER,
    description="End the task. Call this alone, once nothing is left to do.",
    parameters=FinalAnswer.model_json_schema(),
)


class Unexpected(Exception):
    """A model or its server didn't do what a check expects; the message says what it did."""


@dataclass(frozen=True)
class Found:
    """What came of a check.

    Attributes:
        ok: whether the answer is right. True also where a compatible server may answer otherwise, and `note` says that it did.
        note: what was seen, in a few words.
    """

    name: str
    ok: bool
    note: str
    calls: int
    usage: TokenUsage
    micro_usd: int | None
    seconds: float


class Session:
    """One model, and what it has been asked.

    Attributes:
        calls: answers that the model gave.
        micro_usd: what those cost; None where nobody knows the model's price.
    """

    def __init__(self, provider: ModelProvider, wrong_key: ModelProvider, choice: ModelChoice, *, vendor: bool) -> None:
        """`wrong_key`: the same API with a key that isn't valid. `vendor`: it is the vendor's own API, not a compatible one."""
        self.provider = provider
        self.wrong_key = wrong_key
        self.choice = choice
        self.vendor = vendor
        self.calls = 0
        self.usage = TokenUsage()
        self.micro_usd: int | None = 0

    async def ask(
        self,
        *messages: Message,
        tools: Sequence[ToolOffer] = (),
        most: int | None = None,
        system: str = SYSTEM,
        cache_key: str = "",
    ) -> Completion:
        """The model's answer, counted; its call ids are what a run would send back."""
        most = most or self.choice.max_output_tokens or DEFAULT_MOST
        request = ModelRequest(
            model=self.choice.sent_as or self.choice.model,
            system=system,
            tools=tuple(tools),
            messages=messages,
            max_output_tokens=most,
            effort=self.choice.effort,
            cache_key=cache_key,
        )
        answer = await self.provider.complete(request)
        self._count(answer.usage)
        message = answers.presentable(answer.message, messages, f"r{self.calls}")
        return answer.model_copy(update={"message": message})

    def _count(self, usage: TokenUsage) -> None:
        self.calls += 1
        self.usage = TokenUsage(
            input_tokens=self.usage.input_tokens + usage.input_tokens,
            output_tokens=self.usage.output_tokens + usage.output_tokens,
            cached_input_tokens=self.usage.cached_input_tokens + usage.cached_input_tokens,
            cache_write_tokens=self.usage.cache_write_tokens + usage.cache_write_tokens,
            reasoning_tokens=self.usage.reasoning_tokens + usage.reasoning_tokens,
        )
        try:
            cost, _ = prices.cost(self.choice, usage)
        except PriceUnknown:
            self.micro_usd = None
            return
        self.micro_usd = None if self.micro_usd is None else self.micro_usd + cost


Check = Callable[[Session], Awaitable[str]]


async def plain_text(session: Session) -> str:
    """The model answers in words and stops with `end`."""
    answer = await session.ask(UserMessage(text="Answer with the one word: ready"))
    _stopped(answer, "end")
    _text(answer)
    return _quoted(answer.message.text)


async def one_tool_call(session: Session) -> str:
    """The model calls the tool that it is told to call, with the argument that it is told."""
    answer = await session.ask(_balances("cus_101"), tools=(BALANCE,))
    _stopped(answer, "tool_calls")
    _called(answer, "cus_101")
    return "called with the right argument"


async def two_parallel_calls(session: Session) -> str:
    """The model makes two calls in one turn, and goes on from both results."""
    asked = _balances("cus_101", "cus_102")
    answer = await session.ask(asked, tools=(BALANCE,))
    _stopped(answer, "tool_calls")
    ids = _ids(answer)
    if len(ids) == 1 and not session.vendor:
        return "one call at a time, not two in one turn"
    if sorted(ids) != ["cus_101", "cus_102"]:
        raise Unexpected(f"called `{BALANCE.name}` for {ids or 'nobody'}")
    results = [_result(answer, place, {"balance_cents": 1200 + place}) for place in range(2)]
    second = await session.ask(asked, answer.message, *results, tools=(BALANCE,))
    _stopped(second, "end")
    return "two calls in one turn, both results read"


async def refused_result(session: Session) -> str:
    """The model reads that its call was refused, and ends or tries again."""
    asked = _balances("cus_101")
    answer = await session.ask(asked, tools=(BALANCE,))
    _called(answer, "cus_101")
    refusal = {"error": {"code": "policy_denied", "message": "This customer isn't yours. Say so and stop.", "attempts_left": 0}}
    results = [_result(answer, place, refusal) for place in range(len(answer.message.tool_calls))]
    second = await session.ask(asked, answer.message, *results, tools=(BALANCE,))
    _stopped(second, "end", "tool_calls")
    return "tried again" if second.stop == "tool_calls" else "read it and stopped"


async def structured_answer(session: Session) -> str:
    """The model ends with a `final_answer` that can be read."""
    asked = UserMessage(text="Ticket: 'No question, I only wanted to say thanks.' Nothing is to do. End with `final_answer`.")
    answer = await session.ask(asked, tools=(FINAL,))
    _stopped(answer, "tool_calls")
    calls = answer.message.tool_calls
    if [call.name for call in calls] != [FINAL_ANSWER]:
        raise Unexpected(f"called {[call.name for call in calls]}")
    try:
        return f"outcome `{final_answer(calls[0].arguments).outcome}`"
    except ValueError:
        raise Unexpected(f"its arguments can't be read: {_quoted(calls[0].arguments)}") from None


async def cut_off(session: Session) -> str:
    """An answer that doesn't fit into its limit stops with `length`."""
    asked = UserMessage(text="Write the numbers from one to five hundred in words, one a line.")
    answer = await session.ask(asked, most=CUT_OFF_AT)
    _stopped(answer, "length")
    return f"after {answer.usage.output_tokens} tokens"


async def second_turn_with_state(session: Session) -> str:
    """What the vendor gave beside a tool call is taken back in the next turn."""
    asked = UserMessage(text="Think first. Is the balance of cus_101 a square number? Use `read_balance`, then say yes or no.")
    answer = await session.ask(asked, tools=(BALANCE,))
    _called(answer, "cus_101")
    results = [_result(answer, place, {"balance_cents": 2025}) for place in range(len(answer.message.tool_calls))]
    second = await session.ask(asked, answer.message, *results, tools=(BALANCE,))
    _stopped(second, "end", "tool_calls")
    state = answer.message.state
    return f"{len(state.items)} items of the vendor's went back" if state else "the vendor gave nothing to send back"


async def caching(session: Session) -> str:
    """The second request of a prefix may be read from the vendor's cache. Not seen isn't wrong: no vendor promises it."""
    # Vendors cache nothing short, and what an earlier session left in a cache would prove nothing.
    rules = "\n".join(f"Rule {n} of {time.time_ns()}: customer cus_{n} is asked for their number first." for n in range(220))
    read: list[int] = []
    for question in ("Answer with the one word: one", "Answer with the one word: two"):
        asked = UserMessage(text=question)
        answer = await session.ask(asked, system=f"{SYSTEM}\n{rules}", cache_key=f"remit-live-{id(session):x}")
        read.append(answer.usage.cached_input_tokens)
    return f"{read[-1]} tokens read from it" if read[-1] else "not seen"


async def unknown_model(session: Session) -> str:
    """A name that no model has is refused as `unknown_model`."""
    return await _refused(session, session.provider, "unknown_model", NOBODYS_MODEL)


async def wrong_key(session: Session) -> str:
    """A key that isn't valid is refused as `auth`."""
    return await _refused(session, session.wrong_key, "auth", session.choice.sent_as or session.choice.model)


CHECKS: dict[str, Check] = {
    "plain text": plain_text,
    "one tool call": one_tool_call,
    "two parallel calls": two_parallel_calls,
    "a refused result": refused_result,
    "final_answer": structured_answer,
    "cut off": cut_off,
    "second turn with state": second_turn_with_state,
    "caching": caching,
    "unknown model": unknown_model,
    "wrong key": wrong_key,
}


async def run(session: Session) -> list[Found]:
    """Carry out the ten checks, one after the other."""
    return [await _checked(session, name, check) for name, check in CHECKS.items()]


async def _checked(session: Session, name: str, check: Check) -> Found:
    calls, before, spent, began = session.calls, session.usage, session.micro_usd or 0, time.monotonic()
    try:
        if spent >= CEILING_MICRO_USD:
            raise Unexpected("not asked: the checks before it cost a cent already")
        ok, note = True, await check(session)
    except Unexpected as e:
        ok, note = False, str(e)
    except ProviderError as e:
        ok, note = False, f"{e.code}: {e.message}"
    return Found(
        name=name,
        ok=ok,
        note=note,
        calls=session.calls - calls,
        usage=TokenUsage(
            input_tokens=session.usage.input_tokens - before.input_tokens,
            output_tokens=session.usage.output_tokens - before.output_tokens,
        ),
        micro_usd=None if session.micro_usd is None else session.micro_usd - spent,
        seconds=time.monotonic() - began,
    )


async def _refused(session: Session, provider: ModelProvider, code: str, model: str) -> str:
    request = ModelRequest(model=model, system=SYSTEM, tools=(), messages=(UserMessage(text="ready?"),), max_output_tokens=64)
    try:
        await provider.complete(request)
    except ProviderError as e:
        if e.code != code:
            raise Unexpected(f"refused as `{e.code}`: {e.message}") from None
        return f"`{code}`"
    if session.vendor:
        raise Unexpected("answered as if nothing was wrong")
    return "this server doesn't look at it"


def _balances(*customers: str) -> UserMessage:
    wish = "with one call for each, all in the same turn" if len(customers) > 1 else "now"
    return UserMessage(text=f"Call `{BALANCE.name}` for {' and '.join(customers)}, {wish}. Then name the amounts.")


def _result(answer: Completion, place: int, content: object) -> ToolMessage:
    call = answer.message.tool_calls[place]
    return ToolMessage(call_id=call.id, name=call.name, content=json.dumps(content))


def _stopped(answer: Completion, *right: str) -> None:
    if answer.stop not in right:
        raise Unexpected(f"stopped with `{answer.stop}`, not {' or '.join(f'`{r}`' for r in right)}: {_shown(answer.message)}")


def _text(answer: Completion) -> None:
    if not answer.message.text.strip():
        raise Unexpected("said nothing")


def _ids(answer: Completion) -> list[str]:
    """For which customers the balance was asked for."""
    found: list[str] = []
    for call in answer.message.tool_calls:
        try:
            arguments = json.loads(call.arguments)
        except ValueError:
            raise Unexpected(f"arguments that aren't JSON: {_quoted(call.arguments)}") from None
        if call.name == BALANCE.name and isinstance(arguments, dict):
            found.append(str(arguments.get("customer_id")))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    return found


def _called(answer: Completion, customer: str) -> None:
    if customer not in _ids(answer):
        raise Unexpected(f"didn't call `{BALANCE.name}` for {customer}: {_shown(answer.message)}")


def _shown(message: AssistantMessage) -> str:
    calls = ", ".join(f"{call.name}({call.arguments})" for call in message.tool_calls)
    return _quoted(calls or message.text)


def _quoted(text: str) -> str:
    short = text if len(text) <= 60 else f"{text[:57]}…"
    return json.dumps(short, ensure_ascii=True)
