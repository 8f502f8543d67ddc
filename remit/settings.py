"""Settings from the environment, read once at each entry point. Secrets stay `SecretStr` until they are used."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from policies.errors import InvalidInput
from policies.oidc import Expected
from policies.routing import Price

__all__ = ["ROOT", "Settings", "Standalone", "load"]

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the built-in `agents/` and `policies/`."""


class Settings(BaseSettings):
    """What an operator can set.

    Attributes:
        app: a folder that adds agents, tools and bundles to what is built in.
        home: where the embedded parts keep their files.
        ledger_url: SQLAlchemy URL of the effect ledger; by default `ledger.db` in `home`.
        business: the sandbox business's SQLite file; by default `business.db` in `home`.
        storage: where values too large for history go: a folder, or `s3://bucket/prefix`; by default `storage` in `home`.
        root_keys: the file with the keys that sign capabilities; by default `root-keys.json` in `home`.
        traces: where the sealed traces of closed runs go: a folder, or `s3://bucket/prefix`; by default `traces` in `home`.
        trace_keys: the file with the keys that sign them; by default `trace-keys.json` in `home`.
        seal_seconds: how often to look for runs that closed, to seal their traces; 0 or `off`: none are sealed.
        review_roles: who may review tools, names with commas between them; by default everybody who has a role.
        deployment: the Worker Deployment of these workers, by default named like the task queue; `none`: they are unversioned.
        build_id: the version of these workers' code in it; by default a digest of what decides a run's commands.
        audience: the workers whose capabilities these are; by default the namespace and the task queue.
        capability_seconds: how long a capability lives.
        codec: whether payloads are encrypted (`on`); decrypted they are wherever it is on.
        codec_keys: the file with the keys that encrypt them; by default `codec-keys.json` in `home`.
        codec_audience: for whom tokens must be issued that the codec server takes; by default as `oidc_audience`.
        codec_roles: who may read with such a token, names with commas between them; by default everybody whom the issuer knows.
        provider: `openai`, `anthropic` or `google`; by default the one whose key is set.
        openai_door: the cloud through which OpenAI's models are reached, set up by its SDK's own variables; see
            `docs/providers/openai.md`. None is OpenAI itself, or `OPENAI_BASE_URL`.
        openai_api: which of OpenAI's APIs is called; by default Responses, and Chat Completions at `OPENAI_BASE_URL`.
        google_door: `vertex` reaches Google's models through Vertex AI, with Google Cloud's own credentials.
        google_project, google_location: whose and where Vertex AI is.
        connector_billing: where customers, invoices and refunds are: the sandbox business, or Stripe.
        stripe_invoices: whether an account has Stripe invoices, or an invoice stands for a charge.
        oidc_issuer, oidc_client_id, oidc_client_secret: the tenant's OIDC issuer, as its tokens name it, and our client there;
            the secret is a worker's, people's clients have none.
        oidc_audience: the client that people log in with, when a worker has one of its own; by default the client id.
        oidc_jwks_uri: where the issuer's keys are; by default what its discovery document says.
        oidc_subject_claim, oidc_roles_claim, oidc_roles: see `policies.oidc.Expected`; the roles as a JSON object.
        oidc_scope: what `remit login` asks for.
        oidc_redirect: where the browser comes back to; port 0 is a free one.
        login_hours: how long after a login its key may sign.
        temporal_auth: `oidc` for a Temporal server that wants a token of the client-credentials grant.
        temporal_audience, temporal_scope: sent with that grant, for issuers that need them.
        max_output_tokens: the limit of an answer of models of which nobody says how long their answers may be.
        fallback: whether a model call may go to another provider that there is a key for, when the route's first is down.
        openai_concurrency, anthropic_concurrency, google_concurrency: model calls that one worker has in flight there;
            None is no limit.
        anthropic_door: the cloud through which Claude is reached, set up by the SDK's own variables; see
            `docs/providers/anthropic.md`. None is Anthropic itself, or `ANTHROPIC_BASE_URL`.
        caps: a file with caps across runs, of the fleet and of agents; it is read again when it changes.
        openai_rpm, anthropic_rpm, google_rpm: model calls that one worker begins there in a minute; None is no limit.
        activity_slots, workflow_slots, local_activity_slots: what one worker works on at once.
        cached_runs: open runs that one worker keeps in memory; below the number of live runs, each step replays its run.
        metrics: where a worker has its metrics for Prometheus, `HOST:PORT`, or a port on loopback; nowhere when empty.
        otlp_endpoint: where spans go over OTLP, by OpenTelemetry's own variables; nowhere when empty.
        breaker_seconds: how often the anomaly breaker looks at the agents' figures.
        history_events: about how many events fill a run's history, so that the run goes on in a new one.
        redaction: a file with more rules about what mustn't be in a capsule, names and regular expressions.
        price_input_per_mtok, price_output_per_mtok: micro-USD for a million tokens of `model`.
    """

    model_config = SettingsConfigDict(env_prefix="REMIT_", extra="ignore", populate_by_name=True, env_ignore_empty=True)

    app: Path | None = None
    home: Path = Path(".remit")
    env: Literal["dev", "production"] = "dev"
    task_queue: str = "remit"
    deployment: str = Field(default="", max_length=200)
    build_id: str = Field(default="", pattern=r"^[A-Za-z0-9_.+-]{0,100}$")
    ledger_url: str = ""
    business: Path | None = None
    storage: str = ""
    root_keys: Path | None = None
    traces: str = ""
    trace_keys: Path | None = None
    seal_seconds: float = Field(default=2.0, ge=0, le=60)
    review_roles: str = ""
    audience: str = ""
    capability_seconds: int = Field(default=600, ge=30, le=86_400)
    codec: bool = False
    codec_keys: Path | None = None
    codec_audience: str = ""
    codec_roles: str = ""
    provider: Literal["", "openai", "anthropic", "google"] = ""
    model: str = ""
    model_strong: str = ""
    max_output_tokens: int = Field(default=4096, ge=1)
    fallback: Literal["on", "off"] = "on"
    caps: Path | None = None
    openai_concurrency: int | None = Field(default=None, ge=1)
    openai_rpm: int | None = Field(default=None, ge=1)
    anthropic_concurrency: int | None = Field(default=None, ge=1)
    anthropic_rpm: int | None = Field(default=None, ge=1)
    google_concurrency: int | None = Field(default=None, ge=1)
    google_rpm: int | None = Field(default=None, ge=1)
    openai_door: Literal["azure", "bedrock"] | None = None
    openai_api: Literal["responses", "chat"] | None = None
    google_door: Literal["gemini", "vertex"] = "gemini"
    activity_slots: int = Field(default=100, ge=1)
    workflow_slots: int = Field(default=100, ge=2)
    local_activity_slots: int = Field(default=100, ge=1)
    cached_runs: int = Field(default=2000, ge=1)
    breaker_seconds: int = Field(default=60, ge=1, le=3600)
    history_events: int = Field(default=6000, ge=80, le=20_000)
    redaction: Path | None = None
    price_input_per_mtok: int | None = Field(default=None, ge=0)
    price_output_per_mtok: int | None = Field(default=None, ge=0)
    connector_billing: Literal["sandbox", "stripe"] = "sandbox"
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret: SecretStr | None = None
    oidc_audience: str = ""
    oidc_jwks_uri: str = ""
    oidc_subject_claim: str = "email"
    oidc_roles_claim: str = "roles"
    oidc_roles: dict[str, str] = Field(default_factory=dict[str, str])
    oidc_scope: str = "openid profile email"
    oidc_redirect: str = "http://127.0.0.1:0/callback"
    login_hours: int = Field(default=12, ge=1, le=24 * 7)
    temporal_auth: Literal["", "oidc"] = ""
    temporal_audience: str = ""
    temporal_scope: str = ""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    shutdown_seconds: int = Field(default=30, ge=1)
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
    anthropic_api_key: SecretStr | None = Field(default=None, validation_alias="ANTHROPIC_API_KEY")
    anthropic_base_url: str | None = Field(default=None, validation_alias="ANTHROPIC_BASE_URL")
    google_api_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("GEMINI_API_KEY", "GOOGLE_API_KEY"))
    google_base_url: str | None = Field(default=None, validation_alias="GOOGLE_GEMINI_BASE_URL")
    google_project: str = Field(default="", validation_alias="GOOGLE_CLOUD_PROJECT")
    google_location: str = Field(default="global", validation_alias="GOOGLE_CLOUD_LOCATION")
    anthropic_door: Literal["bedrock", "vertex", "google_cloud", "foundry"] | None = None
    stripe_api_key: SecretStr | None = Field(default=None, validation_alias="STRIPE_API_KEY")
    stripe_api_base: str = Field(default="", validation_alias="STRIPE_API_BASE")
    stripe_invoices: Literal["invoices", "charges"] = Field(default="invoices", validation_alias="STRIPE_INVOICES")
    metrics: str = ""
    otlp_endpoint: str | None = Field(
        default=None, validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )

    @field_validator("app", mode="before")
    @classmethod
    def _no_app(cls, value: object) -> object:
        return value or None  # an empty variable is none, not the current folder

    @field_validator("seal_seconds", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return 0 if value == "off" else value

    @property
    def oidc(self) -> Expected | None:
        """What ID tokens of this tenant must say; None without an issuer.

        Raises:
            InvalidInput: there is an issuer, and no client to log in with.
        """
        if not self.oidc_issuer:
            return None
        audience = self.oidc_audience or self.oidc_client_id
        if not audience:
            raise InvalidInput("`REMIT_OIDC_ISSUER` is set, but not `REMIT_OIDC_CLIENT_ID`; see docs/identity.md.")
        return Expected(
            issuer=self.oidc_issuer,
            audience=audience,
            subject_claim=self.oidc_subject_claim,
            roles_claim=self.oidc_roles_claim,
            roles=self.oidc_roles,
        )

    @property
    def reviewing_roles(self) -> tuple[str, ...]:
        return tuple(filter(None, (role.strip() for role in self.review_roles.split(","))))

    @property
    def deployment_name(self) -> str:
        """The Worker Deployment; nothing for unversioned workers.

        Raises:
            InvalidInput: Temporal takes no such name.
        """
        name = self.deployment or self.task_queue
        if name == "none":
            return ""
        if "." in name or ":" in name:
            raise InvalidInput(f"`{name}` can't name a Worker Deployment, for it has `.` or `:` in it; set `REMIT_DEPLOYMENT`.")
        return name

    @property
    def ledger(self) -> str:
        return self.ledger_url or f"sqlite:///{(self.home / 'ledger.db').absolute()}"

    @property
    def business_path(self) -> Path:
        return self.business or self.home / "business.db"

    @property
    def storage_place(self) -> str:
        return self.storage or str((self.home / "storage").absolute())

    @property
    def root_keys_path(self) -> Path:
        return self.root_keys or self.home / "root-keys.json"

    @property
    def traces_place(self) -> str:
        return self.traces or str((self.home / "traces").absolute())

    @property
    def trace_keys_path(self) -> Path:
        return self.trace_keys or self.home / "trace-keys.json"

    @property
    def codec_keys_path(self) -> Path:
        return self.codec_keys or self.home / "codec-keys.json"

    @property
    def model_provider(self) -> str:
        """The provider to use, or nothing when there is no key. A compatible server on a base URL may need none."""
        return self.provider or next(iter(self._reachable), "")

    @property
    def model_fallbacks(self) -> tuple[str, ...]:
        """The other providers that there are keys for, unless calls may not go there."""
        return tuple(p for p in self._reachable if p != self.model_provider) if self.fallback == "on" else ()

    @property
    def model_providers(self) -> tuple[str, ...]:
        """All providers that there are keys for, and `provider`."""
        return tuple(dict.fromkeys(filter(None, (self.model_provider, *self._reachable))))

    @property
    def _reachable(self) -> tuple[str, ...]:
        found = {
            "openai": self.openai_api_key or self.openai_base_url or self.openai_door,
            "anthropic": self.anthropic_api_key or self.anthropic_base_url or self.anthropic_door,
            "google": self.google_api_key or self.google_base_url or self.google_door == "vertex",
        }
        return tuple(name for name, how in found.items() if how)

    @property
    def declared_price(self) -> Price | None:
        if self.price_input_per_mtok is None or self.price_output_per_mtok is None:
            return None
        return Price(input_per_mtok=self.price_input_per_mtok, output_per_mtok=self.price_output_per_mtok)


class Standalone(Settings):
    """Settings that nothing in the environment reaches: for the demo."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def load() -> Settings:
    """The settings of this process.

    Raises:
        InvalidInput: a variable has a value that can't be used.
    """
    try:
        return Settings()
    except SettingsError:
        raise InvalidInput(
            '`REMIT_OIDC_ROLES` can\'t be used: give a JSON object such as `{"their-role": "our-role"}`.'
        ) from None
    except ValidationError as e:
        field = str(e.errors()[0]["loc"][0])
        name = field if field.isupper() else f"REMIT_{field.upper()}"
        raise InvalidInput(f"`{name}` can't be used: {e.errors()[0]['msg']}.") from None
