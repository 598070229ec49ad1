"""How are the figures of bench/engine.py read? Tables for people, and which goals were reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

MIB: Final = 2**20
VECTOR: Final = 384
"""Bytes of a vector at the default quantization, a byte for each dimension."""
OVERHEAD_GOALS: Final = {100_000: 0.20, 1_000_000: 0.10}
MEMORY_GOAL: Final = 1.5
GROWTH_GOAL: Final = 4.0
FILTER_GOAL: Final = 2.0


def table(one: dict[str, Any]) -> str:
    """All figures of one size."""
    return "\n".join([*_made(one), *_built(one), *_restart(one), *_latency(one), *_under(one), *_visible(one)])


def _made(one: dict[str, Any]) -> Iterator[str]:
    made = one["made"]
    yield f"\n## {one['rows']:,} chunks x 384"
    yield (
        f"vectors: {made['passages']:,} passages with {made['embedder']}, then mixtures of near ones with noise; "
        f"{made['terms'] / one['rows']:.0f} terms a chunk, {made['vocabulary']:,} different; "
        f"the exact best ten are of {made['distinct']:.1f} passages"
    )


def _built(one: dict[str, Any]) -> Iterator[str]:
    built, pair, rows = one["built"], one["pair"], one["rows"]
    yield (
        f"build         {built['seconds']:8.1f} s: apply {built['apply_s']:.1f} in batches of {built['batch_rows']:,}, "
        f"publish {built['publish_s']:.1f} every {built['publish_rows']:,}, "
        f"{built['merges']} merges {built['merge_s']:.1f}; bare pair {pair['dense_s'] + pair['lexical_s']:.1f} s"
    )
    yield (
        f"peak memory   {built['peak'] / MIB:8.0f} MiB, anonymous {built['anonymous_peak'] / MIB:.0f}; "
        f"bare pair {pair['peak'] / MIB:.0f}"
    )
    yield (
        f"disk          {built['bytes'] / MIB:8.0f} MiB, {built['bytes'] / rows:.0f} bytes a chunk; "
        f"bare pair {pair['bytes'] / MIB:.0f}"
    )
    for part in built["parts"]:
        yield f"part          {part['rows']:8,} rows, {part['live']:,} live: {_kind(part['dense'])}"
    yield f"bare pair     {one['pair_kind']}; recall@10 {one['pair_recall_at_10']:.3f}"


def _kind(dense: dict[str, Any]) -> str:
    if dense["kind"] == "flat":
        return f"flat, {dense['quantization']}"
    return (
        f"{dense['kind']} {dense['quantization']}, {dense['lists']} lists, {dense['probe_rows']:,} rows looked at, "
        f"refine {dense['refine']:g}, measured recall {dense['recall_at_10']:.3f} of {dense['queries']}"
    )


def _restart(one: dict[str, Any]) -> Iterator[str]:
    restart, rows = one["restart"], one["rows"]
    yield f"restart       {restart['first_answer_s']:8.2f} s to the first answer, {restart['open_s']:.2f} to open"
    yield (
        f"memory        {restart['anonymous_loaded'] / rows:8.0f} bytes a chunk loaded, "
        f"{restart['anonymous_asked'] / rows:.0f} after queries; mapped {restart['mapped'] / rows:.0f}"
    )


def _latency(one: dict[str, Any]) -> Iterator[str]:
    yield "leg, limit      ours p50    p99   bare p50    p99  overhead  CPU time | 8 clients p50    p99    qps bare qps"
    for name, found in one["latency"].items():
        alone, eight = found["one"], found["eight"]
        ours, bare = alone["ours"], alone["bare"]
        yield (
            f"{name:14}{ours['p50']:10.2f}{ours['p99']:7.2f}{bare['p50']:11.2f}{bare['p99']:7.2f}"
            f"{alone['overhead']:10.0%}{alone['overhead_cpu']:10.0%} |{eight['ours']['p50']:14.2f}"
            f"{eight['ours']['p99']:7.2f}{eight['ours']['qps']:7.0f}{eight['bare']['qps']:9.0f}"
        )


def _under(one: dict[str, Any]) -> Iterator[str]:
    yield "condition       recall@10  full  first ms  dense p50  ratio  lexical p50  ratio  hybrid p50  ratio"
    for name, found in one["under"].items():
        legs = "".join(
            f"{found[leg]['p50']:{width}.2f}{found[leg]['ratio']:7.2f}"
            for leg, width in (("dense", 11), ("lexical", 13), ("hybrid", 12))
        )
        full = "yes" if found["full"] else "NO"
        yield f"{name:16}{found['recall_at_10']:9.3f}{full:>6}{found['first_ms']:10.1f}{legs}"


def _visible(one: dict[str, Any]) -> Iterator[str]:
    apply, visible = one["visible"]["apply_ms"], one["visible"]["visible_ms"]
    yield (
        f"visible       apply of ten chunks {apply['p50']:.2f} ms (p99 {apply['p99']:.2f}); "
        f"from its return to the answer that shows them {visible['p50']:.2f} ms (p99 {visible['p99']:.2f})"
    )


def following(found: dict[str, Any]) -> str:
    """Through catalogue and follower."""
    took = found["found_ms"]
    return (
        f"\nfrom the catalogue's commit to an answer that shows it, {found['documents']} documents: "
        f"{took['p50']:.1f} ms (p99 {took['p99']:.1f})"
    )


def goals(results: Sequence[dict[str, Any]]) -> str:
    """One line for each goal that these sizes can speak of."""
    return "\n".join(["\n## Goals", *(line for one in results for line in _goals_of(one)), *_growth(results)])


def _goals_of(one: dict[str, Any]) -> Iterator[str]:
    rows, hybrid = one["rows"], one["latency"]["hybrid 10"]["one"]
    if rows in OVERHEAD_GOALS:
        yield _goal(f"{rows:,}: p50 overhead over the bare pair", hybrid["overhead"], OVERHEAD_GOALS[rows])
    times = one["restart"]["anonymous_asked"] / rows / VECTOR
    yield _goal(f"{rows:,}: anonymous memory over vector of {VECTOR} bytes", times, MEMORY_GOAL)
    for name in ("filter 10 %", "filter 1 %"):
        found = one["under"][name]
        yield _goal(f"{rows:,}: {name} over unfiltered, hybrid", found["hybrid"]["ratio"], FILTER_GOAL)
        if not found["full"]:
            yield f"MISSED   {rows:,}: {name} did not fill the best ten"


def _growth(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    p50 = {one["rows"]: one["latency"]["hybrid 10"]["one"]["ours"]["p50"] for one in results}
    if {10_000, 1_000_000} <= set(p50):
        yield _goal("hybrid p50 at 1,000,000 over that at 10,000", p50[1_000_000] / p50[10_000], GROWTH_GOAL)


def _goal(what: str, reached: float, most: float) -> str:
    return f"{'reached' if reached <= most else 'MISSED':8} {what}: {reached:.2f} (at most {most:.2f})"
