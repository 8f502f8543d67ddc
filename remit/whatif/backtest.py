"""`remit backtest`: what another policy would have decided on every recorded action, and whether that may be."""

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from policies.bundle import Bundle
from policies.errors import NotFound, RemitError
from policies.models import Decision, Money
from remit import render
from remit.options import AppDir, AsJson
from remit.periods import since_of
from remit.settings import Settings, load
from remit.whatif.judging import COLUMNS, LISTED, Judge, Policy, Tally, judged

if TYPE_CHECKING:
    from activities.library import Library

__all__ = ["backtest", "policy_of", "tallied"]

ALONE_UNTIL = 20_000
"""Rows up to which one process is quicker than starting others."""
AHEAD = 3
"""Chunks that each process has before it, so that none waits for the database."""
SHOWN = 20
ASKED: tuple[Decision, ...] = ("allow", "require_approval")
WORDS: Mapping[Decision, str] = {"allow": "allowed", "require_approval": "put before people", "deny": "denied"}
Rows = Sequence[Sequence[object]]


def backtest(
    policy: Annotated[str, typer.Option(help="The new policy: a bundle's name, or its folder.", show_default=False)],
    since: Annotated[str, typer.Option(help="How far back: `30d`, `12h`, `4w`, or a UTC date.")] = "30d",
    agent: Annotated[str | None, typer.Option(help="Only actions of this agent.", show_default=False)] = None,
    as_json: AsJson = False,
    max_rejected_allowed: Annotated[
        int, typer.Option(min=0, help="How many actions that people rejected it may let through by itself.")
    ] = 0,
    max_edited_allowed: Annotated[
        int | None, typer.Option(min=0, help="How many actions that people edited it may let through as they were.")
    ] = None,
    max_newly_allowed: Annotated[int | None, typer.Option(min=0, help="How many denied ones it may allow.")] = None,
    max_newly_denied: Annotated[int | None, typer.Option(min=0, help="How many it may deny that weren't.")] = None,
    max_added_approvals: Annotated[int | None, typer.Option(min=0, help="How many more approvals it may ask for.")] = None,
    max_let_through: Annotated[
        int | None, typer.Option(min=0, help="Cents, in any one currency, that it may newly move.", metavar="CENTS")
    ] = None,
    max_held_back: Annotated[
        int | None, typer.Option(min=0, help="Cents, in any one currency, that it may hold back.", metavar="CENTS")
    ] = None,
    max_not_judged: Annotated[int, typer.Option(min=0, help="How many recorded actions it may be unable to judge.")] = 0,
    app_dir: AppDir = None,
) -> None:
    """Ask another policy about every recorded action. Ends with 1 when a limit is crossed, with 2 when it can't be asked."""
    del app_dir
    began = time.monotonic()
    try:
        wanted, found = _done(load(), policy, since, agent)
    except RemitError as e:
        print(f"remit: {e.message}", file=sys.stderr)
        raise typer.Exit(2) from None
    seconds = time.monotonic() - began
    crossed = _crossed(
        found,
        {
            "max-rejected-allowed": max_rejected_allowed,
            "max-edited-allowed": max_edited_allowed,
            "max-newly-allowed": max_newly_allowed,
            "max-newly-denied": max_newly_denied,
            "max-added-approvals": max_added_approvals,
            "max-let-through": max_let_through,
            "max-held-back": max_held_back,
            "max-not-judged": max_not_judged,
        },
    )
    if as_json:
        render.print_json(_as_json(wanted, since, found, crossed, seconds))
    else:
        _tell(wanted, since, found, crossed, seconds)
    raise typer.Exit(1 if crossed else 0)


def _done(settings: Settings, policy: str, since: str, agent: str | None) -> tuple[Policy, Tally]:
    """The policy that was tried, and what it makes of the recorded actions.

    Raises:
        RemitError: it can't be used, there is no such agent, or nothing was recorded.
    """
    from activities.ledger import decisions
    from activities.ledger.store import existing
    from remit.apps import assemble

    parts = assemble(settings)
    wanted = Policy(
        bundle=policy_of(parts.library, policy), schema_json=parts.catalog.cedar_schema, tools=frozenset(parts.catalog.specs)
    )
    after = int(since_of(since, time.time()) * 1000)
    with existing(settings.ledger) as ledger, ledger.reading() as connection:
        total = decisions.count(connection, after, agent)
        if total == 0:
            if agent is not None and agent not in parts.library.names():
                raise NotFound(f"There is no agent `{agent[:80]}`; `remit agents` lists them.")
            raise NotFound(
                f"Nothing was recorded{f' of `{agent}`' if agent else ''} since {since}, so there is nothing to judge."
            )
        chunks = decisions.stream(connection, after, agent, COLUMNS)
        return wanted, tallied(wanted, ([tuple(row) for row in chunk] for chunk in chunks), total)


