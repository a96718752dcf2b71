"""``make bench-operator``: the operator beside a bare kopf and a plain asyncio, on a real API server.

The pods run on simulated nodes (kwok), so nothing is measured but the control plane. One harness drives the three in
turn, several times over, for a machine's speed drifts; the ratios are what counts, the milliseconds are this machine's.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from environment import prepare_environment
from report import format_report
from scenarios import Size, measure_scale, measure_variant

VARIANTS = ("plain asyncio", "bare kopf", "ours")
QUICK = Size(idle=10, burst=100, finished=500, progress=50, progress_seconds=6.0)
FULL = Size(idle=30, burst=1000, finished=10_000, progress=1000, progress_seconds=20.0)


async def run(options: argparse.Namespace) -> None:
    """Measure, and print as it goes."""
    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(prefix="trainingtask-bench-") as folder:
        async with prepare_environment(Path(options.logs or folder)) as prepared:
            rounds = [
                {name: await measure_variant(prepared, name, size) for name in options.variants}
                for _ in range(options.rounds or (1 if options.quick else 3))
            ]
            scaled = await measure_scale(prepared, size) if not options.no_scale else None
    print(format_report(rounds, scaled, size))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench-operator", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: small numbers, two minutes")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--rounds", type=int, help="measure each variant so often; the medians count (3; --quick: 1)")
    parser.add_argument("--no-scale", action="store_true", help="leave out 10,000 finished and 1,000 reporting tasks")
    parser.add_argument("--logs", help="folder for the logs of the systems under test")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
