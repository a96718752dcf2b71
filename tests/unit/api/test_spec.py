import pytest
from pydantic import ValidationError

from support import specs
from trainingtask_api import TrainingTask, describe_errors


@pytest.mark.parametrize("name", specs.GOOD)
def test_good_specs_are_accepted_and_survive_a_round_trip(name: str) -> None:
    task = TrainingTask.model_validate(specs.task(name, specs.GOOD[name]))
    again = TrainingTask.model_validate(specs.task(name, task.spec.to_json()))
    assert again.spec == task.spec


@pytest.mark.parametrize("name", specs.BAD)
def test_bad_specs_are_refused_with_a_message_that_names_the_field(name: str) -> None:
    spec, sentence = specs.BAD[name]
    with pytest.raises(ValidationError) as refused:
        TrainingTask.model_validate(specs.task(name, spec))
    assert sentence in describe_errors(refused.value)


def test_an_unknown_field_is_refused_and_named() -> None:
    with pytest.raises(ValidationError) as refused:
        TrainingTask.model_validate(specs.task("x", specs.changed(specs.CLASSICAL, training__epoch=3)))
    assert "spec.training.epoch" in describe_errors(refused.value)


def test_a_name_too_long_for_a_label_is_refused() -> None:
    with pytest.raises(ValidationError, match="63"):
        TrainingTask.model_validate(specs.task("n" * 64, specs.CLASSICAL))


def test_defaults_are_the_documented_ones() -> None:
    spec = TrainingTask.model_validate(specs.task("x", specs.CLASSICAL)).spec
    assert spec.to_json() == {
        "dataset": {"name": "support_tickets", "seed": 42},
        "model": {"name": "logistic_regression"},
        "training": {"seed": 42},
        "device": "cpu",
        "runPolicy": {"suspend": False, "retries": 2, "deleteTask": False},
    }
