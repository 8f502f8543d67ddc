"""What this worker remembers of runs: capsules and transcripts. A cache only; the workflow's own queries are the source."""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.segments import read_segment
from activities.storage import Storage
from policies.canonical import chain
from policies.errors import RemitError
from workflows.messages import Capsule, Message, RunSummary, ScriptTurn, Segment, TranscriptPage, Window
from workflows.state import parse_message
from workflows.window import shown

__all__ = ["PATIENCE", "Runs"]

T = TypeVar("T")
PATIENCE = (timedelta(seconds=4), timedelta(seconds=8), timedelta(seconds=16), timedelta(seconds=16))
"""For each try of a query: one that went to a frozen worker is never answered, and the next goes to another."""
MISMATCH = "The run's transcript isn't the one that this call names."


@dataclass
class _Run:
    capsule: Capsule | None = None
    script: tuple[ScriptTurn, ...] | None = None
    started: bool = False
    texts: list[str] = field(default_factory=list[str])
    heads: list[str] = field(default_factory=list[str])
    parsed: dict[int, Message] = field(default_factory=dict[int, Message])
    loose: dict[int, str] = field(default_factory=dict[int, str])
    size: int = 0

    def extend(self, text: str) -> None:
        self.heads.append(chain(self.heads[-1] if self.heads else "", text))
        self.texts.append(text)
        self.size += len(text)

    def message(self, index: int) -> Message:
        """Message `index`; parsed when it is shown, for a compacted conversation shows few of them."""
        found = self.parsed.get(index)
        if found is None:
            found = self.parsed[index] = parse_message(self.texts[index])
        return found

    def cut(self, length: int) -> None:
        for index in range(length, len(self.texts)):
            self.size -= len(self.texts[index])
            self.parsed.pop(index, None)
        del self.texts[length:], self.heads[length:]

    def take_loose(self, cursor: int) -> None:
        while len(self.texts) < cursor and len(self.texts) in self.loose:
            self.extend(self.loose.pop(len(self.texts)))

    def agrees(self, cursor: int, head: str) -> bool:
        return len(self.texts) >= cursor and (self.heads[cursor - 1] if cursor else "") == head


class Runs:
    """Capsules and transcripts of the runs that this worker touched last, by capsule digest."""

    def __init__(self, storage: Storage, limit: int = 1000, limit_characters: int = 256_000_000) -> None:
        """`storage`: where earlier parts of long runs lie."""
        self._storage = storage
        self._limit = limit
        self._limit_characters = limit_characters
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def _run(self, digest: str) -> _Run:
        run = self._runs.setdefault(digest, _Run())
        self._runs.move_to_end(digest)
        if len(self._runs) > self._limit:
            self._runs.popitem(last=False)
        return run

    def _shrink(self) -> None:
        """Forget the runs that were touched longest ago, but the last one, until the rest fits."""
        total = sum(run.size for run in self._runs.values())
        while total > self._limit_characters and len(self._runs) > 1:
            total -= self._runs.popitem(last=False)[1].size

    def admitted(self, capsule: Capsule) -> None:
        self._run(capsule.digest).capsule = capsule

    def wrote(self, digest: str, slot: int, text: str) -> None:
        """Remember message `slot`, which this worker made; it counts only once its place in the chain is confirmed."""
        self._run(digest).loose[slot] = text

    def known(self, digest: str) -> Capsule | None:
        """The capsule called `digest`, if this worker holds it."""
        run = self._runs.get(digest)
        return run.capsule if run else None

    async def capsule(self, digest: str) -> Capsule:
        """The capsule called `digest`, asked of the activity's own workflow if this worker doesn't hold it."""
        run = self._run(digest)
        capsule = run.capsule
        if capsule is None:
            capsule = await _ask("capsule", Capsule)
            if capsule.digest != digest:
                raise ApplicationError("The run's capsule isn't the one that this call names.", type="capsule_mismatch")
            run.capsule = capsule
        return capsule

    async def transcript(
        self, digest: str, cursor: int, head: str, *, scripted: bool, window: Window | None = None
    ) -> tuple[list[Message], tuple[ScriptTurn, ...] | None]:
        """What `window` shows of the first `cursor` messages, whose running digest must be `head`; and the run's script."""
        run = await self._confirmed(digest, cursor, head, scripted=scripted)
        return shown(window, cursor, run.message), run.script

    async def part(self, digest: str, cursor: int, head: str, since: int, until: int) -> tuple[list[str], str]:
        """The texts of some of those messages, and the running digest up to the last of them."""
        run = await self._confirmed(digest, cursor, head, scripted=False)
        return run.texts[since:until], run.heads[until - 1]

    async def summary(self) -> RunSummary:
        """What the activity's own workflow says of itself."""
        return await _ask("status", RunSummary)

    async def _confirmed(self, digest: str, cursor: int, head: str, *, scripted: bool) -> _Run:
        run = self._run(digest)
        run.take_loose(cursor)
        if not run.agrees(cursor, head) or (scripted and not run.started):
            # Another worker made some of it, or an attempt that was lost did: the workflow knows.
            await self._fetch(run, 0 if scripted and not run.started else min(len(run.texts), cursor), cursor)
            if not run.agrees(cursor, head):
                await self._fetch(run, 0, cursor)
            if not run.agrees(cursor, head):
                raise ApplicationError(MISMATCH, type="transcript_mismatch")
        self._shrink()
        run.loose = {slot: text for slot, text in run.loose.items() if slot >= cursor}
        return run

    async def _fetch(self, run: _Run, since: int, cursor: int) -> None:
        run.cut(since)
        while True:
            page = await _ask("transcript", TranscriptPage, len(run.texts))
            for segment in page.segments:
                await self._load(run, segment)
            if page.since == 0 and not page.segments:
                run.script, run.started = page.script, True
            for text in page.messages:
                run.extend(text)
            if len(run.texts) >= cursor or not page.messages:
                return run.cut(cursor)

    async def _load(self, run: _Run, segment: Segment) -> None:
        try:
            stored = await read_segment(self._storage, segment)
        except RemitError as e:
            raise ApplicationError(e.message, type=e.code) from None  # retried: a worker that has it may take it up
        run.cut(segment.since)
        for text in stored.messages:
            run.extend(text)
        if segment.since == 0:
            run.script, run.started = stored.script, True


async def _ask(name: str, kind: type[T], *args: int) -> T:
    """The answer of the activity's own workflow to a query."""
    info = activity.info()
    assert info.workflow_id
    workflow = activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
    for patience in PATIENCE[:-1]:
        try:
            return await workflow.query(name, args=args, result_type=kind, rpc_timeout=patience)
        except RPCError as e:
            if e.status not in (RPCStatusCode.CANCELLED, RPCStatusCode.DEADLINE_EXCEEDED):
                raise
    return await workflow.query(name, args=args, result_type=kind, rpc_timeout=PATIENCE[-1])
