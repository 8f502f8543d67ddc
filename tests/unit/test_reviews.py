"""Reviews of tools: what they are about, who may sign them, what verifies years later, and how a tool stands then."""

import shutil
import time
from pathlib import Path

import pytest
from joserfc.jwk import OKPKey

from activities.described import describe
from activities.ledger import reviews
from activities.ledger.store import Ledger
from activities.reviews import Reviews
from policies.capability import Keyring, new_key, public_of
from policies.control import ControlClaims, Signable, sign_control
from policies.errors import ControlRefused, Unavailable
from policies.identity import Directory, Person, PublicKey
from policies.reviews import Kept, Shipped, ToolDescription, proven, seal, stands, unsealed
from remit.apps import assemble
from remit.coverage import naming
from remit.settings import ROOT, Settings
from tools.builtin import CATALOG
from tools.spec import ToolSpec

HERE = "default/remit"
KEY = OKPKey.generate_key("Ed25519", {"kid": "ana-1"})
ANA = Person(sub="ana@example.com", roles=("tool-owner",), keys=(PublicKey(kid="ana-1", x=str(KEY.as_dict()["x"])),))
PEOPLE = Directory(people=(ANA,))
REFUND = describe(CATALOG.specs["request_refund"])
NOW = int(time.time())


def kept(
    described: ToolDescription = REFUND,
    action: Signable = "tool_approve",
    *,
    audience: str = HERE,
    key: OKPKey = KEY,
    **row: object,
) -> Kept:
    """A review of the tool by Ana; `row` is what somebody wrote into the ledger instead of what she signed."""
    claims = ControlClaims(
        command=action,
        scope=f"tool:{described.name}@{described.version}",
        epoch=0,
        audience=audience,
        reason="Read it.",
        nonce="0123456789",
        iat=NOW,
        exp=NOW + 600,
        digest=described.digest,
    )
    given = Kept(
        tool=described.name,
        version=described.version,
        digest=described.digest,
        description=described.model_dump_json(),
        action=action,
        by=ANA.sub,
        key_id=str(key.kid),
        statement=sign_control(claims, key),
        reason="Read it.",
        at=NOW * 1000,
    )
    return Kept.model_validate({**given.model_dump(), **row})


def keyring(*ids: int, made: dict[int, bytes] = {}) -> Keyring:  # noqa: B006  (the same key for an id in all tests)
    """The root keys of these ids."""
    private = {i: made.setdefault(i, new_key()) for i in ids}
    return Keyring(private, {i: public_of(raw) for i, raw in private.items()})


# ---- what is reviewed -----------------------------------------------------------------------------------------------


def test_the_tools_that_ship_are_as_they_were_reviewed() -> None:
    """Whoever changes a built-in tool that writes looks at it as a reviewer does, and says so beside it."""
    shipped = assemble(Settings(app=None)).reviewed
    writes = {s.name: describe(s) for s in CATALOG.specs.values() if s.effect == "write"}
    changed = sorted(
        n for n in {*shipped, *writes} if n not in shipped or n not in writes or shipped[n].digest != writes[n].digest
    )
    assert not changed, (
        f"{changed}: look at `remit tools review`, then `remit tools review --write --note 'what you looked at'`"
    )
    assert all(s.description.digest == s.digest and s.note for s in shipped.values())


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A copy of the app `desk`."""
    folder = tmp_path / "desk"
    shutil.copytree(ROOT / "tests" / "apps" / "desk", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def spec(app: Path) -> ToolSpec:
    """Its only tool, loaded anew."""
    return assemble(Settings(app=app)).catalog.specs["close_case"]


def test_a_description_has_what_the_code_asks_for(app: Path) -> None:
    """The ports come from the function and its facts; what it writes to logs by itself is named too."""
    found = describe(spec(app))
    assert (found.connectors, found.facts, found.logs) == (("Billing", "Desk"), ("Desk",), ())
    assert (found.resource, found.amount, found.rules, found.idempotency) == ("Case by case_id", "", True, "native_key")
    file = app / "tools" / "billing.py"
    file.write_text(file.read_text().replace("    known = await", '    print("closing")\n    known = await'))
    assert describe(spec(app)).logs == ("print",)


@pytest.mark.parametrize(
    ("file", "before", "after", "changed"),
    [
        (
            "billing.py",
            '    """Close a case of the help desk."""\n',
            '    """Close a case of the help desk."""\n\n    # why\n',
            (),
        ),
        ("billing.py", "if args.credit_cents and", "if args.credit_cents > 5 and", ("code",)),
        ("_rules.py", '("goodwill",)', '("goodwill", "solved")', ("code",)),
        ("desk.py", "INSERT OR IGNORE", "INSERT", ("code",)),
        ("billing.py", "Field(ge=0)", "Field(ge=0, le=5)", ("arguments", "code")),
        ("billing.py", 'risk="medium"', 'risk="low"', ("risk", "code")),
    ],
)
def test_what_a_tool_does_is_reviewed_and_how_it_is_laid_out_is_not(
    app: Path, file: str, before: str, after: str, changed: tuple[str, ...]
) -> None:
    """A rule, a helper that is imported late, the app's own connector, a constraint, a declaration; not a comment."""
    first = describe(spec(app))
    path = app / "tools" / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    now = describe(spec(app))
    assert stands(now, [kept(first)], None).changed == changed
    assert (now.digest != first.digest) is bool(changed)


