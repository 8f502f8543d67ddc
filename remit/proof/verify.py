"""`remit verify`: whether a capsule, or a chain of roots, is what it says; with no server, no ledger and no settings."""

import re
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from policies.errors import InvalidInput
from policies.models import Frozen
from remit.proof import checks
from remit.proof.capsule import CapsuleFile, NotACapsule, digests_of, read
from remit.proof.checks import Case, DoesNotHold, held
from remit.proof.reading import capsule_of, history_of, people_of
from remit.proof.sealing import SignedRoot, check, gaps, head

__all__ = ["HELD", "NOT_A_CAPSULE", "NOT_HELD", "PARTLY", "Checked", "Report", "roots_of", "verify", "verify_roots"]

HELD, NOT_HELD, NOT_A_CAPSULE, PARTLY = 0, 1, 2, 3
"""Exit codes. `PARTLY`: all that can be derived again holds, but something in it was redacted, or has changed since."""


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
        exceptions: what couldn't be derived again, and why.
    """

    run_id: str = ""
    workflow_id: str = ""
    namespace: str = ""
    seq: int = 0
    key: str = ""
    given: bool = False
    checked: tuple[Checked, ...] = ()
    exceptions: tuple[str, ...] = ()
    failed: str = ""

    @property
    def verified(self) -> bool:
        return not self.failed

    @property
    def exit_code(self) -> int:
        return NOT_HELD if self.failed else PARTLY if self.exceptions else HELD


class _Walk:
    """The checks, one after the other, up to the first that doesn't hold."""

    def __init__(self) -> None:
        self.checked: list[Checked] = []

    def did(self, what: str, count: int, note: str = "") -> None:
        self.checked.append(Checked(what=what, count=count, note=note))


async def verify(data: bytes, catalog: Catalog, *, key: str = "", roots: Sequence[SignedRoot] | None = None) -> Report:
    """What holds of the capsule in `data`.

    Args:
        catalog: today's tools, with which the history is replayed.
        key: fingerprint of the key that must have signed it; without one, the one in the file is taken, and proves only that
            nothing was changed since somebody sealed it.
        roots: the namespace's chain, in which its root must be.

    Raises:
        NotACapsule: it is something else.
    """
    walk, case = _Walk(), None
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
        case = _opened(walk, capsule)
        if case:
            await _derived(walk, case, catalog)
    except DoesNotHold as e:
        failed = str(e)
    return about.model_copy(
        update={
            "checked": tuple(walk.checked),
            "exceptions": tuple(case.exceptions) if case else (),
            "failed": failed,
        }
    )


def _seal(walk: _Walk, capsule: CapsuleFile, key: str) -> None:
    root = capsule.root.root
    walk.did("format", 1)
    digests = digests_of(capsule.contents)
    for name in sorted({*digests, *root.contents}):
        held(digests.get(name) == root.contents.get(name), f"The part `{name}` isn't what was sealed.")
    walk.did("parts", len(digests), "digests")
    held(len(capsule.trace) == root.lines, f"The trace has {len(capsule.trace)} lines; {root.lines} were sealed.")
    held(head(capsule.trace) == root.trace_head, "The trace's lines aren't those that were sealed.")
    walk.did("lines", root.lines, "hash chain")
    wrong = check(capsule.root, {key} if key else None)
    held(not wrong, wrong)
    walk.did("root", 1, "Ed25519")


def _place(walk: _Walk, capsule: CapsuleFile, roots: Sequence[SignedRoot]) -> None:
    wrong = gaps(roots)
    held(not wrong, wrong)
    seq = capsule.root.root.seq
    held(seq <= len(roots), f"Root {seq} is missing: the chain ends with {len(roots)}.")
    held(roots[seq - 1] == capsule.root, f"Root {seq} of the chain isn't this capsule's.")
    walk.did("roots", len(roots), "no gaps")


def _opened(walk: _Walk, capsule: CapsuleFile) -> Case | None:
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
    if pinned is None:
        walk.did("trace", len(lines), "the run wasn't admitted")
        return None
    return Case(capsule, histories, pinned, pinned.directory.joined(people), lines)


async def _derived(walk: _Walk, case: Case, catalog: Catalog) -> None:
    walk.did("pins", checks.pins(case), "prompt, policy, tools, release")
    walk.did("lines derived", *(await derived(case, catalog)))
    for what, derive, note in _ORDER:
        walk.did(what, derive(case), note)


_ORDER: tuple[tuple[str, Callable[[Case], int], str], ...] = (
    ("verdicts", checks.verdicts, "derived again"),
    ("facts", checks.facts, "as the history recorded them"),
    ("decisions", checks.decisions, "signatures, people, roles, times"),
    ("capabilities", checks.capabilities, ""),
    ("writes", checks.actions, "idempotency keys, digests"),
    ("amounts", checks.amounts, ""),
    ("limits", checks.limits, "calls, tokens, cost, attempts"),
    ("costs", checks.costs, "by their prices"),
    ("documents", checks.documents, "digests"),
)


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
