"""The port that says whom a run is for: a ticket's customer, say, as the vendor knows it and not as a model claims."""

from abc import abstractmethod
from collections.abc import Collection

from tools.spec import Connector

__all__ = ["Subjects", "SubjectsByKind"]


class Subjects(Connector):
    @abstractmethod
    async def subject_of(self, kind: str, resource_id: str) -> str | None:
        """The subject behind a resource, for example `Customer:cus_101` for a ticket; None when it doesn't exist."""


class SubjectsByKind(Subjects):
    """`first` for the kinds that it knows, `other` for the rest: an app can't answer for a kind that isn't its own."""

    def __init__(self, first: Subjects, kinds: Collection[str], other: Subjects) -> None:
        self._first = first
        self._kinds = frozenset(kinds)
        self._other = other

    async def subject_of(self, kind: str, resource_id: str) -> str | None:
        port = self._first if kind in self._kinds else self._other
        return await port.subject_of(kind, resource_id)
