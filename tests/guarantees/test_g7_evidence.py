"""G7: a trace that nobody can change unseen, and whose verdicts anybody can derive again, offline."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies.canonical import digest
from policies.capability import new_key
from remit.connection import CONVERTER
from remit.embedded import TemporalServer
from remit.proof.build import build
from remit.proof.capsule import CapsuleFile, NotACapsule, read, written
from remit.proof.case import DoesNotHold
from remit.proof.sealing import sign
from remit.proof.verify import Walk, by_lines, opened
from tests.guarantees.proving import (
    CATALOG,
    KEY,
    Run,
    checked,
    content_of,
    flips,
    killed_run,
    private_run,
    rich_run,
    sealed_again,
    sealed_away_run,
    stored,
    terminated,
)
from tools.catalog import Catalog
from workflows.messages import ENCRYPTED

Content = dict[str, Any]
REFUND, SECOND, REPLY = 12, 14, 16
"""The lines of the refund that was edited, of the one that two people approved, and of the reply draft."""


@pytest.fixture(scope="module")
def run(server: TemporalServer, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A real run."""

    async def work() -> Run:
        return await rich_run(await server.ready(), tmp_path_factory.mktemp("rich"))

    return asyncio.run(work())


@pytest.fixture(scope="module")
def capsule(run: Run) -> CapsuleFile:
    """Its capsule."""
    return asyncio.run(run.capsule())


def _lines(content: Content) -> list[Content]:
    return content["trace"]


async def test_an_honest_capsule_verifies(capsule: CapsuleFile) -> None:
    """Everything there is to derive is derived, and the customer's address that was redacted is in nobody's way."""
    report = await checked(capsule)
    assert report.failed == "" and report.exceptions == () and report.exit_code == 0
    counts = {c.what: c.count for c in report.checked}
    assert counts["lines derived"] == len(capsule.trace) == counts["lines"]
    assert counts["decisions"] == 4 and counts["capabilities"] == 4 and counts["writes"] == 4
    assert counts["prompts"] == 7 and counts["documents"] == 3 and counts["costs"] == 8
    assert counts["verdicts"] == 11 and counts["facts"] == 9
    assert set(report.deciders) == {"ana@example.com", "bo@example.com"}
    assert capsule.contents.redaction.counts == {"email": 1}


async def test_a_run_that_was_killed_verifies(server: TemporalServer, tmp_path: Path) -> None:
    """What it was stopped in is in its trace: a kill, and an approval that nobody gave."""
    killed = await (await killed_run(await server.ready(), tmp_path)).capsule()
    assert {"kill", "outcome"} <= {str(line["kind"]) for line in killed.trace}
    report = await checked(killed)
    assert (report.failed, report.exceptions) == ("", ())


@pytest.mark.parametrize(
    "name",
    ["auto_refund", "loop_stopped", "prompt_injection", "run_killed", "continued", "assigned_to_people", "refused_start"],
)
async def test_runs_of_earlier_code_verify(name: str) -> None:
    """Also one that a limit stopped, one whose first history is gone, one for people, and one that never began."""
    report = await checked(await stored(name).capsule())
    assert (report.failed, report.exceptions) == ("", ())


@pytest.mark.parametrize("answered", [True, False])
async def test_a_run_that_was_terminated_in_a_write_verifies(answered: bool) -> None:
    """It may not have counted the approval as used yet; who approved shows all the same."""
    run = stored("two_approvals")
    asked = next(t.event for t in (await build(run.histories, CONVERTER)).tools if t.tool == "request_refund")
    cut = replace(run, histories=[terminated(run.histories[0], asked, answered=answered)])
    report = await checked(await cut.capsule())
    assert (report.failed, report.exceptions) == ("", ())


async def test_an_encrypted_run_verifies(server: TemporalServer, tmp_path: Path) -> None:
    """Its capsule holds everything decrypted and inline, so that it needs neither the codec's keys nor the storage."""
    away = await (await sealed_away_run(await server.ready(), tmp_path)).capsule()
    report = await checked(away)
    assert (report.failed, report.exceptions) == ("", ())
    encoding = base64.b64encode(ENCRYPTED).decode()
    assert encoding not in str(away.contents.history) and len(str(away.contents.history)) > 200_000


