"""Read tables of growing length: seconds beside pyarrow's csv reader, peak memory beside the file's size, and the split.

Each figure comes from a process of its own. Rows have some 150 characters and one to three of 50 labels.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LABELS = 50
WORDS = [f"word{number}" for number in range(5000)]


def write_table(path: Path, rows: int) -> None:
    """Write a csv file with the columns id, text and labels."""
    chance = random.Random(rows)  # noqa: S311 - rows, not secrets
    labels = [f"label{number}" for number in range(LABELS)]
    with path.open("w", encoding="utf-8") as file:
        file.write("id,text,labels\n")
        for number in range(rows):
            text = " ".join(chance.choices(WORDS, k=17))
            file.write(f'{number},{text},"{",".join(chance.sample(labels, chance.choice((1, 1, 2, 3))))}"\n')


def read_with_pyarrow(path: Path) -> dict[str, float]:
    """Return the seconds that pyarrow takes to read the file, all columns as they are."""
    import pyarrow.csv  # noqa: PLC0415 - each reader in a process of its own

    started = time.perf_counter()
    pyarrow.csv.read_csv(path)
    return {"read": time.perf_counter() - started}


def read_with_trainer(path: Path) -> dict[str, float]:
    """Return the seconds of reading with parsing of labels, fingerprint and split, and the peak memory in bytes."""
    import pyarrow.csv  # noqa: F401, PLC0415 - imported before the clock starts, as above

    from trainingtask_api.dataset import Dataset  # noqa: PLC0415
    from trainingtask_trainer.datasets.splits import PreparedData, prepare_data  # noqa: PLC0415
    from trainingtask_trainer.datasets.table import Table  # noqa: PLC0415

    spec = Dataset.model_validate({"name": "table", "volumeClaim": "data", "path": path.name})
    started = time.perf_counter()
    raw = Table().load(spec, path.parent)
    read = time.perf_counter()
    none = raw.train.take([])
    PreparedData(raw.label_names, raw.train, none, none).compute_fingerprint()
    fingerprint = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    prepare_data(raw, spec)
    split = time.perf_counter()
    return {
        "read": read - started,
        "fingerprint": fingerprint - read,
        "split": split - fingerprint,
        "peak": peak,
    }


READERS = {"pyarrow": read_with_pyarrow, "trainer": read_with_trainer}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 5_000_000])
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        print(json.dumps(READERS[options.reader](options.file)))
        return
    print(
        "| rows | file | pyarrow reads | read and labels | fingerprint | times pyarrow | peak memory / file | split |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            path = Path(folder) / "table.csv"
            write_table(path, rows)
            found = {
                name: json.loads(
                    subprocess.run(
                        [sys.executable, __file__, "--reader", name, "--file", str(path)],
                        check=True,
                        stdout=subprocess.PIPE,
                    ).stdout
                )
                for name in READERS
            }
            theirs, ours = found["pyarrow"], found["trainer"]
            size = path.stat().st_size
            print(
                f"| {rows:,} | {size / 1e6:.0f} MB | {theirs['read']:.2f} s | {ours['read']:.1f} s |"
                f" {ours['fingerprint']:.1f} s | {(ours['read'] + ours['fingerprint']) / theirs['read']:.1f} |"
                f" {ours['peak'] / size:.1f} | {ours['split']:.1f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
