"""`remit models`: the models of each route, what they cost, what they can do, and when they are gone. No server, no key."""

import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from activities.model_cards import ModelCard, card_of, warnings_of
from activities.prices import Rates, rates
from activities.providers.chat_body import is_openais
from activities.tiers import VENDORS
from policies.errors import NotFound, PriceUnknown
from policies.models import Frozen
from policies.routing import ModelChoice
from policies.value import usd
from remit import render
from remit.options import AppDir, AsJson
from remit.settings import Settings, load

if TYPE_CHECKING:
    from activities.library import AgentFile, Library

__all__ = ["RouteModel", "models", "route_warnings", "routes"]

WIDTH = 80
UNKNOWN = "unknown"
COLUMNS = "     {:<9} {:<22} {:>7} {:>7} {:>7} {:>7} {:>8}"


class RouteModel(Frozen):
    """One model of a route.

    Attributes:
        candidate: whether it is in the route of the agent's candidate, and not of the agent.
        prices: in micro-USD for a million tokens; None when they aren't known.
        warnings: what people should know before runs go there.
    """

    agent: str
    candidate: bool
    tier: int
    choice: ModelChoice
    card: ModelCard
    prices: Rates | None
    warnings: tuple[str, ...]


def models(
    agent: Annotated[str | None, typer.Option(help="Only this agent's.", show_default=False)] = None,
    as_json: AsJson = False,
    app_dir: AppDir = None,
) -> None:
    """List the models of each agent's route: price, context, limits, what they can do, and when they are shut down."""
    from remit.apps import assemble

    del app_dir
    settings = load()
    library = assemble(settings).library
    if agent is not None and agent not in library.names():
        raise NotFound(f"There is no agent `{agent[:80]}`; `remit agents` lists them.")
    found = [m for m in routes(library, settings, _today()) if agent in (None, m.agent)]
    if as_json:
        render.print_json([_as_json(m) for m in found])
        return
    for line in _lines(found, settings):
        print(line)


def routes(library: "Library", settings: Settings, today: date) -> list[RouteModel]:
    """The models of all agents and candidates, at each vendor that their routes name.

    Raises:
        AgentInvalid: an agent's file can't be used.
    """
    found: list[RouteModel] = []
    for name in library.names():
        found += _of(name, library.agent(name), settings, today)
        if candidate := library.candidate(name):
            found += _of(name, candidate, settings, today, candidate=True)
    return found


def route_warnings(found: Sequence[RouteModel]) -> list[str]:
    """Each warning once, with the agents that it is about."""
    about: dict[str, list[str]] = {}
    for model in found:
        for warning in model.warnings:
            about.setdefault(warning, []).append(f"{model.agent}{' (candidate)' if model.candidate else ''}")
    return [f"{warning} It is in the route of {', '.join(dict.fromkeys(agents))}." for warning, agents in about.items()]


def _of(name: str, agent: "AgentFile", settings: Settings, today: date, *, candidate: bool = False) -> Iterator[RouteModel]:
    for number, tier in enumerate(agent.route, 1):
        # A tier with a provider of its own is the same at each vendor.
        choices = dict.fromkeys(tier.choice(vendor, settings.max_output_tokens) for vendor in VENDORS)
        for choice in choices:
            if not choice.model:
                continue
            prices, warnings = _prices(choice), warnings_of(choice, today, compatible=_compatible(choice, settings))
            if prices is None:
                warnings.append(
                    f"The price of `{choice.model}` of `{choice.provider}` isn't known, so no run is admitted with it; "
                    "declare one."
                )
            yield RouteModel(
                agent=name,
                candidate=candidate,
                tier=number,
                choice=choice,
                card=card_of(choice.provider, choice.model),
                prices=prices,
                warnings=tuple(warnings),
            )


def _compatible(choice: ModelChoice, settings: Settings) -> bool:
    """Whether the worker's settings send calls of this provider to another server than the vendor's, by Chat Completions."""
    if choice.provider != "openai" or choice.base_url or settings.openai_api == "responses":
        return False
    url = settings.openai_base_url
    return settings.openai_api == "chat" or bool(url and not settings.openai_door and not is_openais(url))


def _prices(choice: ModelChoice) -> Rates | None:
    try:
        return rates(choice)
    except PriceUnknown:
        return None


def _today() -> date:
    return datetime.now(UTC).date()


# ---- how it is shown ----------------------------------------------------------------------------------------------


