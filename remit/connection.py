"""How a process finds the Temporal server, and one sentence when it can't."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from temporalio.api.common.v1 import Payload
from temporalio.client import Client, Plugin
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from policies.errors import InvalidInput, StoredValueLost, Unavailable
from remit.offload import INLINE, external_storage
from remit.settings import Settings
from workflows.messages import LOST, RunSummary, TranscriptPage

__all__ = ["CONVERTER", "Converter", "connect", "converter", "dev_state"]


class Converter(PydanticPayloadConverter):
    """Pydantic's converter, except that an untyped value which can't be decoded comes out as its `RawValue`.

    The start input of a workflow is untyped. An error here would fail its task, not the workflow, again and again for ever;
    the workflow itself says what is wrong and fails.
    """

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """One value for each payload. Raises, for typed ones, as the base does."""
        if not type_hints:
            return [self._value(payload) for payload in payloads]
        for payload, hint in zip(payloads, type_hints, strict=False):
            if payload.metadata.get("encoding") == LOST.encode() and hint is not RawValue:
                raise StoredValueLost(payload.data.decode())
        return super().from_payloads(payloads, type_hints)

    def to_payloads(self, values: Sequence[Any]) -> list[Payload]:
        payloads = super().to_payloads(values)
        for value, payload in zip(values, payloads, strict=True):
            if isinstance(value, (RunSummary, TranscriptPage)):
                payload.metadata[INLINE] = b"true"
        return payloads

    def _value(self, payload: Payload) -> Any:
        try:
            return super().from_payloads([payload])[0]
        except Exception:  # whatever a stranger's bytes provoke in any of the decoders
            return RawValue(payload)


CONVERTER = DataConverter(payload_converter_class=Converter)
"""Without external storage: for histories that hold everything themselves."""


def converter(settings: Settings) -> DataConverter:
    """What every client, worker and replayer of Remit uses.

    Raises:
        InvalidInput: `REMIT_STORAGE` can't be used.
    """
    return replace(CONVERTER, external_storage=external_storage(settings.storage_place))


def dev_state(settings: Settings) -> dict[str, str]:
    """What a running `remit dev` wrote: the server's address and the UI's; empty when there is none."""
    try:
        found = json.loads((settings.home / "dev.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in cast("dict[object, object]", found).items()} if isinstance(found, dict) else {}


async def connect(settings: Settings, plugins: list[Plugin] | None = None, *, token: str = "") -> Client:
    """A client for the server of `TEMPORAL_ADDRESS` or the Temporal profile, then of a running `remit dev`.

    Args:
        token: sent as bearer token with each call, instead of the profile's API key.

    Raises:
        InvalidInput: the Temporal profile can't be read.
        Unavailable: no server answers; nothing was sent.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError, OSError) as e:
        raise InvalidInput(f"The Temporal profile can't be read: {' '.join(str(e).split())[:200]}.") from None
    address = config.get("target_host") or dev_state(settings).get("address", "127.0.0.1:7233")
    config["target_host"] = address
    if token:
        config["api_key"] = token
    try:
        return await Client.connect(**config, data_converter=converter(settings), plugins=plugins or [])
    except (RuntimeError, RPCError, OSError, ValueError):
        raise Unavailable(
            f"No Temporal server answers at `{address}`; start one with `remit dev`, or set `TEMPORAL_ADDRESS`."
        ) from None
