"""The ledger's tables. Changing one needs a migration beside it. Amounts in cents, times in Unix milliseconds."""

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text, false

__all__ = [
    "capabilities",
    "charges",
    "control",
    "decisions",
    "effects",
    "enrolments",
    "kill_switches",
    "metadata",
    "mode_overrides",
    "outcomes",
    "pauses",
    "proposals",
    "releases",
    "rollout_log",
    "rollouts",
    "run_records",
    "standings",
    "switch_log",
    "to_seal",
    "tool_reviews",
    "trace_roots",
    "trips",
    "usage_minutes",
]

metadata = MetaData()

effects = Table(
    "effects",
    metadata,
    Column("idempotency_key", String(64), primary_key=True),
    Column("run_id", String(64), nullable=False),
    Column("workflow_id", String(1000), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("tool", String(200), nullable=False),
    Column("resource", String(255), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("action_digest", String(80), nullable=False),
    Column("approvers", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reserved_at", BigInteger, nullable=False),
    Column("settled_at", BigInteger),
    Column("resolved_by", String(200)),
    Column("resolved_reason", Text),
    Column("resolved_at", BigInteger),
    Column("capability", String(64), nullable=False, server_default=""),
    Column("risk", String(16), nullable=False, server_default=""),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Index("effects_by_run", "run_id"),
    Index("effects_by_agent", "agent", "reserved_at"),
    Index("effects_by_subject", "subject", "tool", "reserved_at"),
    Index("effects_by_epoch", "epoch"),
    Index("effects_by_time", "reserved_at"),
    Index("effects_open", "state"),
)

# Tokens never leave this table but to be checked: history holds ids. A delegation has no run until one takes it.
capabilities = Table(
    "capabilities",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("tools", Text, nullable=False),
    Column("resource", String(255), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("ceiling_cents", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("idempotency_key", String(64), nullable=False),
    Column("delegation", String(64), nullable=False),
    Column("issuer", String(200), nullable=False),
    Column("key_id", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("minted_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("revoked_by", String(200)),
    Column("revoked_reason", Text),
    Index("capabilities_by_run", "run_id"),
    Index("capabilities_by_subject", "subject", "agent", "kind"),
)


def _switches(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("scope", String(300), primary_key=True),
        Column("reason", Text, nullable=False),
        Column("set_by", String(200), nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("set_at", BigInteger, nullable=False),
    )


# What is switched now. A release deletes the row; what was done and why stays in the log, to which rows are only added.
kill_switches = _switches("kill_switches")
pauses = _switches("pauses")
switch_log = Table(
    "switch_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("command", String(100), nullable=False),
    Column("action", String(16), nullable=False),
    Column("scope", String(300), nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", String(200), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),
    Index("switch_log_by_command", "command"),
    Index("switch_log_by_scope", "scope", "id"),
)

# One row. Each reservation and each kill locks it first, so that their order is total on any database.
control = Table("control", metadata, Column("id", Integer, primary_key=True), Column("epoch", BigInteger, nullable=False))

# A signing key and the ID token that is bound to it: claims, which each reader verifies for itself.
enrolments = Table(
    "enrolments",
    metadata,
    Column("kid", String(64), primary_key=True),
    Column("x", String(64), nullable=False),
    Column("id_token", Text, nullable=False),
    Column("enrolled_at", BigInteger, nullable=False),
    Column("withdrawn_at", BigInteger),
    Index("enrolments_by_time", "enrolled_at"),
)

# Rows are only added: a person's last one says how they stand.
standings = Table(
    "standings",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("sub", String(200), nullable=False),
    Column("suspended", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("set_by", String(200), nullable=False),
    Column("set_at", BigInteger, nullable=False),
    Index("standings_by_sub", "sub", "id"),
)

# What runs were pinned to; `contents` is a `policies.rollout.Release` as JSON. Rows are only added.
releases = Table(
    "releases",
    metadata,
    Column("digest", String(80), primary_key=True),
    Column("agent", String(200), nullable=False),
    Column("definition", String(80), nullable=False),
    Column("contents", Text, nullable=False),
    Column("first_seen", BigInteger, nullable=False),
    Index("releases_by_agent", "agent", "first_seen"),
)

# One row an agent that was ever rolled out: a `policies.rollout.Rollout` as it stands now. The log keeps each as it was.
rollouts = Table(
    "rollouts",
    metadata,
    Column("agent", String(200), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("stage", Integer, nullable=False),
    Column("salt", String(64), nullable=False),
    Column("candidate", String(80), nullable=False),
    Column("stable", String(80), nullable=False),
    Column("judged", Text, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("stage_at", BigInteger, nullable=False),
    Column("by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
)
rollout_log = Table(
    "rollout_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("command", String(100), nullable=False),
    Column("action", String(16), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("rollout", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),
    Index("rollout_log_by_command", "command"),
    Index("rollout_log_by_agent", "agent", "id"),
)

# Rows are only added: of each field, the last one that says something counts.
outcomes = Table(
    "outcomes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("command", String(100), nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("csat", Integer),
    Column("reopened", Boolean),
    Column("refunded", Boolean),
    Column("escalated", Boolean),
    Column("cost_micro_usd", BigInteger),
    Column("first_response_ms", BigInteger),
    Column("by", String(200), nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("outcomes_by_command", "command"),
    Index("outcomes_by_run", "run_id", "id"),
)

# One row a run, written at its end: what the figures of agents are made of. Model cost in micro-USD.
run_records = Table(
    "run_records",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("workflow_id", String(1000), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("release", String(80), nullable=False),
    Column("arm", String(16), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("policy_version", String(200), nullable=False),
    Column("subject_tag", String(64), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("closed_at", BigInteger, nullable=False),
    Column("model_calls", BigInteger, nullable=False),
    Column("tool_calls", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_micro_usd", BigInteger, nullable=False),
    Column("denied", BigInteger, nullable=False),
    Column("invalid", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("repeated", BigInteger, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("approved", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    Column("edited", BigInteger, nullable=False),
    Column("moved_cents", BigInteger, nullable=False),
    Column("first_response_ms", BigInteger),
    Column("recorded_at", BigInteger, nullable=False),
    Column("unknown_cost_calls", BigInteger, nullable=False, server_default="0"),
    Column("reviews", BigInteger, nullable=False, server_default="0"),
    Column("waits", Text, nullable=False, server_default=""),
    Column("reasons", Text, nullable=False, server_default=""),
    Column("simulated", Boolean, nullable=False, server_default=false()),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cached_input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cache_write_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cache_saved_micro_usd", BigInteger, nullable=False, server_default="0"),
    Index("run_records_by_agent", "agent", "recorded_at"),
    Index("run_records_by_workflow", "workflow_id"),
)

# What is counted towards caps: each run, tool call and attempt of a model call, while caps across runs are set. `at` may lie
# ahead: whoever waits for a rate has a place in the queue. Of money that writes move, `effects` is the record.
charges = Table(
    "charges",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_micro_usd", BigInteger, nullable=False),
    Column("settled_at", BigInteger),
    Index("charges_by_agent", "kind", "agent", "at"),
    Index("charges_by_time", "kind", "at"),
)

# The same, added up: a day is 1,441 rows, however many calls there were.
usage_minutes = Table(
    "usage_minutes",
    metadata,
    Column("scope", String(300), primary_key=True),
    Column("minute", BigInteger, primary_key=True),
    Column("tool_calls", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_micro_usd", BigInteger, nullable=False),
)

# One row for each action that an agent only drafted, written when people have decided, or didn't in time.
proposals = Table(
    "proposals",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("action_digest", String(80), primary_key=True),
    Column("workflow_id", String(1000), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("tool", String(200), nullable=False),
    Column("put_at", BigInteger, nullable=False),
    Column("decided_at", BigInteger, nullable=False),
    Column("decision", String(16), nullable=False),
    Column("by", Text, nullable=False),
    Index("proposals_by_time", "decided_at"),
)

# What the anomaly breaker did, with the numbers that made it, and what a person put back.
trips = Table(
    "trips",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("agent", String(200), nullable=False),
    Column("rule", Text, nullable=False),
    Column("action", String(16), nullable=False),
    Column("figures", Text, nullable=False),
    Column("value", Float, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("mode_before", String(16), nullable=False),
    Column("mode_after", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("put_back_at", BigInteger),
    Column("put_back_by", String(200)),
    Column("put_back_reason", Text),
    Index("trips_by_agent", "agent", "at"),
)

# Agents that may do less by themselves than their file says.
mode_overrides = Table(
    "mode_overrides",
    metadata,
    Column("agent", String(200), primary_key=True),
    Column("mode", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("set_by", String(200), nullable=False),
    Column("set_at", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
)

# One row for each judgement of an action, with the facts that its verdict rests on, so that another policy can be asked the
# same. Written from its history when the run has closed. `facts` is a `policies.models.ActionFacts` as JSON, `people` a list of
# `activities.ledger.rows.PersonSaid`.
decisions = Table(
    "decisions",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("run_id", String(64), nullable=False),
    Column("workflow_id", String(1000), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("release", String(80), nullable=False),
    Column("tool", String(200), nullable=False),
    Column("effect", String(8), nullable=False),
    Column("risk", String(16), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("call_index", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("last", Boolean, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("policy_name", String(200), nullable=False),
    Column("policy_digest", String(80), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("policy_ids", Text, nullable=False),
    Column("approvals_required", Integer, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("facts", Text, nullable=False),
    Column("people", Text, nullable=False),
    Column("outcome", String(32), nullable=False),
    Index("decisions_by_time", "at"),
    Index("decisions_by_agent", "agent", "at"),
    Index("decisions_by_run", "run_id"),
)

# One row a closed run, in the order in which they were sealed: the chain of its namespace. Rows are only added. `root` is a
# `remit.proof.sealing.Root` as JSON, `place` where its capsule is in the sink.
trace_roots = Table(
    "trace_roots",
    metadata,
    Column("namespace", String(200), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("run_id", String(64), nullable=False),
    Column("workflow_id", String(1000), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("root", Text, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("previous", String(80), nullable=False),
    Column("signature", String(100), nullable=False),
    Column("key_id", String(80), nullable=False),
    Column("public_key", String(64), nullable=False),
    Column("place", Text, nullable=False),
    Column("lines", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("sealed_at", BigInteger, nullable=False),
    Index("trace_roots_by_run", "run_id", unique=True),
    Index("trace_roots_by_workflow", "workflow_id"),
)

# Runs that have no root yet. `why` says what stood in the way of the last try.
to_seal = Table(
    "to_seal",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("namespace", String(200), nullable=False),
    Column("workflow_id", String(1000), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("queued_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("why", Text, nullable=False),
    Index("to_seal_by_time", "namespace", "due_at"),
)

# Rows are only added; a worker adds its seal to one that it has verified. What a row says counts only as far as it is signed.
tool_reviews = Table(
    "tool_reviews",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("tool", String(200), nullable=False),
    Column("version", String(100), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("description", Text, nullable=False),
    Column("action", String(16), nullable=False),
    Column("by", String(200), nullable=False),
    Column("key_id", String(200), nullable=False),
    Column("statement", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("seal", Text, nullable=False),
    Index("tool_reviews_by_tool", "tool", "id"),
)
