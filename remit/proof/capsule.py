"""The capsule: one file with all that a run was, redacted, scanned and sealed. `docs/schemas` has its JSON Schema.

Everything in it is under the signed root, but for the tokens of capabilities, whose digests are: a token may only be shown once
it has expired, which is after the seal.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, cast

from google.protobuf.message import Message as Proto
from pydantic import Field, JsonValue, ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowHistory
from temporalio.common import RawValue
from temporalio.converter import DataConverter

from activities import prices
from activities.ledger.rows import Capability
from activities.model import TOLD
from activities.prices import PriceRow
from policies.bundle import Bundle, explain
from policies.canonical import canonical_json, digest, sha256
from policies.errors import InvalidInput, PriceUnknown
from policies.identity import Directory
from policies.models import Frozen
from policies.rollout import Release
from policies.routing import ModelChoice
from remit import __version__
from remit.proof.reading import capsule_of, documents_of, json_of, models_of, people_of
from remit.proof.redaction import Hit, Redactor, addresses_in
from remit.proof.sealing import Root, SignedRoot, head, plain, sign
from tools.catalog import Catalog
from tools.kb import Document
from workflows.messages import Capsule

__all__ = [
    "FORMAT",
    "CapabilityClaims",
    "CapsuleFile",
    "Contents",
    "NotACapsule",
    "Packed",
    "Redaction",
    "ToolCard",
    "decoded",
    "pack",
    "read",
    "refusal",
    "scan",
    "seal",
    "with_tokens",
    "written",
]

FORMAT = "remit.capsule/1"
MAX_BYTES = 512 * 1024 * 1024
Json = dict[str, JsonValue]


class NotACapsule(InvalidInput):
    """A file that is something else altogether."""


class ToolCard(Frozen):
    """A tool that the run could use, as it was: `card` is what its digest is of, the JSON Schema of its arguments included."""

    name: str
    version: str
    digest: str
    card: Json


class CapabilityClaims(Frozen):
    """What a capability of the run permitted: the ledger's row, and the digest of its token.

    Times in Unix milliseconds, but `expires_at` in Unix seconds, as in the token.
    """

    id: str
    kind: str
    run_id: str
    agent: str
    tools: str
    resource: str
    subject: str
    ceiling_cents: int
    currency: str
    idempotency_key: str
    delegation: str
    issuer: str
    key_id: str
    reason: str
    minted_at: int
    expires_at: int
    revoked_at: int | None
    token_sha256: str


class Redaction(Frozen):
    """What was taken out, and by which rules.

    Attributes:
        rules: name and version of each, or the digest of its pattern.
        known: e-mail addresses that stayed: of those who answer for the run and decide in it.
        counts: how often each rule found something.
        lines: `seq` of the trace's lines in which something was redacted.
        events: history (from 0) and event id of each event in which something was.
        parts: other parts of the capsule in which something was.
    """

    rules: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict[str, int])
    lines: tuple[int, ...] = ()
    events: tuple[tuple[int, int], ...] = ()
    parts: tuple[str, ...] = ()


class Contents(Frozen):
    """All parts of a capsule but the trace. Each has its digest in the root.

    Attributes:
        history: of Temporal, oldest first, each as its own tools export it, with every payload decoded and inline.
        prompt: the system prompt, as each model call was sent it before the transcript.
        tools: those that the run was pinned to.
        catalog: digest of each tool that the worker knew, by name.
        cedar_schema: what policies were checked against, generated from all of those.
        policy: the pinned bundle.
        release: digests of all that the run's behaviour depended on; None when the ledger didn't have them.
        prices: those that its model calls were priced by.
        documents: those that it read.
        capabilities: all that were minted for it.
        root_keys: public keys that sign capabilities, by id, raw and in hex.
        code: version of Remit that sealed it.
    """

    history: tuple[Json, ...]
    prompt: str
    tools: tuple[ToolCard, ...]
    catalog: dict[str, str]
    cedar_schema: Json
    policy: Bundle | None
    release: Release | None
    prices: tuple[PriceRow, ...]
    documents: tuple[Document, ...]
    capabilities: tuple[CapabilityClaims, ...]
    root_keys: dict[str, str]
    redaction: Redaction
    code: str


class CapsuleFile(Frozen):
    """The file, as JSON or as gzipped JSON.

    Attributes:
        trace: the lines that `remit trace` prints.
        tokens: of capabilities, by id: null while it could still be used. They aren't sealed, but their digests are.
    """

    format: Literal["remit.capsule/1"] = FORMAT
    root: SignedRoot
    trace: tuple[Json, ...]
    contents: Contents
    tokens: dict[str, str | None]


class Packed(Frozen):
    """A capsule before its place in the chain of roots is known.

    Attributes:
        digests: of each of its contents, by name.
    """

    trace: tuple[Json, ...]
    contents: Contents
    trace_head: str
    digests: dict[str, str]


async def decoded(history: WorkflowHistory, converter: DataConverter) -> WorkflowHistory:
    """The same history with each payload decrypted, and inline that lies in external storage.

    Raises:
        Unavailable: a key isn't here yet, or the storage is away.
    """
    found = WorkflowHistory(history.workflow_id, [type(e).FromString(e.SerializeToString()) for e in history.events])
    for event in found.events:
        for payload in _payloads(event):
            [raw] = await converter.decode([payload], [RawValue])
            payload.CopyFrom(cast("RawValue", raw).payload)
    return found


def _payloads(message: Proto) -> Iterator[Payload]:
    if isinstance(message, Payload):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.message_type.GetOptions().map_entry:
            items = list(value.values()) if descriptor.message_type.fields_by_name["value"].message_type else []
        else:
            items = list(value) if descriptor.is_repeated else [value]
        for item in items:
            yield from _payloads(item)


def pack(
    histories: Sequence[WorkflowHistory],
    lines: Sequence[Mapping[str, object]],
    *,
    catalog: Catalog,
    capabilities: Sequence[Capability],
    release: Release | None,
    root_keys: Mapping[int, str],
    redactor: Redactor,
) -> Packed:
    """What is sealed of a run.

    Args:
        histories: decoded, oldest first; none when they are gone.
        lines: the trace; none when it couldn't be derived.
        redactor: the rules and the namespace's key; whose addresses stay is found here.

    Raises:
        InvalidInput: something would still be in it that a rule finds.
    """
    capsule = capsule_of(histories)
    redactor = Redactor(redactor.key, _known(capsule, people_of(histories)), redactor.rules)
    pinned = {t.name: t.digest for t in capsule.tools} if capsule else {}
    specs = [spec for name, spec in catalog.specs.items() if pinned.get(name) == spec.digest]
    trace, changed = _each(redactor, [cast("Json", plain(line)) for line in lines])
    history: list[Json] = []
    events: list[tuple[int, int]] = []
    for number, one in enumerate(histories):
        kept, redacted = _each(redactor, cast("list[Json]", json_of(one)["events"]))
        history.append({"events": list(kept)})
        events += [(number, one.events[index].event_id) for index in redacted]
    parts: list[str] = []

    def part(name: str, value: object) -> object:
        was = plain(value)
        kept = redactor.redact(was)
        if kept != was:
            parts.append(name)
        return kept

    contents = {
        "history": history,
        "prompt": part("prompt", capsule.prompt + TOLD[capsule.agent.mode] if capsule else ""),
        "tools": part(
            "tools",
            [{"name": s.name, "version": s.version, "digest": s.digest, "card": s.card} for s in specs],
        ),
        "catalog": {name: spec.digest for name, spec in catalog.specs.items()},
        "cedar_schema": json.loads(catalog.cedar_schema),
        "policy": part("policy", capsule.bundle.model_dump(mode="json")) if capsule else None,
        "release": release.model_dump(mode="json") if release else None,
        "prices": [r.model_dump(mode="json") for r in _prices(capsule, histories)],
        "documents": part("documents", [d.model_dump(mode="json") for d in documents_of(histories)]),
        "capabilities": part("capabilities", [_claims(c) for c in capabilities]),
        "root_keys": {str(name): key for name, key in root_keys.items()},
        "redaction": {
            "rules": [rule.id for rule in redactor.rules],
            "known": sorted(redactor.known),
            "counts": dict(redactor.counts),
            "lines": [trace[index].get("seq", index) for index in changed],
            "events": events,
            "parts": parts,
        },
        "code": __version__,
    }
    checked = Contents.model_validate(contents)
    packed = Packed(trace=trace, contents=checked, trace_head=head(trace), digests=digests_of(checked))
    if hits := scan(packed.trace, packed.contents, redactor):
        raise InvalidInput(refusal(hits))
    return packed


def seal(packed: Packed, root: Root, private: bytes) -> CapsuleFile:
    """The capsule of `packed`, whose head, number of lines and digests are in `root`, signed."""
    tokens = dict.fromkeys((c.id for c in packed.contents.capabilities), None)
    return CapsuleFile(root=sign(root, private), trace=packed.trace, contents=packed.contents, tokens=tokens)


def with_tokens(capsule: CapsuleFile, tokens: Mapping[str, str], now: int) -> CapsuleFile:
    """The capsule with those of `tokens`, by capability, that were sealed and have expired by `now`, in Unix seconds."""

    def shown(claims: CapabilityClaims) -> str | None:
        token = tokens.get(claims.id)
        return token if token and claims.expires_at < now and claims.token_sha256 == sha256(token.encode()) else None

    return capsule.model_copy(update={"tokens": {c.id: shown(c) for c in capsule.contents.capabilities}})


def digests_of(contents: Contents) -> dict[str, str]:
    """The digest of each part, by name."""
    return {name: digest(value) for name, value in contents.model_dump(mode="json").items()}


def scan(trace: Sequence[Json], contents: Contents, redactor: Redactor) -> list[Hit]:
    """What the rules still find."""
    found = redactor.scan(list(trace), "/trace")
    for name, value in contents.model_dump(mode="json").items():
        if name not in ("catalog", "cedar_schema", "root_keys", "redaction"):
            found += redactor.scan(value, f"/contents/{name}")
    return found


def refusal(hits: Sequence[Hit]) -> str:
    """The sentence that says why there is no capsule; it names no value."""
    more = f" and {len(hits) - 1} more" if len(hits) > 1 else ""
    return f"The capsule is refused: the rule `{hits[0].rule}` finds something at `{hits[0].path}`{more}."


def written(capsule: CapsuleFile, *, plain_json: bool = False) -> bytes:
    """The file. The same capsule gives the same bytes."""
    text = json.dumps(capsule.model_dump(mode="json"), ensure_ascii=False, indent=1 if plain_json else None).encode()
    return text + b"\n" if plain_json else gzip.compress(text, mtime=0)


def read(data: bytes) -> CapsuleFile:
    """The capsule in a file.

    Raises:
        NotACapsule: it is something else.
        InvalidInput: it is a capsule whose form isn't right.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise NotACapsule(f"It is larger than a capsule can be, {MAX_BYTES // 1024 // 1024} MB.")
        found: object = json.loads(data, object_pairs_hook=_once)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        raise NotACapsule("It isn't a capsule: neither JSON nor gzipped JSON, or a name in it comes twice.") from None
    said = cast("dict[str, object]", found).get("format") if isinstance(found, dict) else None
    if said != FORMAT:
        raise NotACapsule(f"It isn't a capsule: its `format` isn't `{FORMAT}`.")
    try:
        capsule = CapsuleFile.model_validate_json(data)
        # What a lenient parser would put right, or fill in, isn't what was sealed.
        same = canonical_json(capsule) == canonical_json(found)
    except ValidationError as e:
        raise InvalidInput(f"The capsule isn't of the form that its format says: {explain(e)}.") from None
    except ValueError:
        same, capsule = False, None
    if capsule is None or not same:
        raise InvalidInput("The capsule isn't written as its format says: something is missing, or of another type.")
    return capsule


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _each(redactor: Redactor, values: Sequence[Json]) -> tuple[tuple[Json, ...], list[int]]:
    """The values redacted, and the indexes of those in which something was."""
    kept = [cast("Json", redactor.redact(value)) for value in values]
    return tuple(kept), [n for n, (was, now) in enumerate(zip(values, kept, strict=True)) if was != now]


