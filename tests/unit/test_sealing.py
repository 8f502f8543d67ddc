"""Seals: chains, roots and their signatures."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.canonical import canonical_json
from policies.capability import new_key, public_of
from remit.proof.sealing import Root, SignedRoot, check, gaps, head, key_id_of, plain, sign

KEY = new_key()
KEYS = {key_id_of(public_of(KEY))}
LINES = st.lists(st.dictionaries(st.text(max_size=4), st.integers(-9, 9) | st.text(max_size=6), max_size=3), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def _chain(count: int) -> list[SignedRoot]:
    made: list[SignedRoot] = []
    for seq in range(1, count + 1):
        root = Root(
            namespace="default",
            seq=seq,
            run_id=f"r{seq}",
            workflow_id=f"w{seq}",
            trace_head=head([{"seq": seq}]),
            lines=1,
            contents={"history": "sha256:0"},
            previous=made[-1].digest if made else "",
            sealed_at=1_700_000_000 + seq,
        )
        made.append(sign(root, KEY))
    return made


@given(LINES, LINES)
def test_two_traces_have_one_head_only_if_they_are_one(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    """Lines that differ anywhere, in order or number too, have another head."""
    assert (head(a) == head(b)) == (a == b)


@given(LINES)
def test_the_head_survives_a_file(lines: list[dict[str, Any]]) -> None:
    """What is written as JSON and read again, keys in any order, has the head that it had."""
    assert head([json.loads(json.dumps(dict(reversed(list(line.items()))))) for line in lines]) == head(lines)


@given(JSON)
def test_whatever_a_model_wrote_can_be_sealed(value: object) -> None:
    """Integers beyond 2**53, NaN and lone surrogates become text; what was made plain stays as it is."""
    once = plain(value)
    assert plain(json.loads(canonical_json(once))) == json.loads(canonical_json(once))


def test_a_whole_chain_of_roots_holds() -> None:
    """Roots that follow each other, each signed, have no gaps."""
    assert gaps(_chain(5), KEYS) == ""
    assert gaps([], KEYS) == ""


def test_a_missing_run_shows() -> None:
    """Whichever root is taken out, other than the last, the number that is missing is named."""
    for gone in range(4):
        roots = _chain(5)
        del roots[gone]
        assert gaps(roots, KEYS) == f"Root {gone + 1} is missing: the next one is {gone + 2}."


def test_roots_out_of_order_show() -> None:
    """A root that comes twice isn't taken for the next one."""
    roots = _chain(3)
    assert gaps([roots[0], roots[0], *roots[1:]], KEYS) == "Root 1 is there twice, or isn't in its place."


def test_numbers_that_were_closed_up_show() -> None:
    """Who takes a run out and gives the next one its number, with the key in hand, breaks the link."""
    roots = _chain(3)
    moved = sign(roots[2].root.model_copy(update={"seq": 2}), KEY)
    assert gaps([roots[0], moved], KEYS) == "Root 2 isn't linked to root 1: that one was changed, or another was in its place."


def test_a_chain_of_two_namespaces_shows() -> None:
    """Another namespace's root can't fill a gap."""
    roots = _chain(2)
    other = sign(roots[1].root.model_copy(update={"namespace": "other"}), KEY)
    assert gaps([roots[0], other], KEYS) == "Root 2 is of the namespace `other`, the chain of `default`."


@pytest.mark.parametrize("name", sorted(Root.model_fields))
def test_no_field_of_a_root_can_be_changed(name: str) -> None:
    """Each field is signed: changed, the digest differs; with the digest put right, the signature doesn't verify."""
    signed = _chain(1)[0]
    was: object = getattr(signed.root, name)
    now = was + 1 if isinstance(was, int) else f"{was}x" if isinstance(was, str) else {"x": "y"}
    root = signed.root.model_copy(update={name: now})
    place = root.seq
    assert check(signed.model_copy(update={"root": root}), KEYS) == f"Root {place} says another digest than it has."
    right = signed.model_copy(update={"root": root, "digest": root.digest})
    assert check(right, KEYS) == f"The signature of root {place} doesn't verify."


def test_another_key_proves_nothing() -> None:
    """A root that somebody else signed is refused, whatever key it names."""
    signed = _chain(1)[0]
    forged = sign(signed.root, new_key())
    assert check(forged) == ""
    assert "Root 1 is signed by another key, " in check(forged, KEYS)
    named = forged.model_copy(update={"key_id": signed.key_id})
    assert "has one with another fingerprint" in check(named, KEYS)
    claimed = named.model_copy(update={"public_key": signed.public_key})
    assert check(claimed, KEYS) == "The signature of root 1 doesn't verify."


@pytest.mark.parametrize("signature", ["", "x", "AAAA", "é"])
def test_a_signature_that_is_none_is_one_sentence(signature: str) -> None:
    """Text that is no signature at all is a finding, not a crash."""
    signed = _chain(1)[0].model_copy(update={"signature": signature})
    assert check(signed, KEYS) in {
        "The signature of root 1 doesn't verify.",
        "The signature of root 1 isn't written as it was made.",
    }
