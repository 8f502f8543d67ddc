"""The figures: samples become rows, rows become JSON and tables. Nothing is measured here."""

import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from policies.models import Frozen
from remit.settings import ROOT

__all__ = ["METRICS", "RESULTS", "Part", "Results", "Row", "Samples", "document", "readme_table"]

RESULTS = ROOT / "bench" / "results"
Metric = Literal[
    "ms_per_step",
    "steps_per_s",
    "worker_cpu_ms_per_step",
    "rss_mb",
    "history_bytes",
    "history_events",
    "replay_s",
    "approval_to_tool_ms",
    "kill_to_stop_ms",
    "parked_kb",
    "signal_all_s",
    "close_all_s",
]
METRICS: dict[Metric, str] = {
    "ms_per_step": "ms a step, one run of N steps",
    "steps_per_s": "steps/s, 50 runs of 5 steps at once (N = runs)",
    "worker_cpu_ms_per_step": "CPU ms a step of the worker process",
    "rss_mb": "peak memory of the worker process, MB",
    "history_bytes": "history, bytes",
    "history_events": "history, events",
    "replay_s": "replay of a run of N steps, s",
    "approval_to_tool_ms": "signal of an approval sent, to start of the approved tool, ms",
    "kill_to_stop_ms": "signal of a kill sent while the model answers, to the run's end, ms",
    "parked_kb": "memory of a run that waits for a person, KB (N = runs)",
    "signal_all_s": "N waiting runs signalled to end: all signals accepted, s",
    "close_all_s": "N waiting runs signalled to end: all closed, s",
}


class Row(Frozen):
    """One cell: a system, a metric, a size. The values are null when the system failed there, and `note` says how."""

    system: str
    metric: Metric
    n: int
    median: float | None
    min: float | None
    max: float | None
    repeats: int
    ratio_to_raw: float | None
    note: str = ""


class Part(Frozen):
    """When a part was measured, and how many cores other processes used meanwhile."""

    started: str
    seconds: float
    foreign_cores: float


class Results(Frozen):
    """The content of `bench.json`."""

    machine: dict[str, str | int]
    versions: dict[str, str]
    parts: dict[str, Part] = Field(default_factory=dict[str, Part])
    rows: tuple[Row, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Results | None":
        return cls.model_validate_json(path.read_text()) if path.exists() else None

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        content = self.model_dump(mode="json")
        content["rows"] = [{k: v for k, v in row.items() if k != "note" or v} for row in content["rows"]]
        rows = ",\n  ".join(json.dumps(row) for row in content.pop("rows"))
        head = json.dumps(content, indent=1)[:-2]
        (folder / "bench.json").write_text(f'{head},\n "rows": [\n  {rows}\n ]\n}}\n')
        (folder / "bench.md").write_text(document(self))


class Samples:
    """What a part has measured so far."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, Metric, int], list[float]] = {}
        self._notes: dict[tuple[str, Metric, int], str] = {}

    def add(self, system: str, metric: Metric, n: int, value: float) -> None:
        self._values.setdefault((system, metric, n), []).append(value)

    def failed(self, system: str, metrics: Iterable[Metric], n: int, note: str) -> None:
        for metric in metrics:
            self._notes[system, metric, n] = " ".join(note.split())[:300]

    def rows(self) -> list[Row]:
        """A row for each cell; a failure counts only where nothing was measured."""
        found: list[Row] = []
        for key in dict.fromkeys([*self._values, *self._notes]):
            system, metric, n = key
            values, raw = self._values.get(key, []), self._values.get(("raw", metric, n), [])
            low, middle, high = (min(values), statistics.median(values), max(values)) if values else (None, None, None)
            limit = statistics.median(raw) if raw else None
            found.append(
                Row(
                    system=system,
                    metric=metric,
                    n=n,
                    median=_short(middle),
                    min=_short(low),
                    max=_short(high),
                    repeats=len(values),
                    ratio_to_raw=_short(middle / limit) if middle is not None and limit else None,
                    note=self._notes.get(key, ""),
                )
            )
        return found


def _short(value: float | None) -> float | None:
    """Four significant digits, but no fewer than the whole number has."""
    if value is None:
        return None
    return float(f"{value:.4g}") if abs(value) < 1000 else float(round(value))


# ---- tables -------------------------------------------------------------------------------------------------------------

SHOWN: tuple[tuple[str, Metric, int], ...] = (
    ("time a step, run of 5 steps", "ms_per_step", 5),
    ("time a step, run of 20", "ms_per_step", 20),
    ("time a step, run of 100", "ms_per_step", 100),
    ("time a step, run of 200", "ms_per_step", 200),
    ("time a step, run of 1,000", "ms_per_step", 1000),
    ("steps per second, 50 runs at once (more is better)", "steps_per_s", 50),
    ("worker CPU a step, run of 100", "worker_cpu_ms_per_step", 100),
    ("peak memory of the worker, run of 100", "rss_mb", 100),
    ("history bytes, run of 200", "history_bytes", 200),
    ("history events, run of 200", "history_events", 200),
    ("replay of a run of 200", "replay_s", 200),
    ("approval to tool", "approval_to_tool_ms", 1),
    ("kill to stop", "kill_to_stop_ms", 1),
    ("memory of a waiting run", "parked_kb", 1000),
    ("1,000 waiting runs signalled", "signal_all_s", 1000),
    ("1,000 waiting runs closed", "close_all_s", 1000),
)
COLUMNS = {
    "remit": "Remit",
    "remit_local": "Remit, reads local",
    "openai_agents": "OpenAI Agents",
    "pydantic_ai": "Pydantic AI",
}
BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->"


def readme_table(results: Results) -> str:
    """Ratios to raw Temporal, for the README."""
    cells = {(r.system, r.metric, r.n): r for r in results.rows}
    lines = [f"| plain Temporal = 1 | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
    for label, metric, n in SHOWN:
        found = [cells.get((system, metric, n)) for system in COLUMNS]
        if any(found):
            lines.append(f"| {label} | {' | '.join(_ratio(row) for row in found)} |")
    return "\n".join(lines) + "\n"


def _ratio(row: Row | None) -> str:
    if row is None:
        return ""
    return (
        "fails"
        if row.ratio_to_raw is None
        else f"{row.ratio_to_raw:.2f}"
        if row.ratio_to_raw < 10
        else f"{row.ratio_to_raw:.0f}"
    )


def insert(readme: str, results: Results) -> str:
    """The README with its table replaced."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    return re.sub(pattern, lambda _: BEGIN + "\n" + readme_table(results) + "\n" + END, readme, flags=re.DOTALL)


def document(results: Results) -> str:
    """All figures as Markdown."""
    lines = ["# Bench", "", "Written by `make bench`; how to read it: [README](../README.md).", ""]
    lines += [f"- {name}: {value}" for name, value in results.machine.items()]
    lines += [f"- {name} {version}" for name, version in results.versions.items()]
    lines += [
        f"- part `{name}`: {part.started}, {part.seconds:.0f} s; other processes used {part.foreign_cores:.2f} cores"
        for name, part in results.parts.items()
    ]
    for metric, label in METRICS.items():
        rows = [row for row in results.rows if row.metric == metric]
        if not rows:
            continue
        lines += [
            "",
            f"## {label}",
            "",
            "| system | N | median | min | max | repeats | to raw |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in sorted(rows, key=lambda r: r.n):
            values = [_number(v) for v in (row.median, row.min, row.max)]
            ratio = _number(row.ratio_to_raw) if row.median is not None else row.note
            lines.append(f"| {row.system} | {row.n:,} | {' | '.join(values)} | {row.repeats} | {ratio} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
