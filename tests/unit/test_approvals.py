"""Decisions on approvals: only a fresh signature of the right person over exactly this action counts."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from policies.approvals import (
    ALGORITHM,
    MAX_JWS_BYTES,
    MAX_SIGNATURE_SECONDS,
    Action,
    Approval,
    ApprovalDecision,
    ApprovalRequest,
    DecisionClaims,
    action_digest,
    add_decision,
    decision_payload,
    quorum,
    sign_decision,
    verify_decision,
)
from policies.bundle import ApprovalRules, Escalation
from policies.canonical import canonical_json, digest
from policies.errors import ApprovalRefused
from policies.identity import Directory, Person, PublicKey
from policies.models import ResourceRef
from tests.builders import ANA, NOW, request

BO, SAM, BOT = "bo@example.com", "sam@example.com", "billing-resolution@service"
RUN = "run-1"
REQUEST = request()


def key(kid: str) -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": kid})


KEYS = {kid: key(kid) for kid in ("ana-1", "ana-2", "bo-1", "sam-1", "bot-1", "lou-1")}
STRANGER = key("stranger-1")


def person(sub: str, kids: tuple[str, ...], *roles: str) -> Person:
    return Person(sub=sub, roles=roles, keys=tuple(PublicKey(kid=k, x=str(KEYS[k].as_dict()["x"])) for k in kids))


DIRECTORY = Directory(
    people=(
        person(ANA, ("ana-1", "ana-2"), "refund-approver"),
        person(BO, ("bo-1",), "refund-approver", "support-lead"),
        person(SAM, ("sam-1",), "refund-approver"),
        person(BOT, ("bot-1",), "refund-approver"),
        person("lou@example.com", ("lou-1",), "support-lead"),
    )
)
BARRED = frozenset({SAM, BOT})


def claims(**changes: object) -> DecisionClaims:
    given = {
        "act": REQUEST.action_digest,
        "run": RUN,
        "approval_id": REQUEST.approval_id,
        "decision": "approve",
        "reason": "The charge is a duplicate.",
        "nonce": "n" * 16,
        "iat": NOW,
        "exp": NOW + 900,
    }
    return DecisionClaims.model_validate({**given, **changes})


def signed(kid: str = "ana-1", **changes: object) -> str:
    return sign_decision(claims(**changes), KEYS[kid])


def verify(
    token: str, *, at: int = NOW, asked: ApprovalRequest = REQUEST, directory: Directory = DIRECTORY
) -> ApprovalDecision:
    return verify_decision(token, request=asked, run_id=RUN, directory=directory, now=at, barred=BARRED)


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(ApprovalRefused) as caught:
        call()
    return caught.value.reason, caught.value.message


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def header(**changes: object) -> dict[str, object]:
    return {"alg": ALGORITHM, "kid": "ana-1", "typ": "approval+jws", **changes}


def raw(head: object, payload: bytes, signer: Callable[[bytes], bytes]) -> str:
    """A token with a header of any form, signed by whatever `signer` does."""
    text = f"{b64(json.dumps(head).encode())}.{b64(payload)}"
    return f"{text}.{b64(signer(text.encode()))}"


def as_ana(signing_input: bytes) -> bytes:
    """Ana's true signature over any bytes."""
    secret = base64.urlsafe_b64decode(str(KEYS["ana-1"].as_dict(private=True)["d"]) + "=")
    return Ed25519PrivateKey.from_private_bytes(secret).sign(signing_input)


# ---- what is approved ----------------------------------------------------------------------------------------------

TEXT = st.text(max_size=20)
VALUES = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT
RESOURCES = st.builds(ResourceRef, type=TEXT, id=TEXT)
FIELDS: dict[str, st.SearchStrategy[object]] = {
    **dict.fromkeys(Action.model_fields, TEXT),
    "resource": RESOURCES,
    "arguments": st.dictionaries(TEXT, VALUES, max_size=3),
    "edited_by": st.lists(TEXT, max_size=2).map(tuple),
}
ACTIONS = st.fixed_dictionaries(FIELDS).map(Action.model_validate)


