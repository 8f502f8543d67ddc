"""`remit verify`: whether a capsule, or a chain of roots, is what it says; with no server, no ledger and no settings."""

import asyncio
import re
from collections.abc import Sequence
from typing import cast

from pydantic import Field, ValidationError

from policies.bundle import explain
from policies.canonical import sha256
from policies.errors import InvalidInput
from policies.models import Frozen
from remit.connection import CONVERTER
from remit.proof import accounts, checks
from remit.proof.build import build
from remit.proof.capsule import CapsuleFile, NotACapsule, digests_of, read
from remit.proof.case import Case, DoesNotHold, held
from remit.proof.lines import LINE, RunLine
from remit.proof.reading import capsule_of, history_of, people_of
from remit.proof.sealing import SignedRoot, check, gaps, head, plain
from tools import registry
from tools.catalog import Catalog

__all__ = [
    "HELD",
    "NOT_A_CAPSULE",
    "NOT_HELD",
    "PARTLY",
    "Checked",
    "Report",
    "Walk",
    "by_lines",
    "opened",
    "roots_of",
    "verify",
    "verify_roots",
]

HELD, NOT_HELD, NOT_A_CAPSULE, PARTLY = 0, 1, 2, 3
"""Exit codes. `PARTLY`: all that can be derived again holds, but something in it was redacted, or has changed since."""


REPLAY_SECONDS = 600


class Checked(Frozen):
    """One kind of thing that was checked, and how many of them."""

    what: str
    count: int
    note: str = ""


class Report(Frozen):
    """What `remit verify` found.

    Attributes:
        key: fingerprint of the key that signed the root; `given` when the caller said which it must be.
        failed: the first thing that doesn't hold, in one sentence.
        deciders: whose decisions were verified, and the fingerprints of the keys that signed them.
        exceptions: what couldn't be derived again, and why.
    """

    run_id: str = ""
    workflow_id: str = ""
    namespace: str = ""
    seq: int = 0
    key: str = ""
    given: bool = False
    checked: tuple[Checked, ...] = ()
    deciders: dict[str, str] = Field(default_factory=dict[str, str])
    exceptions: tuple[str, ...] = ()
    failed: str = ""

    @property
    def verified(self) -> bool:
        return not self.failed

    @property
    def exit_code(self) -> int:
        return NOT_HELD if self.failed else PARTLY if self.exceptions else HELD


class Walk:
    """The checks, one after the other, up to the first that doesn't hold."""

    def __init__(self) -> None:
        self.checked: list[Checked] = []

    def did(self, what: str, count: int, note: str = "") -> None:
        self.checked.append(Checked(what=what, count=count, note=note))


async def verify(
    data: bytes, catalog: Catalog, *, code: str, key: str = "", roots: Sequence[SignedRoot] | None = None
) -> Report:
    """What holds of the capsule in `data`.

    Args:
        catalog: today's tools, with which the history is replayed.
        code: version of the code that decides a run's commands here.
        key: fingerprint of the key that must have signed it; without one, the one in the file is taken, and proves only that
            nothing was changed since somebody sealed it.
        roots: the namespace's chain, in which its root must be.

    Raises:
        NotACapsule: it is something else.
    """
    walk, case = Walk(), None
    try:
        capsule = read(data)
    except NotACapsule:
        raise
    except InvalidInput as e:
        return Report(failed=e.message)
    root = capsule.root.root
    about = Report(
        run_id=root.run_id,
        workflow_id=root.workflow_id,
        namespace=root.namespace,
        seq=root.seq,
        key=capsule.root.key_id,
        given=bool(key),
    )
    failed = ""
    try:
        _seal(walk, capsule, key)
        if roots is not None:
            _place(walk, capsule, roots)
        case = opened(walk, capsule)
        if case:
            async with asyncio.timeout(REPLAY_SECONDS):
                await _derived(walk, case, catalog, code)
    except DoesNotHold as e:
        failed = str(e)
    except Exception as e:  # a stranger made the file: whatever its parts provoke in any of the decoders
        failed = (
            f"It can't be checked any further than this: what comes next in it is of no form there is ({type(e).__name__})."
        )
    return about.model_copy(
        update={
            "checked": tuple(walk.checked),
            "deciders": dict(sorted(case.deciders.items())) if case else {},
            "exceptions": tuple(case.exceptions) if case else (),
            "failed": failed,
        }
    )


