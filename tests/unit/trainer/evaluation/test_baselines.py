"""The baselines on counts against the evaluation of the same constant probabilities on rows."""

import numpy as np
import pytest

from trainingtask_api.training import Evaluation, ThresholdTuning
from trainingtask_trainer.evaluation import shrinkage
from trainingtask_trainer.evaluation.baselines import choose_label_sets, compute_prior_loss, count_decisions
from trainingtask_trainer.evaluation.decisions import DecisionRule
from trainingtask_trainer.evaluation.metrics import Decisions, binary_cross_entropy, estimate_label_prior
from trainingtask_trainer.evaluation.thresholds import choose_thresholds


@pytest.mark.parametrize("seed", range(20))
def test_counts_decide_as_thresholds_tuned_on_the_rows_do(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinkage, "STRENGTHS", (0.0,))
    random = np.random.default_rng(seed)
    shares = random.choice([0.0, 0.02, 0.02, 0.3, 0.5, 0.9], size=7)
    train, validation, test = ((random.random((rows, 7)) < shares).astype(np.uint8) for rows in (40, 30, 20))
    prior = estimate_label_prior(train)
    same = np.tile(prior, (len(test), 1))
    sets = choose_label_sets(prior, validation.sum(axis=0, dtype=np.int64), len(validation))
    for tuning, predicted in zip((ThresholdTuning.GLOBAL, ThresholdTuning.PER_LABEL), sets, strict=True):
        spec = Evaluation(threshold_tuning=tuning)
        chosen = choose_thresholds(spec, validation, np.tile(prior, (len(validation), 1)))
        decided = DecisionRule(chosen.values).predict(same)
        # A label that no validation row carries has the threshold of all labels, which is that of the objective.
        kept = np.flatnonzero(validation.any(axis=0)) if tuning == ThresholdTuning.PER_LABEL else slice(None)
        assert decided[0].astype(bool)[kept].tolist() == predicted[kept].tolist()
        counted = count_decisions(predicted, test.sum(axis=0, dtype=np.int64), len(test))
        by_rows = Decisions.of(test, decided, axis=0)
        assert [c[kept].tolist() for c in counted] == [c[kept].tolist() for c in by_rows]
    support = test.sum(axis=0, dtype=np.int64)
    assert compute_prior_loss(prior, support, len(test)) == pytest.approx(binary_cross_entropy(test, same))