async def test_what_was_redacted_is_said(server: TemporalServer, tmp_path: Path) -> None:
    """An address in arguments, and in what was signed, is gone; what can't be derived without is named, and all else holds."""
    found = await (await private_run(await server.ready(), tmp_path)).capsule()
    assert b"holt.example" not in written(found, plain_json=True)
    report = await checked(found)
    assert report.failed == "" and report.exit_code == 3
    for beginning in (
        "the lines can't be derived from the history by a replay, for something in it was redacted: ",
        "key and digest of line 2 (`draft_reply`) can't be derived, ",
        "who decided on approval `ap-1-0` of line 6 (`request_refund`) can't be derived",
    ):
        assert any(e.startswith(beginning) for e in report.exceptions), beginning
    assert len(report.exceptions) == 3
    assert {c.what for c in report.checked} >= {"verdicts", "capabilities", "limits", "costs"}


# ---- the seal -----------------------------------------------------------------------------------------------------

EMPTY: Content = {
    **{name: [] for name in ("history", "tools", "prices", "documents", "capabilities")},
    **{name: {} for name in ("catalog", "cedar_schema", "root_keys")},
    **dict.fromkeys(("prompt", "code"), "x"),
    **dict.fromkeys(("policy", "release"), None),
    "redaction": {"rules": [], "known": [], "counts": {}, "lines": [], "events": [], "parts": []},
}


def _pieces(capsule: CapsuleFile) -> Generator[tuple[str, Content, Any]]:
    """The capsule cut up, each piece sealed by itself, so that it costs a millisecond to look for a change in it.

    Gives with each what of it is to be flipped.
    """
    whole = content_of(capsule)
    contents = whole["contents"]

    def piece(trace: list[Content], tokens: Content, **parts: object) -> Content:
        made = {**whole, "trace": trace, "contents": {**EMPTY, **parts}, "tokens": tokens}
        return content_of(sealed_again(made))

    for line in whole["trace"]:
        made = piece([line], {})
        yield f"line {line['seq']}", made, made["trace"]
    for event in contents["history"][0]["events"]:
        made = piece([], {}, history=[{"events": [event]}])
        yield f"event {event['eventId']}", made, made["contents"]["history"]
    for tool in contents["tools"]:
        made = piece([], {}, tools=[tool])
        yield f"tool {tool['name']}", made, made["contents"]["tools"]
    for name, body in contents["cedar_schema"]["Remit"]["actions"].items():
        made = piece([], {}, cedar_schema={name: body})
        yield f"action {name}", made, made["contents"]["cedar_schema"]
    rest = {n: p for n, p in contents.items() if n not in ("history", "tools", "cedar_schema")}
    made = piece([], whole["tokens"], **rest)
    yield "the rest", made, made


async def test_every_flip_of_every_field_is_caught(capsule: CapsuleFile) -> None:
    """Each value changed, each name removed, each item of a list dropped or exchanged with its neighbour, in turn."""
    count = 0
    for piece, sealed, part in _pieces(capsule):
        assert "root" in [c.what for c in (await checked(json.dumps(sealed).encode())).checked], piece
        for flip in flips(part):
            count += 1
            try:
                report = await checked(json.dumps(sealed).encode())
            except NotACapsule:
                assert flip.startswith("/format ")
                continue
            assert report.failed and "root" not in [c.what for c in report.checked], f"{piece}: {flip}"
    assert count > 8_000


async def test_flips_of_the_whole_file_are_caught(capsule: CapsuleFile) -> None:
    """The same of the capsule in one piece, for one flip in a few hundred."""
    content, found = content_of(capsule), 0
    for number, flip in enumerate(flips(content)):
        if number % 397 == 0 and not flip.startswith("/format "):
            found += 1
            assert (await checked(json.dumps(content).encode())).exit_code == 1, flip
    assert found > 10


async def test_another_key_is_noticed(capsule: CapsuleFile) -> None:
    """Who seals a capsule of their own puts their own key in: its fingerprint isn't the one that was given."""
    forged = capsule.model_copy(update={"root": sign(capsule.root.root, new_key())})
    assert (await checked(forged)).failed == ""
    report = await checked(forged, key=capsule.root.key_id)
    assert report.failed == f"Root 1 is signed by another key, `{forged.root.key_id}`." and report.given


async def test_a_place_in_the_chain(capsule: CapsuleFile) -> None:
    """A capsule that isn't in the namespace's chain, or a chain that lacks a run, is noticed."""
    root = capsule.root.root
    second = sign(root.model_copy(update={"seq": 2, "previous": root.digest, "run_id": "other"}), KEY)
    assert (await checked(capsule, roots=[capsule.root, second])).failed == ""
    assert (await checked(capsule, roots=[second])).failed == "Root 1 is missing: the next one is 2."
    other = sign(root.model_copy(update={"run_id": "other"}), KEY)
    assert (await checked(capsule, roots=[other])).failed == "Root 1 of the chain isn't this capsule's."


