"""Redaction: what the rules find, what they leave alone, and that nothing they found can be found again."""

import base64
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OKPKey

from policies.approvals import DecisionClaims, sign_decision
from policies.errors import InvalidInput
from remit.proof.redaction import Redactor
from remit.proof.rules import BUILT_IN, addresses_in, rules_of

CARD = "4111 1111 1111 1111"
IBAN = "DE89 3704 0044 0532 0130 00"
SECRETS = {
    "private_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "bearer": "Bearer 0123456789abcdef0123",
    "api_key": "sk-ant-api03-0123456789abcdef",
    "url_password": "postgresql://remit:hunter2@",
    "password": "password: correct-horse",
    "card": CARD,
    "iban": IBAN,
    "email": "eleni@studiokalliope.example",
}
LEAVES = st.sampled_from([*SECRETS.values(), "ana@example.com", "AKIAIOSFODNN7EXAMPLE", "5555555555554444", "plain"])
TEXTS = st.lists(LEAVES | st.text(max_size=8), max_size=5).map("".join) | st.lists(LEAVES, max_size=3).map(" ".join)
JSON = st.recursive(
    TEXTS | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3) | inner.map(json.dumps),
    max_leaves=8,
)


def redactor() -> Redactor:
    return Redactor(b"a key of the namespace", addresses_in(["Ana <ana@example.com>"]))


def redacted(value: Any) -> Any:
    return redactor().redact(value)


def test_every_rule_has_a_sample_here() -> None:
    """What is built in is tested."""
    assert set(SECRETS) == {rule.name for rule in BUILT_IN}


@pytest.mark.parametrize("rule", SECRETS)
def test_a_rule_takes_out_what_it_is_for(rule: str) -> None:
    """Within a sentence too, and says which rule it was."""
    text = redacted(f"See {SECRETS[rule]} there")
    assert SECRETS[rule] not in text
    assert text.startswith("See [redacted:") and text.endswith(" there")
    assert f"[redacted:{rule}:" in text


@given(JSON)
def test_what_was_redacted_has_no_hits(value: object) -> None:
    """Whatever is nested in whatever: nothing is found a second time, and redacting again changes nothing."""
    once = redactor().redact(value)
    assert redactor().scan(once) == []
    assert redactor().redact(once) == once


@given(JSON)
def test_a_scan_finds_what_redaction_would_change(value: object) -> None:
    """The scan that refuses a capsule sees all that the rules see."""
    was = json.loads(json.dumps(value))
    assert bool(redactor().scan(was)) == (redactor().redact(was) != was)


def test_equal_values_stay_equal() -> None:
    """They can be correlated, in one capsule and across those of a namespace; under another key they can't."""
    [a, b, c] = redacted([CARD, f"x {CARD}", "5555555555554444"])
    assert b == f"x {a}" and c != a
    assert Redactor(b"another key").redact(CARD) != a


def test_the_owner_can_prove_what_was_there() -> None:
    """With the key, the mark of a value can be made again."""
    assert redacted(f"card {CARD}.") == f"card {redactor().mark('card', CARD)}."


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",
        "1795472789897",
        "DE89 3704 0044 0532 0130 01",
        "sha256:" + "4" * 64,
        "01a20a84-8f94-7647-8b8d-88aaaa250c30",
        "rk_e673096987a3db3a577e5dc40195ddc1e222239e",
        "Basic understanding of it",
        "ana@example.com",
        "ANA@example.com",
        "`ana@example.com` has none of the roles",
        "in_1006 for $740.00 on 2026-10-13",
        "[redacted:card:0123456789ab]",
    ],
)
def test_what_is_none_of_it_stays(text: str) -> None:
    """Numbers without the right checksum, times, digests, and the addresses of those who answer for the run."""
    assert redacted(text) == text


def test_a_number_can_be_a_card() -> None:
    """A model may give one as a JSON number; a time in milliseconds never is one."""
    found = redacted({"n": 4111111111111111, "at": 1795472789897})
    assert found["n"].startswith("[redacted:card:") and found["at"] == 1795472789897


def test_escapes_hide_nothing() -> None:
    """Text that is JSON is read as JSON: `\\u0040` is an `@`."""
    text = '{"to": "eleni\\u0040studiokalliope.example"}'
    assert redacted(text).startswith('{"to": "[redacted:email:')
    assert redacted('{"to":   "nobody"}') == '{"to":   "nobody"}'


def test_names_of_fields_are_looked_at() -> None:
    """A field that is called a password holds one, and a name can be a secret itself."""
    assert redacted({"client_secret": "abc"})["client_secret"].startswith("[redacted:credential:")
    [name] = redacted({SECRETS["api_key"]: 1})
    assert name.startswith("[redacted:api_key:")


def test_payloads_are_looked_into() -> None:
    """In Temporal's JSON a payload is base64: what is in it is redacted, and is JSON again."""

    def payload(data: bytes) -> dict[str, object]:
        return {"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": base64.b64encode(data).decode()}

    [clean, mail, number, raw] = redacted(
        [payload(b'{"a":1}'), payload(b'"x@y.example"'), payload(b"4111111111111111"), payload(b"\xff x@y.example")]
    )
    assert clean == payload(b'{"a":1}')
    assert json.loads(base64.b64decode(mail["data"])).startswith("[redacted:email:")
    assert json.loads(base64.b64decode(number["data"])).startswith("[redacted:card:")
    assert base64.b64decode(raw["data"]).startswith(b"\xff [redacted:email:")
    assert [hit.path for hit in redactor().scan({"events": [payload(b'"x@y.example"')]})] == ["/events/0"]