def _as_json(model: RouteModel) -> dict[str, object]:
    return {
        "agent": model.agent,
        "candidate": model.candidate,
        "tier": model.tier,
        **model.choice.model_dump(mode="json", exclude={"price"}),
        "prices": model.prices.model_dump(mode="json") if model.prices else None,
        "card": model.card.model_dump(mode="json", exclude={"provider", "model"}),
        "warnings": list(model.warnings),
    }


def _lines(found: Sequence[RouteModel], settings: Settings) -> Iterator[str]:
    """Agents with the same route together, two lines or more a model, in at most 80 columns."""
    by_agent: dict[str, list[RouteModel]] = {}
    for model in found:
        by_agent.setdefault(f"{model.agent}{' (candidate)' if model.candidate else ''}", []).append(model)
    alike: dict[tuple[tuple[int, ModelChoice], ...], list[str]] = {}
    for name, its in by_agent.items():
        alike.setdefault(tuple((m.tier, m.choice) for m in its), []).append(name)
    for names in alike.values():
        yield from textwrap.wrap(", ".join(names), WIDTH)
        yield COLUMNS.format("Provider", "Model", "In", "Out", "Cached", "Context", "Answer")
        for model in by_agent[names[0]]:
            yield from _model(model)
        yield ""
    if settings.model:
        yield from textwrap.wrap(
            f"Here, `REMIT_MODEL` puts `{settings.model}` in the place of the models at `{settings.model_provider}`.", WIDTH
        )
    yield from textwrap.wrap(
        "Dollars for a million tokens; cached: read from a prompt cache. Answer: the limit of one, and the model's own.", WIDTH
    )


def _model(model: RouteModel) -> Iterator[str]:
    choice, card, prices = model.choice, model.card, model.prices
    shown = [_dollars(p) for p in (prices.input, prices.output, prices.cache_read)] if prices else [UNKNOWN] * 3
    answer = f"{_short(choice.max_output_tokens)}{f'/{_short(card.output_tokens)}' if card.output_tokens else ''}"
    line = COLUMNS.format(choice.provider, choice.model, *shown, _short(card.context_tokens), answer)
    yield f"  {model.tier}{line[3:]}"
    yield from textwrap.wrap(_more(choice, card, prices), WIDTH, initial_indent=" " * 16, subsequent_indent=" " * 16)
    for warning in model.warnings:
        yield from textwrap.wrap(f"! {warning}", WIDTH, initial_indent=" " * 16, subsequent_indent=" " * 18)


def _more(choice: ModelChoice, card: ModelCard, prices: Rates | None) -> str:
    """What the model can do, and all that isn't in the columns."""
    parts = [
        {None: "tools unknown", "no": "no tools"}.get(card.tools, "tools"),
        {None: "strict unknown", True: "strict", False: "not strict"}[card.strict],
        {None: "thinking unknown", True: "thinks", False: "doesn't think"}[card.thinks],
        _efforts(choice, card),
        f"caches from {card.cache_minimum:,} tokens" if card.cache_minimum else "",
        f"dearer above {prices.long_from:,} tokens" if prices and prices.long_from else "",
        f"{choice.surcharge_percent} % surcharge" if choice.surcharge_percent else "",
        f"sent as {choice.sent_as}" if choice.sent_as else "",
        f"at {choice.base_url}" if choice.base_url else "",
        f"retires {card.retires}" if card.retires else "retirement unknown",
    ]
    return ", ".join(filter(None, parts))


def _efforts(choice: ModelChoice, card: ModelCard) -> str:
    if choice.effort:
        return f"effort {choice.effort}"
    if card.efforts is None:
        return "efforts unknown"
    if not card.efforts:
        return ""
    default = f", {card.default_effort} by default" if card.default_effort else ""
    return f"effort {card.efforts[0]} to {card.efforts[-1]}{default}"


def _dollars(micro_usd: int) -> str:
    return usd(micro_usd).rstrip("0").rstrip(".") if micro_usd % 10_000 else f"${micro_usd / 1_000_000:.2f}"


def _short(tokens: int | None) -> str:
    """`16k`, `1.05M`."""
    if tokens is None:
        return UNKNOWN
    return f"{tokens / 1_000_000:.3g}M" if tokens >= 1_000_000 else f"{tokens // 1_000}k" if tokens >= 10_000 else f"{tokens:,}"
