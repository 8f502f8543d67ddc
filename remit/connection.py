"""How a process finds the Temporal server, and one sentence when it can't."""

import json

from temporalio.client import Client, Plugin
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from policies.errors import InvalidInput, Unavailable
from remit.settings import Settings

__all__ = ["connect", "dev_state"]


def dev_state(settings: Settings) -> dict[str, str]:
    """What a running `remit dev` wrote: the server's address and the UI's; empty when there is none."""
    try:
        found = json.loads((settings.home / "dev.json").read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


async def connect(settings: Settings, plugins: list[Plugin] | None = None) -> Client:
    """A client for the server of `TEMPORAL_ADDRESS` or the Temporal profile, then of a running `remit dev`.

    Raises:
        InvalidInput: the Temporal profile can't be read.
        Unavailable: no server answers; nothing was sent.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError, OSError) as e:
        raise InvalidInput(f"The Temporal profile can't be read: {' '.join(str(e).split())[:200]}.") from None
    if not config.get("target_host"):
        config["target_host"] = dev_state(settings).get("address", "127.0.0.1:7233")
    address = config["target_host"]
    try:
        return await Client.connect(**config, data_converter=pydantic_data_converter, plugins=plugins or [])
    except (RuntimeError, RPCError, OSError, ValueError):
        raise Unavailable(
            f"No Temporal server answers at `{address}`; start one with `remit dev`, or set `TEMPORAL_ADDRESS`."
        ) from None
