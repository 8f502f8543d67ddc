"""How an activity says that something is away for now, so that it is tried again."""

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError
from temporalio.exceptions import ApplicationError

__all__ = ["ledger_needed"]


@contextmanager
def ledger_needed() -> Generator[None]:
    """Fail, to be retried, when the ledger can't be reached. The driver's own text stays out of history."""
    try:
        yield
    except SQLAlchemyError as e:
        raise ApplicationError(f"The ledger can't be reached: {type(e).__name__}.", type="ledger_unavailable") from None
