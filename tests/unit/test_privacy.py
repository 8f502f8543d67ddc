"""`[privacy]` around the texts: its rules, the subject's record, the key of a run, what is stored, and what it refuses."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import stripe
from temporalio.exceptions import ApplicationError

from activities.library import Library
from activities.privacy.desk import NO_VEIL, PrivacyDesk, begin_privacy, veil_of
from activities.privacy.names import Entry, Names, Written
from activities.privacy.recognizers import Recognizers
from activities.privacy.store import VaultStore
from activities.privacy.veil import found_by
from activities.releases import Releases
from activities.storage import FolderStorage
from policies.errors import AgentInvalid, InvalidInput, PlaceholdersLost, RemitError, Unavailable
from policies.privacy import PrivacyRules
from remit.apps import assemble
from remit.codec import KeyAwaited
from remit.codec_keys import CodecKeyFile
from remit.proof.redaction import Redactor
from remit.run_cipher import KeyedRunCipher
from remit.settings import Standalone
from tests.builders import capsule
from tests.piibench import FILES, KINDS, measure, samples, table
from tools.builtin import CATALOG
from tools.connectors.sandbox import Sandbox
from tools.connectors.stripe_records import details_of
from tools.spec import Connector
from tools.subjects import EveryRecord, Personal, PersonalDetail, record
from workflows.messages import AssistantMessage, Capsule, StartInput, ToolRequest, UserMessage
from workflows.state import RunState
from workflows.turn import Turn

ROOT = Path(__file__).parents[2]
START = StartInput(agent="a")
MAREN = record(name="Maren Holt", email="maren@holtphysio.example")


class Crm(Personal):
    """A system that knows one customer, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    async def known(self, subject: str) -> tuple[PersonalDetail, ...]:
        self.asked += 1
        if self.error:
            raise self.error
        return MAREN if subject == "Customer:cus_101" else ()


def store_in(folder: Path) -> VaultStore:
    return VaultStore(FolderStorage(folder / "storage"), KeyedRunCipher(CodecKeyFile(folder / "codec-keys.json", env="dev")))


def private(run_id: str = "run-1") -> Capsule:
    return capsule(run_id=run_id, privacy=PrivacyRules())


# ---- the figures of the documentation -------------------------------------------------------------------------------


def test_the_documentation_has_the_figures_of_the_corpus() -> None:
    """docs/privacy.md says what is found in the 200 texts as it is; `make pii-bench` prints the table."""
    assert len(samples()) == 200
    page = (ROOT / "docs" / "privacy.md").read_text()
    for name in FILES:
        rows = table(measure(Recognizers.of(PrivacyRules()), name))
        assert len(rows) == len(KINDS) + 1
        assert "\n".join(rows) in page, name


# ---- agent.toml -----------------------------------------------------------------------------------------------------


def library_with(folder: Path, table: str) -> Library:
    """The agents that ship, with a table `[privacy]` for one of them."""
    agent = folder / "agents" / "support-triage"
    agent.mkdir(parents=True)
    for name in ("agent.toml", "prompt.md"):
        (agent / name).write_text((ROOT / "agents" / "support-triage" / name).read_text())
    with (agent / "agent.toml").open("a") as file:
        file.write(f"\n{table}\n")
    return Library([folder], CATALOG)


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ("[privacy]\nfind = ['fingerprint']", "privacy"),
        ("[privacy]\nregions = ['Germany']", "privacy"),
        ("[privacy]\nnames = true", "privacy"),
    ],
)
def test_a_table_that_says_something_else_is_refused(tmp_path: Path, table: str, wrong: str) -> None:
    """A misspelt name must not hide less than was meant."""
    with pytest.raises(AgentInvalid, match=wrong):
        library_with(tmp_path, table).agent("support-triage")


def test_the_table_is_part_of_a_release_and_its_absence_is_not(tmp_path: Path) -> None:
    """Rollouts and capsules from before it existed keep their digests."""
    parts = assemble(Standalone())
    agent = parts.library.agent("support-triage")
    releases = Releases(parts.library, parts.corpora)
    plain = releases.definition(agent)
    guarded = library_with(tmp_path, "[privacy]").agent("support-triage")
    assert guarded.privacy == PrivacyRules()
    assert releases.definition(guarded) != plain
    assert "privacy" not in json.dumps(capsule().model_dump(mode="json", exclude_none=True))
    assert capsule().digest == capsule(privacy=None).digest != private().digest


