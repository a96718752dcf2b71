from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from trainingtask_trainer.models.transformers import packed_attention

SIZES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16, "classifier_dropout_prob": 0.0},
    "bert": {},
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
        "dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
    "roberta": {},
}
_GENERATOR = torch.Generator().manual_seed(0)
TEXTS = [torch.randint(5, 90, (length,), generator=_GENERATOR).tolist() for length in (3, 3, 7, 20, 20, 20, 64, 5, 1)]


def model_of(family: str, attention_dropout: float = 0.0) -> PreTrainedModel:
    common = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_dropout_prob": 0.0,
    }
    dropout = "attention_dropout" if family == "distilbert" else "attention_probs_dropout_prob"
    config = AutoConfig.for_model(
        family,
        vocab_size=100,
        max_position_embeddings=70,
        pad_token_id=1,
        num_labels=3,
        initializer_range=0.5,  # else all answers are alike
        **(common if "dim" not in SIZES[family] else {}) | SIZES[family] | {dropout: attention_dropout},
    )
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model.double().train(False)  # so that rounding hides no real difference, on any processor


def padded(config: Any) -> dict[str, torch.Tensor]:
    ids = torch.full((len(TEXTS), max(map(len, TEXTS))), config.pad_token_id)
    for row, text in enumerate(TEXTS):
        ids[row, : len(text)] = torch.tensor(text)
    return {"input_ids": ids, "attention_mask": (ids != config.pad_token_id).long()}


def gradients(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    logits = model(**inputs).logits
    (logits * torch.arange(logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("attention_dropout", [0.0, 1e-12])  # so little drops nothing, but takes its own way
@pytest.mark.parametrize("family", SIZES)
def test_packed_rows_have_the_logits_and_gradients_of_padded_ones(family: str, attention_dropout: float) -> None:
    model = model_of(family, attention_dropout).train()
    assert packed_attention.can_pack(model.config)
    expected, expected_gradients = gradients(model, padded(model.config))
    assert expected.std(dim=0).min() > 0.1
    packed_attention.enable_packing(model)
    for inputs in (
        packed_attention.pack(TEXTS, model.config),
        packed_attention.pack_with_slots(TEXTS, model.config),
        padded(model.config),
    ):
        logits, found = gradients(model, inputs)
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-10)
        errors = [(a - b).abs().max() for a, b in zip(found, expected_gradients, strict=True)]
        assert max(errors) < 1e-9 * max(gradient.abs().max() for gradient in expected_gradients)


@pytest.mark.parametrize("asked", [None, 1], ids=["all tokens", "first tokens"])
def test_attention_with_dropout_is_torchs_own_within_each_text(asked: int | None) -> None:
    tables = [[3, 3, 7], [20], [5, 8]]  # texts of like length are read together, the shorter ones padded
    lengths = [length for table in tables for length in table]
    parts = torch.randn(3, 1, 2, sum(lengths), 8, generator=_GENERATOR, dtype=torch.double, requires_grad=True)
    query, key, value = parts
    of_query = torch.cat([text[:, :, :asked] for text in query.split(lengths, dim=2)], dim=2)
    torch.manual_seed(1)  # the same weights are dropped
    found = packed_attention._attend_with_dropout(of_query, key, value, lengths, scale=0.5, dropout=0.5)
    torch.manual_seed(1)
    texts = iter(parts.split(lengths, dim=3))
    expected = []
    for table in tables:
        width = max(table)
        padded = [torch.nn.functional.pad(next(texts)[:, 0], (0, 0, 0, width - length)) for length in table]
        query, key, value = torch.stack(padded, dim=1)  # each [texts, heads, width, head size]
        full = (torch.arange(width) < torch.tensor(table)[:, None])[:, None, None]
        output = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, :asked], key, value, attn_mask=full, dropout_p=0.5, scale=0.5
        )
        expected.extend(text[:, :length].transpose(0, 1) for text, length in zip(output, table, strict=True))
    torch.testing.assert_close(found, torch.cat(expected)[None])
    weights = torch.randn(found.shape, generator=_GENERATOR, dtype=torch.double)
    gradients = [torch.autograd.grad((output * weights[0]).sum(), parts) for output in (found[0], torch.cat(expected))]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_attention_is_the_same_with_hardly_any_dropout(dropout: float) -> None:
    lengths = [3, 3, 7, 20]
    parts = torch.randn(3, 1, 2, sum(lengths), 8, generator=_GENERATOR, dtype=torch.double)
    borders = torch.tensor([0, *lengths]).cumsum(0)
    found, _ = packed_attention._forward_attention(
        torch.nn.Identity(), *parts, None, dropout=dropout, cu_seq_lens_q=borders
    )
    attend = torch.nn.functional.scaled_dot_product_attention
    expected = [attend(*text).transpose(1, 2) for text in parts.split(lengths, dim=3)]
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


def test_shapes_are_few_and_hardly_larger_than_needed() -> None:
    rounded = [packed_attention.round_up(count, 8) for count in range(64, 4096)]
    assert all(0 <= size - count <= count / 8 for count, size in enumerate(rounded, start=64))
    assert len(set(rounded)) == 6 * 8 + 1


def test_a_text_is_not_read_by_its_neighbours() -> None:
    model = model_of("bert")
    packed_attention.enable_packing(model)
    other = [TEXTS[0], [9] * len(TEXTS[1]), *TEXTS[2:]]
    logits, changed = (model(**packed_attention.pack(texts, model.config)).logits for texts in (TEXTS, other))
    assert not torch.allclose(logits[1], changed[1])
    torch.testing.assert_close(logits[[0, *range(2, 8)]], changed[[0, *range(2, 8)]])


def test_a_saved_model_knows_nothing_of_it(tmp_path: Path, read_json: Callable[[Path], Any]) -> None:
    model = model_of("bert")
    packed_attention.enable_packing(model)
    model.save_pretrained(tmp_path)
    assert "texts" not in str(read_json(tmp_path / "config.json"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).double().train(False)
    torch.testing.assert_close(again(**padded(model.config)).logits, model(**padded(model.config)).logits)


def test_other_families_are_padded() -> None:
    assert not packed_attention.can_pack(AutoConfig.for_model("xlnet"))
    assert not packed_attention.can_pack(AutoConfig.for_model("modernbert"))
    assert not packed_attention.can_pack(AutoConfig.for_model("bert", is_decoder=True))
