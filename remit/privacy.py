"""`remit codec-keys`, `remit codec-server`: the keys that encrypt payloads, and who else may read what they encrypt."""

import time
from typing import Annotated

import typer

from policies.errors import InvalidInput
from remit import render
from remit.authority import seconds_of
from remit.codec_keys import CodecKey, CodecKeyFile
from remit.options import AsJson
from remit.settings import Settings, load

__all__ = ["codec_keys", "codec_server"]

codec_keys = typer.Typer(help="The keys that encrypt payloads.", invoke_without_command=True)


@codec_keys.callback()
def listed(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the codec keys, oldest first: which encrypts, which only decrypt."""
    if ctx.invoked_subcommand:
        return
    file = _file(load())
    found = file.list()
    current = file.current() if found else 0
    if as_json:
        render.print_json([k.model_dump(exclude={"key"}) | {"use": _use(k, current)} for k in found])
    elif found:
        rows = ((str(k.id), render.clock(k.created_at), render.clock(k.encrypts_from), _use(k, current)) for k in found)
        render.console().print(render.table("", ("Key", "Made", "Encrypts from", "Use"), rows))
    else:
        print("No codec keys yet; the first process with `REMIT_CODEC=on` makes one, or `remit codec-keys rotate`.")


@codec_keys.command()
def rotate(
    after: Annotated[
        str, typer.Option(help="In what time it encrypts, for example `1h`: until then, copy the file to where it is used.")
    ] = "",
    if_none: Annotated[bool, typer.Option("--if-none", help="Do nothing when there is a key already.")] = False,
) -> None:
    """Add a codec key, which encrypts from now on. Running processes take it up; the older ones still decrypt."""
    file = _file(load())
    if if_none and file.list():
        print(f"Codec key {file.current()} encrypts already.")
        return
    key = file.rotate(seconds_of(after, "--after") if after else 0)
    when = "from now on" if key.encrypts_from <= time.time() else f"from {render.clock(key.encrypts_from)} on"
    print(f"Codec key {key.id} encrypts {when}. Keep the older ones as long as anybody must read what they encrypted.")


@codec_keys.command()
def retire(
    key_id: Annotated[int, typer.Argument(metavar="KEY", help="As `remit codec-keys` lists it.", show_default=False)],
) -> None:
    """Destroy a codec key: what it encrypted can never be read again, and open runs that hold such payloads stand still."""
    _file(load()).retire(key_id)
    print(f"Codec key {key_id} is retired; what it encrypted can't be read any more.")


def codec_server(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; a free one by default.")] = 0,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    ui_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="The Temporal UI's origin, `https://temporal.example.com`; by default the UI of `remit dev`.",
            show_default=False,
        ),
    ] = None,
    decode_only: Annotated[bool, typer.Option("--decode-only", help="Don't encrypt what people type into the UI.")] = False,
) -> None:
    """Decrypt for the Temporal UI and CLI until Ctrl-C; with an OIDC issuer, for people with a token of it."""
    from remit.codec_server import serve

    for origin in ui_origin or ():
        if not origin.startswith(("https://", "http://")) or origin.count("/") != 2:
            raise InvalidInput(
                "`--ui-origin` is a scheme and a host, such as `https://temporal.example.com`, and nothing after."
            )
    serve(load(), host=host, port=port, origins=ui_origin or [], encodes=not decode_only)


def _file(settings: Settings) -> CodecKeyFile:
    return CodecKeyFile(settings.codec_keys_path, env=settings.env)


def _use(key: CodecKey, current: int) -> str:
    if not key.key:
        return "retired"
    return "encrypts" if key.id == current else "will encrypt" if key.id > current else "decrypts"
