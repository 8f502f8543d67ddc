"""What the wire tests share: requests, connected providers, and a server for the answers that aimock can't give."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from activities.providers.anthropic import AnthropicProvider
from activities.providers.base import ModelRequest, ToolOffer
from activities.providers.openai import OpenAIProvider
from workflows.messages import Message, UserMessage

__all__ = ["KEY", "CannedServer", "Provider", "ProviderName", "ask", "provider_at"]

KEY = "test-key"
Provider = OpenAIProvider | AnthropicProvider
ProviderName = Literal["openai", "anthropic"]

JSON = {"content-type": "application/json", "connection": "close"}
WEATHER = ToolOffer(
    name="weather",
    description="The weather of a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


def ask(model: str, *messages: Message, system: str = "Be brief.", timeout_s: float = 20.0) -> ModelRequest:
    said: Sequence[Message] = messages or (UserMessage(text="What is the weather like?"),)
    return ModelRequest(model=model, system=system, tools=(WEATHER,), messages=said, timeout_s=timeout_s)


def provider_at(name: ProviderName, url: str, key: str = KEY) -> Provider:
    return OpenAIProvider(key, f"{url}/v1") if name == "openai" else AnthropicProvider(key, url)


class CannedServer:
    """Gives one answer to every request and remembers heads and bodies. Use it as an async context manager.

    Attributes:
        mode: `answer` at once, `hang` after the request was read, or `dribble` an endless body.
        received: set when a request was read.
        closed: set when the client closed a connection that hung or dribbled.
    """

    def __init__(self) -> None:
        self.mode: Literal["answer", "hang", "dribble"] = "answer"
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        self.received = asyncio.Event()
        self.closed = asyncio.Event()
        self.url = ""
        self._status = 200
        self._headers: dict[str, str] = {}
        self._body = b""
        self._first: list[Mapping[str, object] | tuple[int, object]] = []

    def begin(self, *bodies: Mapping[str, object] | tuple[int, object]) -> None:
        """Give these answers to the first requests, one each, as 200 unless it is a pair of status and answer."""
        self._first = [*bodies]

    def answer(self, body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Set the answer: bytes as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._status, self._body = status, raw
        self._headers = JSON | dict(headers or {})

    @property
    def sent(self) -> dict[str, Any]:
        """The last request's body, parsed."""
        return json.loads(self.bodies[-1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.bodies.append(await reader.readexactly(length))
            self.heads.append(head.decode("latin-1"))
            self.received.set()
            if self.mode == "hang":
                await reader.read()
                self.closed.set()
            elif self.mode == "dribble":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n")
                while not reader.at_eof():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.01)
                self.closed.set()
            else:
                status, given, body = self._status, self._headers, self._body
                if self._first:
                    first = self._first.pop(0)
                    status, said = first if isinstance(first, tuple) else (200, first)
                    given, body = JSON, json.dumps(said).encode()
                fields = {**given, "content-length": str(len(body))}
                lines = [f"HTTP/1.1 {status} Canned", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
                writer.write("\r\n".join(lines).encode() + body)
                await writer.drain()
        except ConnectionError:
            self.closed.set()
        finally:
            writer.close()
