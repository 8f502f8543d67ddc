"""Tiers of a route as `agent.toml` writes them, and the models that they stand for. `docs/models.md` describes the form."""

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from activities.model_cards import UNKNOWN_OUTPUT_TOKENS, card_of, default_output_tokens
from policies.models import Frozen
from policies.routing import Effort, ModelChoice, Price

__all__ = ["MAX_TIERS", "VENDORS", "Tier", "pinned"]

MAX_TIERS = 4
VENDORS = ("openai", "anthropic", "google")
Vendor = Literal["openai", "anthropic", "google"]
_KEY_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_(API_KEY|KEY|TOKEN)")
_OURS = ("REMIT_", "STRIPE_", "TEMPORAL_", "AWS_", "OTEL_")
"""Variables with keys for other things than models: none of them is sent to a server that an agent's file names."""


class _Wishes(Frozen):
    """What a tier may say of its model.

    Attributes:
        max_output_tokens: the longest answer, reasoning included; by default what the model's card advises.
        effort: how much it should reason; by default what its vendor takes.
        price: of a model that the price table doesn't know.
        surcharge_percent: what the door to it bills above the price table.
        sent_as: the name under which its server knows it.
    """

    max_output_tokens: int | None = Field(default=None, ge=1)
    effort: Effort | None = None
    price: Price | None = None
    surcharge_percent: int = Field(default=0, ge=0, le=100)
    sent_as: str = ""


class VendorModel(_Wishes):
    """The model of a tier at one vendor: its name alone, or a table."""

    model: str


class Tier(_Wishes):
    """One tier of a route.

    It names a model for each vendor that workers may use, or a `provider` with one `model`, which then is used whatever the
    worker's own provider is, at a server of its own if it names a `base_url`. `scripted` needs neither.
    """

    openai: VendorModel | None = None
    anthropic: VendorModel | None = None
    google: VendorModel | None = None
    provider: Vendor | None = None
    model: str = ""
    base_url: str = ""
    key_variable: str = ""

    @field_validator(*VENDORS, mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return ({"model": value} if value else None) if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # Agents are told apart by the digest of this. A route in the short form keeps the digest that it always had, so that
        # no rollout takes its agent for another one because this code was deployed.
        found = {name: value for name, value in dump(self).items() if value}
        for name in VENDORS:
            if vendor := self._at(name):
                said = vendor.model_dump(mode="json", exclude_defaults=True)
                found[name] = vendor.model if set(said) == {"model"} else said
        return {"openai": "", "anthropic": "", **found}

    @property
    def problem(self) -> str:
        """What is wrong with it, to be read after its name; empty when it can be used."""
        vendors = [name for name in VENDORS if self._at(name)]
        if self.provider is None:
            alone = next((n for n in ("model", "base_url", "key_variable", "sent_as") if getattr(self, n)), "")
            if alone:
                return f"has `{alone}` and no `provider`; say whose API it is: {', '.join(f'`{v}`' for v in VENDORS)}"
            if not vendors:
                return "names no model; give `openai`, `anthropic` or `google`, or `provider` and `model`"
        elif vendors:
            return f"has a `provider` and `{vendors[0]}`; keep one of the two forms"
        elif not self.model:
            return "has a `provider` and no `model`"
        if self.base_url and not _is_url(self.base_url):
            return "has a `base_url` that can't be used; give http or https, a host and a path, and no password"
        if self.key_variable and not self.base_url:
            return "has a `key_variable` and no `base_url`; the keys of vendors are the worker's settings"
        if self.key_variable and not _KEY_VARIABLE.fullmatch(self.key_variable):
            return "has a `key_variable` whose name doesn't end with `_API_KEY`, `_KEY` or `_TOKEN`; rename the variable"
        if self.key_variable.startswith(_OURS):
            return f"would send `{self.key_variable}` to a model's server; give that server a key of its own"
        twice = [wishes for wishes in (self, self.openai, self.anthropic, self.google) if wishes]
        if any(wishes.price and wishes.surcharge_percent for wishes in twice):
            return "has a `price` and a `surcharge_percent`; a declared price is what is billed"
        return ""

    def choice(self, provider: str, unknown_output_tokens: int = UNKNOWN_OUTPUT_TOKENS) -> ModelChoice:
        """The tier's model for a worker whose provider is `provider`; one without a name, if it has none there.

        Args:
            unknown_output_tokens: the limit of a model of which nobody says how long its answers may be.
        """
        if self.provider:
            choice = self._chosen(self.provider, self.model, self)
            server = {"base_url": self.base_url, "key_variable": self.key_variable}
            return pinned(choice.model_copy(update=server), unknown_output_tokens)
        found = self._at(provider)
        if found is None:
            return ModelChoice(provider=provider, model="")
        return pinned(self._chosen(provider, found.model, found), unknown_output_tokens)

    def _at(self, vendor: str) -> VendorModel | None:
        return getattr(self, vendor) if vendor in VENDORS else None

    def _chosen(self, provider: str, model: str, said: _Wishes) -> ModelChoice:
        """What the vendor's own table says goes before what the tier says for all vendors."""
        return ModelChoice(
            provider=provider,
            model=model,
            price=said.price or self.price,
            max_output_tokens=said.max_output_tokens or self.max_output_tokens,
            effort=said.effort or self.effort,
            sent_as=said.sent_as or self.sent_as,
            surcharge_percent=said.surcharge_percent or self.surcharge_percent,
        )


def pinned(choice: ModelChoice, unknown_output_tokens: int = UNKNOWN_OUTPUT_TOKENS) -> ModelChoice:
    """`choice` with the limit of its answers, so that a later card doesn't change a run that is open."""
    card = card_of(choice.provider, choice.model)
    tokens = choice.max_output_tokens or default_output_tokens(card, choice.effort, unknown=unknown_output_tokens)
    return choice.model_copy(update={"max_output_tokens": tokens, "output_ceiling": card.output_tokens})


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    printable = text.isascii() and text.isprintable() and " " not in text
    bare = not (parts.username or parts.password or parts.query or parts.fragment)
    return printable and bare and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
