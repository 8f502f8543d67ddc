"""How tools stand with their reviewers, for commands: by the ledger, and by what came with the release."""

from collections.abc import Callable, Sequence

from activities.reviews import Reviews
from policies.capability import Keyring
from policies.errors import RemitError
from policies.identity import Directory
from policies.models import AutonomyMode
from policies.reviews import Kept, Review
from remit.apps import Parts
from remit.connection import namespace
from remit.directory import LiveDirectory
from remit.keyring import RootKeys
from remit.settings import Settings

__all__ = ["Board", "audience", "board"]


class Board:
    """The tools that write, and how each stands.

    Attributes:
        reviews: by tool.
        why: what keeps the ledger from saying anything; empty when it does.
    """

    def __init__(self, parts: Parts, found: Reviews, rows: Sequence[Kept] = (), why: str = "") -> None:
        self._library = parts.library
        self._found = found
        self.described = found.described
        self.reviews = found.look(rows, [*found.described])
        self.why = why

    def held_back(self, agent: str, mode: AutonomyMode) -> list[Review]:
        """The tools that `agent` has in its file and doesn't get, in that mode."""
        tools = self._library.agent(agent).tools if mode == "live" else ()
        mine = [self.reviews[name] for name in tools if name in self.reviews]
        return [review for review in mine if self._found.withholds(review)]

    def unreviewed(self) -> list[tuple[str, Review]]:
        """Every tool of an agent in `live` mode that writes and isn't as somebody reviewed it, with the agent."""
        live = [a for a in map(self._library.agent, self._library.names()) if a.mode == "live"]
        mine = [(a.name, self.reviews[tool]) for a in live for tool in a.tools if tool in self.reviews]
        return [(agent, review) for agent, review in mine if review.state != "reviewed"]


def audience(settings: Settings) -> str:
    """The workers that a review is signed for, as `remit.fleet.audience` says it with a client."""
    return settings.audience or f"{namespace()}/{settings.task_queue}"


def board(settings: Settings, parts: Parts, *, lenient: bool = False) -> Board:
    """How all tools that write stand here. A ledger that was never made has no reviews, as in a checkout in CI.

    Args:
        lenient: say why the ledger can't be read, instead of raising.

    Raises:
        Unavailable: there is a ledger, and it can't be read, or a review in it can't be verified now.
    """
    from activities.ledger import reviews
    from activities.ledger.store import existing

    local = settings.home / "ledger.db"
    if not settings.ledger_url and not local.exists():
        return Board(parts, _reviews(settings, parts, Directory), why=f"There is no ledger at `{local}` yet.")
    try:
        with existing(settings.ledger) as ledger, LiveDirectory(settings, ledger) as directory:
            found = _reviews(settings, parts, directory)
            with ledger.reading() as connection:
                rows = reviews.of(connection, [*found.described])
            return Board(parts, found, rows)
    except RemitError as e:
        if not lenient:
            raise
        return Board(parts, _reviews(settings, parts, Directory), why=e.message)


def _reviews(settings: Settings, parts: Parts, directory: Callable[[], Directory]) -> Reviews:
    keys = RootKeys(settings.root_keys_path, env=settings.env)

    def known() -> Keyring:  # a command makes no key, and needs none to sign with
        return Keyring({}, {k.id: bytes.fromhex(k.public) for k in keys.list()})

    return Reviews(
        parts.catalog,
        parts.reviewed,
        directory,
        known,
        audience=audience(settings),
        roles=settings.reviewing_roles,
        agents=parts.library.identities(),
        strict=settings.env == "production",
    )
