"""Alternating measurements and what is said of them: medians and ratios within one run, never absolute claims."""

from __future__ import annotations

import statistics
import time


async def alternate(rounds, **ways):
    """Await each of WAYS in turn, ROUNDS times (plus one that does not count); return name -> list of seconds."""
    times = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            spent = await way()
            # A way may measure a part of itself and return that.
            spent = spent if isinstance(spent, float) else time.perf_counter() - started
            if number:
                times[name].append(spent)
    return times


def row(what, times, baseline, subject="moat", limit=None):
    """One line of the table: medians in ms, the median ratio, and what it may be."""
    ours, theirs = statistics.median(times[subject]), statistics.median(times[baseline])
    # Rounds are paired: the ratio of neighbours is what a noisy machine disturbs least.
    ratio = statistics.median(a / b for a, b in zip(times[subject], times[baseline], strict=True))
    return {
        "what": what,
        "baseline": baseline,
        "moat_ms": round(ours * 1000, 1),
        "baseline_ms": round(theirs * 1000, 1),
        "ratio": round(ratio, 3),
        "limit": limit,
        "rounds": len(times[subject]),
    }


def show(rows):
    """Print rows as a table."""
    print(f"{'what':<46} {'against':<16} {'moat':>9} {'baseline':>9} {'ratio':>7} {'limit':>7}")
    for r in rows:
        unit = r.get("unit", "ms")
        ours, theirs = r.get("moat", r.get("moat_ms")), r.get("base", r.get("baseline_ms"))
        mark = "" if r["limit"] is None else ("  ok" if r["ratio"] <= r["limit"] else "  OVER")
        limit = "" if r["limit"] is None else f"{r['limit']:g}"
        print(
            f"{r['what']:<46} {r['baseline']:<16} {ours:>7} {unit} {theirs:>6} {unit} {r['ratio']:>7} {limit:>7}{mark}"
        )
