"""The charts of a report's page: where each mark and each word stands. No markup in here; the page's template draws them.

A chart is 360 units wide, as much as a phone shows without shrinking its letters, and says the same as a table.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from remit.reporting.figures import ENDS, AgentReport, Day, Figures, Rate, Report
from remit.reporting.words import ARMS, interval, money, percent

__all__ = ["Chart", "Label", "Mark", "of_agent", "overview"]

WIDTH = 360.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 8.0, 10.0, 24.0
PLOT = 120.0
ROW = 38.0
MOST_BINS = 31


@dataclass(frozen=True)
class Mark:
    """A rectangle, or a line where one of its sides is 0. `kind` is its class; `tip` says what it stands for."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    tip: str = ""


@dataclass(frozen=True)
class Label:
    text: str
    x: float
    y: float
    anchor: str = "start"


@dataclass(frozen=True)
class Chart:
    """A chart, and the table that says the same. `legend`: classes of marks and what they stand for."""

    name: str
    title: str
    said: str
    height: float
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[tuple[str, str], ...] = ()
    width: float = field(default=WIDTH)


def overview(report: Report) -> Chart | None:
    """How often each agent's runs end well, for a report of several."""
    if len(report.agents) < 2:
        return None
    return _rates("success", "Task success by agent", [(a.agent, a.all_runs.success) for a in report.agents])


def of_agent(agent: AgentReport, number: int) -> list[Chart]:
    """The charts of one agent, but for those that have nothing to show; `number` sets their names apart from others'."""
    found = [
        _runs(f"runs-{number}", agent.days),
        _costs(f"cost-{number}", agent),
        _refusals(f"refusals-{number}", agent.all_runs),
        _return(f"return-{number}", agent.all_runs),
    ]
    if agent.arms:
        rates = [(ARMS.get(arm.name, arm.name), arm.figures.success) for arm in agent.arms]
        found.append(_rates(f"arms-{number}", "Task success by arm", rates))
    return [chart for chart in found if chart]


# ---- over time ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bin:
    """Some days that follow each other, shown as one column."""

    name: str
    ends: dict[str, int]
    cost_micro_usd: int


