"""`call_model`: the one activity that talks to a language model."""

import time
from collections.abc import Mapping
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import prices
from activities.heartbeat import beating
from activities.providers.base import ModelProvider, ModelRequest, ProviderError, ToolOffer
from activities.runs import Runs
from policies.errors import RemitError
from tools.catalog import Catalog
from tools.results import READ_MORE
from workflows.messages import FINAL_ANSWER, CallModel, Capsule, FinalAnswer, ModelTurn

__all__ = ["ModelActivities"]

_FINAL_OFFER = ToolOffer(
    name=FINAL_ANSWER,
    description="End the task. Call this alone, once nothing is left to do.",
    parameters=FinalAnswer.model_json_schema(),
)


class ModelActivities:
    """Model calls through the providers that this worker has keys for."""

    def __init__(self, runs: Runs, providers: Mapping[str, ModelProvider], catalog: Catalog) -> None:
        self._runs = runs
        self._providers = providers
        self._catalog = catalog

    def _offers(self, capsule: Capsule, *, paging: bool) -> tuple[ToolOffer, ...]:
        """The tools that the run may propose: none that writes for an agent in `read_only` mode."""
        specs = [self._catalog.get(t.name) for t in capsule.tools if paging or t.name != READ_MORE]
        shown = [s for s in specs if s.effect == "read" or capsule.agent.mode != "read_only"]
        return (*(ToolOffer(name=s.name, description=s.description, parameters=s.schema) for s in shown), _FINAL_OFFER)

    @activity.defn(name="call_model")
    async def call_model(self, call: CallModel) -> ModelTurn:
        """The model's next message, with what it cost. Retried by Temporal only; the SDKs' own retries are off."""
        async with beating():
            capsule = await self._runs.capsule(call.capsule)
            choice = capsule.route.choose(call.tier)
            provider = self._providers.get(choice.provider)
            if provider is None:
                raise ApplicationError(
                    f"This worker has no key for `{choice.provider}`.", type="missing_key", non_retryable=True
                )
            messages, script = await self._runs.transcript(
                call.capsule, call.cursor, call.transcript, scripted=choice.provider == "scripted"
            )
            started = time.monotonic()
            try:
                completion = await provider.complete(
                    ModelRequest(
                        model=choice.model,
                        system=capsule.prompt,
                        tools=self._offers(capsule, paging=call.paging),
                        messages=messages,
                        script=script,
                    )
                )
                micro_usd, price_digest = prices.cost(choice, completion.usage)
            except ProviderError as e:
                delay = timedelta(seconds=e.retry_after_s) if e.retry_after_s is not None else None
                raise ApplicationError(e.message, type=e.code, non_retryable=not e.retryable, next_retry_delay=delay) from None
            except RemitError as e:
                raise ApplicationError(e.message, type=e.code, non_retryable=True) from None
        self._runs.wrote(call.capsule, call.cursor, completion.message.model_dump_json())
        return ModelTurn(
            message=completion.message,
            usage=completion.usage,
            provider=choice.provider,
            model=choice.model,
            cost_micro_usd=micro_usd,
            price_digest=price_digest,
            request_digest=completion.request_digest,
            latency_ms=int((time.monotonic() - started) * 1000),
        )