@given(action=ACTIONS, name=st.sampled_from(sorted(FIELDS)), data=st.data())
def test_another_action_has_another_digest(action: Action, name: str, data: st.DataObject) -> None:
    """Whatever field of an action changes, its digest changes."""
    new = data.draw(FIELDS[name])
    other = Action.model_validate({**dict(action), name: new})
    assume(canonical_json(other) != canonical_json(action))
    assert action_digest(other) != action_digest(action)


def test_the_digest_of_what_nobody_edited_is_what_it_always_was() -> None:
    """Open runs and stored histories hold signatures over the digest of actions that had no editors yet."""
    fields = {n: "x" for n in Action.model_fields if n not in ("resource", "arguments", "edited_by")}
    plain = {**fields, "resource": {"type": "Invoice", "id": "in_1"}, "arguments": {"amount_cents": 1}}
    assert action_digest(Action.model_validate(plain)) == digest(plain)


@given(ACTIONS)
def test_an_equal_action_has_an_equal_digest(action: Action) -> None:
    """The order in which arguments were given doesn't matter."""
    turned = action.model_copy(update={"arguments": dict(reversed(list(action.arguments.items())))})
    assert action_digest(turned) == action_digest(action)


# ---- verifying ------------------------------------------------------------------------------------------------------


def test_a_signed_decision_counts() -> None:
    """The right person's fresh signature over this action gives a decision with who, what, why and when."""
    token = signed()
    assert verify(token, at=NOW + 5) == ApprovalDecision(
        sub=ANA,
        decision="approve",
        reason="The charge is a duplicate.",
        nonce="n" * 16,
        decided_at=NOW + 5,
        decision_jws=token,
    )


def test_a_rejection_is_signed_too() -> None:
    """A rejection is a decision like any other."""
    assert verify(signed(decision="reject", reason="Too much.")).decision == "reject"


def test_any_key_of_a_person_speaks_for_them() -> None:
    """A decision by a second key is the same person's."""
    assert verify(signed("ana-2")).sub == ANA


def test_the_payload_to_paste_has_two_fields() -> None:
    """The wire form is frozen: stored histories hold it."""
    assert decision_payload("ap-1", "a.b.c") == {"approval_id": "ap-1", "decision_jws": "a.b.c"}


@given(st.data())
def test_a_token_with_one_other_byte_never_counts(data: st.DataObject) -> None:
    """Flip any byte to any other: the token is refused, and nothing but a refusal is raised."""
    token = signed()
    at = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(st.characters(max_codepoint=255))
    assume(new != token[at])
    refusal(lambda: verify(token[:at] + new + token[at + 1 :]))


@given(st.integers(0, 1000))
def test_a_truncated_token_never_counts(length: int) -> None:
    """Any prefix of a token is refused."""
    token = signed()
    refusal(lambda: verify(token[: length % len(token)]))


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")) | st.text(alphabet=".eyJ0", max_size=40))
def test_junk_never_counts(text: str) -> None:
    """Whatever the text is, it is refused as malformed."""
    assert refusal(lambda: verify(text))[0] == "malformed"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda x: st.lists(x) | st.dictionaries(TEXT, x)
)


@given(name=st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "x5u", "cty", "exp"]), value=JSON)
def test_no_header_raises_anything_but_a_refusal(name: str, value: object) -> None:
    """A header of any form, from anybody who knows a key's name, is refused; an exception would stall the run."""
    assume(header()[name] != value if name in header() else True)
    token = raw(header(**{name: value}), canonical_json(claims()), lambda _: b"\0" * 64)
    assert refusal(lambda: verify(token))[0] in ("bad_header", "unknown_key", "bad_signature", "malformed")


@given(JSON)
def test_no_signed_content_raises_anything_but_a_refusal(content: object) -> None:
    """Content of any form, truly signed, is refused."""
    token = raw(header(), json.dumps(content).encode(), as_ana)
    assert refusal(lambda: verify(token))[0] == "bad_signature"


@dataclass(frozen=True)
class Refused:
    name: str
    token: str
    reason: str
    message: str
    at: int = NOW
    asked: ApprovalRequest = field(default=REQUEST)


