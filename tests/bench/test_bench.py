"""The bench measures what it says, and the README shows what was measured. How fast anything is, no test asserts."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import measure
from bench.model import app
from bench.parts import METRICS_OF, Plan
from bench.results import BEGIN, END, METRICS, RESULTS, Results, Samples, insert, readme_table
from bench.systems import SYSTEMS
from bench.task import Task, tool_result_json
from remit.settings import ROOT

ROW = {"system", "metric", "n", "median", "min", "max", "repeats", "ratio_to_raw"}
SMALLEST = Plan(steps=((5, 1),), approvals=2, kills=2)
MEASURED = ["latency", "signals"]


def rows(folder: Path) -> list[dict[str, Any]]:
    content = json.loads((folder / "bench.json").read_text())
    assert set(content) == {"machine", "versions", "parts", "rows"}
    return content["rows"]


def check(found: list[dict[str, Any]]) -> None:
    for row in found:
        assert set(row) - {"note"} == ROW
        assert row["system"] in SYSTEMS
        assert row["metric"] in METRICS
        assert bool(row.get("note")) == (row["median"] is None), row
        if row["median"] is not None:
            assert 0 < row["min"] <= row["median"] <= row["max"]
            assert row["repeats"] > 0


@pytest.mark.timeout(300)
async def test_the_bench_measures_remit_beside_plain_temporal(tmp_path: Path) -> None:
    """The harness in its smallest form: real workers, servers and approvals, one repeat of two of its parts."""
    await measure(["raw", "remit"], MEASURED, SMALLEST, tmp_path)
    found = rows(tmp_path)
    check(found)
    assert not [row for row in found if row["median"] is None]
    wanted = {(system, metric) for part in MEASURED for metric in METRICS_OF[part] for system in ("raw", "remit")}
    assert {(row["system"], row["metric"]) for row in found} == wanted
    assert all(row["ratio_to_raw"] == 1 for row in found if row["system"] == "raw")
    [events] = [row["median"] for row in found if (row["system"], row["metric"]) == ("remit", "history_events")]
    assert events <= 12 * 5 + 25  # twelve a step, and what a run costs once


def test_the_recorded_figures_have_the_promised_form() -> None:
    """Each row of `bench/results` says what it is about, and a failure says why."""
    check(rows(RESULTS))


def test_the_readme_shows_the_recorded_figures() -> None:
    """Its table is what `bench/results` gives; `python -m bench --table` prints it."""
    results = Results.read(RESULTS / "bench.json")
    assert results
    readme = (ROOT / "README.md").read_text()
    assert BEGIN in readme
    assert END in readme
    assert insert(readme, results) == readme
    assert readme_table(results) in readme


def test_a_system_that_fails_is_a_row_of_its_own() -> None:
    """What died isn't left out: its values are null, and the note says how it died."""
    samples = Samples()
    samples.add("raw", "ms_per_step", 200, 20.0)
    samples.failed("pydantic_ai", ["ms_per_step"], 200, "Workflow history size exceeds limit.")
    raw, died = samples.rows()
    assert raw.ratio_to_raw == 1
    assert (died.median, died.ratio_to_raw, died.repeats) == (None, None, 0)
    assert died.note == "Workflow history size exceeds limit."


def test_the_model_server_reads_the_task_wherever_it_stands() -> None:
    """As a plain message, and as JSON inside a message, as Remit sends it."""
    task = Task(7, "lookup", 0)
    plain = json.dumps({"messages": [{"role": "user", "content": task.text}]})
    nested = json.dumps({"messages": [{"role": "user", "content": json.dumps({"task": task.text})}]})
    assert Task.read(plain.encode()) == Task.read(nested.encode()) == task
    assert Task.read(b"{}") is None
    assert {r.resource.canonical for r in app().router.routes() if r.resource} >= {"/v1/chat/completions", "/v1/responses"}


def test_a_tool_result_is_about_a_kilobyte() -> None:
    """As the figures for history suppose."""
    assert 900 < len(tool_result_json(7)) < 1200
