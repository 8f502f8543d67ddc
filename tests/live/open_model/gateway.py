"""A relay between workers and a model server, which keeps what the server says that each answer took."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from aiohttp import web

__all__ = ["Adapt", "Gateway", "Served"]

Adapt = Callable[[dict[str, Any]], dict[str, Any]]
PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Served:
    """One request as the server answered it.

    Attributes:
        digest: `sha256:<hex>` of the body that the worker sent.
        input_tokens, output_tokens: the server's own count; 0 where it gave none.
        status: its HTTP status; 0 when the worker hung up before the answer.
    """

    digest: str
    status: int
    input_tokens: int
    output_tokens: int
    seconds: float


class Gateway:
    """Relays every POST to `target`, and its answer back byte for byte. Use it as an async context manager.

    Attributes:
        served: what was relayed, in the order of the answers.
        url: where it listens.
    """

    def __init__(self, target: str, adapt: Adapt | None = None) -> None:
        """`target`: the server's base URL, up to and including its `/v1`. `adapt`: makes of a request what this server takes;
        without it, requests too are relayed byte for byte."""
        self.target = target.rstrip("/")
        self._adapt = adapt
        self.served: list[Served] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/{path:.*}", self._relay)
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS))
        # With `handler_cancellation` a worker that gives up is noticed, and the server is let go.
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _relay(self, request: web.Request) -> web.Response:
        body, began = await request.read(), time.monotonic()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        headers = {name: request.headers[name] for name in ("content-type", "authorization") if name in request.headers}
        url = f"{self.target}/{request.match_info['path']}"
        try:
            async with self._session.post(url, data=self._adapted(body), headers=headers) as answer:
                said, status = await answer.read(), answer.status
        except asyncio.CancelledError:
            self.served.append(Served(digest, 0, 0, 0, time.monotonic() - began))
            raise
        except aiohttp.ClientError as e:  # the server is gone; what runs make of that is looked at too
            self.served.append(Served(digest, 502, 0, 0, time.monotonic() - began))
            return web.json_response(
                {"error": {"message": f"The model server doesn't answer: {type(e).__name__}."}}, status=502
            )
        usage = _usage(said)
        self.served.append(Served(digest, status, *usage, time.monotonic() - began))
        return web.Response(body=said, status=status, content_type="application/json")

    def _adapted(self, body: bytes) -> bytes:
        return json.dumps(self._adapt(json.loads(body))).encode() if self._adapt else body


def _usage(said: bytes) -> tuple[int, int]:
    try:
        found: Any = json.loads(said)
        return int(found["usage"]["prompt_tokens"]), int(found["usage"]["completion_tokens"])
    except (ValueError, KeyError, TypeError):
        return 0, 0
