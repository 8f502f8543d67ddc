"""Sealed runs, found again: the root in the ledger, and the capsule in the sink."""

from activities.ledger import roots
from activities.ledger.rows import RootRow
from activities.ledger.store import existing
from policies.errors import Unavailable
from remit.proof.capsule import CapsuleFile
from remit.proof.sealing import Root, SignedRoot
from remit.proof.sink import Sink
from remit.settings import Settings

__all__ = ["capsule_at", "root_of", "signed"]


def root_of(settings: Settings, name: str) -> RootRow | None:
    """The newest root of the run with this workflow id or run id, from the ledger; None if there is none, or no ledger.

    Raises:
        InvalidInput: the ledger's URL can't be used.
    """
    try:
        with existing(settings.ledger) as ledger, ledger.reading() as connection:
            return roots.find(connection, name)
    except Unavailable:
        return None


def signed(row: RootRow) -> SignedRoot:
    """What the ledger keeps of a root, as it was signed."""
    return SignedRoot(
        root=Root.model_validate_json(row.root),
        digest=row.digest,
        key_id=row.key_id,
        public_key=row.public_key,
        signature=row.signature,
    )


async def capsule_at(settings: Settings, row: RootRow) -> CapsuleFile:
    """The capsule whose root `row` is.

    Raises:
        NotFound: it isn't in the sink any more.
        InvalidInput: the sink is of no kind that there is, or what is there isn't the capsule.
        Unavailable: the sink can't be read now.
    """
    return await Sink.of(settings).get(row.place)
