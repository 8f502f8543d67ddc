"""How a process finds the Temporal server, and one sentence when it can't."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from typing import Any, cast

from temporalio.api.common.v1 import Payload
from temporalio.client import Client, Plugin
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from activities.privacy.store import VaultStore
from activities.storage import Sealed, Storage, storage_at
from policies.errors import InvalidInput, StoredValueLost, Unavailable
from remit.codec import EncryptingCodec, Unreadable
from remit.codec_keys import CodecKeyFile
from remit.offload import INLINE, external_storage
from remit.run_cipher import KeyedRunCipher
from remit.settings import Settings
from workflows.messages import ENCRYPTED, LOST, RunSummary, TranscriptPage

__all__ = ["CONVERTER", "Converter", "connect", "converter", "dev_state", "namespace", "storage_of", "vaults_of"]


class Converter(PydanticPayloadConverter):
    """Pydantic's converter, except that an untyped value which can't be decoded comes out as its `RawValue`.

    The start input of a workflow is untyped. An error here would fail its task, not the workflow, again and again for ever;
    the workflow itself says what is wrong and fails.
    """

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """One value for each payload. Raises, for typed ones, as the base does.

        Raises:
            Unreadable: one is still encrypted. As a `RawValue` it may be had all the same: a signal must not stop its run.
            StoredValueLost: one isn't in external storage; as a `RawValue` it may be had, too.
        """
        for payload, hint in zip_longest(payloads, type_hints or []):
            if payload is not None and hint is not RawValue and payload.metadata.get("encoding") == ENCRYPTED:
                raise Unreadable(payload)
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


@cache
def _shared() -> Converter:
    """The one instance: the SDK asks for several a step, and each would build its type adapters anew."""
    return Converter()


CONVERTER = DataConverter(payload_converter_class=cast("type[Converter]", _shared))
"""For histories that hold everything themselves, and nothing encrypted."""


def converter(settings: Settings) -> DataConverter:
    """What every client, worker and replayer of Remit uses.

    Raises:
        InvalidInput: `REMIT_STORAGE` can't be used; or payloads are to be encrypted, and there is no key that can be used.
    """
    plain = replace(CONVERTER, external_storage=external_storage(settings.storage_place))
    if not settings.codec:
        return plain
    keys = CodecKeyFile(settings.codec_keys_path, env=settings.env)
    keys()  # none in production: say so now, not to the first run
    return replace(
        plain,
        payload_codec=EncryptingCodec(keys),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


def storage_of(settings: Settings) -> Storage:
    """Where values too large for history are, encrypted like payloads when those are.

    Raises:
        InvalidInput: the storage can't be used, or the codec's keys.
    """
    found = storage_at(settings.storage_place)
    codec = converter(settings).payload_codec
    return Sealed(found, codec.seal, codec.unseal) if isinstance(codec, EncryptingCodec) else found


def vaults_of(settings: Settings) -> VaultStore:
    """Where the placeholders of runs with `[privacy]` lie; encrypted whether the codec is on or not.

    Raises:
        InvalidInput: the storage can't be used.
    """
    cipher = KeyedRunCipher(CodecKeyFile(settings.codec_keys_path, env=settings.env))
    return VaultStore(storage_at(settings.storage_place), cipher)


def dev_state(settings: Settings) -> dict[str, str]:
    """What a running `remit dev` wrote: the server's address and the UI's; empty when there is none."""
    try:
        found = json.loads((settings.home / "dev.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in cast("dict[object, object]", found).items()} if isinstance(found, dict) else {}


def _profile() -> ClientConnectConfig:
    try:
        return ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError, OSError) as e:
        raise InvalidInput(f"The Temporal profile can't be read: {' '.join(str(e).split())[:200]}.") from None


def namespace() -> str:
    """The namespace of `TEMPORAL_NAMESPACE` or the Temporal profile.

    Raises:
        InvalidInput: the Temporal profile can't be read.
    """
    return _profile().get("namespace", "default")


async def connect(
    settings: Settings, plugins: list[Plugin] | None = None, *, token: str = "", runtime: Runtime | None = None
) -> Client:
    """A client for the server of `TEMPORAL_ADDRESS` or the Temporal profile, then of a running `remit dev`.

    Args:
        token: sent as bearer token with each call, instead of the profile's API key.
        runtime: that of the SDK, when metrics are on.

    Raises:
        InvalidInput: the Temporal profile can't be read, or the codec's keys.
        Unavailable: no server answers; nothing was sent.
    """
    config = _profile()
    address = config.get("target_host") or dev_state(settings).get("address", "127.0.0.1:7233")
    config["target_host"] = address
    if token:
        config["api_key"] = token
    data_converter = converter(settings)
    try:
        return await Client.connect(**config, data_converter=data_converter, plugins=plugins or [], runtime=runtime)
    except (RuntimeError, RPCError, OSError, ValueError):
        raise Unavailable(
            f"No Temporal server answers at `{address}`; start one with `remit dev`, or set `TEMPORAL_ADDRESS`."
        ) from None
