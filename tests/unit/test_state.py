"""The state of a run: how it starts, what it carries, what it shows, and the names that it gives."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.approvals import Approval
from policies.canonical import canonical_json, chain, digest
from policies.errors import InvalidInput
from policies.identity import Directory, Person
from policies.models import Usage, UsageLimits
from policies.routing import Route
from tests.builders import ANA, NOW, agent, capsule, refund, request
from tools.builtin import CATALOG
from workflows.keys import idempotency_key
from workflows.messages import (
    AssistantMessage,
    Capsule,
    Classification,
    KillState,
    Message,
    Minted,
    Move,
    PauseState,
    ProviderWait,
    ScriptTurn,
    Segment,
    StartInput,
    ToolCallView,
    ToolMessage,
    ToolRequest,
    UserMessage,
    Window,
)
from workflows.records import Tally
from workflows.state import ARCHIVE_BYTES, MAX_IDENTICAL, MAX_REFUSED, PAGE_BYTES, OpenCall, OpenTurn, RunState, parse_message
from workflows.turn import Turn

START = {"agent": "billing-resolution", "inputs": {"ticket_id": "T-1001"}}
TEXT = st.text(max_size=30)
CALLS = st.builds(ToolRequest, id=TEXT, name=TEXT, arguments=TEXT)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(UserMessage, text=TEXT),
    st.builds(AssistantMessage, text=TEXT, tool_calls=st.lists(CALLS, max_size=2).map(tuple)),
    st.builds(ToolMessage, call_id=TEXT, name=TEXT, content=TEXT),
)


def state(**changes: object) -> RunState:
    return RunState.model_validate({"start": StartInput.model_validate(START), **changes})


def refusal(*args: object, continued: bool = False) -> str:
    with pytest.raises(InvalidInput) as caught:
        RunState.of(args, continued=continued)
    return caught.value.message


# ---- the start ------------------------------------------------------------------------------------------------------


def test_a_run_starts_from_one_object() -> None:
    """The one input of a workflow is the start input, and everything else is fresh."""
    assert RunState.of([START], continued=False) == RunState(start=StartInput.model_validate(START))


@pytest.mark.parametrize("args", [(), (START, START), (START, None, 3)], ids=len)
def test_a_run_starts_from_exactly_one_object(args: tuple[object, ...]) -> None:
    """No input, or several, is one sentence that says what to give."""
    assert refusal(*args) == (f"`AgentRun` takes one input, got {len(args)}; give one JSON object with `agent` and `inputs`.")


@dataclass(frozen=True)
class Unusable:
    name: str
    given: object
    message: str


OBJECT = "`$` Input should be a valid dictionary or instance of StartInput"
UNUSABLE = (
    Unusable("null", None, OBJECT),
    Unusable("text", '{"agent": "a"}', OBJECT),
    Unusable("list", [START], OBJECT),
    Unusable("number", 5, OBJECT),
    Unusable("no agent", {}, "`agent` Field required"),
    Unusable("empty agent", {"agent": ""}, "`agent` String should have at least 1 character"),
    Unusable("endless agent", {"agent": "x" * 101}, "`agent` String should have at most 100 characters"),
    Unusable("inputs aren't an object", {"agent": "a", "inputs": []}, "`inputs` Input should be a valid dictionary"),
    Unusable("unknown field", {"agent": "a", "model": "gpt"}, "`model` Extra inputs are not permitted"),
    Unusable("endless field", {"agent": "a", "x" * 100_000: 1}, f"`{'x' * 120}` Extra inputs are not permitted"),
    Unusable("turns aren't turns", {"agent": "a", "script": [{"say": "x"}]}, "`script.0.say` Extra inputs are not permitted"),
)


@pytest.mark.parametrize("case", UNUSABLE, ids=lambda c: c.name)
def test_an_input_that_cant_be_used_says_why(case: Unusable) -> None:
    """The sentence names the field and never holds the input."""
    assert refusal(case.given) == f"The input of `AgentRun` can't be used: {case.message}."


def whole() -> RunState:
    """A state in the middle of a run, with something in every field."""
    run = state(
        capsule=capsule(),
        status="waiting_for_approval",
        step=2,
        tier=2,
        model="scripted-strong",
        simulated=True,
        tainted=True,
        risk="high",
        usage=Usage(tool_calls=3, model_calls=2, input_tokens=10, output_tokens=20, cost_micro_usd=30),
        failures={"get_ticket": 1},
        calls=[ToolCallView(step=1, tool="get_ticket", status="done", amount=None)],
        approvals={"ap-2-0": Approval(request=request())},
        judged={"ap-2-0": refund()},
        nonces=["n" * 16],
        kill=KillState(engaged=True, reason="stop", by="ana", requested_at=NOW),
        pauses={"fleet": PauseState(scope="fleet", reason="a look", epoch=2)},
        resumed={"fleet": 1},
        capability=Minted(id="cap_1", expires_at=NOW + 600),
        people=Directory(people=(Person(sub=ANA),), live=True),
        refs=["sha256:" + "0" * 64],
        deadline=NOW + 60,
        turn=OpenTurn(calls_used=3, calls=(OpenCall(index=0, slot=2, request=ToolRequest(id="c", name="t", arguments="{}")),)),
        segments=[Segment(key="sha256:0", since=0, until=1, head="", calls=1)],
        window=Window(until=1),
        starts=[1],
        context_tokens=10,
        stopped_by="kill",
        summary="Stopped.",
        fallbacks=1,
        fell_back_from="openai: down",
        tally=Tally(denied=1),
        stepped_down="draft",
        moves=[Move(tier=2, step=1, why="policy", words="policy refunds")],
        classification=Classification(labels=("refund",), confidence=0.5),
        waiting=ProviderWait(provider="openai", code="timeout", message="None.", since=NOW, next_try=NOW + 15, tries=1),
        reminded=True,
        retries=1,
        last_retry="openai: timeout",
    )
    run.append(UserMessage(text="hello"))
    run.refuse("decide", "malformed", "no", NOW)
    run.seen_before("get_ticket", "{}")
    return run


def test_what_is_settled_need_not_be_judged_again() -> None:
    """What a verdict rested on is kept for what still waits, and for nothing else."""
    run = whole()
    run.settle("ap-2-0", "expired")
    assert (run.approvals["ap-2-0"].status, run.judged) == ("expired", {})


def test_a_run_that_was_stepped_down_stays_there() -> None:
    """It keeps to the lowest mode that it met beside a write, and never does more than its agent may."""
    run = state(capsule=capsule())
    assert (state().mode, run.mode) == (None, "live")
    run.step_down(None)
    assert run.mode == "live"
    run.step_down("draft")
    run.step_down("live")
    assert run.mode == "draft"
    run.step_down("read_only")
    assert run.mode == "read_only"
    assert state(capsule=capsule(agent=agent(mode="draft")), stepped_down="live").mode == "draft"


def test_a_run_that_began_before_modes_were_held_is_judged_as_then() -> None:
    """Its workflow must replay; beside the write it is held to its mode all the same, and then keeps to that."""
    for held, expected in ((False, "live"), (True, "draft")):
        run = state(capsule=capsule(agent=agent(mode="draft"), held_to_mode=held))
        assert run.capsule
        turn = Turn(run, run.capsule, CATALOG, 1)
        assert turn.mode == expected
        run.step_down("draft")
        assert turn.mode == "draft"


def test_what_capsules_got_since_does_not_count_where_it_is_absent() -> None:
    """A capsule from before there were places in the queue and fallbacks keeps its digest; one that has them has another."""
    given = capsule()
    since = (
        "capability",
        "delegations",
        "priority",
        "weight",
        "history_events",
        "paused",
        "recorded",
        "held_to_mode",
        "arm",
        "stage",
        "over_ceiling",
        "withheld",
        "model_protocol",
        "answer",
        "privacy",
    )
    older = {k: v for k, v in given.model_dump(mode="json").items() if k not in since}
    assert set(older["route"]) == {"models"}
    assert given.digest == digest(older) == Capsule.model_validate(older).digest
    other = Route(models=given.route.models, fallbacks=(given.route.models,))
    assert len({given.digest, capsule(priority=1).digest, capsule(weight=2).digest, capsule(route=other).digest}) == 4


def test_no_field_of_the_state_is_left_out_here() -> None:
    """The round trip below is over a state that differs from a fresh one in every field."""
    fresh, full = state(), whole()
    assert {n for n in RunState.model_fields if getattr(fresh, n) == getattr(full, n)} == {"version", "start"}


def test_a_state_survives_continue_as_new() -> None:
    """A state goes through JSON and comes back equal, with the digest of its capsule unchanged."""
    carried = json.loads(whole().model_dump_json())
    back = RunState.of([carried], continued=True)
    assert back.model_dump() == whole().model_dump()
    assert back.capsule
    assert back.capsule.digest == capsule().digest


def test_a_stranger_cant_bring_a_state() -> None:
    """G1: only the server's word that a run continues lets a whole state in; a start input with a capsule is refused."""
    forged = json.loads(whole().model_dump_json())
    assert refusal(forged) == (
        "The input of `AgentRun` can't be used: `agent` Field required; "
        + "; ".join(f"`{name}` Extra inputs are not permitted" for name in list(forged)[:4])
        + f"; and {len(forged) - 4} more."
    )
    assert refusal({**START, "capsule": forged["capsule"]}) == (
        "The input of `AgentRun` can't be used: `capsule` Extra inputs are not permitted."
    )


