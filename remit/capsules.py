"""`remit capsule` and `remit verify`: take a run's proof along, and check it anywhere."""

import asyncio
import re
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from activities.ledger.rows import RootRow
from policies.errors import InvalidInput, NotFound
from remit import render
from remit.options import AsJson
from remit.proof.sealing import SignedRoot, key_id_of
from remit.proof.verify import Report
from remit.settings import Settings, Standalone, load

__all__ = ["capsule", "verify"]

PATIENCE_SECONDS = 5.0


def capsule(
    run: Annotated[str, typer.Argument(help="The run's workflow id, or its run id.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file: gzipped JSON, or plain if its name ends with `.json`.", metavar="F"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write all that a sealed run was into one file, redacted and signed, which `remit verify` can check anywhere."""
    from activities.ledger.store import existing
    from remit.proof.capsule import refusal, scan, with_tokens, written
    from remit.proof.keeping import redaction_rules
    from remit.proof.kept import capsule_at
    from remit.proof.redaction import Redactor

    settings = load()
    row = _sealed(settings, run)
    found = asyncio.run(capsule_at(settings, row))
    if found.root.digest != row.digest:
        raise InvalidInput(f"What is kept of `{run}` isn't what was sealed as #{row.seq}; `remit verify` says more.")
    known = frozenset(found.contents.redaction.known)
    if hits := scan(found.trace, found.contents, Redactor(b"", known, redaction_rules(settings))):
        raise InvalidInput(refusal(hits))
    with existing(settings.ledger) as ledger:
        tokens = {c.id: c.token for c in ledger.capabilities(row.run_id)}
    found = with_tokens(found, tokens, int(time.time()))
    file = output or Path(f"{re.sub(r'[^A-Za-z0-9._-]', '-', row.workflow_id)[:100]}.capsule.gz")
    data = written(found, plain_json=file.suffix == ".json")
    file.write_bytes(data)
    shown = sum(token is not None for token in found.tokens.values())
    about = {"file": str(file), "bytes": len(data), "seq": row.seq, "key": row.key_id, "reason": row.reason}
    if as_json:
        render.print_json({**about, "run_id": row.run_id, "tokens": shown, "redacted": found.contents.redaction.counts})
        return
    without = f", without a trace: {row.reason}" if row.reason else ""
    redacted = sum(found.contents.redaction.counts.values())
    print(f"{file}: run {row.workflow_id}, sealed as #{row.seq}{without}; {len(data):,} bytes, {redacted} redacted.")
    if shown < len(found.tokens):
        print(f"{len(found.tokens) - shown} capability tokens aren't in it, for they could still be used.")


def _sealed(settings: Settings, run: str) -> RootRow:
    """The root of the run; it is waited for a little, for a run is sealed right after it has closed.

    Raises:
        NotFound: it hasn't one.
    """
    from remit.proof.kept import root_of

    end = time.monotonic() + PATIENCE_SECONDS
    while (found := root_of(settings, run)) is None:
        if time.monotonic() > end:
            raise NotFound(f"`{run[:200]}` isn't sealed: a run is, soon after it has closed; `remit show` says how it stands.")
        time.sleep(0.2)
    return found


def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A capsule, or the roots that `remit roots` prints.", show_default=False)
    ],
    key: Annotated[
        str | None,
        typer.Option(
            help="The public key that must have signed it: in hex, its fingerprint, or a file with it.", show_default=False
        ),
    ] = None,
    roots: Annotated[
        Path | None, typer.Option(help="The namespace's roots: whether this one is in its place.", show_default=False)
    ] = None,
    app: Annotated[
        Path | None, typer.Option("--app", help="A folder that adds tools, with which the history is replayed.", metavar="DIR")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a capsule, offline: the seal, and all that can be derived again. Names the first thing that doesn't hold.

    Ends with 0 when all holds, 1 when something doesn't, 2 when it isn't a capsule, and 3 when all that can be derived again
    holds, but something couldn't be, because it was redacted or has changed since.
    """
    from remit.apps import assemble
    from remit.deployment import build_id
    from remit.proof.capsule import NotACapsule
    from remit.proof.verify import NOT_A_CAPSULE, is_roots, verify_roots
    from remit.proof.verify import verify as verified

    given = _key(key)
    chain = _roots(roots) if roots else None
    data = _bytes(file)
    try:
        if is_roots(data):
            found = verify_roots(_roots(file), key=given)
        else:
            settings = Standalone(app=app)  # nothing that is set where it is checked counts
            work = verified(data, assemble(settings).catalog, code=build_id(settings), key=given, roots=chain)
            found = asyncio.run(work)
    except NotACapsule as e:
        found = Report(failed=f"`{file}`: {e.message}")
        _print(found, as_json=as_json)
        raise typer.Exit(NOT_A_CAPSULE) from None
    _print(found, as_json=as_json)
    raise typer.Exit(found.exit_code)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        render.print_json({**report.model_dump(mode="json"), "verified": report.verified})
        return
    out = render.console()
    if report.checked:
        rows = [(c.what, f"{c.count:,}", escape(_harmless(c.note))) for c in report.checked]
        out.print(render.table("", ("Checked", "", ""), rows))
    if report.key:
        whose = "the one given" if report.given else "compare it with what the owner says, or give it with `--key`"
        out.print(f"Signed by {report.key}: {whose}.", markup=False)
    for person, print_ in report.deciders.items():
        out.print(_harmless(f"Decided by {person}, whose key is {print_}."), markup=False)
    for exception in report.exceptions:
        out.print(_harmless(f"Not derived again: {exception}."), markup=False)
    if report.failed:
        out.print(_harmless(f"does not hold: {report.failed}"), markup=False)
    else:
        out.print("verified" + (", but for what was not derived again" if report.exceptions else ""), markup=False)


def _harmless(sentence: str) -> str:
    """The sentence without what a terminal would take for commands: it may quote a capsule that a stranger made."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in sentence)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise InvalidInput(f"`{file}` can't be read: {e.strerror}.") from None


def _roots(file: Path) -> list[SignedRoot]:
    from remit.proof.verify import roots_of

    try:
        return roots_of(_bytes(file).decode(errors="replace"))
    except InvalidInput as e:
        raise type(e)(f"`{file}`: {e.message}") from None


def _key(given: str | None) -> str:
    """The fingerprint of the key that was given; empty for none."""
    if given is None:
        return ""
    text = given.strip()
    if Path(text).is_file():
        text = _bytes(Path(text)).decode(errors="replace").strip()
    if re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        return text
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return key_id_of(bytes.fromhex(text))
    raise InvalidInput("`--key` takes a public key of 64 hex digits, its fingerprint (`sha256:…`), or a file with one of them.")
