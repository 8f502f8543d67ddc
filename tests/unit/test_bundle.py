"""A policy bundle is refused with one sentence unless it parses, validates against the tools, and says what it means."""

from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.bundle import Bundle, CompiledPolicy, compile_policy
from policies.errors import PolicyInvalid
from policies.models import Obligation, UsageLimits
from tests.builders import bundle
from tools.builtin import CATALOG


def made(policy: str = "", limits: str = "") -> Bundle:
    return Bundle(name="b", policy=policy, limits_toml=limits)


def forbid(obligation: str) -> str:
    return f'@id("a") @obligation("{obligation}") forbid (principal, action, resource);'


@dataclass(frozen=True)
class Wrong:
    name: str
    text: str
    message: str


REFUND = 'permit (principal, action == Remit::Action::"request_refund", resource)'
NO_ID = "Bundle `b`: each policy needs an `@id` of its own; `{}` has none or shares it."
NO_OBLIGATION = "Bundle `b`: `a` has the unknown obligation `{}`; use `approval:N`, `route:strong` or `assurance:N`."
INVALID = "Bundle `b`: policy `a`: {}."

POLICIES = (
    Wrong("doesn't parse", "permit (", "Bundle `b`: `policy.cedar` doesn't parse: unexpected end of input."),
    Wrong("no id", "permit (principal, action, resource);", NO_ID.format("policy0")),
    Wrong("empty id", '@id("") permit (principal, action, resource);', NO_ID.format("policy0")),
    Wrong("id without a name", "@id permit (principal, action, resource);", NO_ID.format("policy0")),
    Wrong("shared id", '@id("a") permit (principal, action, resource);' * 2, NO_ID.format("a")),
    Wrong(
        "template",
        '@id("a") permit (principal == ?principal, action, resource);',
        "Bundle `b`: policy templates aren't supported; write each policy out.",
    ),
    Wrong(
        "unknown action",
        '@id("a") permit (principal, action == Remit::Action::"mute_alert", resource);',
        INVALID.format('unrecognized action `Remit::Action::"mute_alert"`'),
    ),
    Wrong(
        "unknown type",
        '@id("a") permit (principal in Remit::Rolle::"x", action, resource);',
        INVALID.format("unrecognized entity type `Remit::Rolle`"),
    ),
    Wrong(
        "misspelt attribute",
        f'@id("a") {REFUND} when {{ context.args.amount_cent < 5000 }};',
        INVALID.format('attribute `args.amount_cent` in context for Remit::Action::"request_refund" not found'),
    ),
    Wrong(
        "wrong type",
        f'@id("a") {REFUND} when {{ context.args.amount_cents < "5000" }};',
        INVALID.format("unexpected type: expected Long but saw String"),
    ),
    Wrong(
        "facts of a read",
        '@id("a") permit (principal, action == Remit::Action::"get_ticket", resource) when { context.resource.exists };',
        INVALID.format('attribute `resource` in context for Remit::Action::"get_ticket" not found'),
    ),
    Wrong("unknown obligation", forbid("fax:1"), NO_OBLIGATION.format("fax:1")),
    Wrong("second obligation unknown", forbid("approval:1 fax:2"), NO_OBLIGATION.format("fax:2")),
    Wrong("approval without a number", forbid("approval"), NO_OBLIGATION.format("approval")),
    Wrong("nobody approves", forbid("approval:0"), NO_OBLIGATION.format("approval:0")),
    Wrong("negative", forbid("approval:-1"), NO_OBLIGATION.format("approval:-1")),
    Wrong("a digit that is no number", forbid("approval:²"), NO_OBLIGATION.format("approval:²")),
    Wrong("unknown route", forbid("route:weak"), NO_OBLIGATION.format("route:weak")),
    Wrong("assurance without a number", forbid("assurance:strong"), NO_OBLIGATION.format("assurance:strong")),
    Wrong(
        "obligation of a permit",
        '@id("a") @obligation("approval:1") permit (principal, action, resource);',
        "Bundle `b`: `a` permits, so its obligation would bind nobody; put `@obligation` on a `forbid`.",
    ),
)

LIMITS = (
    Wrong("not TOML", "tool_calls = ", "Bundle `b`: `limits.toml` isn't valid TOML: Invalid value (at end of document)."),
    Wrong("unknown table", "[runs]", "Bundle `b`: `limits.toml`: `runs` Extra inputs are not permitted."),
    Wrong(
        "unknown field", "[run]\ntool_call = 9", "Bundle `b`: `limits.toml`: `run.tool_call` Extra inputs are not permitted."
    ),
    Wrong(
        "wrong type", "[approvals]\nroles = 3", "Bundle `b`: `limits.toml`: `approvals.roles` Input should be a valid tuple."
    ),
    Wrong(
        "escalation to nobody",
        "[[approvals.escalation]]\nafter_seconds = 60\nroles = []",
        "Bundle `b`: `limits.toml`: `approvals.escalation.0.roles` Tuple should have at least 1 item after validation, not 0.",
    ),
    Wrong(
        "escalation at once",
        '[[approvals.escalation]]\nafter_seconds = 0\nroles = ["a"]',
        "Bundle `b`: `limits.toml`: `approvals.escalation.0.after_seconds` Input should be greater than or equal to 1.",
    ),
    Wrong(
        "escalation out of order",
        "".join(f'[[approvals.escalation]]\nafter_seconds = {n}\nroles = ["a"]\n' for n in (60, 60)),
        "Bundle `b`: `limits.toml`: `approvals` Value error, each step of the escalation must come later than the one before.",
    ),
    Wrong(
        "escalation after the expiry",
        '[run]\napproval_seconds = 60\n[[approvals.escalation]]\nafter_seconds = 60\nroles = ["a"]',
        "Bundle `b`: `limits.toml`: `$` Value error, an escalation must come before approvals expire, after 60 s.",
    ),
    Wrong(
        "unknown word",
        '[run]\non_limit = "go"',
        "Bundle `b`: `limits.toml`: `run.on_limit` Input should be 'stop' or 'escalate'.",
    ),
)