def _known(capsule: Capsule | None, people: Directory) -> frozenset[str]:
    """The addresses of those who answer for the run and decide in it, and those that its prompt and its policy say."""
    if capsule is None:
        return frozenset()
    agent, bundle = capsule.agent, capsule.bundle
    deciders = [p.sub for p in (*capsule.directory.people, *people.people)]
    said = [agent.id, agent.owner, capsule.requester, capsule.prompt, bundle.policy, bundle.limits_toml]
    return addresses_in([*said, *deciders, *(d.by for d in capsule.delegations)])


def _prices(capsule: Capsule | None, histories: Sequence[WorkflowHistory]) -> list[PriceRow]:
    """The prices of the models that answered, as they are now; one that the table has dropped since is left out."""
    if capsule is None:
        return []
    declared = {(c.provider, c.model): c for c in (*capsule.route.models, *(c for r in capsule.route.fallbacks for c in r))}
    found: dict[str, PriceRow] = {}
    for turn in models_of(histories):
        choice = declared.get((turn.provider, turn.model)) or ModelChoice(provider=turn.provider, model=turn.model)
        try:
            found.setdefault(turn.price_digest, prices.row(choice))
        except PriceUnknown:
            continue
    return list(found.values())


def _claims(capability: Capability) -> dict[str, object]:
    row = capability.model_dump(mode="json", include=set(CapabilityClaims.model_fields))
    return {**row, "token_sha256": sha256(capability.token.encode())}