BAD_HEADER = "The decision's header must say alg `Ed25519` and typ `approval+jws`."
BAD_SIGNATURE = "The decision's signature or content doesn't verify."
MALFORMED = "The decision isn't a compact JWS; make one with `remit sign`."
OTHER_APPROVAL = "The decision is for another run or another approval."
OUT_OF_TIME = "The decision's signature isn't valid at this time; sign it again."
UNKNOWN_KEY = "The decision is signed by a key that this run's directory doesn't know."
CONTENT = canonical_json(claims())
PUBLIC = base64.urlsafe_b64decode(str(KEYS["ana-1"].as_dict()["x"]) + "=")


def hmac_with(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda text: hmac.new(secret, text, hashlib.sha256).digest()


REFUSED = (
    Refused("empty", "", "malformed", MALFORMED),
    Refused("three dots", "...", "malformed", MALFORMED),
    Refused("lone surrogate", "\ud800.a.b", "malformed", MALFORMED),
    Refused("padded", signed() + "==", "bad_signature", BAD_SIGNATURE),
    Refused("newline", signed() + "\n", "bad_signature", BAD_SIGNATURE),
    Refused("not base64", raw(header(), CONTENT, as_ana)[:-20] + "!" * 20, "bad_signature", BAD_SIGNATURE),
    Refused("header is a list", raw([], CONTENT, as_ana), "malformed", MALFORMED),
    Refused("deep header", f"{b64(b'[' * 5000)}.{b64(CONTENT)}.{b64(bytes(64))}", "malformed", MALFORMED),
    Refused("alg none", raw(header(alg="none"), CONTENT, lambda _: bytes(64)), "bad_header", BAD_HEADER),
    Refused("alg none, no signature", raw(header(alg="none"), CONTENT, lambda _: b""), "bad_header", BAD_HEADER),
    Refused(
        "HS256 with the public key",
        raw(header(alg="HS256"), CONTENT, hmac_with(PUBLIC)),
        "bad_header",
        BAD_HEADER,
    ),
    Refused(
        "HS256, said to be Ed25519", raw(header(), CONTENT, lambda t: hmac_with(PUBLIC)(t) * 2), "bad_signature", BAD_SIGNATURE
    ),
    Refused("alg EdDSA", raw(header(alg="EdDSA"), CONTENT, as_ana), "bad_header", BAD_HEADER),
    Refused("wrong typ", raw(header(typ="JWT"), CONTENT, as_ana), "bad_header", BAD_HEADER),
    Refused("no typ", raw({"alg": ALGORITHM, "kid": "ana-1"}, CONTENT, as_ana), "bad_header", BAD_HEADER),
    Refused("no kid", raw({"alg": ALGORITHM, "typ": "approval+jws"}, CONTENT, as_ana), "unknown_key", UNKNOWN_KEY),
    Refused("unknown kid", sign_decision(claims(), STRANGER), "unknown_key", UNKNOWN_KEY),
    Refused(
        "a stranger's key under Ana's name",
        sign_decision(claims(), OKPKey.import_key({**STRANGER.as_dict(private=True), "kid": "ana-1"})),
        "bad_signature",
        BAD_SIGNATURE,
    ),
    Refused(
        "a key in the header", raw(header(jwk=STRANGER.as_dict()), CONTENT, lambda _: bytes(64)), "bad_signature", BAD_SIGNATURE
    ),
    Refused(
        "unknown critical header", raw(header(crit=["x"], x=1), CONTENT, lambda _: bytes(64)), "bad_signature", BAD_SIGNATURE
    ),
    Refused(
        "critical header that is a number", raw(header(crit=5), CONTENT, lambda _: bytes(64)), "bad_signature", BAD_SIGNATURE
    ),
    Refused("content isn't JSON", raw(header(), b"approve", as_ana), "bad_signature", BAD_SIGNATURE),
    Refused("deep content", raw(header(), b"[" * 5000, as_ana), "bad_signature", BAD_SIGNATURE),
    Refused(
        "extra claim",
        raw(header(), json.dumps({**claims().model_dump(), "x": 1}).encode(), as_ana),
        "bad_signature",
        BAD_SIGNATURE,
    ),
    Refused("maybe", raw(header(), CONTENT.replace(b'"approve"', b'"maybe"'), as_ana), "bad_signature", BAD_SIGNATURE),
    Refused(
        "an edit without arguments",
        raw(header(), CONTENT.replace(b'"approve"', b'"edit"'), as_ana),
        "bad_signature",
        BAD_SIGNATURE,
    ),
    Refused(
        "an approval with arguments",
        raw(header(), json.dumps({**claims().model_dump(), "arguments": {}}).encode(), as_ana),
        "bad_signature",
        BAD_SIGNATURE,
    ),
    Refused(
        "the editor",
        signed(),
        "own_edit",
        f"`{ANA}` edited this action and may not approve it; somebody else must.",
        asked=request(edited_by=(ANA,)),
    ),
    Refused("other run", signed(run="run-2"), "other_approval", OTHER_APPROVAL),
    Refused("other approval", signed(approval_id="ap-2-1"), "other_approval", OTHER_APPROVAL),
    Refused(
        "other action",
        signed(act="sha256:" + "c" * 64),
        "other_action",
        "The decision is for other arguments than those of this approval.",
    ),
    Refused("the requester", signed("sam-1"), "own_request", f"`{SAM}` asked for this run and may not decide on it."),
    Refused("the agent", signed("bot-1"), "own_request", f"`{BOT}` asked for this run and may not decide on it."),
    Refused(
        "wrong role",
        signed("lou-1"),
        "wrong_role",
        "`lou@example.com` has none of the roles that may decide here: refund-approver.",
    ),
    Refused("signature expired", signed(), "signature_expired", OUT_OF_TIME, at=NOW + 900),
    Refused("from the future", signed(iat=NOW + 61), "signature_expired", OUT_OF_TIME),
    Refused(
        "signed for a day, an hour later",
        signed(exp=NOW + 86_400),
        "signature_expired",
        OUT_OF_TIME,
        at=NOW + MAX_SIGNATURE_SECONDS,
        asked=request(expires_at=NOW + 86_400),
    ),
    Refused("expired before it was signed", signed(exp=NOW - 1), "signature_expired", OUT_OF_TIME),
    Refused("approval expired", signed(), "expired", "The approval has expired.", asked=request(expires_at=NOW)),
    Refused(
        "too large",
        "a" * (MAX_JWS_BYTES + 1),
        "too_large",
        "The decision is over 8192 bytes; sign it again with `remit sign`.",
    ),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c.name)
def test_a_decision_that_doesnt_count_says_why(case: Refused) -> None:
    """Each forged, stale, foreign or misplaced decision is refused with its own code and sentence."""
    assert refusal(lambda: verify(case.token, at=case.at, asked=case.asked)) == (case.reason, case.message)


@dataclass(frozen=True)
class Moment:
    name: str
    token: str
    at: int


MOMENTS = (
    Moment("the last second", signed(), NOW + 899),
    Moment("a clock a minute slow", signed(iat=NOW + 60), NOW),
    Moment("the last second of the longest signature", signed(exp=NOW + 86_400), NOW + MAX_SIGNATURE_SECONDS - 1),
)


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: m.name)
def test_a_decision_counts_up_to_the_last_moment(moment: Moment) -> None:
    """Just inside each limit of time, a decision counts."""
    assert verify(moment.token, at=moment.at, asked=request(expires_at=NOW + 86_400)).sub == ANA


