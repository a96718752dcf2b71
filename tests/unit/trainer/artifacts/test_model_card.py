from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from support.results import RESULTS
from trainingtask_api.scores import LabelScore
from trainingtask_api.status import Results, TextLengths
from trainingtask_trainer.artifacts.model_card import write_card
from trainingtask_trainer.reporting.progress import CurvePoint

PNG = b"\x89PNG\r\n\x1a\n"
CURVE = (
    CurvePoint(1, training_loss=0.7),
    CurvePoint(2, training_loss=0.5),
    CurvePoint(2, validation_loss=0.6, mean_average_precision=0.4),
)


def written(folder: Path, results: Results = RESULTS, curve: tuple[CurvePoint, ...] = ()) -> list[str]:
    """Write a card and return the lines below its metadata."""
    write_card(folder, "a-task", results, curve)
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    return lines[lines.index("---", 1) + 1 :]


def test_the_metadata_is_what_the_hub_reads(tmp_path: Path) -> None:
    arguments = RESULTS.arguments | {"model.checkpoint": "google-bert/bert-base-uncased", "dataset.hub.id": "me/mine"}
    written(tmp_path, RESULTS.model_copy(update={"arguments": arguments}))
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert (data.base_model, data.datasets) == ("google-bert/bert-base-uncased", ["me/mine"])
    assert data.tags == ["multi-label-classification", "trainingtask"]
    assert data.model_name == "a-task"
    assert data.eval_results is not None
    scores = {result.metric_name: result.metric_value for result in data.eval_results}
    assert scores["micro-F1"] == RESULTS.evaluation.micro.f1
    assert {result.dataset_type for result in data.eval_results} == {"me/mine"}


@pytest.mark.parametrize("elsewhere", [{"model.volumeClaim": "claim"}, {"model.uri": "s3://b/m"}])
def test_a_checkpoint_that_is_not_on_a_hub_is_no_base_model(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    arguments = RESULTS.arguments | {"model.checkpoint": "bert", **elsewhere}
    written(tmp_path, RESULTS.model_copy(update={"arguments": arguments}))
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.datasets) == (None, None)


def test_names_of_labels_are_text_in_the_metadata(tmp_path: Path) -> None:
    names = ["---", "a\n---\nlicense: mit", "!!python/object:os.system", "*x", "{a: b}", "yes", "1", "\u2028"]
    labels = [LabelScore(label=name, support=1, threshold=0.5) for name in names]
    evaluation = RESULTS.evaluation.model_copy(update={"per_label": labels})
    written(tmp_path, RESULTS.model_copy(update={"evaluation": evaluation}))
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.to_dict()["labels"] == names
    assert data.license is None


def test_card_says_what_the_model_is_and_how_well_it_works(tmp_path: Path) -> None:
    lines = written(tmp_path)
    assert lines[0] == "# a-task"
    assert "A bert model that gives texts any of 3 labels, trained on table by a TrainingTask." in lines
    assert "trainingtask-trainer predict THIS_FOLDER 'a text'" in lines
    assert "| micro-F1 | 0.5454 | 0.3000 | 0.0000 | 0.510-0.581 |" in lines
    assert "| loss | 0.3000 | 0.4000 | - | - |" in lines
    assert "| macro | - | 0.5000 | 0.4400 |" in lines
    assert "- `macro.precision`: no row is predicted to carry any label" in lines
    assert "| c | 0.4000 | 0.4000 | 0.4000 | 0.3000 | 4 | 0.4000 |" in lines
    assert "| d | - | - | - | - | 0 | 0.4000 |" in lines
    assert "| training.learningRate | 5e-05 |" in lines
    assert "| python | 3.13.0 |" in lines
    assert f"| SHA-256 of texts and labels | {'f' * 64} |" in lines
    assert not any("peak memory" in line for line in lines)
    assert "## Warnings" not in lines


def test_warnings_and_what_only_some_models_know(tmp_path: Path) -> None:
    more = {"warnings": ["too <good>"], "peak_memory_bytes": 5 << 20, "best_epoch": 2, "resumed_from_step": 7}
    lines = written(tmp_path, RESULTS.model_copy(update=more))
    assert "- too \\<good\\>" in lines
    assert {"| peak memory, MiB | 5 |", "| epoch of the kept weights | 2 |", "| resumed from step | 7 |"} < set(lines)


def test_what_is_cut_is_told(tmp_path: Path) -> None:
    lengths = TextLengths(p50=20, p95=100, p99=150, max_length=64, cut_fraction=0.126)
    lines = written(tmp_path, RESULTS.model_copy(update={"text_lengths": lengths}))
    assert "| tokens of a training text: 95 % have at most | 100 |" in lines
    assert "| training texts that are cut | 12.6% |" in lines
    assert not any("tokens of a training text" in line for line in written(tmp_path))


def test_names_are_text_and_no_markdown(tmp_path: Path) -> None:
    assert "| a\\|b | 0.5000 | 0.6000 | 0.5454 | - | 7 | 0.4000 |" in written(tmp_path)
    label = LabelScore(label="_x_y_ *\n[z](w) `$", support=1, threshold=0.5)
    evaluation = RESULTS.evaluation.model_copy(update={"per_label": [label]})
    lines = written(tmp_path, RESULTS.model_copy(update={"evaluation": evaluation}))
    assert r"| \_x_y\_ \* \[z\](w) \`\$ | - | - | - | - | 1 | 0.5000 |" in lines


def test_pictures_stand_beside_the_card(tmp_path: Path) -> None:
    lines = written(tmp_path, curve=CURVE)
    for name in ("curve.png", "per-label-f1.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
        assert any(line.endswith(f"]({name})") for line in lines)


def test_a_long_curve_is_drawn_from_means() -> None:
    from trainingtask_trainer.artifacts.plots import _average_groups

    assert _average_groups([(1, 1.0), (2, 3.0), (3, 5.0)], 2) == [(2, 2.0), (3, 5.0)]
    assert _average_groups([], 0) == []


def test_a_model_without_a_curve_has_no_picture_of_it(tmp_path: Path) -> None:
    assert not any("curve.png" in line for line in written(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "per-label-f1.png"]


@pytest.mark.parametrize("labels", [0, 1, 50, 51, 1000])
def test_any_number_of_labels_makes_a_picture(tmp_path: Path, labels: int) -> None:
    # A formula, letters that the font lacks, and a label without a score among them.
    scores = [
        LabelScore(label=f"{number} $x^2 \N{CJK UNIFIED IDEOGRAPH-6F22}", f1=number / labels, support=1, threshold=0.5)
        for number in range(labels)
    ]
    scores.append(LabelScore(label="none", support=0, threshold=0.5))
    evaluation = RESULTS.evaluation.model_copy(update={"per_label": scores})
    written(tmp_path, RESULTS.model_copy(update={"evaluation": evaluation}))
    assert (tmp_path / "per-label-f1.png").stat().st_size < 500_000
