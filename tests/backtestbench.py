"""How long a backtest takes: recorded actions by the seed, and `remit backtest` over them. `make backtest-bench`.

The actions are made up, their verdicts aren't: each is the real bundle's, and the backtest of that bundle against itself must
change nothing. Prints, as its last line, JSON.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

from activities.ledger.decisions import decision_key, keep
from activities.ledger.rows import DecisionRow, PersonSaid
from activities.ledger.store import Ledger
from policies.authorize import authorize
from policies.models import ActionFacts, ResourceFacts, ResourceRef, RunFacts
from remit.embedded import Process
from remit.settings import ROOT
from tests.builders import agent, bundle, compiled
from tools.builtin import CATALOG

__all__ = ["fill", "looser", "rows_by"]

BATCH = 5000
DIFFERENT = 100_000
DAY_MS = 86_400_000
WHO = ("ana@example.com", "bo@example.com", "cleo@example.com")
WHY = ("An annual plan is refunded within 30 days only.", "The invoice is right.", "Offer a credit note.")


def rows_by(seed: int, first: int, count: int, now_ms: int) -> list[DecisionRow]:
    """`count` judgements of `billing-resolution`, the same for the same seed: reads, replies, and refunds of many sizes."""
    luck = random.Random(f"{seed} {first}")
    return [_row(luck, n, now_ms - luck.randrange(30 * DAY_MS)) for n in range(first, first + count)]


def _row(luck: random.Random, n: int, at: int) -> DecisionRow:
    subject, invoice = f"Customer:cus_{luck.randrange(5000)}", f"in_{luck.randrange(50_000)}"
    name = luck.choices(("get_invoice", "search_kb", "draft_reply", "request_refund"), (30, 20, 20, 30))[0]
    cents = round(luck.lognormvariate(8.6, 1.2)) + 1 if name == "request_refund" else 0
    arguments: dict[str, dict[str, object]] = {
        "get_invoice": {"invoice_id": invoice},
        "search_kb": {"query": f"refund of a plan that was cancelled {n}"},
        "draft_reply": {"ticket_id": f"T-{n}", "text": "Thank you for your message. " * luck.randrange(1, 20)},
        "request_refund": {"invoice_id": invoice, "amount_cents": cents, "currency": "USD", "reason": "duplicate"},
    }
    spec = CATALOG.get(name)
    owner = subject if luck.random() < 0.97 else "Customer:cus_other"
    money = {"status": "paid", "available_cents": 10**7, "currency": "USD"}
    facts = ActionFacts(
        agent=agent(),
        tool=name,
        resource=ResourceRef(type=spec.resource_type, id=invoice),
        arguments=spec.parse(json.dumps(arguments[name])).model_dump(mode="json", exclude_none=True),
        run=RunFacts(
            subject=subject,
            calls_used=luck.randrange(1, 8),
            approvals=0,
            model_tier=2,
            assurance=2,
            tainted=luck.random() < 0.8,
            subject_sum_cents=luck.choice((0, 0, 0, 4900, 12_000)) if cents else 0,
        ),
        facts=ResourceFacts.model_validate({"owner": owner, **money}) if spec.effect == "write" else None,
    )
    verdict = authorize(compiled(), facts)
    people: list[PersonSaid] = []
    rejected = verdict.approvals_required > 0 and luck.random() < 0.1
    for who in luck.sample(WHO, 1 if rejected else verdict.approvals_required):
        said = {"by": who, "decision": "reject" if rejected else "approve", "at": at + 60_000}
        people.append(PersonSaid.model_validate({**said, "reason": luck.choice(WHY) if rejected else "Looked at it."}))
    run = f"run-{n // 4}"
    return DecisionRow(
        key=decision_key(run, n % 4 + 1, 0, 0),
        run_id=run,
        workflow_id=f"billing-{n // 4}",
        agent="billing-resolution",
        release="sha256:" + "1" * 64,
        tool=spec.id,
        effect=spec.effect,
        risk=spec.risk,
        step=n % 4 + 1,
        call_index=0,
        round=0,
        last=True,
        at=at,
        policy_name="refunds_v7",
        policy_digest=_digest(),
        decision=verdict.decision,
        policy_ids=",".join(verdict.policy_ids),
        approvals_required=verdict.approvals_required,
        reason="denied" if verdict.decision == "deny" else "rejected" if rejected else "",
        mode="live",
        amount_cents=cents,
        currency="USD" if cents else "",
        facts=facts.model_dump_json(),
        people=json.dumps([p.model_dump(mode="json") for p in people]),
        outcome="refused" if rejected or verdict.decision == "deny" else "done",
    )


@lru_cache
def _digest() -> str:
    return bundle().digest


def fill(ledger: Ledger, seed: int, actions: int) -> None:
    """Put `actions` judgements into `ledger`: up to 100,000 different ones, and then the same of other runs."""
    now = int(time.time() * 1000)
    different = min(actions, DIFFERENT)
    firsts = range(0, different, BATCH)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        made = pool.map(rows_by, *zip(*((seed, n, min(BATCH, different - n), now) for n in firsts), strict=True))
        for first, rows in zip(firsts, made, strict=True):
            for copy in range(first, actions, DIFFERENT):
                with ledger.begin() as connection:
                    keep(connection, rows if copy == first else [_of_another(row, copy) for row in rows[: actions - copy]])


def _of_another(row: DecisionRow, copy: int) -> DecisionRow:
    """The same judgement in another run."""
    run = f"{row.run_id}-{copy}"
    return row.model_copy(update={"run_id": run, "key": decision_key(run, row.step, 0, 0)})


def looser(folder: Path) -> Path:
    """`refunds_v7` with another name and a person from $200 on instead of $50: a policy that somebody may want to try."""
    made = Path(shutil.copytree(ROOT / "policies" / "bundles" / "refunds_v7", folder / "refunds_v8"))
    text = (made / "policy.cedar").read_text(encoding="utf-8")
    (made / "policy.cedar").write_text(text.replace(">= 5000", ">= 20000"), encoding="utf-8")
    return made


def _backtest(home: Path, url: str, policy: str) -> tuple[dict[str, object], float]:
    """What `remit backtest` prints, and how many seconds it took from start to end."""
    out = home / "backtest.json"
    out.unlink(missing_ok=True)
    began = time.monotonic()
    argv = [sys.executable, "-m", "remit.cli", "backtest", "--policy", policy, "--since", "31d", "--json"]
    child = Process(argv, out, {"REMIT_HOME": str(home), "REMIT_LEDGER_URL": url})
    while child.running:
        time.sleep(0.05)
    return json.loads(out.read_text()), time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ledger", default="", help="SQLAlchemy URL of an empty ledger; by default a SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="remit-backtest-") as folder:
        home = Path(folder)
        url = options.ledger or f"sqlite:///{home / 'ledger.db'}"
        ledger = Ledger(url)
        ledger.migrate()
        began = time.monotonic()
        fill(ledger, options.seed, options.actions)
        ledger.close()
        filled = time.monotonic() - began
        same, same_s = _backtest(home, url, "refunds_v7")
        other, other_s = _backtest(home, url, str(looser(home)))
    figures = {
        "actions": options.actions,
        "filled_s": round(filled, 1),
        "same_policy_s": round(same_s, 1),
        "other_policy_s": round(other_s, 1),
        "actions_per_s": round(options.actions / other_s),
        "drifted": same["drifted"],
        "rejected_allowed": other["rejected_allowed"],
        "load": os.getloadavg()[0],
    }
    if same["judged"] != options.actions or same["drifted"]:
        print(f"The policy isn't what it was when it decided: {same}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
