"""The capsule's file: its form, its schema, and what can't be read as one."""

import gzip
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from activities.ledger.rows import Capability
from policies.canonical import sha256
from policies.capability import new_key
from policies.errors import InvalidInput
from remit.apps import assemble
from remit.proof.capsule import CapsuleFile, NotACapsule, read, scan, with_tokens, written
from remit.proof.packing import pack, seal
from remit.proof.reading import capsule_of, history_of
from remit.proof.redaction import Redactor
from remit.proof.sealing import Root
from remit.settings import ROOT, Standalone

SCHEMA = ROOT / "docs" / "schemas" / "capsule-1.schema.json"
HISTORIES = ROOT / "tests" / "replay" / "histories"
KEY = new_key()
NOW = 1_800_000_000


def capsule_from(name: str, lines: list[dict[str, Any]] | None = None, **history: Any) -> CapsuleFile:
    """A capsule over a stored history, with the lines that are given."""
    content = history or json.loads((HISTORIES / f"{name}.json").read_text())
    found = history_of("w", content)
    pinned = capsule_of([found])
    token = Capability.model_validate(
        {
            **dict.fromkeys(("id", "agent", "subject", "issuer", "key_id"), "x"),
            "kind": "run",
            "tools": "a@1",
            "run_id": pinned.run_id if pinned else "",
            "token": "t",
            "minted_at": 1,
            "expires_at": NOW,
        }
    )
    packed = pack(
        [found],
        lines if lines is not None else [{"seq": 0, "kind": "run"}],
        catalog=assemble(Standalone()).catalog,
        capabilities=[token],
        release=None,
        root_keys={},
        redactor=Redactor(KEY),
    )
    root = Root(
        namespace="default",
        seq=1,
        run_id=pinned.run_id if pinned else "r",
        workflow_id="w",
        trace_head=packed.trace_head,
        lines=len(packed.trace),
        contents=packed.digests,
        previous="",
        sealed_at=NOW,
    )
    return seal(packed, root, KEY)


@pytest.fixture(scope="module")
def capsule() -> CapsuleFile:
    """That of a run with a kb search, two approvals, and a customer's address in it."""
    return capsule_from("0.1.0/two_approvals")


def test_the_schema_that_is_shipped_is_the_code_s() -> None:
    """`docs/schemas` has the form that is read and written; make it again with `python -m tests.unit.test_capsule`."""
    assert json.loads(SCHEMA.read_text()) == schema()


def schema() -> dict[str, Any]:
    found = CapsuleFile.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A capsule of Remit", **found}


def test_a_capsule_fits_its_schema(capsule: CapsuleFile) -> None:
    """Somebody else's program can read it by the schema alone."""
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    assert validator.is_valid(json.loads(gzip.decompress(written(capsule))))  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("plain_json", [True, False])
def test_a_capsule_is_read_as_it_was_written(capsule: CapsuleFile, plain_json: bool) -> None:
    """As JSON and as gzipped JSON; the same capsule gives the same bytes."""
    data = written(capsule, plain_json=plain_json)
    assert read(data) == capsule
    assert written(read(data), plain_json=plain_json) == data


def test_nothing_that_a_rule_finds_is_in_it(capsule: CapsuleFile) -> None:
    """The customer's address is gone from the history, the approvers' aren't; what was taken out is said."""
    text = gzip.decompress(written(capsule)).decode()
    assert "studiokalliope.example" not in str(capsule.contents.history) and "ana@example.com" in text
    assert capsule.contents.redaction.counts == {"email": 1}
    assert capsule.contents.redaction.events == ((0, 26),)
    assert scan(capsule.trace, capsule.contents, Redactor(b"")) != []
    known = frozenset(capsule.contents.redaction.known)
    assert scan(capsule.trace, capsule.contents, Redactor(b"", known)) == []


def test_a_token_is_shown_once_it_has_expired(capsule: CapsuleFile) -> None:
    """Not before, and only the one that was sealed."""
    assert capsule.tokens == {"x": None}
    assert with_tokens(capsule, {"x": "t"}, NOW).tokens == {"x": None}
    assert with_tokens(capsule, {"x": "t", "other": "u"}, NOW + 1).tokens == {"x": "t"}
    assert with_tokens(capsule, {"x": "forged"}, NOW + 1).tokens == {"x": None}
    assert capsule.contents.capabilities[0].token_sha256 == sha256(b"t")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8bnonsense",
        b"\x1f\x8b",
        b"[]",
        b"7",
        b'{"format": "remit.capsule/2"}',
        b'{"a": 1, "a": 2}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_no_capsule(data: bytes) -> None:
    """Another file is one sentence, and no crash."""
    with pytest.raises(NotACapsule, match="^It isn't a capsule"):
        read(data)


def test_a_capsule_of_another_form_is_refused(capsule: CapsuleFile) -> None:
    """What a lenient parser would put right or fill in isn't what was sealed."""
    changes: list[tuple[list[str | int], object]] = [
        (["more"], 1),
        (["root", "root", "seq"], "1"),
        (["root", "root", "seq"], 2**60),
        (["trace"], None),
        (["root", "root", "reason"], None),
        (["contents", "prices", 0, "table_version"], None),
    ]
    for path, value in changes:
        content = json.loads(gzip.decompress(written(capsule)))
        *above, name = path
        where = content
        for step in above:
            where = where[step]
        if value is None:
            del where[name]
        else:
            where[name] = value
        with pytest.raises(InvalidInput, match="^The capsule isn't"):
            read(json.dumps(content).encode())


if __name__ == "__main__":
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(json.dumps(schema(), indent=1) + "\n")