def test_what_is_borrowed_from_a_file_of_the_same_name_counts_too(app: Path) -> None:
    """Facts of Remit's own `billing.py` in an app's `billing.py`, and facts that are no plain function."""
    first = describe(spec(app))
    file = app / "tools" / "billing.py"
    file.write_text(file.read_text().replace("facts=facts,", "facts=partial(customer_facts),"))
    imports = "from functools import partial\nfrom tools.billing import customer_facts\n"
    file.write_text(file.read_text().replace("from typing import", f"{imports}from typing import", 1))
    borrowed = describe(spec(app))
    assert (borrowed.facts, borrowed.connectors) == (("Billing",), ("Billing", "Desk"))
    assert borrowed.code != first.code


def test_the_same_tool_elsewhere_is_the_same(app: Path, tmp_path: Path) -> None:
    """A description doesn't depend on where the app lies, nor on what else is in it or was run before."""
    shutil.copytree(app, tmp_path / "other", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "other" / "tools" / "_more.py").write_text("X = 1\n")
    first, other = spec(app), spec(tmp_path / "other")
    assert describe(first) == describe(other)


def test_tests_are_found_by_name(tmp_path: Path) -> None:
    """Files of the tool's own root that name it as a word; none is said to be none."""
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "test_one.py").write_text("close_case()")
    (tmp_path / "tests" / "test_two.py").write_text("close_cases()")
    assert naming({"close_case": tmp_path, "cases": tmp_path}) == {"close_case": ["tests/unit/test_one.py"], "cases": []}


# ---- how a tool stands ----------------------------------------------------------------------------------------------

OLD = REFUND.model_copy(update={"risk": "low", "code": "sha256:0"})
SHIPPED = Shipped(digest=REFUND.digest, note="Looked.", on="2026-11-28", description=REFUND)
OUTDATED = Shipped(digest=OLD.digest, note="Looked.", on="2026-11-28", description=OLD)
GONE = kept(action="tool_withdraw")


@pytest.mark.parametrize(
    ("rows", "shipped", "state", "by", "changed"),
    [
        ([], None, "never", "", ()),
        ([], SHIPPED, "reviewed", "the release", ()),
        ([], OUTDATED, "changed", "the release", ("risk", "code")),
        ([kept()], None, "reviewed", ANA.sub, ()),
        ([kept(OLD)], None, "changed", ANA.sub, ("risk", "code")),
        ([kept(OLD)], SHIPPED, "reviewed", "the release", ()),
        ([kept(), kept(OLD)], None, "reviewed", ANA.sub, ()),  # rolled back to what was reviewed before
        ([kept(), GONE], None, "withdrawn", ANA.sub, ()),
        ([GONE], SHIPPED, "withdrawn", ANA.sub, ()),
        ([kept(), GONE, kept(OLD)], SHIPPED, "changed", ANA.sub, ("risk", "code")),
        ([GONE, kept()], OUTDATED, "reviewed", ANA.sub, ()),
        ([kept(OLD, description="{}")], None, "changed", ANA.sub, ()),
        ([kept(OLD, description=REFUND.model_dump_json())], None, "changed", ANA.sub, ()),
    ],
)
def test_how_a_tool_stands(rows: list[Kept], shipped: Shipped | None, state: str, by: str, changed: tuple[str, ...]) -> None:
    """The newest review of exactly this tool since the last withdrawal; a description that wasn't signed says nothing."""
    found = stands(REFUND, rows, shipped)
    assert (found.state, found.by, found.changed) == (state, by, changed)


# ---- who signed -----------------------------------------------------------------------------------------------------

STRANGER = OKPKey.generate_key("Ed25519", {"kid": "ana-1"})