def test_a_continued_run_needs_a_state() -> None:
    """A start input isn't a state."""
    assert "`start` Field required" in refusal(START, continued=True)


def test_an_older_state_is_still_read() -> None:
    """Fields that were added since a run continued have defaults: the start is all that a state must hold."""
    assert RunState.of([{"version": 1, "start": START}], continued=True) == state()


# ---- the transcript -------------------------------------------------------------------------------------------------


@given(st.lists(MESSAGES, max_size=12))
def test_the_head_is_the_chain_of_the_messages(messages: list[Message]) -> None:
    """Each message is held once, as text that parses back to it, and `head` stands for all of them in order."""
    run, head = state(), ""
    for message in messages:
        run.append(message)
        head = chain(head, run.messages[-1])
    assert [parse_message(text) for text in run.messages] == messages
    assert run.head == head


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=6, unique=True))
def test_the_head_knows_the_order(texts: list[str]) -> None:
    """The same messages in another order have another head."""
    one, other = state(), state()
    for text in texts:
        one.append(UserMessage(text=text))
    for text in reversed(texts):
        other.append(UserMessage(text=text))
    assert one.head != other.head


@given(
    sizes=st.lists(st.integers(0, PAGE_BYTES * 6 // 5), max_size=6), letter=st.sampled_from(["x", "é", "票", "🎟", '"', "\n"])
)
def test_pages_make_up_the_transcript(sizes: list[int], letter: str) -> None:
    """Each asked for from where the last ended, the pages make up the whole, and only a message that is over a page's size
    makes a page that is."""
    run = state()
    for size in sizes:
        run.append(UserMessage(text=letter * (size // len(letter.encode()))))
    seen: list[str] = []
    while True:
        page = run.page(len(seen))
        assert (page.since, page.total, page.digest) == (len(seen), len(sizes), run.head)
        assert len(page.messages) <= 1 or sum(len(m.encode()) for m in page.messages) <= PAGE_BYTES
        if not page.messages:
            break
        seen += page.messages
    assert seen == run.messages


def test_the_script_is_on_the_first_page() -> None:
    """The script comes once, with the page that begins the transcript."""
    turns = (ScriptTurn(text="Done."),)
    run = RunState(start=StartInput(agent="a", script=turns))
    run.append(UserMessage(text="hello"))
    assert (run.page(0).script, run.page(1).script) == (turns, None)


# ---- counting -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 3 * MAX_REFUSED))
def test_refusals_are_counted_and_capped(count: int) -> None:
    """A flood of junk signals is counted in full, and only the last few are kept, so that the state stays small."""
    run = state()
    for i in range(count):
        run.refuse("x" * 500, "unknown_signal", "y" * 5000, NOW + i)
    assert run.refused_total == count
    assert [r.at for r in run.refused] == [NOW + i for i in range(count)][-MAX_REFUSED:]
    assert all(len(r.name) == 80 and len(r.message) == 300 for r in run.refused)


def test_identical_calls_are_counted_by_tool_and_arguments() -> None:
    """The same tool with the same arguments is the same call; another tool or argument isn't."""
    run = state()
    calls = [("a", "{}"), ("a", "{}"), ("b", "{}"), ("a", '{"x": 1}'), ("a", "{}")]
    assert [run.seen_before(tool, arguments) for tool, arguments in calls] == [1, 2, 1, 1, 3]


def test_failures_are_counted_in_a_row() -> None:
    """A success of a tool clears its failures and no other tool's."""
    run = state()
    run.failed("a", 2)
    run.failed("a")
    run.failed("b")
    run.succeeded("a")
    run.succeeded("c")
    assert run.failures == {"b": 1}


def test_pending_approvals_are_those_that_wait() -> None:
    """An approval that was settled no longer waits, and its siblings still do."""
    run = state(approvals={name: Approval(request=request(approval_id=name)) for name in ("ap-1", "ap-2")})
    run.settle("ap-1", "expired")
    assert [a.request.approval_id for a in run.pending] == ["ap-2"]
    assert run.approvals["ap-1"].status == "expired"


def test_limits_are_those_of_the_capsule() -> None:
    """Before admission the defaults hold, then what the run was pinned to."""
    assert state().limits == UsageLimits()
    assert state(capsule=capsule(limits=UsageLimits(tool_calls=3))).limits.tool_calls == 3


# ---- what others see ------------------------------------------------------------------------------------------------


def test_the_status_shows_the_run() -> None:
    """The answer of the query `status` is the state as people need it, before admission too."""
    run = whole()
    view = run.summary_view("run-1", "wf-1")
    assert (view.run_id, view.workflow_id, view.agent, view.status) == ("run-1", "wf-1", "billing-resolution", run.status)
    assert (view.policy_version, view.mode, view.subject) == (capsule().bundle.version, "draft", capsule().subject)
    assert (view.approvals, view.calls, view.refused, view.kill) == (
        tuple(run.approvals.values()),
        tuple(run.calls),
        tuple(run.refused),
        run.kill,
    )
    early = state().summary_view("run-1", "wf-1")
    assert (early.status, early.policy_version, early.mode, early.subject) == ("admitted", "", "", "")


def test_the_result_tells_how_it_ended() -> None:
    """What a closed run returns has the outcome, what stopped it, what it used, and when."""
    result = whole().result("run-1", "wf-1", NOW + 9)
    assert (result.outcome, result.stopped_by, result.closed_at) == ("waiting_for_approval", "kill", NOW + 9)
    assert result.usage == whole().usage


# ---- idempotency keys -----------------------------------------------------------------------------------------------

ARGUMENTS = st.dictionaries(TEXT, st.integers(0, 9) | st.text(max_size=5), max_size=3)
NAMED = st.tuples(
    st.text(max_size=5), st.integers(0, 20), st.integers(0, 20), st.sampled_from(["a@1", "a@2", "b@1"]), ARGUMENTS
)


@given(NAMED, NAMED)
def test_a_key_is_a_function_of_the_call(
    one: tuple[str, int, int, str, dict[str, object]], other: tuple[str, int, int, str, dict[str, object]]
) -> None:
    """G2: equal calls have equal keys, in whatever order their arguments are, and calls that differ anywhere don't."""
    turned = (*one[:4], dict(reversed(list(one[4].items()))))
    assert idempotency_key(*turned) == idempotency_key(*one)
    assume(canonical_json(list(one)) != canonical_json(list(other)))
    assert idempotency_key(*one) != idempotency_key(*other)


@pytest.mark.parametrize("changed", range(5))
def test_each_part_of_a_call_is_in_its_key(changed: int) -> None:
    """Another workflow, step, place in the turn, tool version or argument is another effect."""
    call = ("wf-1", 2, 0, "request_refund@1", {"amount_cents": 4900})
    others = ("wf-2", 3, 1, "request_refund@2", {"amount_cents": 4901})
    other = [*call[:changed], others[changed], *call[changed + 1 :]]
    assert idempotency_key(*other) != idempotency_key(*call)  # pyright: ignore[reportArgumentType]


def test_the_key_is_frozen() -> None:
    """Stored histories and vendors hold keys of this form; a change of it would perform their effects again."""
    key = idempotency_key("wf-1", 2, 0, "request_refund@1", {"invoice_id": "in_1001", "amount_cents": 4900})
    assert key == "rk_0fcc31e2f4cf3b30c8e3d6077a1cb66d1f61311c"


# ---- what goes to storage -------------------------------------------------------------------------------------------


def long(messages: int) -> RunState:
    """A run whose transcript is as long as it may be without going to storage, and as many messages as this."""
    run = state(capsule=capsule())
    for _ in range(messages):
        run.append(UserMessage(text="x" * (ARCHIVE_BYTES // messages)))
    return run


def test_a_short_transcript_stays_in_the_state() -> None:
    """A run that is small needs no storage to go on in a new history."""
    run = state(capsule=capsule())
    run.append(UserMessage(text="x" * 1000))
    assert run.to_archive() is None


def test_what_is_archived_is_forgotten_and_nothing_else() -> None:
    """Messages, calls and closed approvals go; what waits stays, with the place that every message has in the transcript."""
    run = long(4)
    run.calls = [ToolCallView(step=0, tool="get_ticket", status="done")]
    run.approvals = {"ap-0-0": Approval(request=request(), status="consumed"), "ap-1-0": Approval(request=request())}
    gone = run.to_archive()
    assert gone is not None
    assert (gone.since, gone.until, gone.calls, gone.approvals) == (0, 4, 1, ("ap-0-0",))
    run.approvals["ap-2-0"] = Approval(request=request(), status="rejected")  # decided while it was being stored
    run.archived(gone, Segment(key="sha256:0", since=0, until=4, head=run.head, calls=1))
    assert (run.messages, run.calls, [*run.approvals], run.offset, run.length) == ([], [], ["ap-1-0", "ap-2-0"], 4, 4)
    run.append(UserMessage(text="more"))
    page = run.page(4)
    assert (page.total, len(page.messages), page.segments) == (5, 1, ())
    assert [s.until for s in run.page(0).segments] == [4]


def test_the_turn_at_hand_stays() -> None:
    """Of a run that goes on in the middle of a turn, all but that turn goes to storage."""
    run = long(6)
    wait = OpenCall(index=1, slot=6, request=ToolRequest(id="c", name="t", arguments="{}"))
    run.turn = OpenTurn(calls_used=2, calls=(wait,))
    run.approvals = {"ap-0-0": Approval(request=request(), status="cancelled")}
    gone = run.to_archive()
    assert gone is not None
    assert (gone.until, gone.approvals) == (4, ())


def test_the_loop_guard_remembers_the_latest_calls() -> None:
    """However long a run is, what its guard remembers is bounded, and a call that is repeated now is counted."""
    run = state()
    for n in range(MAX_IDENTICAL + 50):
        assert run.seen_before("get_ticket", str(n)) == 1
        assert run.seen_before("get_ticket", "again") == n + 1
    assert len(run.identical) == MAX_IDENTICAL


def test_a_pause_holds_until_its_own_end() -> None:
    """A pause ends with the end of its scope, not with an earlier one, nor with that of another scope."""
    run = state()
    run.pause(PauseState(scope="fleet", reason="a", epoch=4))
    run.pause(PauseState(scope="agent:x", reason="b", epoch=5))
    run.resume("agent:x", 6)
    run.resume("fleet", 3)
    assert list(run.pauses) == ["fleet"]
    run.resume("fleet", 7)
    assert run.pauses == {}


def test_a_wait_for_room_ends_by_itself() -> None:
    """What has a time ends at that time; the first one says when to look, and what somebody must end stays."""
    run = state()
    run.pause(PauseState(scope="cap:fleet", reason="a", until=NOW + 60))
    run.pause(PauseState(scope="cap:agent:x", reason="b", until=NOW + 30))
    run.pause(PauseState(scope="run:run-1", reason="c", epoch=4))
    assert run.next_end == NOW + 30
    run.end_pauses(NOW + 30)
    assert (list(run.pauses), run.next_end) == (["cap:fleet", "run:run-1"], NOW + 60)
    run.end_pauses(NOW + 60)
    assert (list(run.pauses), run.next_end) == (["run:run-1"], 0)


def test_a_pause_without_an_end_is_written_as_before() -> None:
    """A capsule that holds one, from before some had an end, keeps its digest."""
    paused = PauseState(scope="fleet", reason="a", epoch=4)
    assert set(paused.model_dump()) == {"scope", "reason", "by", "epoch", "since"}
    ends = PauseState(scope="cap:fleet", reason="a", until=NOW)
    assert PauseState.model_validate_json(ends.model_dump_json()) == ends


@pytest.mark.parametrize(("epoch", "held"), [(4, False), (5, False), (6, True), (0, True)])
def test_a_pause_that_has_ended_holds_nothing(epoch: int, held: bool) -> None:
    """Signals may cross: what counts is the ledger's order. One of epoch 0 isn't in the ledger, and holds."""
    run = state()
    run.resume("fleet", 5)
    run.pause(PauseState(scope="fleet", reason="late", epoch=epoch))
    assert bool(run.pauses) is held
