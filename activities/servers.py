"""Servers of models that a tier names by itself: their keys, from the variables that it names. Nothing is sent here."""

from collections.abc import Mapping

from policies.errors import MissingKey
from policies.routing import ModelChoice

__all__ = ["NO_KEY", "key_of"]

NO_KEY = "none"
"""What a server that asks for no key is sent, for the SDKs insist on one."""


def key_of(choice: ModelChoice, environ: Mapping[str, str]) -> str:
    """The key for the server that `choice` names.

    Raises:
        MissingKey: its variable isn't set here.
    """
    if not choice.key_variable:
        return NO_KEY
    key = environ.get(choice.key_variable, "").strip()
    if not key:
        raise MissingKey(
            f"The server of `{choice.model}` at {choice.base_url} wants a key, and `{choice.key_variable}` isn't set for this "
            "worker; set it."
        )
    return key