# ---- what the business knows ----------------------------------------------------------------------------------------


async def test_the_sandbox_knows_its_customers(tmp_path: Path) -> None:
    """Name, address of e-mail, phone and house; a file from before there were contacts has the first two."""
    business = {
        "customers": [{"customer_id": "cus_1", "name": "Maren Holt", "email": "m@x.example", "plan": "Team"}],
        "contacts": [
            {"customer_id": "cus_1", "phone": "+1 212 555 0187", "street": "1 A St", "postal_code": "SE1", "city": "London"}
        ],
    }
    sandbox = Sandbox.create(tmp_path / "b.db", business)
    found = await sandbox.known("Customer:cus_1")
    assert [(d.kind, d.value) for d in found] == [
        ("name", "Maren Holt"),
        ("email", "m@x.example"),
        ("phone", "+1 212 555 0187"),
        ("address", "1 A St, SE1 London"),
        ("street", "1 A St"),
        ("postal_code", "SE1"),
        ("city", "London"),
    ]
    assert await sandbox.known("Customer:cus_2") == await sandbox.known("Alert:AL-1") == ()
    sandbox.close()


def test_stripe_knows_its_customers() -> None:
    """Their own details, and those of shipping where they differ."""
    place = {"line1": "1 A St", "line2": None, "city": "London", "postal_code": "SE1 6HG", "state": None, "country": "GB"}
    there = {**place, "line1": "2 B St", "line2": "Flat 3"}
    customer = stripe.Customer.construct_from(  # pyright: ignore[reportUnknownMemberType]
        {
            "id": "cus_1",
            "name": "Maren Holt",
            "email": "m@x.example",
            "phone": None,
            "address": place,
            "shipping": {"name": "Maren Holt", "phone": "+442079460958", "address": there},
        },
        "k",
    )
    assert [(d.kind, d.value) for d in details_of(customer)] == [
        ("name", "Maren Holt"),
        ("email", "m@x.example"),
        ("address", "1 A St, SE1 6HG London"),
        ("street", "1 A St"),
        ("postal_code", "SE1 6HG"),
        ("city", "London"),
        ("phone", "+442079460958"),
        ("address", "2 B St Flat 3, SE1 6HG London"),
        ("street", "2 B St Flat 3"),
    ]


async def test_all_systems_are_asked() -> None:
    """What two of them know counts once."""
    assert await EveryRecord((Crm(), Crm())).known("Customer:cus_101") == MAREN


# ---- the key of a run -----------------------------------------------------------------------------------------------


def test_what_is_sealed_for_one_run_opens_for_no_other(tmp_path: Path) -> None:
    """Nor when it was altered, cut short or never sealed; each time with one sentence."""
    cipher = KeyedRunCipher(CodecKeyFile(tmp_path / "keys.json", env="dev"))
    sealed = cipher.seal("run-1", b"who")
    assert cipher.unseal("run-1", sealed) == b"who"
    assert cipher.seal("run-1", b"who") != sealed
    for data in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:40], b"who", b"remit-run-1 1-x"):
        with pytest.raises(PlaceholdersLost):
            cipher.unseal("run-1", data)
    with pytest.raises(PlaceholdersLost, match="was altered, or is another run's; restore it from a backup"):
        cipher.unseal("run-2", sealed)


def test_keys_rotate_and_retire_under_it(tmp_path: Path) -> None:
    """An older key still opens; a retired one never again; one that isn't here yet is waited for."""
    keys = CodecKeyFile(tmp_path / "keys.json", env="dev")
    cipher = KeyedRunCipher(keys)
    old = cipher.seal("run-1", b"who")
    behind = (tmp_path / "keys.json").read_bytes()
    keys.rotate()
    new = cipher.seal("run-1", b"who")
    assert cipher.unseal("run-1", old) == cipher.unseal("run-1", new) == b"who"
    keys.retire(1)
    with pytest.raises(PlaceholdersLost, match="which is retired or not ours"):
        cipher.unseal("run-1", old)
    (tmp_path / "other.json").write_bytes(behind)
    with pytest.raises(KeyAwaited, match="which isn't here yet"):
        KeyedRunCipher(CodecKeyFile(tmp_path / "other.json", env="dev")).unseal("run-1", new)


# ---- admission and model calls --------------------------------------------------------------------------------------


