"""The baselines on counts against the evaluation of the same constant probabilities on rows."""

import numpy as np
import pytest

from trainingtask_api.training import Evaluation, ThresholdTuning
from trainingtask_trainer.evaluation.baselines import choose_label_sets, compute_prior_loss, count_decisions
from trainingtask_trainer.evaluation.metrics import Decisions, binary_cross_entropy, estimate_label_prior
from trainingtask_trainer.evaluation.thresholds import apply_thresholds, choose_thresholds


@pytest.mark.parametrize("seed", range(20))
def test_counts_decide_as_thresholds_tuned_on_the_rows_do(seed: int) -> None:
    random = np.random.default_rng(seed)
    shares = random.choice([0.0, 0.02, 0.02, 0.3, 0.5, 0.9], size=7)
    train, validation, test = ((random.random((rows, 7)) < shares).astype(np.uint8) for rows in (40, 30, 20))
    prior = estimate_label_prior(train)
    same = np.tile(prior, (len(test), 1))
    sets = choose_label_sets(prior, validation.sum(axis=0, dtype=np.int64), len(validation))
    for tuning, predicted in zip((ThresholdTuning.GLOBAL, ThresholdTuning.PER_LABEL), sets, strict=True):
        spec = Evaluation(threshold_tuning=tuning)
        chosen = choose_thresholds(spec, validation, np.tile(prior, (len(validation), 1)))
        decided = apply_thresholds(chosen.values, same)
        assert decided[0].astype(bool).tolist() == predicted.tolist()
        counted = count_decisions(predicted, test.sum(axis=0, dtype=np.int64), len(test))
        assert [c.tolist() for c in counted] == [c.tolist() for c in Decisions.of(test, decided, axis=0)]
    support = test.sum(axis=0, dtype=np.int64)
    assert compute_prior_loss(prior, support, len(test)) == pytest.approx(binary_cross_entropy(test, same))
