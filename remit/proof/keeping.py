"""What the keeper does for each run: from its histories to a signed capsule in the sink."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.failures import AWAY
from activities.keeping import Prepared
from activities.ledger import rollouts
from activities.ledger.rows import Capability, DecisionRow, RootRow, ToSeal
from activities.ledger.store import Ledger
from activities.privacy.names import Names
from activities.privacy.veil import found_by
from policies.errors import InvalidInput, PlaceholdersLost, Unavailable
from policies.rollout import Release
from remit.connection import CONVERTER, vaults_of
from remit.history import segments
from remit.keyring import RootKeys
from remit.proof.build import build
from remit.proof.capsule import Packed
from remit.proof.lines import Trace
from remit.proof.packing import decoded, pack, seal
from remit.proof.reading import capsule_of
from remit.proof.redaction import Redactor
from remit.proof.rules import BUILT_IN, Rule, rules_of
from remit.proof.sealing import Root
from remit.proof.sink import Sink
from remit.settings import Settings
from remit.trace_keys import TraceKey, TraceKeys
from tools.catalog import Catalog
from workflows.fleet_messages import control_queue
from workflows.keeper_messages import TRACE_KEEPER, keeper_id
from workflows.messages import Capsule

__all__ = ["GONE", "Preparer", "begin", "histories_of", "redaction_rules"]

T = TypeVar("T")
BUILD_SECONDS = 300
GONE = "Its history is gone: the namespace's retention was over, or somebody deleted it."
NO_SUCH = (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT)  # the latter for a run id that is no UUID
_LOG = structlog.get_logger("remit.keeper")
Judged = Callable[[Trace], Sequence[DecisionRow]]


@dataclass(frozen=True)
class _Made:
    """All that is sealed of a run, and its judgements."""

    packed: Packed
    rows: Sequence[DecisionRow]
    events: int
    agent: str
    reason: str


class Preparer:
    """Makes ready for sealing what `activities.keeping` found. Replays go on in a thread of their own, with its own loop."""

    def __init__(self, client: Client, ledger: Ledger, catalog: Catalog, settings: Settings, judged: Judged) -> None:
        """`judged`: the rows for the ledger that a trace holds.

        Raises:
            InvalidInput: a setting can't be used.
        """
        self._client = client
        self._ledger = ledger
        self._catalog = catalog
        self._keys = TraceKeys(settings.trace_keys_path, env=settings.env)
        self._root_keys = RootKeys(settings.root_keys_path, env=settings.env)
        self._rules = redaction_rules(settings)
        self._sink = Sink.of(settings)
        self._vaults = vaults_of(settings)
        self._judged = judged
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keeper")

    async def __call__(self, run: ToSeal, reason: str) -> Prepared | None:
        """See `activities.keeping.Prepare`."""
        histories = await histories_of(self._client, run.workflow_id, run.run_id)
        if histories is None:
            return None
        made = await self._apart(lambda: asyncio.run(self._made(run, histories, reason)))
        return Prepared(rows=made.rows, seal=lambda seq, previous: self._seal(run, made, seq, previous))

    async def _apart(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _made(self, run: ToSeal, histories: Sequence[WorkflowHistory], reason: str) -> _Made:
        """Raises:
        InvalidInput: it can't be traced. Not if there is a reason already: then whatever can be had of it is packed.
        """
        reason = str(Redactor(self._key().marks, rules=self._rules).redact(reason)) if histories else GONE
        try:
            async with asyncio.timeout(BUILD_SECONDS):
                return await self._whole(run, histories, reason)
        except (Unavailable, *AWAY):
            raise
        except Exception as e:
            if not reason:
                raise
            _LOG.warning("nothing of this run can be sealed but that it was", run_id=run.run_id, error=type(e).__name__)
        return _Made(self._packed((), None, (), None), (), _events(histories), run.agent, reason)

    async def _whole(self, run: ToSeal, histories: Sequence[WorkflowHistory], reason: str) -> _Made:
        plain = [await decoded(h, self._client.data_converter) for h in histories]
        trace = None if reason else await build(plain, CONVERTER)
        capsule = capsule_of(plain)
        with self._ledger.reading() as connection:
            release = rollouts.release(connection, capsule.release) if capsule else None
        names = await self._names(capsule)
        packed = self._packed(plain, trace, self._ledger.capabilities(run=run.run_id), release, names)
        agent = run.agent or (capsule.agent.name if capsule else trace.run.agent if trace else "")
        return _Made(packed, self._judged(trace) if trace else (), _events(histories), agent, reason)

    async def _names(self, capsule: Capsule | None) -> Names | None:
        """What models saw placeholders for in the run; None when it hid nothing.

        Raises:
            Unavailable: it can't be read now.
            PlaceholdersLost: it is gone, and nothing of the run's words may leave.
        """
        if capsule is None or capsule.privacy is None:
            return None
        written = await self._vaults.load(capsule.run_id)
        if written is None:
            raise PlaceholdersLost("The placeholders of this run are gone from the storage, so what it hid can't be told.")
        return Names(written)

    def _packed(
        self,
        histories: Sequence[WorkflowHistory],
        trace: Trace | None,
        capabilities: Sequence[Capability],
        release: Release | None,
        names: Names | None = None,
    ) -> Packed:
        marks = self._key().marks
        try:
            root_keys = {k.id: k.public for k in self._root_keys.list()}
        except InvalidInput as e:  # not the run's fault
            raise Unavailable(e.message) from None
        return pack(
            histories,
            trace.dicts() if trace else (),
            catalog=self._catalog,
            capabilities=capabilities,
            release=release,
            root_keys=root_keys,
            redactor=Redactor(marks, rules=self._rules, names=found_by(names) if names else None),
        )

    def _key(self) -> TraceKey:
        try:
            return self._keys.signing()
        except InvalidInput as e:  # not the run's fault
            raise Unavailable(e.message) from None

    async def _seal(self, run: ToSeal, made: _Made, seq: int, previous: str) -> RootRow:
        packed = made.packed
        root = Root(
            namespace=self._client.namespace,
            seq=seq,
            run_id=run.run_id,
            workflow_id=run.workflow_id,
            trace_head=packed.trace_head,
            lines=len(packed.trace),
            contents=packed.digests,
            previous=previous,
            sealed_at=int(time.time()),
            reason=made.reason,
        )
        private = bytes.fromhex(self._key().private)
        capsule = await self._apart(lambda: seal(packed, root, private))
        place = await self._sink.put(capsule)
        return RootRow(
            namespace=root.namespace,
            seq=seq,
            run_id=run.run_id,
            workflow_id=run.workflow_id,
            agent=made.agent,
            root=root.model_dump_json(),
            digest=capsule.root.digest,
            previous=previous,
            signature=capsule.root.signature,
            key_id=capsule.root.key_id,
            public_key=capsule.root.public_key,
            place=place,
            lines=root.lines,
            events=made.events,
            reason=made.reason,
            sealed_at=root.sealed_at * 1000,
        )


def _events(histories: Sequence[WorkflowHistory]) -> int:
    return sum(len(h.events) for h in histories)


async def histories_of(client: Client, workflow_id: str, run_id: str) -> list[WorkflowHistory] | None:
    """The histories of the run whose first one has this run id, oldest first; none when they are gone, None while it is open.

    Raises:
        Unavailable: the server doesn't answer.
    """
    try:
        last = await client.get_workflow_handle(workflow_id).describe()
        if last.raw_info.first_run_id == run_id:
            if last.status == WorkflowExecutionStatus.RUNNING:
                return None
            return await segments(client, workflow_id, last.run_id)
    except RPCError as e:
        if e.status not in NO_SUCH:
            raise Unavailable(f"The Temporal server refused: {' '.join(e.message.split())[:300]}") from None
    return await _of_earlier(client, workflow_id, run_id)


async def _of_earlier(client: Client, workflow_id: str, run_id: str) -> list[WorkflowHistory]:
    """As `histories_of`, of a run after which another one had its workflow id."""
    found: list[WorkflowHistory] = []
    while run_id:
        try:
            found.append(await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history())
        except RPCError as e:
            if e.status not in NO_SUCH:
                raise Unavailable(f"The Temporal server refused: {' '.join(e.message.split())[:300]}") from None
            break
        end = found[-1].events[-1].workflow_execution_continued_as_new_event_attributes
        run_id = end.new_execution_run_id
    return found


async def begin(client: Client, task_queue: str) -> None:
    """Start the `TraceKeeper` of these workers, unless it is there already: it goes on for ever."""
    with suppress(WorkflowAlreadyStartedError):
        await client.start_workflow(
            TRACE_KEEPER,
            id=keeper_id(task_queue),
            task_queue=control_queue(task_queue),
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary="Seals the traces of closed runs.",
        )


def redaction_rules(settings: Settings) -> tuple[Rule, ...]:
    """Those that are built in, and those of the file that `REMIT_REDACTION` names.

    Raises:
        InvalidInput: the file can't be used.
    """
    if settings.redaction is None:
        return BUILT_IN
    try:
        text = Path(settings.redaction).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidInput(f"`REMIT_REDACTION` is `{settings.redaction}`, which can't be read.") from None
    return (*BUILT_IN, *rules_of(text))