def _seal(walk: Walk, capsule: CapsuleFile, key: str) -> None:
    root = capsule.root.root
    walk.did("format", 1)
    digests = digests_of(capsule.contents)
    for name in sorted({*digests, *root.contents}):
        held(digests.get(name) == root.contents.get(name), f"The part `{name}` isn't what was sealed.")
    walk.did("parts", len(digests), "digests")
    held(len(capsule.trace) == root.lines, f"The trace has {len(capsule.trace)} lines; {root.lines} were sealed.")
    held(head(capsule.trace) == root.trace_head, "The trace's lines aren't those that were sealed.")
    walk.did("lines", root.lines, "hash chain")
    claims = {c.id: c.token_sha256 for c in capsule.contents.capabilities}
    held(claims.keys() == capsule.tokens.keys(), "The tokens aren't those of the capabilities.")
    for name, token in capsule.tokens.items():
        same = token is None or sha256(token.encode()) == claims[name]
        held(same, f"The token of the capability `{name}` isn't the one whose digest was sealed.")
    wrong = check(capsule.root, {key} if key else None)
    held(not wrong, wrong)
    walk.did("root", 1, "Ed25519")


def _place(walk: Walk, capsule: CapsuleFile, roots: Sequence[SignedRoot]) -> None:
    wrong = gaps(roots)
    held(not wrong, wrong)
    seq = capsule.root.root.seq
    held(seq <= len(roots), f"Root {seq} is missing: the chain ends with {len(roots)}.")
    held(roots[seq - 1] == capsule.root, f"Root {seq} of the chain isn't this capsule's.")
    walk.did("roots", len(roots), "no gaps")


def opened(walk: Walk, capsule: CapsuleFile) -> Case | None:
    """The capsule as it is derived from; None when there is no trace to derive."""
    root = capsule.root.root
    try:
        histories = [history_of(root.workflow_id, h) for h in capsule.contents.history]
        pinned = capsule_of(histories)
        lines = [LINE.validate_python(line) for line in capsule.trace]
        people = people_of(histories)
    except InvalidInput as e:
        raise DoesNotHold(e.message) from None
    except ValidationError as e:
        raise DoesNotHold(f"The trace or the history isn't of a form that this version knows: {explain(e)}.") from None
    if root.reason:
        walk.did("trace", 0, f"sealed without one: {root.reason}")
        return None
    first = lines[0] if lines else None
    held(isinstance(first, RunLine), "The trace doesn't begin with the run.")
    held([line.seq for line in lines] == list(range(len(lines))), "The trace's lines aren't numbered from 0 on.")
    held(histories, "There is no history, and nothing says why.")
    assert isinstance(first, RunLine)
    if pinned is None:
        held(not first.capsule, "The trace is of a run that was admitted, and the history isn't.")
        walk.did("trace", len(lines), "the run wasn't admitted")
        return None
    return Case(capsule, histories, pinned, pinned.directory.joined(people), first, lines)


async def _derived(walk: Walk, case: Case, catalog: Catalog, code: str) -> None:
    walk.did("pins", checks.pins(case), "run, prompt, policy, tools, release")
    walk.did("lines derived", *await _replayed(case, catalog, code))
    walk.did("prompts", *await accounts.prompts(case))
    by_lines(walk, case, catalog)


def by_lines(walk: Walk, case: Case, catalog: Catalog) -> None:
    """What the trace's own lines must be, whether the history can be replayed or not.

    Raises:
        DoesNotHold: at the first that isn't.
    """
    note = checks.schema(case, catalog)
    walk.did("verdicts", checks.verdicts(case), f"by the pinned policy, {note}")
    walk.did("facts", checks.facts(case), "as the history has them")
    walk.did("decisions", checks.decisions(case), "signatures, people, roles, times, actions")
    shown = sum(token is not None for token in case.file.tokens.values())
    walk.did("capabilities", accounts.capabilities(case), f"{shown} with their tokens")
    walk.did("writes", accounts.actions(case), "idempotency keys, digests, amounts")
    walk.did("limits", accounts.limits(case), "calls, tokens, cost, attempts")
    walk.did("costs", accounts.costs(case), "tokens by prices")
    walk.did("documents", *accounts.documents(case))


