"""What activities use of this package: begin at a run's admission, hide what its models are shown, restore what they say.

It fails closed: where the names of a run can't be had, nothing is sent to a model.
"""

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from temporalio.exceptions import ApplicationError

from activities.privacy.known import Fact, facts_of
from activities.privacy.names import Entry, Names, Written
from activities.privacy.recognizers import Recognizers, installed
from activities.privacy.store import VaultStore
from activities.privacy.veil import Hider
from policies.errors import InvalidInput, PlaceholdersLost, RemitError, Unavailable
from policies.privacy import PrivacyRules
from tools.spec import Connector
from tools.subjects import Personal
from workflows.messages import AssistantMessage, Capsule, Message

__all__ = ["NO_VEIL", "PrivacyDesk", "Veil", "begin_privacy", "veil_of"]

LOST = (
    "The placeholders of this run are gone from the storage, so nothing was sent to the model; restore `REMIT_STORAGE` from a "
    "backup, or start the run anew."
)


class Veil:
    """Stands between one model call and the model. This one, of a run without `[privacy]`, lets everything through."""

    async def hide(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages as the model is to see them."""
        return messages

    def hide_prompt(self, text: str) -> str:
        """The agent's own text, such as its prompt, as the model is to see it. Call it after `hide`."""
        return text

    async def restore(self, message: AssistantMessage) -> AssistantMessage:
        """The model's answer with the values in place of the placeholders."""
        return message


NO_VEIL = Veil()


class _RunVeil(Veil):
    def __init__(self, store: VaultStore, run_id: str, written: Written, recognizers: Recognizers) -> None:
        self._store = store
        self._run_id = run_id
        self._stored = written
        self._hider = Hider(Names(written), recognizers)

    async def hide(self, messages: Sequence[Message]) -> Sequence[Message]:
        found = await asyncio.to_thread(lambda: [self._hider.message(m) for m in messages])
        await self._keep()  # before anything is sent: an answer with a name that is lost could not be read
        return found

    def hide_prompt(self, text: str) -> str:
        return self._hider.certain(text)

    async def restore(self, message: AssistantMessage) -> AssistantMessage:
        found = await asyncio.to_thread(self._hider.restore, message)
        await self._keep()
        return found

    async def _keep(self) -> None:
        """Store what is new. An attempt that was given up may have stored something meanwhile: that stays."""
        if self._hider.names.written == self._stored:
            return
        with _told(final=False):
            found = await self._store.load(self._run_id)
            if found is None:
                raise PlaceholdersLost(LOST)
            if found != self._stored and not self._hider.names.merge(found):
                raise Unavailable("Another attempt of this model call has named other values; this one begins again.")
            written = self._hider.names.written
            await self._store.save(self._run_id, written)
            self._stored = written


class PrivacyDesk:
    """`[privacy]` on one worker."""

    def __init__(self, store: VaultStore, connectors: Mapping[type[Connector], Connector]) -> None:
        self._store = store
        self._connectors = connectors

    async def begin(self, run_id: str, subject: str) -> None:
        """Ask the business what it knows of the subject, and store it for the run; once, however often it is tried.

        Raises:
            ApplicationError: it can't be done; retryable when a later try may succeed.
        """
        with _told(final=True):
            if await self._store.load(run_id) is None:
                entries = [Entry(name=f.name, kind=f.kind, value=f.value, fact=f.name) for f in await self._facts(subject)]
                await self._store.save(run_id, Written(entries=tuple(entries)))

    async def _facts(self, subject: str) -> tuple[Fact, ...]:
        port = self._connectors.get(Personal)
        if not subject or not isinstance(port, Personal):
            return ()
        try:
            return facts_of(subject, await port.known(subject))
        except RemitError as e:
            raise Unavailable(f"What the business knows of the subject can't be read: {e.message}") from None
        except (OSError, TimeoutError) as e:
            raise Unavailable(f"What the business knows of the subject can't be read ({type(e).__name__}).") from None

    async def veil(self, capsule: Capsule) -> Veil:
        """The veil of the run that is pinned to `capsule`.

        Raises:
            ApplicationError: the run's placeholders can't be had. Nothing may be sent then.
        """
        if capsule.privacy is None:
            return NO_VEIL
        with _told(final=False):  # another worker may have what this one lacks
            recognizers = await asyncio.to_thread(Recognizers.of, capsule.privacy)
            written = await self._store.load(capsule.run_id)
            if written is None:
                raise PlaceholdersLost(LOST)
            return _RunVeil(self._store, capsule.run_id, written, recognizers)


async def begin_privacy(desk: PrivacyDesk | None, run_id: str, agent: str, subject: str, rules: PrivacyRules | None) -> None:
    """Prepare a run that is being admitted. Nothing without `[privacy]`.

    Raises:
        ApplicationError: this worker can't hide anything, or as `PrivacyDesk.begin`.
    """
    if rules is None:
        return
    if desk is None or not installed():
        raise ApplicationError(
            f"Agent `{agent}` has `[privacy]`, and this worker can't recognize personal data; run "
            "`pip install 'remit[privacy]'` for all workers.",
            type=InvalidInput.code,
            non_retryable=True,
        )
    await desk.begin(run_id, subject)


async def veil_of(desk: PrivacyDesk | None, capsule: Capsule) -> Veil:
    """The veil of the run that is pinned to `capsule`, at a worker that may have no desk.

    Raises:
        ApplicationError: the run has `[privacy]`, and its placeholders can't be had. Nothing may be sent then.
    """
    if desk is not None:
        return await desk.veil(capsule)
    if capsule.privacy is not None:
        raise ApplicationError(
            "This run hides personal data from models, and its placeholders aren't here, so no model is asked.",
            type=PlaceholdersLost.code,
            non_retryable=True,
        )
    return NO_VEIL


@contextmanager
def _told(*, final: bool) -> Generator[None]:
    """Errors as an activity fails with them. What is lost isn't tried again; nor what can't be used, if that is `final`."""
    try:
        yield
    except Unavailable as e:
        raise ApplicationError(e.message, type=e.code) from None
    except InvalidInput as e:
        raise ApplicationError(e.message, type=e.code, non_retryable=final) from None
    except RemitError as e:
        raise ApplicationError(e.message, type=e.code, non_retryable=True) from None
