"""Studies of fusing two inputs, each a file with study(args); README.md has their questions and results."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnist_sum.cli import UserError
from mnist_sum.files import write_atomically

STUDIED = {  # the custom models of the study `pairs`
    "learned_table": str(Path(__file__).with_name("learned_table.py:LearnedTable")),
    "line_adder": str(Path(__file__).with_name("line_adder.py:LineAdder")),
}
Row = dict[str, Any]  # JSON values
Plan = dict[str, tuple[Row, Callable[[], Row]]]  # {a run's folder: (its identity, the function that does it)}


def do_runs(args: Namespace, plan: Plan, publish: Callable[[list[Row], Path], str]) -> None:
    """Do the missing runs, each kept as a row.json; after each, publish() draws the picture and returns the tables."""
    rows, picture = list[Row](), Path(args.output_dir, f"{args.study}.png")
    for name, (identity, run) in plan.items():
        path, identity = Path(args.output_dir, name, "row.json"), json.loads(json.dumps(identity))  # no tuples
        done = path.exists()
        row = json.loads(path.read_text()) if done else identity | run()
        if not identity.items() <= row.items():
            raise UserError(f"{path.parent} holds a run with other settings; choose another --output-dir")
        if not done:
            write_atomically(path, json.dumps(row, indent=1).encode())
        rows.append(row)
        found = ", ".join(f"{key[:-9]} {row[key] or 0:.2%}" for key in row if key.endswith("_accuracy"))
        line = f"{len(rows)}/{len(plan)} {name}: {found}, {row['seconds']:.0f} s"
        print(json.dumps(row) if args.json else line, flush=True)
        if not done or len(rows) == len(plan):
            tables = publish(rows, picture)
            write_atomically(picture.with_suffix(".md"), tables.encode())
    print(f"\n{tables}\npicture: {picture}", file=sys.stderr if args.json else sys.stdout)