def test_no_roles_means_that_nobody_may_decide() -> None:
    """A bundle that names no roles has no approvers."""
    assert refusal(lambda: verify(signed(), asked=request(roles=())))[0] == "wrong_role"


def test_an_empty_directory_knows_nobody() -> None:
    """Without people, every key is unknown."""
    assert refusal(lambda: verify(signed(), directory=Directory()))[0] == "unknown_key"


# ---- counting -------------------------------------------------------------------------------------------------------


def approval(required: int = 1) -> Approval:
    return Approval(request=request(required=required))


def test_one_approval_is_enough_where_one_is_required() -> None:
    """The approval is approved with the required number."""
    assert add_decision(approval(), verify(signed())).status == "approved"


def test_two_people_are_two() -> None:
    """Where two are required, the first leaves it pending and the second, another person, approves."""
    first = add_decision(approval(2), verify(signed()))
    second = add_decision(first, verify(signed("bo-1")))
    assert (first.status, second.status, second.approvers) == ("pending", "approved", (ANA, BO))


@pytest.mark.parametrize("kid", ["ana-1", "ana-2"], ids=["same key", "second key"])
def test_the_same_person_counts_once(kid: str) -> None:
    """Somebody who has decided can't decide again, not even with another key of theirs."""
    first = add_decision(approval(2), verify(signed()))
    again = verify(signed(kid, nonce="m" * 16))
    assert refusal(lambda: add_decision(first, again)) == ("same_person", f"`{ANA}` has already decided; somebody else must.")