def test_a_review_is_proven_by_its_signature() -> None:
    """Who signed it is who the key belongs to."""
    assert proven(kept(), PEOPLE, audience=HERE, roles=frozenset({"tool-owner"}), barred=frozenset()) == ANA


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (kept(digest=OLD.digest), "other_tool"),
        (kept(tool="draft_reply"), "other_tool"),
        (kept(version="2"), "other_tool"),
        (kept(by="bo@example.com"), "other_words"),
        (kept(reason="Bo said so."), "other_words"),
        (kept(action="tool_withdraw", statement=kept().statement), "other_command"),
        (kept(action="unkill"), "other_command"),
        (kept(audience="staging/remit"), "other_audience"),
        (kept(at=(NOW + 86_400) * 1000), "signature_expired"),
        (kept(at=(NOW - 86_400) * 1000), "signature_expired"),
        (kept(key=STRANGER), "bad_signature"),
        (kept(statement="x.y.z"), "malformed"),
        (kept(statement=""), "malformed"),
    ],
)
def test_what_somebody_else_wrote_is_no_review(row: Kept, reason: str) -> None:
    """Whoever can write to the ledger can make up a row, and no signature for it."""
    with pytest.raises(ControlRefused) as refused:
        proven(row, PEOPLE, audience=HERE, roles=frozenset(), barred=frozenset())
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("roles", "barred", "people", "reason"),
    [
        ({"security"}, set[str](), PEOPLE, "wrong_role"),
        (set[str](), {ANA.sub}, PEOPLE, "agent"),
        (set[str](), set[str](), Directory(), "unknown_key"),
        (set[str](), set[str](), Directory(people=(ANA.model_copy(update={"roles": ()}),)), "no_role"),
    ],
)
def test_not_everybody_may_review(roles: set[str], barred: set[str], people: Directory, reason: str) -> None:
    """A role of those that are set, at least one where none is, and never an agent."""
    with pytest.raises(ControlRefused) as refused:
        proven(kept(), people, audience=HERE, roles=frozenset(roles), barred=frozenset(barred))
    assert refused.value.reason == reason


def test_a_seal_outlives_the_login() -> None:
    """It names the person as they were known, for this statement only, until the root key is retired."""
    made = seal(kept(), PEOPLE, keyring(1, 2), NOW)
    found = unsealed(kept(seal=made), keyring(2))
    assert found is not None
    assert (found[0].people[0].sub, found[1]) == (ANA.sub, 2)
    assert unsealed(kept(seal=made), keyring(1)) is None
    assert unsealed(kept(seal=made, statement=kept(OLD).statement), keyring(2)) is None
    assert unsealed(kept(seal=kept().statement), keyring(2)) is None
    assert seal(kept(), PEOPLE, Keyring({}, {}), NOW) == ""


# ---- in a worker ----------------------------------------------------------------------------------------------------


def nobody() -> Directory:
    raise Unavailable("The issuer is away.")


def test_a_worker_withholds_what_isn_t_as_it_was_reviewed(ledger: Ledger) -> None:
    """Never reviewed only in production; rows that don't verify count for nothing; what verified once is sealed, and stays."""
    people, keys = [PEOPLE], [keyring(1)]

    def reviewing(*, strict: bool = True, away: bool = False) -> Reviews:
        directory = nobody if away else lambda: people[0]
        return Reviews(CATALOG, {}, directory, lambda: keys[0], audience=HERE, strict=strict)

    def told(**how: bool) -> dict[str, str]:
        return {w.name: w.why for w in reviewing(**how).withheld(ledger, ["request_refund", "get_ticket"])}

    assert (told(), told(strict=False)) == ({"request_refund": "never reviewed"}, {})
    with ledger.begin() as connection:
        reviews.add(connection, kept(by="bo@example.com"))
        reviews.add(connection, kept(OLD))
    assert told(strict=False) == {"request_refund": "changed since its review"}
    with ledger.begin() as connection:
        reviews.add(connection, kept())
    with pytest.raises(Unavailable, match="away"):  # what isn't sealed yet can't be verified
        Reviews(CATALOG, {}, nobody, lambda: Keyring({}, {}), audience=HERE, strict=True).look([kept()], ["request_refund"])
    assert told() == {}
    people[0] = Directory()  # her login is long over
    with ledger.reading() as connection:
        rows = reviews.of(connection, ["request_refund"])
    assert [bool(row.seal) for row in rows] == [False, True, True]
    found = reviewing().look(rows, ["request_refund"])["request_refund"]
    assert (found.state, found.by, found.ignored) == ("reviewed", ANA.sub, 1)
    keys[0] = keyring(1, 2)  # rotated: sealed again, so that the first key can go
    assert told() == {}
    keys[0] = keyring(2)
    assert told() == {}
    keys[0] = keyring(3)
    assert told() == {"request_refund": "never reviewed"}
    keys[0] = keyring(2)
    people[0] = PEOPLE
    with ledger.begin() as connection:
        reviews.add(connection, kept(action="tool_withdraw"))
    assert told(strict=False) == {"request_refund": "its review was withdrawn"}