# ---- derivation: somebody changes what was sealed, and seals it again -----------------------------------------------


def _set(line: int, *path: str | int, to: object) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        where: Any = _lines(content)[line]
        for step in path[:-1]:
            where = where[step]
        assert where[path[-1]] != to
        where[path[-1]] = to

    return change


def _decisions(content: Content, line: int, approval: int = 0) -> list[Content]:
    return _lines(content)[line]["approvals"][approval]["decisions"]


def _in(part: str, index: int, name: str, to: object) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        assert content["contents"][part][index][name] != to
        content["contents"][part][index][name] = to

    return change


TAMPERED: dict[str, tuple[Callable[[Content], object], str]] = {
    "a verdict": (
        _set(
            SECOND,
            "verdict",
            to={"decision": "allow", "policy_ids": ["writes"], "approvals_required": 0, "route_strong": False, "reason": ""},
        ),
        "The verdict of line 14 (`request_refund`) is `allow` (writes); derived again, it is `require_approval` of 2 ",
    ),
    "a policy id": (
        _set(REPLY, "verdict", "policy_ids", to=["reads"]),
        "The verdict of line 16 (`draft_reply`) is `allow` (reads)",
    ),
    "a fact of the run": (_set(SECOND, "facts", "run", "subject_sum_cents", to=0), "The verdict of line 14"),
    "a fact of the run that changes no verdict": (
        _set(SECOND, "facts", "run", "calls_used", to=2),
        "The facts of line 14 (`request_refund`) say 2 calls; the trace has 6.",
    ),
    "taint": (
        _set(REPLY, "facts", "run", "tainted", to=False),
        "say otherwise than the trace whether text from outside was read",
    ),
    "what the business said": (
        _set(REPLY, "facts", "facts", "status", to="closed"),
        "The facts of line 16 (`draft_reply`) say of `Ticket:T-1003` what the history doesn't.",
    ),
    "whom it is for": (_set(REPLY, "facts", "run", "subject", to="Customer:cus_101"), "line 16"),
    "the agent's mode": (_set(REPLY, "facts", "agent", "status", to="suspended"), "The verdict of line 16"),
    "an approver": (
        _set(SECOND, "approvals", 0, "decisions", 1, "sub", to="dana@example.com"),
        "A decision of approval `ap-3-0` of line 14 (`request_refund`) isn't what `bo@example.com` signed.",
    ),
    "one person in another's place": (
        lambda c: _decisions(c, SECOND).__setitem__(1, _decisions(c, SECOND)[0]),
        "The policy doesn't permit line 14 (`request_refund`), which was done, with the approvals of one person.",
    ),
    "one person twice": (
        lambda c: _decisions(c, SECOND).append(_decisions(c, SECOND)[0]),
        "counts for nothing: Approval `ap-3-0` is already approved.",
    ),
    "one approver too few": (
        lambda c: _decisions(c, SECOND).pop(),
        "The policy doesn't permit line 14 (`request_refund`), which was done, with the approvals of one person.",
    ),
    "what people decided": (
        _set(REFUND, "approvals", 0, "status", to="consumed"),
        "The approval `ap-2-0` of line 12 (`request_refund`) is `consumed`, which isn't what people decided.",
    ),
    "no approval at all": (
        lambda c: _lines(c)[SECOND]["approvals"].clear(),
        "The policy doesn't permit line 14 (`request_refund`), which was done, with the approvals of 0 people.",
    ),
    "a decision for something else": (
        lambda c: _lines(c)[SECOND]["approvals"][0]["decisions"].__setitem__(
            0, _lines(c)[REFUND]["approvals"][1]["decisions"][0]
        ),
        "counts for nothing: The decision is for another run or another approval.",
    ),
    "an approval used twice": (
        lambda c: _lines(c)[REPLY]["approvals"].extend(_lines(c)[SECOND]["approvals"]),
        "is in the trace twice.",
    ),
    "the number of people who were asked": (
        _set(SECOND, "approvals", 0, "request", "required", to=1),
        "asks for one person, which no verdict on this action does.",
    ),
    "how long it was open": (_set(SECOND, "approvals", 0, "request", "expires_at", to=2**40), "isn't what the limits say."),
    "an amount that was approved": (
        _set(SECOND, "approvals", 0, "request", "arguments", "amount_cents", to=30001),
        "isn't for the action that it shows.",
    ),
    "when somebody decided": (_set(SECOND, "approvals", 0, "decisions", 0, "decided_at", to=2**40), "counts for nothing"),
    "what an editor signed": (
        _set(REFUND, "approvals", 0, "decisions", 0, "arguments", "amount_cents", to=1),
        "isn't what `bo@example.com` signed.",
    ),
    "what came of a write": (
        _set(REPLY, "outcome", "status", to="refused"),
        "Line 16 (`draft_reply`) says `refused`, which isn't what the history has of it.",
    ),
    "an amount that was moved": (_set(SECOND, "amount", "cents", to=1), "has another ceiling than what was moved."),
    "arguments of what was done": (
        _set(REPLY, "arguments", "text", to="Pay me."),
        "line 16 (`draft_reply`) have other arguments than were judged.",
    ),
    "an idempotency key": (
        _set(REPLY, "idempotency_key", to="rk_" + "0" * 40),
        "The capability of line 16 (`draft_reply`) is for another write.",
    ),
    "a digest of an action": (
        _set(REPLY, "action_digest", to="sha256:0"),
        "The digest of line 16 (`draft_reply`) isn't that of this action.",
    ),
    "a capability that is another's": (
        lambda c: _lines(c)[REPLY].update(capability=_lines(c)[SECOND]["capability"]),
        "The capability of line 16 (`draft_reply`) is for another tool.",
    ),
    "no capability": (_set(REPLY, "capability", to=""), "The capability of line 16 (`draft_reply`) isn't there."),
    "a ceiling": (
        _in("capabilities", 2, "ceiling_cents", 60000),
        "doesn't permit what the ledger says of it: No capability covers",
    ),
    "a capability's end": (_in("capabilities", 2, "expires_at", 1), "had expired when the write was asked for."),
    "a capability's run": (_in("capabilities", 2, "run_id", "other"), "is another run's."),
    "a capability that was revoked": (_in("capabilities", 2, "revoked_at", 1), "had been revoked."),
    "a root key": (
        lambda c: c["contents"]["root_keys"].update({"1": "00" * 32}),
        "doesn't permit what the ledger says of it: The capability's signature doesn't verify.",
    ),
    "tokens that were used": (_set(1, "usage", "input_tokens", to=1), "What the run used isn't the sum of its lines."),
    "what a call cost": (_set(1, "cost_micro_usd", to=1), "What the run used isn't the sum of its lines."),
    "what it all cost": (_set(-1, "cost_usd", to=0.0), "What the run cost isn't the sum of its model calls."),
    "a price": (
        lambda c: c["contents"]["prices"][0]["declared"].update(input_per_mtok=1),
        "The prices of `scripted-small` aren't those that its calls name.",
    ),
    "a model": (_set(1, "model", to="scripted-strong"), "The model call of line 1 isn't what the history has."),
    "a document": (_in("documents", 0, "text", "Refund everybody."), "isn't the one that was read."),
    "a document that is gone": (lambda c: c["contents"]["documents"].pop(), "which line 3 (`search_kb`) brought, isn't there."),
    "the schema": (
        lambda c: c["contents"]["cedar_schema"]["Remit"]["entityTypes"].pop("Ticket"),
        "The schema that policies are checked against isn't the one that these tools give.",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_is_sealed_again_is_caught_by_derivation(capsule: CapsuleFile, what: str) -> None:
    """Who holds the key can seal anything; but what follows from something else must follow from it, without any replay."""
    change, sentence = TAMPERED[what]
    content = content_of(capsule)
    change(content)
    case = opened(Walk(), read(written(sealed_again(content))))
    assert case
    with pytest.raises(DoesNotHold) as found:
        by_lines(Walk(), case, CATALOG)
    assert sentence in str(found.value)


def test_nothing_is_caught_where_nothing_was_changed(capsule: CapsuleFile) -> None:
    """The same way, without a change."""
    case = opened(Walk(), read(written(sealed_again(content_of(capsule)))))
    assert case
    by_lines(Walk(), case, CATALOG)
    assert case.exceptions == []


async def test_a_line_that_no_replay_gives_is_caught(capsule: CapsuleFile) -> None:
    """Also one that no other check looks at."""
    content = content_of(capsule)
    _lines(content)[10]["message"] = "Nothing happened."
    assert (
        await checked(sealed_again(content))
    ).failed == "Line 10 isn't what a replay of the history gives: `/message` differs."
    content = content_of(capsule)
    del _lines(content)[10]
    for number, line in enumerate(_lines(content)):
        line["seq"] = number
    assert (await checked(sealed_again(content))).failed == "A replay of the history gives 21 lines, the trace has 20."


async def test_a_history_that_was_changed_is_caught(capsule: CapsuleFile) -> None:
    """With another signature in it, the code doesn't lead to the refund that the history has."""
    content = content_of(capsule)
    events = content["contents"]["history"][0]["events"]
    accepted = [e for e in events if "workflowExecutionUpdateAcceptedEventAttributes" in e][-1]
    args = accepted["workflowExecutionUpdateAcceptedEventAttributes"]["acceptedRequest"]["input"]["args"]
    decision = json.loads(base64.b64decode(args["payloads"][0]["data"]))
    decision["decision_jws"] = decision["decision_jws"][:-8]
    args["payloads"][0]["data"] = base64.b64encode(json.dumps(decision).encode()).decode()
    report = await checked(sealed_again(content))
    assert report.failed.startswith("The history doesn't lead to the trace: Today's code can't read the run: event ")


async def test_a_prompt_that_was_changed_is_caught(capsule: CapsuleFile) -> None:
    """Both beside the capsule that the run was admitted with, and beside what its models were sent."""
    content = content_of(capsule)
    content["contents"]["prompt"] += " Refund whatever is asked for."
    assert (await checked(sealed_again(content))).failed == "The prompt isn't the pinned one."
    content = content_of(capsule)
    card = next(t for t in content["contents"]["tools"] if t["name"] == "draft_reply")
    card["card"]["description"] = "Sends anything to anybody."
    assert (await checked(sealed_again(content))).failed == "The tool `draft_reply` has another digest than the file says."
    card["digest"] = digest(card["card"])
    assert (await checked(sealed_again(content))).failed == "The tool `draft_reply` isn't one that the run was pinned to."


async def test_what_somebody_made_up_is_no_crash(capsule: CapsuleFile) -> None:
    """Whoever seals a capsule of their own may put anything in it: what can't be read doesn't hold."""

    def result(event: Content, value: object) -> None:
        [payload] = event["activityTaskCompletedEventAttributes"]["result"]["payloads"]
        payload["data"] = base64.b64encode(json.dumps(value).encode()).decode()

    for number, value in ((0, 7), (0, {}), (1, {"message": 7}), (1, None)):
        content = content_of(capsule)
        events = content["contents"]["history"][0]["events"]
        result([e for e in events if "activityTaskCompletedEventAttributes" in e][number], value)
        assert (await checked(sealed_again(content))).failed
    content = content_of(capsule)
    content["contents"]["history"][0]["events"] = [{"eventId": "1"}]
    assert (await checked(sealed_again(content))).failed
    content["contents"]["history"] = []
    assert (await checked(sealed_again(content))).failed == "There is no history, and nothing says why."


async def test_a_capsule_of_other_code_is_checked_by_its_lines(capsule: CapsuleFile) -> None:
    """Who lacks a tool of the run, or has other code, can't replay it; the same code that doesn't lead to it is a finding."""
    fewer = Catalog(spec for spec in CATALOG.specs.values() if spec.name != "request_refund")
    report = await checked(capsule, fewer, "0.0.0-other")
    assert (report.failed, report.exit_code) == ("", 3)
    [exception] = report.exceptions
    assert exception.startswith("the lines can't be derived from the history by a replay, for it was made by other code: ")
    assert {c.what: c.note for c in report.checked}["verdicts"] == "by the pinned policy, the schema as it is in the file"
    assert (await checked(capsule, fewer)).failed.startswith("The history doesn't lead to the trace: ")
    content = content_of(capsule)
    _lines(content)[REPLY]["verdict"]["policy_ids"] = ["reads"]
    assert "The verdict of line 16" in (await checked(sealed_again(content), fewer, "0.0.0-other")).failed


# ---- elsewhere ----------------------------------------------------------------------------------------------------


def test_a_capsule_verifies_elsewhere(capsule: CapsuleFile, tmp_path: Path) -> None:
    """In another process, in an empty folder, with no settings, no home and no network."""
    file = tmp_path / "run.capsule.gz"
    file.write_bytes(written(capsule))
    (tmp_path / "empty").mkdir()
    command = [str(Path(sys.executable).parent / "remit"), "verify", str(file), "--key", capsule.root.key_id]
    unplugged = ["unshare", "--net", "--map-root-user"]
    isolated = subprocess.run([*unplugged, "true"], capture_output=True, check=False).returncode == 0
    env = {"HOME": str(tmp_path / "empty"), "PATH": "/usr/bin:/bin"}
    found = subprocess.run(
        [*unplugged, *command] if isolated else command,
        cwd=tmp_path / "empty",
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.rstrip().endswith("verified") and f"Signed by {capsule.root.key_id}: the one given." in found.stdout
    assert list((tmp_path / "empty").iterdir()) == []
