"""From a run's histories and its trace to a capsule: gathered, redacted, scanned and sealed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import cast

from google.protobuf.message import Message as Proto
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowHistory
from temporalio.common import RawValue
from temporalio.converter import DataConverter

from activities import prices
from activities.ledger.rows import Capability
from activities.model import TOLD
from activities.prices import PriceRow
from policies.canonical import sha256
from policies.errors import InvalidInput, PriceUnknown
from policies.identity import Directory
from policies.rollout import Release
from policies.routing import ModelChoice
from remit import __version__
from remit.proof.capsule import CapabilityClaims, CapsuleFile, Contents, Json, Packed, digests_of, refusal, scan
from remit.proof.reading import capsule_of, documents_of, json_of, models_of, people_of
from remit.proof.redaction import PLACEHOLDERS, Redactor
from remit.proof.rules import addresses_in
from remit.proof.sealing import Root, head, plain, sign
from tools.catalog import Catalog
from workflows.messages import Capsule

__all__ = ["decoded", "pack", "seal"]


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
    redactor = Redactor(redactor.key, _known(capsule, people_of(histories)), redactor.rules, redactor.names)
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
            "rules": [*([f"{PLACEHOLDERS}@1"] if redactor.names else []), *(rule.id for rule in redactor.rules)],
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
    route = [c for models in (capsule.route.models, *capsule.route.fallbacks) for c in models]
    found: dict[str, PriceRow] = {}
    for turn in models_of(histories):
        # Two tiers may have the same model at two servers, each at its own price.
        listed = ModelChoice(provider=turn.provider, model=turn.model)
        named = [c for c in route if (c.provider, c.model) == (turn.provider, turn.model)]
        for choice in (*named, listed):
            with suppress(PriceUnknown):
                row = prices.row(choice)
                if row.digest == turn.price_digest:
                    found.setdefault(row.digest, row)
    return list(found.values())


def _claims(capability: Capability) -> dict[str, object]:
    row = capability.model_dump(mode="json", include=set(CapabilityClaims.model_fields))
    return {**row, "token_sha256": sha256(capability.token.encode())}
