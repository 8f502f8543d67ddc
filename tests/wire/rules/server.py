"""One server for the three vendors' APIs: it refuses what their rules refuse, and gives answers whose state must come back."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from remit.embedded import free_port

__all__ = ["Body", "Issued", "Rule", "RulesServer", "Say", "Vendor"]

Body = dict[str, Any]
TOKEN_BYTES = 4


@dataclass(frozen=True)
class Say:
    """What the model says in one answer: a text, and calls as pairs of a name and arguments."""

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()


@dataclass
class Issued:
    """What a vendor gave so far, to hold what comes back against.

    Attributes:
        count: of answers, for ids that are unique.
        items: by the signature, or the encrypted content, what it belongs to.
        prefixes: bodies that were read before, for the prompt cache.
    """

    count: int = 0
    items: dict[str, Any] = field(default_factory=dict[str, Any])
    prefixes: list[bytes] = field(default_factory=list[bytes])

    def cached(self, prompt: bytes) -> int:
        """How many tokens of `prompt` an earlier request had at its beginning."""
        longest = max((_common(prompt, before) for before in self.prefixes), default=0)
        self.prefixes.append(prompt)
        return longest // TOKEN_BYTES


Rule = Callable[[Body, Issued], str]
"""Says what is wrong with a body, in a few words; nothing when it keeps the rule."""


@dataclass(frozen=True)
class Vendor:
    """One API.

    Attributes:
        rules: in the order in which they are looked at.
        refuse: a 400 in the vendor's own form.
        answer: an answer in its form, with what it wants back.
    """

    rules: tuple[Rule, ...]
    refuse: Callable[[str], Body]
    answer: Callable[[Body, Say, Issued], Body]


class RulesServer:
    """Use it as an async context manager.

    Attributes:
        says: what the next answers say; the last one is repeated.
        broken: each refusal so far, as `rule: what`.
        bodies: what was sent.
    """

    def __init__(self, vendors: dict[str, Vendor]) -> None:
        self._vendors = vendors
        self._issued: dict[str, Issued] = {}
        self.says: list[Say] = []
        self.broken: list[str] = []
        self.bodies: list[Body] = []
        self.url = ""

    def judge(self, path: str, body: Body) -> str:
        """The first rule of the API at `path` that `body` breaks; empty when it keeps them all."""
        return next(
            (f"{rule.__name__}: {what}" for rule in self._at(path).rules if (what := rule(body, self.issued(path)))), ""
        )

    def issued(self, path: str) -> Issued:
        return self._issued.setdefault(self._start(path), Issued())

    def give(self, path: str, body: Body, say: Say) -> Body:
        """An answer of the API at `path` to `body`."""
        self.issued(path).count += 1
        return self._at(path).answer(body, say, self.issued(path))

    def _start(self, path: str) -> str:
        return next(start for start in self._vendors if path.startswith(start))

    def _at(self, path: str) -> Vendor:
        return self._vendors[self._start(path)]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        port = free_port()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        body: Body = json.loads(await request.read())
        if ":generateContent" in request.path:
            body["model"] = request.path.rpartition("/")[2].partition(":")[0]
        self.bodies.append(body)
        if what := self.judge(request.path, body):
            self.broken.append(what)
            return web.json_response(self._at(request.path).refuse(what), status=400)
        say = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        return web.json_response(self.give(request.path, body, say))


def _common(one: bytes, other: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