def test_one_rejection_rejects() -> None:
    """A rejection decides, whatever others said before."""
    first = add_decision(approval(2), verify(signed()))
    second = add_decision(first, verify(signed("bo-1", decision="reject")))
    assert (second.status, second.approvers) == ("rejected", (ANA,))


EDIT: dict[str, Any] = {"decision": "edit", "arguments": {**REQUEST.arguments, "amount_cents": 3000}}


def test_an_edit_ends_the_approval() -> None:
    """Whoever approved before approved other arguments; those of the edit are what was signed."""
    first = add_decision(approval(2), verify(signed()))
    second = add_decision(first, verify(signed("bo-1", **EDIT)))
    assert (second.status, second.edit and second.edit.arguments) == ("cancelled", EDIT["arguments"])


def test_the_editor_of_an_action_may_reject_it_or_edit_it_again() -> None:
    """Only their approval doesn't count."""
    mine = request(edited_by=(ANA,))
    assert verify(signed(decision="reject"), asked=mine).decision == "reject"
    assert verify(signed(**EDIT), asked=mine).decision == "edit"


def test_a_token_without_arguments_has_no_such_claim() -> None:
    """Workers that know no edits read the approvals of those who do."""
    payload = signed().split(".")[1]
    assert set(json.loads(base64.urlsafe_b64decode(payload + "=="))) == set(DecisionClaims.model_fields) - {"arguments"}


@pytest.mark.parametrize("status", ["approved", "rejected", "expired", "cancelled", "consumed"])
def test_what_is_decided_stays_decided(status: str) -> None:
    """Nothing is added to an approval that isn't pending."""
    closed = Approval.model_validate({**dict(approval()), "status": status})
    assert refusal(lambda: add_decision(closed, verify(signed()))) == (
        "already_decided",
        f"Approval `ap-2-0` is already {status}.",
    )


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["approve", "reject"])), max_size=8), st.integers(1, 4))
def test_counting_follows_the_rule(votes: list[tuple[str, str]], required: int) -> None:
    """For any sequence of votes: rejected by the first rejection, approved by enough different people, else pending."""
    state = approval(required)
    people: set[str] = set()
    expected = "pending"
    for sub, vote in votes:
        given = ApprovalDecision.model_validate(
            {"sub": sub, "decision": vote, "reason": "", "nonce": "n" * 8, "decided_at": NOW, "decision_jws": ""}
        )
        if expected != "pending" or sub in people:
            refusal(lambda state=state, given=given: add_decision(state, given))
            continue
        state = add_decision(state, given)
        people.add(sub)
        expected = "rejected" if vote == "reject" else "approved" if len(people) >= required else "pending"
        assert state.status == expected


# ---- who else is asked ---------------------------------------------------------------------------------------------

RULES = ApprovalRules(
    roles=("refund-approver",),
    escalation=(Escalation(after_seconds=600, roles=("support-lead",)), Escalation(after_seconds=1200, roles=("board",))),
)


@pytest.mark.parametrize(
    ("seconds", "roles"),
    [
        (-60, ("refund-approver",)),
        (599, ("refund-approver",)),
        (600, ("refund-approver", "support-lead")),
        (1200, ("refund-approver", "support-lead", "board")),
    ],
)
def test_each_step_of_an_escalation_adds_its_roles(seconds: int, roles: tuple[str, ...]) -> None:
    """Who was asked first may still decide."""
    assert RULES.roles_at(seconds) == roles


