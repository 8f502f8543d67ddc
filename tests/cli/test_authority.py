"""`remit delegate`, `remit capabilities` and `remit keys` by subprocess, beside a running `remit dev`."""

import json
from pathlib import Path

import pytest

from remit.settings import ROOT
from tests.console import Console

GIVE = ("delegate", "support-triage", "--tool", "request_refund", "--subject", "Customer:cus_101", "--as", "cleo")
CEILING = ("--max-cents", "2500")
WHY = ("--reason", "goodwill for a loyal customer")
TURNS = [
    {
        "tool_calls": [
            {"name": "request_refund", "arguments": {"invoice_id": "in_1002", "amount_cents": 2500, "reason": "duplicate"}}
        ]
    },
    {"tool_calls": [{"name": "final_answer", "arguments": {"outcome": "resolved", "summary": "Done."}}]},
]
RUN = ("run", "support-triage", "--inputs", '{"ticket_id": "T-1001"}', "--wait", "--json")


def test_a_tool_is_delegated_used_once_and_listed(console: Console, tmp_path: Path) -> None:
    """The next run may refund, the one after may not; the lists name who gave what and show no token."""
    script = tmp_path / "turns.json"
    script.write_text(json.dumps({"refund": TURNS}))
    given = console.remit(*GIVE, *CEILING, *WHY, "--ttl", "5m", "--json").json
    assert (given["issuer"], given["ceiling_cents"], given["run_id"]) == ("cleo@example.com", 2500, "")
    assert "token" not in given
    first = console.remit(*RUN, "--script", f"{script}#refund").json
    assert first["writes"] == ["request_refund Invoice:in_1002 $25.00"]
    second = console.remit(*RUN, "--script", f"{script}#refund").json
    assert second["refused"] == ["request_refund: not_granted"]
    rows = console.remit("capabilities", "--run", first["run_id"], "--json").json
    assert {r["kind"] for r in rows} == {"delegation", "run", "write"}
    assert all("token" not in r for r in rows)
    out = console.remit("capabilities", "--kind", "delegation").out
    assert given["id"] in out
    assert "$25.00" in out
    assert "cleo@example.com" in out


def test_a_delegation_is_taken_back(console: Console) -> None:
    """`revoke` says who did it, once; a second time changes nothing, and an unknown one is named."""
    given = console.remit(*GIVE, *CEILING, *WHY, "--json").json
    assert "may use request_refund, $25.00 at most" in console.remit(*GIVE, *CEILING, *WHY).out
    revoke = ("capabilities", "revoke", given["id"], "--as", "ana", "--reason", "a mistake")
    assert "was revoked by ana@example.com" in console.remit(*revoke).out
    assert "was revoked by ana@example.com" in console.remit(*revoke[:4], "cleo", *revoke[5:]).out
    assert "There is no capability `cap_x`" in console.remit("capabilities", "revoke", "cap_x", *revoke[3:], code=1).err
    for row in console.remit("capabilities", "--kind", "delegation", "--json").json:  # leave none behind for other tests
        console.remit("capabilities", "revoke", row["id"], *revoke[3:])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("delegate", "nobody", *GIVE[2:], *CEILING, *WHY), "There is no agent `nobody`"),
        ((*GIVE, "--tool", "mint_money", *WHY), "There is no tool `mint_money`"),
        ((*GIVE, "--tool", "tag_ticket", *WHY), "has `tag_ticket` already"),
        ((*GIVE, *WHY), "`request_refund` moves money; give `--max-cents`"),
        ((*GIVE, "--tool", "set_customer_email", *CEILING, *WHY), "moves no money; leave out `--max-cents`"),
        ((*GIVE, *CEILING, "--currency", "dollars", *WHY), "`--currency` takes three capital letters"),
        ((*GIVE, *CEILING, "--reason", " "), "`--reason` takes 1 to 500 characters"),
        ((*GIVE, *CEILING, *WHY, "--ttl", "2 weeks"), "`--ttl` takes a number"),
        ((*GIVE, *CEILING, *WHY, "--ttl", "25h"), "a day at most"),
        ((*GIVE, *CEILING, *WHY, "--subject", "cus_101"), "`--subject` is a kind and an id"),
        ((*GIVE, *CEILING, *WHY, "--as", "bo"), "`bo@example.com` may not delegate to `support-triage`"),
        ((*GIVE, *CEILING, *WHY, "--as", "eve"), "`eve` is not in the directory"),
        (("capabilities", "revoke", "cap_x", "--as", "sam", *WHY), "has no role"),
    ],
)
def test_what_can_t_be_delegated_gets_one_sentence(console: Console, arguments: tuple[str, ...], sentence: str) -> None:
    answer = console.remit(*arguments, code=1)
    assert sentence in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_root_keys_are_rotated_and_retired(tmp_path: Path) -> None:
    """Listed without their private halves; the one that signs can't be retired."""
    console = Console(ROOT, {"REMIT_HOME": str(tmp_path / "home"), "REMIT_ENV": "production"})
    assert "No root keys yet" in console.remit("keys").out
    assert "Root key 1 signs" in console.remit("keys", "rotate").out
    assert "Root key 1 signs already" in console.remit("keys", "rotate", "--if-none").out
    assert "run `remit keys rotate` first" in console.remit("keys", "retire", "1", code=1).err
    assert "Root key 2 signs" in console.remit("keys", "rotate").out
    rows = console.remit("keys", "--json").json
    assert [(r["id"], r["signs"]) for r in rows] == [(1, False), (2, True)]
    kept = json.loads((tmp_path / "home" / "root-keys.json").read_text())
    assert not [k for k in kept if k["private"] in console.remit("keys").out]
    console.remit("keys", "retire", "1")
    assert [r["id"] for r in console.remit("keys", "--json").json] == [2]
    assert "There is no root key 9" in console.remit("keys", "retire", "9", code=1).err