@pytest.mark.parametrize("case", POLICIES, ids=lambda c: c.name)
def test_a_wrong_policy_is_refused(case: Wrong) -> None:
    """Whatever is wrong with `policy.cedar` is named in one sentence, before any run can use it."""
    with pytest.raises(PolicyInvalid) as caught:
        CompiledPolicy.parse(made(case.text), CATALOG.cedar_schema)
    assert caught.value.message == case.message


@pytest.mark.parametrize("case", LIMITS, ids=lambda c: c.name)
def test_wrong_limits_are_refused(case: Wrong) -> None:
    """Whatever is wrong with `limits.toml` is named in one sentence."""
    with pytest.raises(PolicyInvalid) as caught:
        made(limits=case.text).limits()
    assert caught.value.message == case.message


@pytest.mark.parametrize("field", [n for n, f in UsageLimits.model_fields.items() if f.annotation is int])
@pytest.mark.parametrize("value", [0, -1])
def test_no_limit_is_zero(field: str, value: int) -> None:
    """A limit that would let nothing happen is a mistake, and is refused by name."""
    with pytest.raises(PolicyInvalid) as caught:
        made(limits=f"[run]\n{field} = {value}").limits()
    assert caught.value.message == f"Bundle `b`: `limits.toml`: `run.{field}` Input should be greater than or equal to 1."


def test_an_explanation_never_holds_the_input() -> None:
    """A name from outside, however long, is cut before it goes into a message."""
    with pytest.raises(PolicyInvalid) as caught:
        made(limits=f'["{"x" * 100_000}"]').limits()
    assert len(caught.value.message) < 300


def test_many_mistakes_make_one_sentence() -> None:
    """The first five mistakes are named, the others counted."""
    limits = "[run]\n" + "\n".join(f"x{i} = 1" for i in range(7))
    with pytest.raises(PolicyInvalid, match=r"`run\.x4` Extra inputs are not permitted; and 2 more\.$"):
        made(limits=limits).limits()


def test_obligations_are_kept_by_policy_id() -> None:
    """A policy may ask for several things, and the compiled bundle knows them by the policy's `@id`."""
    policy = CompiledPolicy.parse(made(forbid("approval:2 route:strong")), CATALOG.cedar_schema)
    assert policy.obligations == {"a": (Obligation(kind="approval", value="2"), Obligation(kind="route", value="strong"))}


def test_a_bundle_without_limits_has_the_defaults() -> None:
    """An empty `limits.toml` means the ceilings that DESIGN names: 20 tool calls, four attempts a step."""
    run = made().limits().run
    assert (run.tool_calls, run.attempts_per_step, run.on_limit) == (20, 4, "stop")


@pytest.mark.parametrize("name", ["incidents_v1", "refunds_v7", "support_v1"])
def test_each_bundle_that_ships_compiles(name: str) -> None:
    """Each built-in bundle validates against the built-in tools, and names who may approve."""
    assert compile_policy(bundle(name), CATALOG.cedar_schema).obligations
    assert bundle(name).limits().approvals.roles


@given(field=st.sampled_from(["name", "policy", "limits_toml"]), at=st.integers(0), new=st.characters(codec="utf-8"))
def test_the_digest_changes_with_any_character(field: str, at: int, new: str) -> None:
    """One other character anywhere in a bundle gives another digest, and another version."""
    real = bundle()
    text = str(getattr(real, field))
    at %= len(text)
    assume(text[at] != new)
    other = real.model_copy(update={field: text[:at] + new + text[at + 1 :]})
    assert Bundle.model_validate(other.model_dump()).digest != real.digest


@given(at=st.integers(1))
def test_text_that_moves_between_fields_changes_the_digest(at: int) -> None:
    """The digest knows where one text ends and the next begins."""
    real = bundle()
    at = at % (len(real.policy) - 1) + 1
    moved = Bundle(name=real.name, policy=real.policy[:at], limits_toml=real.policy[at:] + real.limits_toml)
    assert moved.digest != real.digest


def test_equal_bundles_have_equal_versions() -> None:
    """The version is the name and the start of the digest, and nothing else."""
    assert bundle().version == bundle().version
    assert bundle().version.startswith("refunds_v7@sha256:")


def test_a_bundle_is_compiled_once() -> None:
    """Equal bundles share their handles, for a decision costs microseconds only so."""
    assert compile_policy(bundle(), CATALOG.cedar_schema) is compile_policy(bundle(), CATALOG.cedar_schema)
