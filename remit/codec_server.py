"""`remit codec-server`: decrypts for the Temporal UI and CLI, over Temporal's remote codec protocol.

Whoever may ask sees what runs work on: with an OIDC issuer, people with a good token; without one, this machine only.
"""

import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Self

import anyio.to_thread
import structlog
import uvicorn
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import PayloadCodec

from activities.ledger import people
from activities.ledger.store import existing
from activities.oidc import Issuer
from policies.errors import InvalidInput, LoginRefused, Unavailable
from policies.oidc import Expected, Login, key_id_of, verify_id_token
from remit import telemetry
from remit.codec import EncryptingCodec, KeyAwaited
from remit.codec_keys import CodecKeyFile
from remit.connection import dev_state, namespace
from remit.settings import Settings

__all__ = ["Readers", "application", "serve"]

Apply = Callable[[Sequence[Payload]], Awaitable[list[Payload]]]
LOOPBACK = ("127.0.0.1", "localhost")
HEADERS = ("authorization", "authorization-extras", "content-type", "x-namespace")
"""What the Temporal UI sends."""
FORBIDDEN = ("suspended", "wrong_role")
MAX_BODY_BYTES = 16 << 20
"""Four times what Temporal sends in one message."""


class Readers(AbstractContextManager["Readers", None]):
    """Who may read: the people whom the tenant's issuer vouches for, or those among them with one of some roles."""

    def __init__(self, settings: Settings, suspended: Callable[[], frozenset[str]]) -> None:
        """`suspended`: those who may not, whatever their token says.

        Raises:
            InvalidInput: there is no issuer, or its settings can't be used.
        """
        expected = settings.oidc
        if expected is None:
            raise InvalidInput("Without `REMIT_OIDC_ISSUER` nobody can be told from anybody.")
        audience = settings.codec_audience or expected.audience
        self._expected: Expected = expected.model_copy(update={"audience": audience})
        self._roles = frozenset(r.strip() for r in settings.codec_roles.split(",") if r.strip())
        self._issuer = Issuer(settings.oidc_issuer, settings.oidc_jwks_uri)
        self._suspended = suspended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._issuer.close()

    def __call__(self, token: str) -> Login:
        """Who holds `token`. Blocks while keys are fetched.

        Raises:
            LoginRefused: it proves nothing, or its owner may not read.
            Unavailable: the issuer, or the ledger, can't be reached.
        """
        keys = self._issuer.keys(key_id_of(token))
        login = verify_id_token(token, keys, self._expected, nonce=None, now=int(time.time()))
        if self._roles and not self._roles & {*login.roles}:
            raise LoginRefused("wrong_role", f"Reading takes one of the roles: {', '.join(sorted(self._roles))}.")
        if login.sub in self._suspended():
            raise LoginRefused("suspended", f"`{login.sub}` is suspended.")
        return login


