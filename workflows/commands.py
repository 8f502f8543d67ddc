"""What every command to the fleet and every answer to one have in common, whatever room it is for. Add optional fields only."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from policies.models import Frozen

__all__ = ["Answer", "By", "Command", "Reason", "Room"]

Room = Literal["switches", "breaker", "rollouts"]
Reason = Annotated[str, Field(min_length=1, max_length=500)]
By = Annotated[str, Field(max_length=200)]


class Command(Frozen):
    """Base of what `FleetControl` is told to do."""

    room: ClassVar[Room]


class Answer(Frozen):
    """Base of what came of a command.

    Attributes:
        refused: stable code, when it changed nothing; `message` is then the sentence.
    """

    refused: str = ""
    message: str = ""