@dataclass(frozen=True)
class Late:
    name: str
    signed_at: int
    decided_at: int
    counts: bool


@pytest.mark.parametrize(
    "case",
    [
        Late("in time", NOW + 600, NOW + 600, True),
        Late("decided a second early", NOW + 600, NOW + 599, False),
        Late("signed a second early", NOW + 599, NOW + 700, False),
        Late("by a clock that is ahead", NOW + 650, NOW + 595, False),
    ],
    ids=lambda c: c.name,
)
def test_the_next_group_counts_only_once_it_was_asked(case: Late) -> None:
    """Both when it was signed and when it was decided; and in the count beside the write it is the signature that says when."""
    token = signed("lou-1", iat=case.signed_at, exp=case.signed_at + 900)
    extended = request(roles=("refund-approver", "support-lead"))  # what a workflow claims
    given = GOOD.model_copy(update={"decision_jws": token, "decided_at": case.decided_at})

    def count() -> int:
        return quorum((given,), request=extended, run_id=RUN, directory=DIRECTORY, barred=BARRED, rules=RULES)

    if case.counts:
        assert count() == 1
    else:
        assert refusal(count) == (
            "wrong_role",
            "`lou@example.com` has none of the roles that may decide here: refund-approver.",
        )


# ---- counting again beside the effect -------------------------------------------------------------------------------


def counted(*decisions: ApprovalDecision, asked: ApprovalRequest = REQUEST) -> int:
    return quorum(decisions, request=asked, run_id=RUN, directory=DIRECTORY, barred=BARRED)


def test_quorum_counts_different_people() -> None:
    """Two people's decisions are two, none are none."""
    assert counted() == 0
    assert counted(verify(signed()), verify(signed("bo-1"))) == 2


def test_quorum_verifies_as_of_when_it_was_decided() -> None:
    """A signature that has run out since still counts, for it was good when it was given."""
    assert counted(verify(signed(), at=NOW + 899)) == 1


@dataclass(frozen=True)
class Recount:
    name: str
    decisions: tuple[ApprovalDecision, ...]
    reason: str


GOOD = ApprovalDecision(sub=ANA, decision="approve", reason="", nonce="n" * 16, decided_at=NOW, decision_jws=signed())
RECOUNTS = (
    Recount("no signature", (GOOD.model_copy(update={"decision_jws": ""}),), "malformed"),
    Recount("a name beside another's signature", (GOOD, GOOD.model_copy(update={"sub": BO})), "same_person"),
    Recount(
        "a rejection noted as an approval", (GOOD.model_copy(update={"decision_jws": signed(decision="reject")}),), "rejected"
    ),
    Recount("an edit noted as an approval", (GOOD.model_copy(update={"decision_jws": signed(**EDIT)}),), "edited"),
    Recount(
        "for another action", (GOOD.model_copy(update={"decision_jws": signed(act="sha256:" + "d" * 64)}),), "other_action"
    ),
    Recount("decided after it ran out", (GOOD.model_copy(update={"decided_at": NOW + 900}),), "signature_expired"),
    Recount("decided after the approval expired", (GOOD.model_copy(update={"decided_at": NOW + 3600}),), "signature_expired"),
    Recount("by the requester", (GOOD.model_copy(update={"decision_jws": signed("sam-1")}),), "own_request"),
)


@pytest.mark.parametrize("case", RECOUNTS, ids=lambda c: c.name)
def test_quorum_believes_signatures_only(case: Recount) -> None:
    """What a recorded decision says of itself doesn't count beside the side effect; its token is verified again."""
    assert refusal(lambda: counted(*case.decisions))[0] == case.reason


def test_quorum_is_zero_for_a_rejected_approval() -> None:
    """A rejection among the decisions refuses the effect, in so many words."""
    assert refusal(lambda: counted(verify(signed()), verify(signed("bo-1", decision="reject")))) == (
        "rejected",
        "The approval was rejected.",
    )