def application(
    codec: PayloadCodec,
    *,
    namespace: str,
    origins: Sequence[str],
    readers: Readers | None,
    encodes: bool = True,
) -> Starlette:
    """The server's ASGI application.

    Args:
        namespace: the one whose payloads these keys are for.
        origins: of the web pages that may ask, the Temporal UI's.
        readers: who may ask; None for everybody who reaches this machine's loopback.
        encodes: whether `/encode` is there, with which the UI encrypts what people type.
    """
    log = structlog.get_logger("remit.codec")

    async def decode(request: Request) -> Response:
        return await answer(request, codec.decode)

    async def encode(request: Request) -> Response:
        return await answer(request, codec.encode)

    async def answer(request: Request, apply: Apply) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin not in origins:
            return _refused(403, "Pages of this origin may not ask; see `remit codec-server --ui-origin`.")
        if readers:
            try:
                await anyio.to_thread.run_sync(readers, _token(request))
            except LoginRefused as e:
                log.warning("refused", reason=e.reason)
                return _refused(403 if e.reason in FORBIDDEN else 401, e.message)
            except Unavailable as e:
                return _refused(503, e.message)
        if request.headers.get("x-namespace") != namespace:
            return _refused(404, f"These are the keys of the namespace `{namespace}`; name it in `X-Namespace`.")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                return _refused(413, f"The body is over {MAX_BODY_BYTES} bytes.")
        try:
            payloads = json_format.Parse(bytes(body), Payloads()).payloads
        except (json_format.ParseError, UnicodeDecodeError, RecursionError):
            return _refused(400, "The body must be Temporal's `Payloads`, as protobuf writes them in JSON.")
        found = Payloads()
        for payload in payloads:
            try:
                found.payloads.extend(await apply([payload]))
            except KeyAwaited as e:  # the others can be shown all the same
                log.warning("stays encrypted", reason=e.message)
                found.payloads.append(payload)
            except InvalidInput as e:
                log.error("no keys", reason=e.message)
                return _refused(503, "The codec server has no keys that it can use; its log says why.")
        return Response(json_format.MessageToJson(found, indent=None), media_type="application/json")

    return Starlette(
        routes=[
            Route("/decode", decode, methods=["POST"]),
            *([Route("/encode", encode, methods=["POST"])] if encodes else []),
        ],
        middleware=[
            # Without tokens, a page of anybody's whose name is made to lead to this machine must not pass for the UI.
            Middleware(TrustedHostMiddleware, allowed_hosts=["*"] if readers else [*LOOPBACK], www_redirect=False),
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["POST"], allow_headers=HEADERS),
        ],
    )


def _token(request: Request) -> str:
    """The ID token: the Temporal UI sends it beside the access token, others as the bearer token."""
    if extra := request.headers.get("authorization-extras"):
        return extra
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise LoginRefused("no_token", "Send an ID token of the tenant's issuer: `Authorization: Bearer ...`.")
    return token.strip()


def _refused(status: int, sentence: str) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return PlainTextResponse(sentence, status, headers)


def serve(settings: Settings, *, host: str, port: int, origins: Sequence[str], encodes: bool) -> None:
    """Answer until SIGINT or SIGTERM.

    Raises:
        InvalidInput: it would answer anybody, has no keys, or can't listen there.
    """
    if not settings.oidc_issuer:
        if settings.env == "production":
            raise InvalidInput("With `REMIT_ENV=production` the codec server needs `REMIT_OIDC_ISSUER`; see docs/privacy.md.")
        if host not in LOOPBACK:
            raise InvalidInput(
                f"Without `REMIT_OIDC_ISSUER` the codec server listens on {LOOPBACK[0]} only; leave out `--host`."
            )
    keys = CodecKeyFile(settings.codec_keys_path, env=settings.env)
    keys()
    found = origins or _dev_origins(settings)
    with ExitStack() as closing:
        suspended = _nobody
        if settings.ledger_url or (settings.home / "ledger.db").exists():
            ledger = closing.enter_context(existing(settings.ledger))
            suspended = partial(people.suspended, ledger)
        readers = closing.enter_context(Readers(settings, suspended)) if settings.oidc_issuer else None
        app = application(EncryptingCodec(keys), namespace=namespace(), origins=found, readers=readers, encodes=encodes)
        try:
            listening = closing.enter_context(socket.create_server((host, port)))
        except OSError as e:
            raise InvalidInput(f"The codec server can't listen on `{host}:{port}`: {os.strerror(e.errno or 0)}.") from None
        who = f"people of {settings.oidc_issuer}" if readers else "anybody on this machine"
        pages = f", and pages of {' and '.join(found)}" if found else ""
        print(f"Codec server: http://{host}:{listening.getsockname()[1]}, for {who}{pages}.", flush=True)
        telemetry.logs(settings.log_level)
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, _ended)
        uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False)).run(
            sockets=[listening]
        )


def _ended(*_: object) -> None:
    """A signal that uvicorn raises again, once it has ended because of it."""


def _nobody() -> frozenset[str]:
    return frozenset()


def _dev_origins(settings: Settings) -> list[str]:
    """The UI of a running `remit dev`, by both names of this machine."""
    ui = dev_state(settings).get("ui", "")
    return [ui, ui.replace("127.0.0.1", "localhost")] if ui else []