async def _replayed(case: Case, catalog: Catalog, code: str) -> tuple[int, str]:
    """The lines that a replay of the histories gives are those that were sealed; how many, and what is to be said of it."""
    registry.install(catalog)
    try:
        found = [plain(line) for line in (await build(case.histories, CONVERTER)).dicts()]
    except InvalidInput as e:
        redacted = case.steering_redacted
        release = case.file.contents.release
        held(redacted or release is None or release.code != code, f"The history doesn't lead to the trace: {e.message}")
        why = "something in it was redacted" if redacted else "it was made by other code"
        case.excuse(f"the lines can't be derived from the history by a replay, for {why}: {e.message.rstrip('.')}")
        return 0, "not by a replay"
    sealed = case.file.trace
    held(len(found) == len(sealed), f"A replay of the history gives {len(found)} lines, the trace has {len(sealed)}.")
    aside = 0
    for line, was in zip(case.lines, found, strict=True):
        differ = sorted(_differences(sealed[line.seq], was, ""))
        beside = [path for path in differ if path not in _OF_TEXT]
        if differ and not beside and case.file.contents.redaction.events:
            aside += 1
        elif differ and case.redacted(line):
            case.excuse(f"line {line.seq} can't be derived by a replay, for something in it was redacted")
        else:
            held(
                not differ,
                f"Line {line.seq} isn't what a replay of the history gives: `{(beside or differ or [''])[0]}` differs.",
            )
    told = len(case.file.contents.redaction.events)
    held(aside <= told, f"{aside} results of tools aren't what a replay of the history gives, and {told} events were redacted.")
    return len(found), f"the digests of {aside} redacted results aside" if aside else "by a replay with today's code"


_OF_TEXT = ("/outcome/result_digest",)
"""Of what tools told the model; a line has the digest of the text before it was redacted."""


def _differences(a: object, b: object, path: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        one, other = cast("dict[str, object]", a), cast("dict[str, object]", b)
        names = {*one, *other}
        return [p for n in names for p in _differences(one.get(n, _ABSENT), other.get(n, _ABSENT), f"{path}/{n}")]
    if isinstance(a, list) and isinstance(b, list) and len(cast("list[object]", a)) == len(cast("list[object]", b)):
        pairs = zip(cast("list[object]", a), cast("list[object]", b), strict=True)
        return [p for n, (x, y) in enumerate(pairs) for p in _differences(x, y, f"{path}/{n}")]
    return [] if a == b else [path]


_ABSENT = object()


def roots_of(text: str) -> list[SignedRoot]:
    """The chain of roots in a file, one JSON object a line, as `remit roots` prints it.

    Raises:
        NotACapsule: it is something else.
        InvalidInput: a line isn't a root.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    found: list[SignedRoot] = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(SignedRoot.model_validate_json(line))
        except ValidationError:
            if number == 1:
                raise NotACapsule("It is neither a capsule nor a chain of roots.") from None
            raise InvalidInput(f"Line {number} isn't a root.") from None
    if not found:
        raise NotACapsule("It is empty.")
    return found


def is_roots(data: bytes) -> bool:
    """Whether it is meant as a chain of roots, and not as a capsule."""
    first = data.lstrip().partition(b"\n")[0]
    return bool(re.match(rb'\{\s*"(root|digest|key_id|public_key|signature)"\s*:', first))


def verify_roots(roots: Sequence[SignedRoot], *, key: str = "") -> Report:
    """Whether a namespace's chain of roots is whole, and signed: by the key with this fingerprint, if one is given."""
    wrong = gaps(roots, {key} if key else None)
    last, keys = roots[-1].root, sorted({r.key_id for r in roots})
    about = Report(namespace=last.namespace, seq=last.seq, key=", ".join(keys), given=bool(key), failed=wrong)
    if wrong:
        return about
    sealed = sum(not r.root.reason for r in roots)
    note = (
        f"from 1 to {last.seq}, {len(roots) - sealed} of them without a trace"
        if sealed < len(roots)
        else f"from 1 to {last.seq}"
    )
    return about.model_copy(update={"checked": (Checked(what="roots", count=len(roots), note=note),)})
