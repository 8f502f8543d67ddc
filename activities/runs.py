"""What this worker remembers of runs: capsules and transcripts. A cache only; the workflow's own queries are the source."""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from policies.canonical import chain
from workflows.messages import Capsule, Message, ScriptTurn, TranscriptPage
from workflows.state import parse_message

__all__ = ["Runs"]

T = TypeVar("T")
PATIENCE = (timedelta(seconds=4), timedelta(seconds=8), timedelta(seconds=16), timedelta(seconds=16))
"""For each try of a query: one that went to a frozen worker is never answered, and the next goes to another."""


@dataclass
class _Run:
    capsule: Capsule | None = None
    script: tuple[ScriptTurn, ...] | None = None
    started: bool = False
    texts: list[str] = field(default_factory=list[str])
    heads: list[str] = field(default_factory=list[str])
    messages: list[Message] = field(default_factory=list[Message])
    loose: dict[int, str] = field(default_factory=dict[int, str])

    def extend(self, text: str) -> None:
        self.heads.append(chain(self.heads[-1] if self.heads else "", text))
        self.texts.append(text)
        self.messages.append(parse_message(text))

    def cut(self, length: int) -> None:
        del self.texts[length:], self.heads[length:], self.messages[length:]

    def take_loose(self, cursor: int) -> None:
        while len(self.texts) < cursor and len(self.texts) in self.loose:
            self.extend(self.loose.pop(len(self.texts)))

    def agrees(self, cursor: int, head: str) -> bool:
        return len(self.texts) >= cursor and (self.heads[cursor - 1] if cursor else "") == head


class Runs:
    """Capsules and transcripts of the runs that this worker touched last, by capsule digest."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def _run(self, digest: str) -> _Run:
        run = self._runs.setdefault(digest, _Run())
        self._runs.move_to_end(digest)
        while len(self._runs) > self._limit:
            self._runs.popitem(last=False)
        return run

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
        self, digest: str, cursor: int, head: str, *, scripted: bool
    ) -> tuple[list[Message], tuple[ScriptTurn, ...] | None]:
        """The first `cursor` messages, whose running digest must be `head`, and the run's script if it has one."""
        run = self._run(digest)
        run.take_loose(cursor)
        if not run.agrees(cursor, head) or (scripted and not run.started):
            # Another worker made some of it, or an attempt that was lost did: the workflow knows.
            await self._fetch(run, 0 if scripted and not run.started else min(len(run.texts), cursor), cursor)
            if not run.agrees(cursor, head):
                await self._fetch(run, 0, cursor)
            if not run.agrees(cursor, head):
                raise ApplicationError("The run's transcript isn't the one that this call names.", type="transcript_mismatch")
        run.loose = {slot: text for slot, text in run.loose.items() if slot >= cursor}
        return run.messages[:cursor], run.script

    async def _fetch(self, run: _Run, since: int, cursor: int) -> None:
        run.cut(since)
        while True:
            page = await _ask("transcript", TranscriptPage, len(run.texts))
            if page.since == 0:
                run.script, run.started = page.script, True
            for text in page.messages:
                run.extend(text)
            if len(run.texts) >= cursor or not page.messages:
                return run.cut(cursor)


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
