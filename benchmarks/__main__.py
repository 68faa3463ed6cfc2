"""Measure the service, and print each figure beside its floor and its target. `make bench`."""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import backlog, engine, idle, instructions, latency, start
from benchmarks.figure import Figure, show
from benchmarks.server import Databases, server_url

AREAS = {
    "start": start,
    "latency": latency,
    "engine": engine,
    "instructions": instructions,
    "backlog": backlog,
    "idle": idle,
}
SHORT_FACTOR = 2


def main() -> int:
    options = _options()
    figures: list[Figure] = []
    started = time.perf_counter()
    with server_url() as url:
        databases = Databases(url)
        machine = f"{os.cpu_count()} cores, {databases.version()}, Python {platform.python_version()}"
        for area in options.only or AREAS:
            for figure in AREAS[area].measure(databases, short=options.short):
                figures.append(figure)
                print(f"{time.perf_counter() - started:5.0f} s  {figure.name}", file=sys.stderr, flush=True)
    show(figures)
    print(f"{machine}; {time.perf_counter() - started:.0f} s")
    if options.json:
        content = {"machine": machine, "figures": [asdict(one) | {"ok": one.is_reached} for one in figures]}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    factor = SHORT_FACTOR if options.short else 1
    return int(not all(one.is_within(factor) for one in figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--short", action="store_true", help="less of everything; fails only on what is off by two")
    parser.add_argument("--only", nargs="+", choices=AREAS, metavar="AREA", help=f"of {', '.join(AREAS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser.parse_args()


sys.exit(main())