def test_signed_decisions_stay_whole_or_go_whole() -> None:
    """A signature is worth something only over what was signed; one over an e-mail address can't stay."""
    now = int(time.time())
    key = OKPKey.generate_key("Ed25519", {"kid": "ana"}, auto_kid=False)

    def token(reason: str) -> str:
        claims = DecisionClaims(
            act="sha256:0", run="r", approval_id="ap", decision="approve", reason=reason, nonce="n" * 8, iat=now, exp=now
        )
        return sign_decision(claims, key)

    fine = {"decision_jws": token("Checked both payments.")}
    assert redacted(fine) == fine
    assert redacted({"decision_jws": token("As x@y.example said.")})["decision_jws"].startswith("[redacted:signed:")
    assert redacted({"decision_jws": SECRETS["jwt"]})["decision_jws"].startswith("[redacted:jwt:")
    assert redacted({"note": fine["decision_jws"]})["note"].startswith("[redacted:jwt:")


def test_rules_of_ones_own() -> None:
    """From a file of names and patterns; digests and ids of ours are left alone by them."""
    rules = rules_of("customer = 'cus_[0-9]+'\nhex = '[0-9a-f]{12}'")
    mine = Redactor(b"k", rules=(*BUILT_IN, *rules))
    digest = "sha256:" + "0" * 64
    assert mine.redact({"text": "for cus_103, ½", "action_digest": digest}) == {
        "text": f"for {mine.mark('customer', 'cus_103')}, ½",
        "action_digest": digest,
    }
    assert mine.redact("\ud800 cus_1") == "\ud800 " + mine.mark("customer", "cus_1")
    assert rules[0].id.startswith("customer@sha256:") and BUILT_IN[-1].id == "email@1"


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("x", "`REMIT_REDACTION` isn't valid TOML"),
        ("email = 'x'", "`email` can't name a rule"),
        ("Bad = 'x'", "`Bad` can't name a rule"),
        ("x = 7", "`x` isn't a regular expression of up to 1000 characters"),
        ("x = '(a'", "`x` isn't a regular expression that RE2 takes"),
        ("x = '(?=a)'", "`x` isn't a regular expression that RE2 takes"),
        ("x = 'a*'", "`x` also finds nothing at all"),
        ("".join(f"r{n} = 'x'\n" for n in range(101)), "has 101 rules; 100 is the most"),
    ],
)
def test_a_file_of_rules_that_cannot_be_used(toml: str, sentence: str) -> None:
    """One sentence says why."""
    with pytest.raises(InvalidInput, match=".*") as refused:
        rules_of(toml)
    assert sentence in refused.value.message


@pytest.mark.timeout(60)
def test_hostile_text_and_hostile_patterns_end() -> None:
    """No text makes a rule go back and forth in it, and no pattern can: RE2 takes time in proportion to the text."""
    mine = Redactor(b"k", rules=(*BUILT_IN, *rules_of("evil = '(a+)+b'")))
    for piece in (
        "a",
        "a@",
        "-----BEGIN PRIVATE KEY-----",
        "eyJaaaaaa.",
        "4111 ",
        "DE89 ",
        "password: ",
        "x://:",
        "SG.",
        "[" * 10,
        "sk-",
    ):
        mine.redact(piece * (100_000 // len(piece)))


def test_what_is_nested_too_deep_goes_whole() -> None:
    """Nobody looks into a hundred lists in each other, so they don't stay."""
    value: object = "x@y.example"
    for _ in range(100):
        value = [value]
    assert "[redacted:too_deep:" in json.dumps(redacted(value))


def test_who_may_stay_in_one_text_may_not_in_the_next() -> None:
    """A text that was looked at while an address was known is looked at again when it isn't."""
    first = Redactor(b"k", frozenset({"ana@example.com"}))
    assert first.redact("ask ana@example.com") == "ask ana@example.com"
    assert "ana@" not in str(replace(first, known=frozenset()).redact("ask ana@example.com"))


def test_what_vendors_gave_beside_an_answer_is_taken_out() -> None:
    """Signed thinking and encrypted reasoning are opaque: nobody can say what is in them, so none of it is in a capsule."""
    state = {
        "provider": "anthropic",
        "model": "m",
        "items": [{"type": "thinking", "thinking": "They live at 1 Road.", "signature": "x"}],
    }
    message: dict[str, Any] = {"role": "assistant", "text": "Hello.", "tool_calls": [], "state": state}
    values: list[Any] = [message, json.dumps(message), [message], {"messages": [json.dumps(message)]}]
    for value in values:
        found = redacted(value)
        assert "1 Road" not in json.dumps(found)
        assert "[redacted:provider_state:" in json.dumps(found)
        assert "Hello." in json.dumps(found)
        assert redacted(found) == found
        assert redactor().scan(found) == []
    assert [hit.rule for hit in redactor().scan(message)] == ["provider_state"]
    assert redacted({"state": {"provider": "x"}}) == {"state": {"provider": "x"}}
