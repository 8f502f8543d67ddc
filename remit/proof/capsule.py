"""The capsule: one file with all that a run was, redacted, scanned and sealed. `docs/schemas` has its JSON Schema.

Everything in it is under the signed root, but for the tokens of capabilities, whose digests are: a token may only be shown once
it has expired, which is after the seal.
"""

import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal, cast

from pydantic import Field, JsonValue, ValidationError

from activities.prices import PriceRow
from policies.bundle import Bundle, explain
from policies.canonical import canonical_json, digest, sha256
from policies.errors import InvalidInput
from policies.models import Frozen
from policies.rollout import Release
from remit.proof.redaction import Hit, Redactor
from remit.proof.sealing import SignedRoot
from tools.kb import Document

__all__ = [
    "FORMAT",
    "CapabilityClaims",
    "CapsuleFile",
    "Contents",
    "Json",
    "NotACapsule",
    "Packed",
    "Redaction",
    "ToolCard",
    "digests_of",
    "read",
    "refusal",
    "scan",
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
    except (ValueError, RecursionError):
        same, capsule = False, None
    if capsule is None or not same:
        raise InvalidInput("The capsule isn't written as its format says: something is missing, or of another type.")
    return capsule


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found
