"""The sink of sealed traces in a folder, and the file of the keys that sign them."""

import json
from pathlib import Path

import pytest

from policies.capability import new_key, public_of
from policies.errors import InvalidInput, NotFound
from remit.proof.capsule import CapsuleFile
from remit.proof.keeping import redaction_rules
from remit.proof.packing import pack, seal
from remit.proof.redaction import Redactor
from remit.proof.rules import BUILT_IN
from remit.proof.sealing import Root, check, key_id_of
from remit.proof.sink import Sink
from remit.settings import Settings, load
from remit.trace_keys import TraceKeys
from tools.builtin import CATALOG


def capsule(workflow_id: str, seq: int = 1, private: bytes | None = None) -> CapsuleFile:
    """A sealed run of which nothing is left."""
    packed = pack([], [], catalog=CATALOG, capabilities=[], release=None, root_keys={}, redactor=Redactor(b"key"))
    root = Root(
        namespace="default",
        seq=seq,
        run_id="0b1e",
        workflow_id=workflow_id,
        trace_head=packed.trace_head,
        lines=0,
        contents=packed.digests,
        previous="",
        sealed_at=1,
        reason="Its history is gone.",
    )
    return seal(packed, root, private or new_key())


@pytest.mark.parametrize("name", ["billing-T-1", "../../etc/passwd", ".hidden", "a/b:c@d", "Ünïcode", "x" * 900])
async def test_a_capsule_comes_back_from_its_place(tmp_path: Path, name: str) -> None:
    """Whatever the workflow is called, its file lies in the sink's folder, readable by its owner only."""
    settings = Settings(home=tmp_path, traces=str(tmp_path / "sink"))
    given = capsule(name)
    place = await Sink.of(settings).put(given)
    [file] = (tmp_path / "sink").rglob("*.gz")
    assert file == tmp_path / "sink" / place
    assert file.stat().st_mode & 0o077 == 0
    assert await Sink.of(settings).get(place) == given


async def test_another_seal_of_a_run_is_another_file(tmp_path: Path) -> None:
    """A keeper that lost the race for a number doesn't overwrite the file whose root counts; similar names don't meet."""
    sink = Sink.of(Settings(home=tmp_path))
    places = [await sink.put(capsule(*which)) for which in (("a", 1), ("a", 2), ("a/b", 1), ("a-b", 1), ("a.b", 1))]
    assert len({*places}) == len(places)


async def test_what_is_lost_or_wrong_is_said(tmp_path: Path) -> None:
    """A file that isn't there, and a place that is none."""
    settings = Settings(home=tmp_path)
    with pytest.raises(NotFound, match=r"^`wf/run.gz` isn't in the folder `.*traces`; point `REMIT_TRACES` at where"):
        await Sink.of(settings).get("wf/run.gz")
    with pytest.raises(InvalidInput, match="^`REMIT_TRACES` is `ftp://x`; use a folder, or `s3://bucket/prefix`.$"):
        Sink.of(Settings(home=tmp_path, traces="ftp://x"))


def test_the_newest_key_signs(tmp_path: Path) -> None:
    """Each key is named by its fingerprint; what an older one signed still verifies by its own."""
    keys = TraceKeys(tmp_path / "keys.json", env="dev")
    first = keys.signing()
    assert keys.signing() == first
    second = keys.rotate()
    assert (keys.signing(), [k.id for k in keys.list()]) == (second, [first.id, second.id])
    assert first.marks != second.marks
    signed = capsule("wf", private=bytes.fromhex(first.private)).root
    assert signed.key_id == first.id == key_id_of(bytes.fromhex(first.public))
    assert (check(signed, {first.id}), check(signed, {second.id}) != "") == ("", True)


def test_production_makes_no_key_by_itself(tmp_path: Path) -> None:
    """A worker that made its own would sign what nobody can compare with anything."""
    with pytest.raises(InvalidInput, match=r"^There are no trace keys in `.*`; make one with `remit trace-keys rotate`\.$"):
        TraceKeys(tmp_path / "keys.json", env="production").signing()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("[{}]", "isn't a file of trace keys that can be read.$"),
        ("{", "isn't a file of trace keys that can be read.$"),
        (json.dumps([{"created_at": 1, "public": public_of(b"1" * 32).hex()}]), "can't sign: its private part is missing"),
        (
            json.dumps([{"created_at": 1, "public": public_of(b"1" * 32).hex(), "private": (b"2" * 32).hex()}]),
            "can't sign: its private part is missing, or another's.$",
        ),
    ],
)
def test_a_file_of_keys_that_cannot_be_used(tmp_path: Path, content: str, error: str) -> None:
    """It is refused with its path, and nothing of it is printed."""
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(InvalidInput, match=error):
        TraceKeys(tmp_path / "keys.json", env="dev").signing()


def test_rules_and_the_switch_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rules come from a file, which must be there; `off` is a number of seconds, too."""
    assert redaction_rules(Settings(home=tmp_path)) == BUILT_IN
    (tmp_path / "rules.toml").write_text("customer = 'cus_[0-9]+'")
    assert redaction_rules(Settings(redaction=tmp_path / "rules.toml"))[len(BUILT_IN) :][0].name == "customer"
    with pytest.raises(InvalidInput, match=r"^`REMIT_REDACTION` is `.*none`, which can't be read\.$"):
        redaction_rules(Settings(redaction=tmp_path / "none"))
    monkeypatch.setenv("REMIT_SEAL_SECONDS", "off")
    assert load().seal_seconds == 0
    monkeypatch.setenv("REMIT_SEAL_SECONDS", "never")
    with pytest.raises(InvalidInput, match="^`REMIT_SEAL_SECONDS` can't be used: "):
        load()
