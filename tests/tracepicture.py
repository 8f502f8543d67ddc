"""Draws `docs/trace.svg`, the README's picture of a trace, from `docs/trace-example.jsonl`, which `remit trace` printed.

.venv/bin/python -m tests.tracepicture
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap

from remit.proof.lines import LINE, DroppedLine, ModelLine, OutcomeLine, RefusedLine, RunLine, ToolLine, TraceLine
from workflows.view import usd

__all__ = ["EXAMPLE", "PICTURE", "draw", "example"]

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE, PICTURE = DOCS / "trace-example.jsonl", DOCS / "trace.svg"
WIDTH, TOP, ROW, LINE_HEIGHT = 1000, 78, 28, 17
COLOURS = {"allow": "#1a7f37", "require_approval": "#9a6700", "deny": "#cf222e"}
STYLE = (
    "text{font:12.5px ui-sans-serif,system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}"
    ".m{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:11.5px}"
    ".g{fill:#59636e}.b{font-weight:600}.h{font-size:15px;font-weight:600}"
)


@dataclass(frozen=True)
class Row:
    """One line of the trace in the picture: what it is, what about it, who allowed it, and what came of it."""

    line: TraceLine
    what: str
    about: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    colour: str = "#59636e"
    result: str = ""


def draw(lines: list[TraceLine]) -> str:
    """The picture as SVG text."""
    first, last = lines[0], lines[-1]
    assert isinstance(first, RunLine)
    assert isinstance(last, OutcomeLine)
    title = f"{first.agent} for {first.subject}, asked by {first.requester}"
    pins = f"{first.policy_version}  ·  release {first.release[7:19]}  ·  prompt {first.prompt_digest[7:19]}"
    body, y = list[str](), TOP
    for row in map(_row, lines[1:]):
        height = ROW + LINE_HEIGHT * (max(len(row.about), len(row.allowed), 1) - 1)
        body += _drawn(row, y, row.line.at - first.started_at)
        y += height
    total = f"{last.usage.tool_calls} tool calls, {last.usage.model_calls} model calls, {usd(last.usage.cost_micro_usd)}"
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 14}" role="img">',
        f"<title>The trace of one run of {escape(first.agent)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{y + 14}" rx="8" fill="#ffffff" stroke="#d1d9e0"/>',
        _text(24, 30, title, "h"),
        _text(24, 50, pins, "m g"),
        _text(WIDTH - 24, 30, total, "g", end=True),
        f'<path d="M24 62H{WIDTH - 24}" stroke="#d1d9e0"/>',
        f'<path d="M124 {TOP}V{y - 12}" stroke="#d1d9e0" stroke-width="2"/>',
        *body,
        "</svg>",
    ]
    return "\n".join(svg) + "\n"


def _row(line: TraceLine) -> Row:
    match line:
        case ModelLine():
            used = line.usage.input_tokens + line.usage.output_tokens
            asked = f"asks for {line.calls} call{'s' * (line.calls != 1)}" if line.calls else "answers"
            return Row(line, f"{line.model}", (f"{asked}, {used:,} tokens",), result=usd(line.cost_micro_usd))
        case DroppedLine():
            what = ", ".join(call.tool for call in line.calls)
            return Row(line, what, ("the stronger model decides again",), result="dropped")
        case ToolLine():
            verdict = line.verdict.decision if line.verdict else ""
            colour = COLOURS.get(verdict, "#cf222e")
            return Row(line, line.tool, tuple(_about(line)), tuple(_allowed(line)), colour, _result(line))
        case RefusedLine():
            return Row(line, line.name, (line.message,), colour="#cf222e", result=line.reason)
        case OutcomeLine():
            return Row(line, line.status, tuple(wrap(line.summary, 76)), colour="#1f2328")
        case _:
            return Row(line, line.kind)


def _about(line: ToolLine) -> Iterator[str]:
    amount = f", ${line.amount.cents / 100:,.2f}" if line.amount else ""
    yield f"{line.resource.type}:{line.resource.id}{amount}" if line.resource else line.raw[:60]
    if line.documents:
        yield from (d.document_id for d in line.documents)
    if line.effect == "write" and line.capability:
        yield f"capability {line.capability[:12]}…"
        yield f"action {line.action_digest[7:19]}…  key {line.idempotency_key[:11]}…"


def _allowed(line: ToolLine) -> Iterator[str]:
    if line.verdict:
        needed = f" × {line.verdict.approvals_required}" if line.verdict.approvals_required else ""
        yield f"{line.verdict.decision}{needed}"
        yield f"by {', '.join(line.verdict.policy_ids[:2])}{',' * (len(line.verdict.policy_ids) > 2)}"
        yield from (f"    {policy}" for policy in line.verdict.policy_ids[2:])
    for approval in line.approvals:
        for decision in approval.decisions:
            yield f"✓ {decision.sub}, signed" if decision.decision == "approve" else f"✗ {decision.sub}: {decision.reason}"


def _result(line: ToolLine) -> str:
    return line.outcome.status + (f" ({line.outcome.reason})" if line.outcome.reason else "")


def _drawn(row: Row, y: int, after_ms: int) -> Iterator[str]:
    line, base = row.line, y + 12
    yield f'<circle cx="124" cy="{y + 8}" r="5" fill="{row.colour}" stroke="#ffffff" stroke-width="2"/>'
    yield _text(108, base, f"+{after_ms / 1000:.2f} s", "m g", end=True)
    yield _text(142, base, line.kind, "g")
    yield _text(206, base, row.what, "b")
    for n, text in enumerate(row.about):
        yield _text(340, base + n * LINE_HEIGHT, text, "m g" if n and isinstance(line, ToolLine) else "")
    for n, text in enumerate(row.allowed):
        yield _text(650, base + n * LINE_HEIGHT, text, "b" if n == 0 else "", fill=row.colour if n == 0 else "")
    yield _text(WIDTH - 24, base, row.result, "g", end=True)


def _text(x: int, y: int, text: str, style: str, *, end: bool = False, fill: str = "") -> str:
    more = (' text-anchor="end"' if end else "") + (f' style="fill:{fill}"' if fill else "")
    return f'<text x="{x}" y="{y}" class="{style}"{more}>{escape(text)}</text>'


def example() -> list[TraceLine]:
    """The lines of the trace that the picture shows."""
    return [LINE.validate_json(text) for text in EXAMPLE.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    PICTURE.write_text(draw(example()), encoding="utf-8")