def _bins(days: Sequence[Day]) -> list[_Bin]:
    size = -(-len(days) // MOST_BINS)
    found: list[_Bin] = []
    for n in range(0, len(days), size):
        some = days[n : n + size]
        name = some[0].date if len(some) == 1 else f"{some[0].date} to {some[-1].date}"
        names = dict.fromkeys(end for day in some for end in day.ends)
        ends = {end: sum(day.ends.get(end, 0) for day in some) for end in names}
        found.append(_Bin(name, ends, sum(day.cost_micro_usd for day in some)))
    return found


def _runs(name: str, days: Sequence[Day]) -> Chart | None:
    bins = _bins(days)
    ends = [end for end in ENDS if any(b.ends.get(end) for b in bins)]
    most = max((sum(b.ends.values()) for b in bins), default=0)
    if not most:
        return None
    top = _nice(most)
    marks: list[Mark] = []
    for column, each in zip(_columns(len(bins)), bins, strict=True):
        base = TOP + PLOT
        for end in ends:
            if count := each.ends.get(end, 0):
                height = PLOT * count / top
                base -= height
                marks.append(Mark(end, column[0], base, column[1], height, f"{each.name}: {count} {end}"))
    frame, labels = _axes(top, lambda value: f"{value:g}", bins)
    rows = [(b.name, *(str(b.ends.get(end, 0)) for end in ends)) for b in bins if b.ends]
    total = sum(sum(b.ends.values()) for b in bins)
    return Chart(
        name,
        "Runs by day and how they ended",
        f"{total} runs; at most {most} in one column.",
        TOP + PLOT + BOTTOM,
        (*frame, *marks),
        labels,
        ("Day", *ends),
        tuple(rows),
        tuple((end, end) for end in ends),
    )


def _costs(name: str, agent: AgentReport) -> Chart | None:
    bins = _bins(agent.days)
    each = [b.cost_micro_usd / b.ends["completed"] if b.ends.get("completed") else None for b in bins]
    shown = [cost for cost in each if cost is not None]
    if not any(shown):
        return None
    ceiling = agent.known.ceiling_micro_usd if agent.known else None
    # A ceiling far above what was spent would leave nothing to see of that.
    drawn = ceiling if ceiling is not None and ceiling <= 3 * max(shown) else None
    top = _nice(max(*shown, drawn or 0, 1))
    marks = [
        Mark("cost", x, TOP + PLOT * (1 - cost / top), width, PLOT * cost / top, f"{b.name}: {money(round(cost))}")
        for (x, width), b, cost in zip(_columns(len(bins)), bins, each, strict=True)
        if cost is not None
    ]
    frame, labels = _axes(top, lambda value: money(round(value)), bins)
    if drawn:
        marks.append(Mark("ceiling", LEFT, TOP + PLOT * (1 - drawn / top), WIDTH - LEFT - RIGHT, 0, f"ceiling {money(drawn)}"))
    said = f"At most {money(round(max(shown)))}" + (f"; the ceiling is {money(ceiling)}." if ceiling else ".")
    return Chart(
        name,
        "Model cost per completed task",
        said,
        TOP + PLOT + BOTTOM,
        (*frame, *marks),
        labels,
        ("Day", "Cost per completed task", "Completed"),
        tuple(
            (b.name, "none completed" if cost is None else money(round(cost)), str(b.ends.get("completed", 0)))
            for b, cost in zip(bins, each, strict=True)
            if b.ends
        ),
        (("cost", "cost per completed task"), *((("ceiling", "ceiling"),) if drawn else ())),
    )


def _columns(count: int) -> list[tuple[float, float]]:
    """Left edge and width of each column."""
    step = (WIDTH - LEFT - RIGHT) / max(1, count)
    width = min(step * 0.8, 48.0)
    return [(LEFT + step * n + (step - width) / 2, width) for n in range(count)]


def _axes(top: float, words: Callable[[float], str], bins: Sequence[_Bin]) -> tuple[list[Mark], tuple[Label, ...]]:
    marks: list[Mark] = []
    labels: list[Label] = []
    for part in (0.0, 0.5, 1.0):
        y = TOP + PLOT * (1 - part)
        marks.append(Mark("grid", LEFT, y, WIDTH - LEFT - RIGHT, 0))
        labels.append(Label(words(top * part), LEFT - 6, y + 4, "end"))
    columns = _columns(len(bins))
    last = len(bins) - 1
    for n in sorted({0, last // 2, last} if last > 3 else {0, last}):
        x, width = columns[n]
        anchor = "middle" if 0 < n < last or not last else "start" if n == 0 else "end"
        at = {"middle": x + width / 2, "start": x, "end": x + width}[anchor]
        labels.append(Label(bins[n].name[5:10], at, TOP + PLOT + 17, anchor))
    return marks, tuple(labels)


def _nice(value: float) -> float:
    """The next of 1, 2 or 5 times a power of ten, so that an axis has round numbers."""
    size = 1e-9
    while True:
        for step in (1, 2, 5):
            if step * size >= value:
                return step * size
        size *= 10


# ---- one row each ---------------------------------------------------------------------------------------------------


def _refusals(name: str, found: Figures) -> Chart | None:
    rows = [(refusal.code, float(refusal.calls), str(refusal.calls), "refused") for refusal in found.refusals]
    return _bars(name, "Why calls were refused", f"{found.refused} calls, by reason.", rows, ("Reason", "Calls"))


def _return(name: str, found: Figures) -> Chart | None:
    if (value := found.value) is None:
        return None
    parts = (
        ("Saved", value.saved_micro_usd, "saved"),
        ("Model calls", value.model_micro_usd, "spent"),
        ("Infrastructure", value.infrastructure_micro_usd, "spent"),
        ("Review by people", value.review_micro_usd, "spent"),
    )
    rows = [(what, float(micro), money(micro), kind) for what, micro, kind in parts]
    return _bars(name, "What it saved and took", f"Net return: {money(value.net_micro_usd)}.", rows, ("", "US dollars"))


def _bars(
    name: str, title: str, said: str, rows: Sequence[tuple[str, float, str, str]], columns: tuple[str, str]
) -> Chart | None:
    """A bar under each name, with its value at the right."""
    most = max((value for _, value, _, _ in rows), default=0)
    if not most:
        return None
    marks: list[Mark] = []
    labels: list[Label] = []
    for n, (what, value, words, kind) in enumerate(rows):
        y = TOP + ROW * n
        labels += [Label(what, 0, y + 12), Label(words, WIDTH, y + 12, "end")]
        marks += [
            Mark("track", 0, y + 18, WIDTH, 9),
            Mark(kind, 0, y + 18, WIDTH * value / most, 9, f"{what}: {words}"),
        ]
    table = tuple((what, words) for what, _, words, _ in rows)
    return Chart(name, title, said, TOP + ROW * len(rows), tuple(marks), tuple(labels), columns, table)


def _rates(name: str, title: str, rates: Iterable[tuple[str, Rate]]) -> Chart | None:
    """A point and the range that it may lie in, for each name."""
    shown = [(what, rate) for what, rate in rates if rate.value is not None]
    marks: list[Mark] = []
    labels: list[Label] = []
    for n, (what, rate) in enumerate(shown):
        y = TOP + ROW * n
        value, low, high = ((part or 0.0) * WIDTH for part in (rate.value, rate.low, rate.high))
        labels += [Label(what, 0, y + 12), Label(f"{percent(rate)} of {rate.of}", WIDTH, y + 12, "end")]
        marks += [
            Mark("track", 0, y + 18, WIDTH, 9),
            Mark("range", low, y + 18, high - low, 9, f"{what}: {interval(rate)}"),
            Mark("point", min(max(value - 2, 0), WIDTH - 4), y + 15, 4, 15),
        ]
    if not shown:
        return None
    table = tuple((what, percent(rate), f"{rate.count} of {rate.of}", *_limits(rate)) for what, rate in shown)
    return Chart(
        name,
        title,
        "With the range that the true share lies in 95 times of 100.",
        TOP + ROW * len(shown),
        tuple(marks),
        tuple(labels),
        ("", "Success", "Runs", "95 % from", "to"),
        table,
    )


def _limits(rate: Rate) -> tuple[str, str]:
    low, high = (f"{100 * (part or 0.0):.0f} %" for part in (rate.low, rate.high))
    return low, high