def policy_of(library: "Library", name: str) -> Bundle:
    """The bundle called `name`, or in the folder `name`.

    Raises:
        PolicyInvalid: there is none, or it can't be used.
    """
    if name in library.bundles() or not Path(name).is_dir():
        return library.bundle(name)
    return library.bundle_in(Path(name))


def tallied(policy: Policy, chunks: Iterable[Rows], total: int, processes: int | None = None) -> Tally:
    """What `policy` makes of all `chunks`, however many there are: by one process, or by one for each core.

    Args:
        processes: how many; by default as many as there are cores, or one for few rows.
    """
    count = processes or (
        1 if total <= ALONE_UNTIL else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    )
    found = Tally()
    if count == 1:
        judge = Judge(policy)
        for chunk in chunks:
            found.add(judge.tally(chunk))
        return found
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _ignore_interrupts) as pool:
        for tally in _in_order(pool, policy, chunks, AHEAD * count):
            found.add(tally)
    return found


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends them


def _in_order(pool: ProcessPoolExecutor, policy: Policy, chunks: Iterable[Rows], ahead: int) -> Generator[Tally]:
    """The tally of each chunk. Only a few chunks are read ahead, so that memory holds no more of them."""
    asked: deque[Future[Tally]] = deque()
    for chunk in chunks:
        asked.append(pool.submit(judged, policy, chunk))
        if len(asked) >= ahead:
            yield asked.popleft().result()
    while asked:
        yield asked.popleft().result()


# ---- what is said of it -------------------------------------------------------------------------------------------


def _figures(found: Tally) -> dict[str, int]:
    """The counts that a limit can be set on, by its option; of money, the currency in which there is most."""
    return {
        "max-rejected-allowed": found.rejected_allowed,
        "max-edited-allowed": found.edited_allowed,
        "max-newly-allowed": found.count(("deny",), "allow"),
        "max-newly-denied": found.count(ASKED, "deny"),
        "max-added-approvals": found.added,
        "max-let-through": max(found.let_through.values(), default=0),
        "max-held-back": max(found.held_back.values(), default=0),
        "max-not-judged": found.not_judged.total(),
    }


def _crossed(found: Tally, limits: Mapping[str, int | None]) -> list[str]:
    """A sentence for each limit that is crossed."""
    figures = _figures(found)
    return [
        f"--{name} is {limit:,}, and it is {figures[name]:,}"
        for name, limit in limits.items()
        if limit is not None and figures[name] > limit
    ]


def _as_json(policy: Policy, since: str, found: Tally, crossed: Sequence[str], seconds: float) -> dict[str, object]:
    def ordered(counts: Counter[str]) -> dict[str, int]:
        return dict(counts.most_common())

    return {
        "policy": policy.bundle.version,
        "since": since,
        "actions": found.actions,
        "judged": found.judged,
        "against_people": [each.model_dump(mode="json") for each in found.against],
        "rejected_allowed": found.rejected_allowed,
        "edited_allowed": found.edited_allowed,
        "newly_allowed": found.count(("deny",), "allow"),
        "newly_denied": found.count(ASKED, "deny"),
        "added_approvals": found.added,
        "not_judged": found.not_judged.total(),
        "saved_approvals": found.saved,
        "changes": [{"was": was, "now": now, "actions": n} for (was, now), n in sorted(found.changes.items())],
        "by_tool": [{"tool": t, "was": was, "now": now, "actions": n} for (t, was, now), n in sorted(found.by_tool.items())],
        "newly_allowed_by": ordered(found.newly_allowed),
        "newly_denied_by": ordered(found.newly_denied),
        "cents": {
            "let_through": dict(found.let_through),
            "held_back": dict(found.held_back),
            "now_asked": dict(found.now_asked),
            "unattended": dict(found.unattended),
        },
        "not_asked": found.not_asked,
        "superseded": found.superseded,
        "not_judged_reasons": ordered(found.not_judged),
        "agents_without_permission": found.strangers,
        "drifted": found.drifted,
        "crossed": list(crossed),
        "seconds": round(seconds, 3),
    }


