"""Faults by the thousand, each to be refused in one line or to lose nothing: prints a Markdown table.

    python tests/stress/run.py [--quick] [--seed N] [--only WORD]

Exits with 1 if anything was lost, or if anything but a UserError or a usage error came out.
"""

import argparse
import faulthandler
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's package, not an installed one

import checkpoints  # noqa: E402
import environments  # noqa: E402
import foreign_images  # noqa: E402
import headers  # noqa: E402
import inputs  # noqa: E402
import interruptions  # noqa: E402
import names  # noqa: E402
import page_requests  # noqa: E402
import signals  # noqa: E402
import torch  # noqa: E402

COLUMNS = ("fault", "cases", "caught", "harmless", "lost", "tracebacks")
FILES = (
    interruptions,
    *(checkpoints, headers),
    *(inputs, foreign_images, names),
    *(environments, signals, page_requests),
)
ROWS = [row for file in FILES for row in file.ROWS]
HUNG = 3600  # seconds of a row after which the stack is printed and the process ends


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the cases (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="decides every case (default: 0)")
    parser.add_argument("--only", metavar="WORD", default="", help="only rows with it in their name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * 5, flush=True)
    total = Counter()
    for fault, check, cases in ROWS:
        if arguments.only not in fault:
            continue
        draw = random.Random(f"{arguments.seed}/{fault}")  # so that no row changes another's cases
        faulthandler.dump_traceback_later(HUNG, exit=True)
        with tempfile.TemporaryDirectory() as scratch:
            counts = check(draw, cases // 10 if arguments.quick else cases, Path(scratch))
        total += counts
        print_row(fault, counts)
    print_row("all", total)
    return 1 if total["lost"] or total["tracebacks"] else 0


def print_row(fault, counts):
    numbers = (f"{counts[name]:,}" for name in COLUMNS[2:])
    print(f"| {fault} | {sum(counts.values()):,} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
