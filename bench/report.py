"""The written result: `results/latest.json` with every figure, `results/latest.md` to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.phases import PATHS, SATURATED, Result, runs

FOLDER = Path(__file__).with_name("results")
FEW_STREAMS = 64
MANY_STREAMS = 512

Figure = Callable[[str], float | None]
"""One figure of a run, by the path on which it was taken."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim beside what was measured, of the gateway and of the floor (None: not measured)."""

    figure: str
    aim: str
    measured: str
    floor: str
    is_met: bool | None
    is_met_by_floor: bool | None


def write(results: Result, folder: Path = FOLDER) -> str:
    """Write both files; the Markdown."""
    folder.mkdir(exist_ok=True)
    text = markdown(results)
    (folder / "latest.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "latest.md").write_text(text)
    return text


def markdown(results: Result) -> str:
    """The page."""
    parts = [
        "# Benchmark",
        _standing(results),
        "## Aims",
        _table(_AIMS_HEAD, map(_verdict_row, verdicts(results))),
        "## Whole answers, closed loop",
        _table(_WHOLE_HEAD, map(_whole_row, results["whole"])),
        "## Whole answers, open loop",
        "Latency counts from the moment a request was due.",
        _table(_OPEN_HEAD, map(_open_row, results["open"])),
        "## Streams of 100 chunks, 16 connections",
        _table(_STREAM_HEAD, map(_stream_row, results["streams"])),
        "## Streams at once, 64 chunks 20 ms apart",
        _table(_AT_ONCE_HEAD, map(_at_once_row, results["at_once"])),
        "## Memory",
        _memory(results),
        "## The machine",
        _machine(results),
        "What each figure means and what it does not show: `bench/README.md`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _standing(results: Result) -> str:
    lines = [f"{results['at']}, `{results['plan']['name']}` plan."]
    if results["problems"]:
        lines.append("**INVALID**: this run does not count, because")
        lines += [f"* {problem}" for problem in results["problems"]]
    else:
        audit = results["audit"]
        lines.append(
            f"Valid: no error in {_requests(results):,} requests; the ledger shows "
            f"{audit['held']:,} holds, {audit['settled']:,} settled, {audit['open_holds']} open."
        )
    if results["log_events"]:
        logged = ", ".join(f"{count:,} × `{name}`" for name, count in results["log_events"].items())
        lines.append(f"\nThe gateway logged {logged}.")
    return "\n".join(lines)


def _requests(results: Result) -> int:
    return sum(int(result["requests"]) for _, _, result in runs(results))


# --- aims -------------------------------------------------------------------------------


def verdicts(results: Result) -> list[Verdict]:
    """The aims, each beside what was measured."""
    best = max(results["whole"], key=lambda row: float(row["gateway"]["rps"]))
    half = max(results["open"], key=lambda row: float(row["job"]["rate"]))
    rate = f"at {half['job']['rate']:,.0f}/s"
    burst, paced = results["streams"]
    few, many = _level(results, FEW_STREAMS), _level(results, MANY_STREAMS)
    return [
        _at_most(
            "gateway CPU per request", 300, "µs", partial(_cpu, best),
            f"at {best['job']['connections']} connections; {_elsewhere(best, WHOLE_FLOOR_US)}",
        ),
        _at_least("requests per second", 2500, lambda path: float(best[path]["rps"])),
        _at_most("added latency, p50", 2, "ms", partial(added, half, "latency", "p50_ms"), rate),
        _at_most("added latency, p99", 8, "ms", partial(added, half, "latency", "p99_ms"), rate),
        _at_most(
            "gateway CPU per stream of 100 chunks", 1200, "µs", partial(_cpu, paced),
            f"2 ms apart; {_elsewhere(paced, PACED_FLOOR_US)}; in one burst "
            f"{_figure(_cpu(burst, 'gateway'))} µs, the floor {_figure(_cpu(burst, 'floor'))}",
        ),
        _at_most(
            "added time to first token, p99", 5, "ms",
            *_few_and_many("ttft", "p99_ms", few, many),
        ),
        _at_least("streams at once without a stall", 512, partial(_stall_free, results)),
        _at_most(
            "added time per chunk, p50", 0.1, "ms",
            *_few_and_many("chunk_delay", "p50_ms", few, many),
        ),
        _at_most("RSS growth", 5, "%", partial(growth, results), _over(results)),
    ]  # fmt: skip


WHOLE_FLOOR_US = 74
PACED_FLOOR_US = 982
"""What uvicorn and aiohttp cost alone on the machine on which the aims were set: a whole answer at
16 or 64 connections, and a stream of 100 chunks 2 ms apart at 16."""


def _elsewhere(row: Result, floor_us: float) -> str:
    """The figure as a multiple of this run's floor, and what that is of the aims' own floor."""
    times = _cpu(row, "gateway") / _cpu(row, "floor")
    return f"{times:.1f} × the floor: {times * floor_us:,.0f} µs where that is {floor_us:,} µs"


def _cpu(row: Result, path: str) -> float:
    return float(row[path]["cpu_us"])


def _few_and_many(
    what: str, quantile: str, few: Result | None, many: Result | None
) -> tuple[Figure, str]:
    beside = f"at {FEW_STREAMS} streams"
    if many is not None:
        beside += f"; {_figure(added(many, what, quantile, 'gateway'))} ms at {MANY_STREAMS}"
    return lambda path: None if few is None else added(few, what, quantile, path), beside


def _level(results: Result, connections: int) -> Result | None:
    rows = [row for row in results["at_once"] if row["job"]["connections"] == connections]
    return rows[0] if rows else None


def added(row: Result, what: str, quantile: str, path: str) -> float | None:
    """Through the gateway, or the floor, less direct, in ms."""
    through, direct = row[path][what][quantile], row["direct"][what][quantile]
    return None if through is None or direct is None else round(float(through - direct), 3)


def _stall_free(results: Result, path: str) -> int:
    free = 0
    for row in sorted(results["at_once"], key=lambda row: int(row["job"]["connections"])):
        through = row[path]
        if through["stalled_streams"] or through["errors"] or not through["answered"]:
            break
        free = int(through["most_in_flight"])
    return free


def growth(results: Result, path: str = "gateway") -> float | None:
    """By how many percent the gateway's memory grew over the soak."""
    if path != "gateway" or not results["soak"]:
        return None
    samples: list[float] = [rss for _, rss in results["soak"]["rss_mb"]]
    return round((samples[-1] / samples[0] - 1) * 100, 2)


def _over(results: Result) -> str:
    if not results["soak"]:
        return ""
    return f"over {results['soak']['gateway']['answered']:,} requests"


def _at_most(what: str, aim: float, unit: str, measure: Figure, beside: str = "") -> Verdict:
    return _verdict(what, f"≤ {aim:,g} {unit}", measure, lambda value: value <= aim, unit, beside)


def _at_least(what: str, aim: float, measure: Figure) -> Verdict:
    return _verdict(what, f"≥ {aim:,g}", measure, lambda value: value >= aim)


def _verdict(
    what: str,
    aim: str,
    measure: Figure,
    is_met: Callable[[float], bool],
    unit: str = "",
    beside: str = "",
) -> Verdict:
    value, floor = measure("gateway"), measure("floor")
    measured = "not measured" if value is None else f"**{_figure(value)}** {unit}".strip()
    return Verdict(
        what,
        aim,
        measured + (f" ({beside})" if beside and value is not None else ""),
        "" if floor is None else f"{_figure(floor)} {unit}".strip(),
        None if value is None else is_met(value),
        None if floor is None else is_met(floor),
    )


def _verdict_row(verdict: Verdict) -> tuple[str, ...]:
    word = {True: "met", False: "**missed**", None: ""}[verdict.is_met]
    if verdict.is_met is False and verdict.is_met_by_floor is False:
        word += ", by the floor too"
    return verdict.figure, verdict.aim, verdict.measured, verdict.floor, word


# --- tables -----------------------------------------------------------------------------

_AIMS_HEAD = ("figure", "aim", "measured", "the floor", "")
_SHARED_HEAD = ("gateway CPU", "busy: gateway's core / other core", "non-200 and broken")
_WHOLE_HEAD = (
    *("connections", "direct: rps · p50 · p99 ms", "gateway: rps · p50 · p99 ms"),
    *("added p50 · p99 ms", "floor: rps · CPU", *_SHARED_HEAD),
)
_OPEN_HEAD = (
    *("rate", *_WHOLE_HEAD[1:4], "floor: added p50 · p99 ms · CPU", "sent late, p99 ms"),
    *_SHARED_HEAD,
)
_STREAM_HEAD = (
    *("chunks", "direct: streams/s · TTFT p50 ms", "gateway: streams/s · TTFT p50 ms"),
    *(
        "added TTFT p50 · p99 ms",
        "added per chunk p50 · p99 ms",
        "floor: streams/s · CPU",
        *_SHARED_HEAD,
    ),
)
_AT_ONCE_HEAD = (
    *("streams", "most in flight", "stalled: direct / floor / gateway"),
    *("added TTFT p50 · p99 ms", "added per chunk p50 · p99 ms", "CPU per chunk"),
    *("floor: added TTFT p99 · per chunk p50 ms · CPU per chunk", *_SHARED_HEAD),
)


def _whole_row(row: Result) -> tuple[str, ...]:
    return (
        str(row["job"]["connections"]),
        *_paths(row, "latency"),
        _rate_floor(row),
        *_shared(row),
    )


def _open_row(row: Result) -> tuple[str, ...]:
    late = _figure(row["gateway"]["sent_late"]["p99_ms"])
    floor = f"{_added_pair(row, 'latency', 'floor')} · {_figure(_cpu(row, 'floor'))} µs"
    return (f"{row['job']['rate']:,.0f}", *_paths(row, "latency"), floor, late, *_shared(row))


def _paths(row: Result, what: str) -> tuple[str, str, str]:
    direct, through = (
        f"{row[path]['rps']:,.0f} · {_figure(row[path][what]['p50_ms'])} · "
        f"{_figure(row[path][what]['p99_ms'])}"
        for path in ("direct", "gateway")
    )
    return direct, through, _added_pair(row, what)


def _stream_row(row: Result) -> tuple[str, ...]:
    gap = row["job"]["gap_ms"]
    paths = (
        f"{row[path]['rps']:,.0f} · {_figure(row[path]['ttft']['p50_ms'])}"
        for path in ("direct", "gateway")
    )
    return (
        f"{gap:g} ms apart" if gap else "in one burst",
        *paths,
        _added_pair(row, "ttft"),
        _added_pair(row, "chunk_delay") if gap else "",
        _rate_floor(row),
        *_shared(row),
    )


def _at_once_row(row: Result) -> tuple[str, ...]:
    stalled = " / ".join(str(row[path]["stalled_streams"]) for path in PATHS)
    floor_ttft = _figure(added(row, "ttft", "p99_ms", "floor"))
    floor_delay = _figure(added(row, "chunk_delay", "p50_ms", "floor"))
    return (
        str(row["job"]["connections"]),
        str(row["gateway"]["most_in_flight"]),
        stalled,
        _added_pair(row, "ttft"),
        _added_pair(row, "chunk_delay"),
        _per_chunk(row, "gateway"),
        f"{floor_ttft} · {floor_delay} · {_per_chunk(row, 'floor')}",
        *_shared(row),
    )


def _per_chunk(row: Result, path: str) -> str:
    cpu_us = row[path]["cpu_us"]
    return "–" if cpu_us is None else f"{_figure(cpu_us / row['job']['chunks'])} µs"


def _rate_floor(row: Result) -> str:
    return f"{row['floor']['rps']:,.0f} · {_figure(_cpu(row, 'floor'))} µs"


def _added_pair(row: Result, what: str, path: str = "gateway") -> str:
    p50, p99 = (_figure(added(row, what, name, path)) for name in ("p50_ms", "p99_ms"))
    return f"{p50} · {p99}"


def _shared(row: Result) -> tuple[str, str, str]:
    through = row["gateway"]
    busy = through["core_busy"]
    mark = " †" if busy["rest"] >= SATURATED > busy["gateway"] else ""
    errors = sum(sum(row[path]["errors"].values()) for path in PATHS)
    return (
        f"{_figure(through['cpu_us'])} µs",
        f"{busy['gateway']:.0%} / {busy['rest']:.0%}{mark}",
        str(errors) if not errors else f"**{errors}**",
    )


def _memory(results: Result) -> str:
    lines = [f"* idle, before the first request: {results['idle_rss_mb']:.1f} MiB"]
    row = max(results["at_once"], key=lambda row: float(row["gateway"]["rss_mb"]))
    lines.append(f"* most after a phase: {row['gateway']['rss_mb']:.1f} MiB ({row['title']})")
    soak = results["soak"]
    if soak is None:
        return "\n".join([*lines, "* the soak was left out of this run"])
    through = soak["gateway"]
    lines.append(
        f"* soak: {through['answered']:,} requests at {through['rps']:,.0f}/s, "
        f"{_figure(through['cpu_us'])} µs of CPU each, "
        f"{sum(through['errors'].values())} errors; "
        f"RSS {_figure(growth(results))} % from first to last"
    )
    if through["requests"] < soak["rows"]:
        lines.append(f"* the soak ran out of time before its {soak['rows']:,} requests")
    samples = _table(
        ("requests", "RSS MiB"), ((f"{count:,}", f"{rss:.1f}") for count, rss in soak["rss_mb"])
    )
    return "\n".join(lines) + "\n\n" + samples


def _machine(results: Result) -> str:
    facts = results["facts"]
    packages = {"Python": facts["python"], **results["servers"], **facts["packages"]}
    lines = [
        f"* {facts['cores']} cores, {facts['processor']}, {facts['system']}",
        "* " + ", ".join(f"{name} {version}" for name, version in packages.items()),
        f"* {results['plan']['accounts']:,} accounts in turn, model `{results['plan']['model']}`",
        f"* others' share of the gateway's core: at most {_others(results):.0%} of a run",
        f"* a fixed piece of Python took {_yardstick(results)} ms of CPU, lowest to highest",
    ]
    if any("†" in cell for cell in _all_shared(results)):
        lines.append(
            "* † the other core, which bears load, upstream and databases, was full while the "
            "gateway's was not: the harness was the limit, and latencies are pessimistic"
        )
    return "\n".join(lines)


def _all_shared(results: Result) -> Iterable[str]:
    for part in ("whole", "open", "streams", "at_once"):
        for row in results[part]:
            yield from _shared(row)


def _others(results: Result) -> float:
    """The largest part of the gateway's core that something else used during a gateway run."""
    shares: list[float] = [
        result["core_busy"]["gateway"] - result["cpu_s"]["gateway"] / result["wall_s"]
        for _, path, result in runs(results)
        if path == "gateway"
    ]
    return max(0.0, *shares)


def _yardstick(results: Result) -> str:
    times = [float(result["yardstick_ms"]) for _, _, result in runs(results)]
    return f"{_figure(min(times))} to {_figure(max(times))}"


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    number = float(value)
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}".removesuffix(".00")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
