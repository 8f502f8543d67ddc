"""One attack from start to end: hand-written scenes, generated calls and honest tasks at the same time; then the oracle."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client

from tests.attack import benign, bypass, minting
from tests.attack.arena import MAY, Arena, arena, said
from tests.attack.benign import TASKS, Task
from tests.attack.corpus import RAW, Proposal, resolve
from tests.attack.guards import CAPABILITY, without
from tests.attack.oracle import TOOLS
from tests.attack.scenes import SCENES, Scene
from tests.attack.world import Alert, Customer
from tests.engine import call
from workflows.messages import ScriptCall

__all__ = ["Report", "attack", "mutated"]

CALLS_A_RUN = 19
"""One below the limit, for the final answer that must follow isn't charged but a twentieth call might be."""
AT_ONCE = 24
GENERATED = "generated"
ABOUT_FORM = ("junk_past_the_workflow", "starts_that_bring_their_own_authority", "final_answer_smuggling")
"""Scenes that no guard but parsing stands against."""
TELLING = {
    "subject binding": ("others_things", "a_bundle_that_forgot_the_subject"),
    "approval verification": ("forged_approvals", "approved_once", "one_person_for_two", "approved_for_another_run"),
    "ledger reservation": ("one_cent_more", "splitting_in_one_turn", "splitting_across_turns", "splitting_across_runs"),
    "kill check": ("killed_between_approval_and_reservation", "killed_while_people_think"),
    "autonomy mode": ("an_agent_that_may_not_write",),
    "Cedar schema": ("an_agent_whose_policy_forbids_every_write",),
}
"""Scenes that find that a guard is missing: the others only wait meanwhile."""
OVERSIZED_A_RUN = 3


@dataclass
class Report:
    """What came of an attack; reports add up."""

    tried: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    outside: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    broken: list[str] = field(default_factory=list[str])
    benign_total: int = 0
    benign_intact: int = 0
    seconds: float = 0

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.tried + other.tried,
            self.refused + other.refused,
            self.outside + other.outside,
            self.broken + other.broken,
            self.benign_total + other.benign_total,
            self.benign_intact + other.benign_intact,
            self.seconds + other.seconds,
        )

    @property
    def attempts(self) -> int:
        return self.tried.total()


async def mutated(client: Client, home: Path, guard: str, *, small: bool = False) -> Report:
    """The fixed set of about 200 calls without `guard`: the report must hold something outside authority.

    Args:
        small: play those scenes only that tell.
    """
    chosen = bypass.SCENES if guard == CAPABILITY else [s for s in SCENES if s.__name__ not in ABOUT_FORM]
    if small and guard != CAPABILITY:
        chosen = [s for s in chosen if s.__name__ in TELLING[guard]]
    with without(guard):
        return await attack(client, home, scenes=chosen, tasks=())


async def attack(
    client: Client,
    home: Path,
    *,
    proposals: Sequence[Proposal] = (),
    scenes: Sequence[Scene] | None = None,
    tasks: Sequence[Task] = TASKS,
    seed: int = 0,
) -> Report:
    """Attack one fresh business in `home`.

    Args:
        proposals: generated calls, said by as many runs as it takes.
        scenes: those of the hand-written attacks to play; all of them by default.
        tasks: the honest tasks that go on meanwhile.
    """
    started = time.monotonic()
    chosen = [*SCENES, *bypass.SCENES, *minting.SCENES] if scenes is None else scenes
    runs = max(1, len(proposals) // CALLS_A_RUN)
    victims = max(4, runs // 3)
    home.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  (before anything runs)
    async with arena(client, home, customers=100 + victims, alerts=8 + victims, seed=seed) as a:
        free = asyncio.Semaphore(AT_ONCE)

        async def play(name: str, story: Callable[[], Awaitable[object]]) -> object:
            async with free:
                try:
                    async with asyncio.timeout(120):
                        return await story()
                except Exception as e:
                    a.broken.append(f"{name}: {type(e).__name__}: {str(e)[:200]}")
                    return False

        jobs = [play(s.__name__, lambda s=s: s(a)) for s in chosen]
        jobs += [play(GENERATED, lambda run=run: _say(a, *run)) for run in _runs(a, proposals, victims)]
        honest = [play(t.script, lambda t=t: benign.work(a, t)) for t in tasks]
        # Honest runs start in between: one after every few attacks.
        every = max(1, len(jobs) // (len(honest) + 1))
        mixed: list[Awaitable[object]] = []
        for n, job in enumerate(jobs):
            mixed += [job] + ([honest.pop()] if n % every == 0 and honest else [])
        await asyncio.gather(*honest, *mixed)
        tables = a.world.read(a.engine.settings.business_path)
        for t in tasks:
            if t.script not in a.honest or not benign.intact(t, tables):
                a.broken.append(f"honest task {t.script}: {'ended' if t.script in a.honest else 'did not end as it should'}")
        return Report(
            tried=a.tried,
            refused=a.refused,
            outside=a.outside(),
            broken=a.broken,
            benign_total=len(tasks),
            benign_intact=sum(t.script in a.honest and benign.intact(t, tables) for t in tasks),
            seconds=time.monotonic() - started,
        )


AGENTS = ("attack-billing", "attack-billing", "attack-billing", "attack-triage", "attack-incident", "attack-lax")


def _runs(a: Arena, proposals: Sequence[Proposal], victims: int) -> list[tuple[str, Customer | Alert, tuple[ScriptCall, ...]]]:
    """The proposals dealt out to runs: each gets as many as one turn may have."""
    customers = {agent: [a.world.take() for _ in range(max(1, victims // 6))] for agent in sorted(set(AGENTS))}
    alerts = [a.world.alert() for _ in range(max(1, victims // 6))]
    found: list[tuple[str, Customer | Alert, tuple[ScriptCall, ...]]] = []
    waiting = list(proposals)
    while waiting:
        agent = AGENTS[len(found) % len(AGENTS)]
        who = a.dice.choice(alerts if agent == "attack-incident" else customers[agent])
        calls: list[ScriptCall] = []
        oversized = 0
        later: list[Proposal] = []
        while waiting and len(calls) < CALLS_A_RUN:
            proposal = waiting.pop()
            # Mostly what the agent's tools can do, or nearly nothing would come as far as the policy.
            if len(waiting) > 200 and TOOLS.get(proposal.tool) not in MAY[agent] and a.dice.random() < 0.6:
                later.append(proposal)
                continue
            tool, arguments = resolve(proposal, a.world, who, a.dice)
            made = call(tool) if not arguments else ScriptCall(name=tool, arguments=arguments)
            large = sum(len(str(v)) for v in arguments.values()) > 10_000 and RAW not in arguments
            # A fourth identical call, or a payload of megabytes, would end the run before its other calls are made.
            if calls.count(made) >= 3 or (large and oversized >= OVERSIZED_A_RUN):
                later.append(proposal)
                continue
            oversized += large
            calls.append(made)
        waiting += later
        found.append((agent, who, tuple(calls)))
    return found


async def _say(a: Arena, agent: str, who: Customer | Alert, calls: tuple[ScriptCall, ...]) -> None:
    """One generated run: all its calls in one turn."""
    text = "one id" if a.dice.random() < 0.2 else ""
    await a.attack(GENERATED, who, said(*calls, text=text), agent=agent)