def _tell(policy: Policy, since: str, found: Tally, crossed: Sequence[str], seconds: float) -> None:
    out = render.console()
    _tell_against(found)
    out.print(f"[bold]{escape(policy.bundle.version)}[/] on the {found.actions:,} actions recorded since {escape(since)}:")
    fewer, more = found.count(("require_approval",), "allow"), found.count(("allow",), "require_approval")
    lines = [
        ("Rejected by people, allowed by itself", f"{found.rejected_allowed:,}", ""),
        ("Edited by people, allowed as they were", f"{found.edited_allowed:,}", ""),
        ("Newly allowed", f"{found.count(('deny',), 'allow'):,}", _most(found.newly_allowed)),
        ("Newly put before people, denied before", f"{found.count(('deny',), 'require_approval'):,}", ""),
        ("Newly denied", f"{found.count(ASKED, 'deny'):,}", _most(found.newly_denied)),
        ("Approvals saved", f"{found.saved:,}", f"{fewer:,} actions need nobody any more"),
        ("Approvals added", f"{found.added:,}", f"{more:,} actions need somebody now"),
        ("Money newly moved", _money(found.let_through), "by actions that weren't carried out"),
        ("Money held back", _money(found.held_back), "of actions that were carried out"),
        ("Money newly put before people", _money(found.now_asked), "that nobody was asked about"),
        ("Money no longer put before people", _money(found.unattended), "that people let through"),
        ("Decided as before", f"{sum(n for (was, now), n in found.changes.items() if was == now):,}", ""),
        ("Refused before any policy was asked", f"{found.not_asked:,}", ""),
        ("Judged anew before they were carried out", f"{found.superseded:,}", "the later judgement counts"),
        ("Not judged", f"{found.not_judged.total():,}", _most(found.not_judged)),
    ]
    out.print(render.table("", ("", "Actions", ""), [(a, b, escape(c)) for a, b, c in lines]))
    if found.by_tool:
        rows = ((escape(tool), WORDS[was], WORDS[now], f"{n:,}") for (tool, was, now), n in found.by_tool.most_common(SHOWN))
        out.print(render.table("", ("Tool", "Was", "Would be", "Actions"), rows))
    if found.strangers:
        whose = ", ".join(found.strangers)
        out.print(f"None of its policies permits anything that {whose} did; if it isn't for them, say `--agent`.", markup=False)
    if found.drifted:
        out.print(
            f"{found.drifted:,} actions were decided by this very policy and come out otherwise: the tools have changed since.",
            markup=False,
        )
    for sentence in crossed:
        out.print(f"[red]Limit crossed[/]: {sentence}.")
    out.print(f"{found.judged:,} judged in {seconds:.1f} s.", markup=False)


def _tell_against(found: Tally) -> None:
    """First of all: what people didn't want, and the new policy would have done."""
    out = render.console()
    for what, words in (("rejected", "People rejected these"), ("edited", "People changed these first")):
        listed = [each for each in found.against if each.what == what]
        if not listed:
            continue
        out.print(f"[bold red]{words}; the new policy would have let them through by itself[/]")
        rows = (
            (each.workflow_id, each.tool, each.resource, str(each.amount or ""), each.by, each.reason)
            for each in listed[:SHOWN]
        )
        out.print(render.table("", ("Run", "Tool", "On", "Amount", "By", "Why"), [tuple(map(escape, row)) for row in rows]))
        total = found.rejected_allowed if what == "rejected" else found.edited_allowed
        if total > SHOWN:
            out.print(f"and {total - min(SHOWN, len(listed)):,} more; `--json` lists {LISTED:,}.", markup=False)
        out.print()


def _most(counts: Counter[str]) -> str:
    return "; ".join(f"{name or 'no policy'} ({n:,})" for name, n in counts.most_common(3))


def _money(cents: Counter[str]) -> str:
    return ", ".join(str(Money(cents=n, currency=currency)) for currency, n in sorted(cents.items()) if n) or "nothing"