async def test_a_run_begins_with_what_is_known_once(tmp_path: Path) -> None:
    """Another attempt of its admission asks nobody again, and changes nothing."""
    crm = Crm()
    store = store_in(tmp_path)
    desk = PrivacyDesk(store, {Personal: crm})
    for _ in range(2):
        await begin_privacy(desk, "run-1", "a", "Customer:cus_101", PrivacyRules())
    found = await store.load("run-1")
    assert found
    assert crm.asked == 1
    assert [e.name for e in found.entries] == [f"customer_1.{k}" for k in ("name", "email", "first_name", "last_name")]


@pytest.mark.parametrize("connectors", [{}, {Personal: Crm()}], ids=["no connector", "unknown subject"])
async def test_without_a_record_the_recognizers_are_left(
    tmp_path: Path, connectors: Mapping[type[Connector], Connector]
) -> None:
    """A subject of whom nothing is known, and a business without such a connector, are no error."""
    desk = PrivacyDesk(store_in(tmp_path), connectors)
    await begin_privacy(desk, "run-1", "a", "Alert:AL-1", PrivacyRules())
    veil = await desk.veil(private())
    [shown] = await veil.hide([UserMessage(text="Maren Holt, maren@holtphysio.example")])
    assert shown == UserMessage(text="Maren Holt, <email_1>")


@pytest.mark.parametrize(
    ("error", "said"),
    [(Unavailable("The CRM is away."), "The CRM is away."), (ConnectionError("secret words"), "(ConnectionError)")],
)
async def test_a_record_that_cannot_be_read_is_waited_for(tmp_path: Path, error: Exception, said: str) -> None:
    """The run isn't admitted meanwhile, for its model would see what should be hidden."""
    with pytest.raises(ApplicationError) as caught:
        await begin_privacy(PrivacyDesk(store_in(tmp_path), {Personal: Crm(error)}), "r", "a", "Customer:c", PrivacyRules())
    assert caught.value.message.startswith("What the business knows of the subject can't be read")
    assert said in caught.value.message
    assert "secret" not in caught.value.message
    assert not caught.value.non_retryable


async def test_production_without_codec_keys_admits_nothing(tmp_path: Path) -> None:
    """The sentence says how to make them."""
    store = VaultStore(FolderStorage(tmp_path), KeyedRunCipher(CodecKeyFile(tmp_path / "keys.json", env="production")))
    with pytest.raises(ApplicationError, match="make them with `remit codec-keys rotate`") as caught:
        await begin_privacy(PrivacyDesk(store, {}), "run-1", "a", "", PrivacyRules())
    assert caught.value.non_retryable


async def test_a_worker_without_a_desk_asks_no_model(tmp_path: Path) -> None:
    """Such as that of a fork; runs without `[privacy]` aren't touched."""
    with pytest.raises(ApplicationError, match="so no model is asked"):
        await veil_of(None, private())
    with pytest.raises(ApplicationError, match="this worker can't recognize personal data"):
        await begin_privacy(None, "run-1", "a", "", PrivacyRules())
    assert await veil_of(None, capsule()) is await PrivacyDesk(store_in(tmp_path), {}).veil(capsule()) is NO_VEIL
    await begin_privacy(None, "run-1", "a", "", None)


async def test_what_is_named_is_stored_before_it_is_sent(tmp_path: Path) -> None:
    """So an attempt that was lost, and one at another worker, name the same."""
    store = store_in(tmp_path)
    desk = PrivacyDesk(store, {})
    await desk.begin("run-1", "")
    one, other = await desk.veil(private()), await desk.veil(private())
    texts = [UserMessage(text="b@x.example"), UserMessage(text="a@x.example")]
    first = await one.hide(texts)
    assert [e.name for e in (await store.load("run-1") or Written()).entries] == ["email_1", "email_2"]
    assert list(await other.hide(texts)) == list(first)
    await one.restore(AssistantMessage(text="Ask < email_1 >"))
    assert len((await store.load("run-1") or Written()).said) == 1


async def test_a_frozen_attempt_takes_nothing_back(tmp_path: Path) -> None:
    """What was stored since it read the names stays; if it named something else meanwhile, it begins again."""
    store = store_in(tmp_path)
    desk = PrivacyDesk(store, {})
    await desk.begin("run-1", "")
    frozen, disagrees, last = [await desk.veil(private()) for _ in range(3)]
    await last.hide([UserMessage(text="b@x.example and +1 212 555 0187")])
    await frozen.hide([UserMessage(text="b@x.example")])
    assert {e.name for e in (await store.load("run-1") or Written()).entries} == {"email_1", "phone_1"}
    with pytest.raises(ApplicationError, match="this one begins again") as caught:
        await disagrees.hide([UserMessage(text="z@x.example")])
    assert not caught.value.non_retryable


