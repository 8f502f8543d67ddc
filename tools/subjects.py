"""The port that says whom a run is for: a ticket's customer, say, as the vendor knows it and not as a model claims."""

from abc import abstractmethod

from tools.spec import Connector

__all__ = ["Subjects"]


class Subjects(Connector):
    @abstractmethod
    async def subject_of(self, kind: str, resource_id: str) -> str | None:
        """The subject behind a resource, for example `Customer:cus_101` for a ticket; None when it doesn't exist."""
