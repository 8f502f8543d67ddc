"""Ports about whom a run is for: who that is, and what the business knows of them. The vendor says it, not a model."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Literal

from policies.models import Frozen
from tools.spec import Connector

__all__ = ["EveryRecord", "Personal", "PersonalDetail", "Subjects", "SubjectsByKind", "record"]


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


class PersonalDetail(Frozen):
    """One thing that the business knows of a subject.

    Attributes:
        kind: `address` is a whole one on one line; `street`, `city` and `postal_code` are its parts.
    """

    kind: Literal["name", "email", "phone", "address", "street", "city", "postal_code"]
    value: str


def record(
    *, name: str = "", email: str = "", phone: str = "", street: str = "", postal_code: str = "", city: str = ""
) -> tuple[PersonalDetail, ...]:
    """The details of one person or company; what is empty is left out. The whole address is made of its parts."""
    place = " ".join(filter(None, (postal_code.strip(), city.strip())))
    address = f"{street.strip()}, {place}" if street.strip() and place else ""
    found = [
        PersonalDetail(kind="name", value=name),
        PersonalDetail(kind="email", value=email),
        PersonalDetail(kind="phone", value=phone),
        PersonalDetail(kind="address", value=address),
        PersonalDetail(kind="street", value=street),
        PersonalDetail(kind="postal_code", value=postal_code),
        PersonalDetail(kind="city", value=city),
    ]
    return tuple(detail for detail in found if detail.value.strip())


class Personal(Connector):
    """Port to a system that holds personal data of subjects. An agent with `[privacy]` hides it from the model."""

    @abstractmethod
    async def known(self, subject: str) -> tuple[PersonalDetail, ...]:
        """What this system knows of `subject`, for example of `Customer:cus_101`; nothing when it doesn't know them."""


class EveryRecord(Personal):
    """Several systems that each know something of a subject: all of it counts."""

    def __init__(self, systems: Sequence[Personal]) -> None:
        self._systems = tuple(systems)

    async def known(self, subject: str) -> tuple[PersonalDetail, ...]:
        found = [detail for system in self._systems for detail in await system.known(subject)]
        return tuple(dict.fromkeys(found))