async def test_a_form_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """Nothing is guessed."""
    store = store_in(tmp_path)
    files = FolderStorage(tmp_path / "storage")
    await store.save("run-1", Written(entries=(Entry(name="email_1", kind="email", value="b@x.example"),)))
    [file] = (tmp_path / "storage" / "placeholders").iterdir()
    cipher = KeyedRunCipher(CodecKeyFile(tmp_path / "codec-keys.json", env="dev"))
    await files.put_file(f"placeholders/{file.name}", cipher.seal("run-1", b'{"entries": 1}'))
    with pytest.raises(RemitError, match="of a form that this version doesn't know"):
        await store.load("run-1")


# ---- the workflow ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ({"text": "Write to <email_7>."}, "unknown_placeholder"),
        ({"text": "Write to < CUSTOMER_2.Email >."}, "unknown_placeholder"),
        ({"text": "&lt;card_1&gt;"}, "unknown_placeholder"),
        ({"text": {"deep": ["<ip_1>"]}}, "unknown_placeholder"),
        ({"<ssn_1>": "x"}, "unknown_placeholder"),
        ({"text": "<b> <h_1> <email> <section_2> \u2039email_1\u203a"}, ""),
    ],
)
def test_a_placeholder_that_is_left_is_refused(arguments: dict[str, object], refused: str) -> None:
    """Wherever it stands in the arguments, before they are parsed; and only in runs with `[privacy]`."""
    text = json.dumps({"ticket_id": "T-1001", **arguments}, ensure_ascii=True)
    request = ToolRequest(id="c", name="draft_reply", arguments=text.replace("<", "\\u003c"))
    found = Turn(RunState(start=START), private(), CATALOG, 0).propose(0, request)
    assert (found.refusal.reason if found.refusal else "") == refused
    before = Turn(RunState(start=START), capsule(), CATALOG, 0).propose(0, request)
    assert before.refusal is None or before.refusal.reason != "unknown_placeholder"


# ---- the capsule ----------------------------------------------------------------------------------------------------


async def test_redaction_puts_placeholders_before_its_own_marks(tmp_path: Path) -> None:
    """In text, in JSON and in names of fields; ids stay, and so do the addresses of those who decide."""
    store = store_in(tmp_path)
    desk = PrivacyDesk(store, {Personal: Crm()})
    await desk.begin("run-1", "Customer:cus_101")
    veil = await desk.veil(private())
    await veil.hide([UserMessage(text="b@x.example, ana@example.com, call +1 212 555 0187")])
    written = await store.load("run-1")
    assert written
    redactor = Redactor(b"key", frozenset({"ana@example.com"}), names=found_by(Names(written)))
    found = redactor.redact(
        {
            "text": "MAREN HOLT <maren@holtphysio.example> and b@x.example, new@x.example; 212-555-0187",
            "inner": '{"Maren Holt": "B@X.example"}',
            "workflow_id": "maren-holt",
            "by": "ana@example.com",
            "kind": "customer_1.email",
        }
    )
    [mark] = [word for word in str(found).split() if "redacted:email" in word]
    assert found == {
        "text": f"<customer_1.name> <<customer_1.email>> and <email_1>, {mark} <phone_1>",
        "inner": '{"<customer_1.name>": "<email_1>"}',
        "workflow_id": "maren-holt",
        "by": "ana@example.com",
        "kind": "customer_1.email",
    }
    assert redactor.redact(found) == found
    assert redactor.scan(found) == []


def test_recognizers_need_presidio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, they say what to install."""
    monkeypatch.setattr("activities.privacy.recognizers.installed", lambda: False)
    with pytest.raises(InvalidInput, match=r"`pip install 'remit\[privacy\]'`"):
        Recognizers(PrivacyRules())


def test_only_what_is_asked_for_is_looked_for() -> None:
    """`find` and `regions` narrow it."""
    text = "b@x.example 10.1.2.3 call 030 901820"
    assert [r.kind for r in Recognizers.of(PrivacyRules()).find(text)] == ["email", "ip", "phone"]
    assert [r.kind for r in Recognizers.of(PrivacyRules(find=("ip",))).find(text)] == ["ip"]
    assert [r.kind for r in Recognizers.of(PrivacyRules(regions=("US",))).find(text)] == ["email", "ip"]
