#!/usr/bin/env python3
"""How much error at how many bits, and how fast: thermoq beside the data-free quantizers.

All of them store the same tensors, the attention and MLP weights of the encoder of
all-MiniLM-L6-v2. The error is ||W^ - W||^2 / ||W||^2 over all matrices together; bits are counted
as they would lie on the disk. Speeds are medians on one and on two threads, in turns within one
process, on the same values laid end to end in rows of 4096.

It needs the extras `torch` and `bench`. A missed target is printed as "missed", and the exit code
is 0.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from measuring import Result, machine, note, print_table, shown, summarize
from points import (
    COLS,
    THREADS,
    Point,
    encoder_matrices,
    front,
    measure_error,
    measure_speeds,
    use_threads,
)
from quantizers import Missing, Quantizer, ours

Q2_K, Q4_K, HQQ = "llama.cpp Q2_K", "llama.cpp Q4_K", "HQQ 2 bits g64"


def best(points: Iterable[Point], prefix: str, most_bits: float = math.inf) -> Point:
    """The least error among thermoq's points of a name, within a number of bits."""
    fitting = [
        point
        for point in points
        if point.ours and point.name.startswith(prefix) and point.bits_per_weight <= most_bits
    ]
    return min(fitting, key=lambda point: point.error)


def error_results(points: Sequence[Point]) -> list[Result]:
    """The figures to reach, and whether each default is on the front."""
    targets = (
        ("lsq INT2 affine g64", 2.5, 0.111),
        ("lsq INT2 coded g16", 2.63, 0.077),
        ("lsq INT2 coded", 2.40, 0.095),
        ("lsq INT4 coded", 4.5, 0.0054),
        ("lsq INT2 trellis e1", 2.065, 0.0861),
        ("lsq INT2 trellis e5", 2.08, 0.0715),
    )
    results = []
    for prefix, most_bits, error in targets:
        point = best(points, prefix, most_bits)
        detail = f"{point.name}, {point.bits_per_weight:.3f} bits"
        what = f"error of {prefix} in {most_bits} bits"
        results.append(Result(what, point.error, "", None, None, error, False, detail))
    return [*results, *(front_result(points, bits) for bits in (2, 4, 8))]


def front_result(points: Sequence[Point], bit_width: int) -> Result:
    """How much more error the best of the others has that takes no more bits than the default."""
    default = next(point for point in points if point.default_of == bit_width)
    rivals = [
        point
        for point in points
        if point != default and point.bits_per_weight <= default.bits_per_weight
    ]
    rival = min(rivals, key=lambda point: point.error)
    where = "on the front" if default in front(points) else "not on the front"
    detail = (
        f"{default.name}, {default.bits_per_weight:.3f} bits, {shown(default.error)}: {where}; "
        f"next {rival.label}, {rival.bits_per_weight:.3f} bits, {shown(rival.error)}"
    )
    what = f"best other error in the bits of the INT{bit_width} default, over its own"
    return Result(what, rival.error / default.error, "x", None, None, 1.0, True, detail)


def speed_results(points: Sequence[Point]) -> list[Result]:
    """thermoq beside the peers whose error it beats at their size, and its own threads."""
    by_label = {point.label: point for point in points}
    int2, int4 = best(points, "lsq INT2 coded g16", 2.63), best(points, "lsq INT4 coded", 4.5)
    pairs = [(int2, Q2_K, 4.0), (int2, HQQ, 30.0), (int4, Q4_K, 4.0)]
    results = []
    for mine, label, target in pairs:
        for column, threads in enumerate(THREADS):
            what = f"{mine.name}, beside {label}, {threads} thread{'s' * (threads > 1)}"
            if label not in by_label:
                results.append(Result(what, None, detail="not measured here, see above"))
                continue
            theirs = by_label[label]
            turns = zip(mine.speeds[column], theirs.speeds[column], strict=False)  # some have fewer
            ratios = [our / their for our, their in turns]
            detail = f"{_millions(mine, threads)} against {_millions(theirs, threads)} M weights/s"
            results.append(summarize(what, ratios, "x", target=target, detail=detail))
    for mine in (int2, int4):
        scaling = [two / one for one, two in zip(*mine.speeds, strict=True)]
        results.append(summarize(f"{mine.name}, two threads beside one", scaling, "x"))
    return results


def _millions(point: Point, threads: int) -> str:
    return shown(point.speed(threads) / 1e6) if point.speeds else ""


def print_points(points: Sequence[Point], missing: Sequence[Missing]) -> None:
    """A line for each quantizer, by bits; then what could not be measured."""
    on_front = front(points)
    head = ["quantizer", "bits/weight", "error", "front", "M/s, 1 thread", "2 threads", "rows"]
    rows = [head]
    for point in sorted(points, key=lambda p: (p.bits_per_weight, p.error)):
        cells = [point.label + (", the default" if point.default_of else "")]
        cells += [f"{point.bits_per_weight:.3f}", f"{point.error:.3g}", "yes" * (point in on_front)]
        cells += [*(_millions(point, threads) for threads in THREADS), str(point.rows or "")]
        rows.append(cells)
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        pairs = list(zip(row, widths, strict=True))
        print("  ".join([pairs[0][0].ljust(pairs[0][1]), *(c.rjust(w) for c, w in pairs[1:])]))
    for absent in missing:
        print(f"{absent.family}: not measured, {absent.reason}")
    print(
        "\nfront: no other has as few bits and as little error. *: insists on importances, was"
        " given ones.\nSpeeds are medians in million weights a second, of so many rows of"
        f" {COLS} f32 weights (quanto: f16).\n"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="runs of each speed")
    parser.add_argument("--no-speeds", action="store_true", help="bits and errors only")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw errors against bits")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


def main() -> None:
    """Measure, print and draw."""
    options = arguments()
    before = machine()
    from peer_quantizers import peers

    warnings.simplefilter("ignore")  # of the peers
    matrices = encoder_matrices()
    everybody = [*ours(), *peers()]
    quantizers = [one for one in everybody if isinstance(one, Quantizer)]
    missing = [one for one in everybody if isinstance(one, Missing)]
    use_threads(1)
    points = []
    for quantizer in quantizers:
        note(f"pareto: {quantizer.label}")
        points.append(measure_error(quantizer, matrices))
    results = error_results(points)
    if not options.no_speeds:
        speeds = measure_speeds(quantizers, matrices, options.runs)
        points = [
            replace(point, rows=rows, speeds=by_threads)
            for point, (rows, by_threads) in zip(points, speeds, strict=True)
        ]
        results += speed_results(points)
    if options.picture:
        from picture import draw

        draw(points, front(points), options.picture)
    if options.json:
        everything = {
            "machine": before,
            "points": [asdict(point) for point in points],
            "missing": [asdict(family) for family in missing],
            "results": [asdict(result) for result in results],
        }
        print(json.dumps(everything))
        return
    total = sum(matrix.size for matrix in matrices)
    print(f"{before.rpartition(';')[0]}\n{len(matrices)} matrices, {total:,} weights\n")
    print_points(points, missing)
    print_table(results)


if __name__ == "__main__":
    main()
