from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification

from trainingtask_api.training import Scheduler, Training
from trainingtask_trainer.models.transformers.optimization import (
    create_learning_rate_function,
    create_optimizer_and_scheduler,
)
from trainingtask_trainer.models.transformers.settings import Settings

STEPS = 10
# Of a model of three layers: a parameter, and the layers above it.
LAYERS_ABOVE = {
    "albert": {  # one module is all three layers
        "albert.embeddings.word_embeddings.weight": 2,
        "albert.encoder.embedding_hidden_mapping_in.bias": 2,
        "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.bias": 1,
        "albert.pooler.weight": 0,
        "classifier.weight": 0,
    },
    "bert": {
        "bert.embeddings.LayerNorm.bias": 4,
        "bert.encoder.layer.0.attention.self.query.weight": 3,
        "bert.encoder.layer.1.output.dense.bias": 2,
        "bert.encoder.layer.2.intermediate.dense.weight": 1,
        "bert.pooler.dense.weight": 0,
        "classifier.bias": 0,
    },
    "distilbert": {
        "distilbert.embeddings.position_embeddings.weight": 4,
        "distilbert.transformer.layer.0.ffn.lin1.bias": 3,
        "distilbert.transformer.layer.2.ffn.lin1.weight": 1,
        "pre_classifier.weight": 0,
    },
    "roberta": {
        "roberta.embeddings.word_embeddings.weight": 4,
        "roberta.encoder.layer.0.output.dense.weight": 3,
        "classifier.dense.weight": 0,
        "classifier.out_proj.bias": 0,
    },
    "xlnet": {
        "transformer.mask_emb": 4,
        "transformer.layer.0.rel_attn.q": 3,
        "transformer.layer.2.ff.layer_1.bias": 1,  # whose own number is none of a layer
        "sequence_summary.summary.weight": 0,
        "logits_proj.weight": 0,
    },
    "modernbert": {
        "model.embeddings.tok_embeddings.weight": 4,
        "model.layers.0.mlp.Wi.weight": 3,
        "model.layers.2.mlp.Wo.weight": 1,
        "model.final_norm.weight": 0,
        "head.dense.weight": 0,
    },
    "deberta-v2": {
        "deberta.embeddings.LayerNorm.weight": 4,
        "deberta.encoder.layer.0.output.dense.weight": 3,
        "deberta.encoder.rel_embeddings.weight": 4,  # of all layers
        "pooler.dense.weight": 0,
    },
    "mpnet": {
        "mpnet.encoder.layer.2.output.dense.weight": 1,
        "mpnet.encoder.relative_attention_bias.weight": 4,
        "classifier.dense.weight": 0,
    },
    "xlm": {  # a list of each part of its layers
        "transformer.embeddings.weight": 4,
        "transformer.attentions.0.q_lin.weight": 3,
        "transformer.layer_norm1.2.weight": 1,
        "transformer.ffns.1.lin1.bias": 2,
        "sequence_summary.summary.weight": 0,
    },
    "funnel": {  # blocks of layers
        "funnel.embeddings.word_embeddings.weight": 4,
        "funnel.encoder.blocks.0.0.ffn.linear_1.weight": 3,
        "funnel.encoder.blocks.0.1.ffn.linear_1.weight": 2,
        "funnel.encoder.blocks.1.0.ffn.linear_1.weight": 1,
        "classifier.linear_hidden.weight": 0,
    },
    "bart": {
        "model.shared.weight": 4,
        "model.encoder.layers.1.fc1.weight": 2,
        "model.decoder.embed_positions.weight": 4,
        "model.decoder.layers.0.fc1.weight": 1,
        "classification_head.dense.weight": 0,
    },
}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
# Of families without a tiny checkpoint.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "deberta-v2": {**_SIZES, "relative_attention": True, "pooler_hidden_size": 32},
    "mpnet": _SIZES,
    "xlm": {"emb_dim": 32, "n_layers": 3, "n_heads": 2},
    "funnel": {"d_model": 32, "block_sizes": [2, 1], "n_head": 2, "d_head": 16, "d_inner": 32},
    "bart": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
}


def create_model(checkpoint: Path) -> Any:
    layers = {"num_hidden_layers": 3, "layer_types": 3 * ["full_attention"]}  # the second is ModernBERT's
    return AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(checkpoint, **layers))


def read_settings(**training: Any) -> Settings:
    return Settings.from_spec(Training.model_validate(training), on_gpu=False)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0]),
        ("constant", [0, 0.5, 1, 1, 1, 1, 1]),
    ],
)
def test_the_learning_rate_rises_and_falls(tiny_models: Path, scheduler: str, expected: list[float]) -> None:
    settings = read_settings(scheduler=scheduler, warmupFraction=0.34, learningRate=0.1)
    optimiser, schedule = create_optimizer_and_scheduler(create_model(tiny_models / "bert"), settings, total_steps=6)
    rates = []
    for _ in expected:
        rates.append(optimiser.param_groups[0]["lr"] / 0.1)
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("layer_decay", [1, 0.5])
@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_the_curve_shows_the_rates_that_the_heads_optimiser_uses(
    tiny_models: Path, scheduler: Scheduler, layer_decay: float
) -> None:
    settings = read_settings(
        scheduler=scheduler.value, warmupFraction=0.2, learningRate=3e-4, layerDecay=layer_decay, weightDecay=0
    )
    optimiser, schedule = create_optimizer_and_scheduler(create_model(tiny_models / "bert"), settings, STEPS)
    used = []
    for _ in range(STEPS):
        used.append(optimiser.param_groups[-1]["lr"])
        optimiser.step()
        schedule.step()
    rate = create_learning_rate_function(settings, STEPS)
    assert [rate(step) for step in range(1, STEPS + 1)] == used
    assert max(used) == pytest.approx(3e-4)
    assert used[0] == 0.0, "warm-up begins at nothing"


@pytest.mark.parametrize("family", LAYERS_ABOVE)
def test_lower_layers_learn_slower(tiny_models: Path, family: str) -> None:
    if family in CONFIGURATIONS:
        configuration = AutoConfig.for_model(family, vocab_size=40, **CONFIGURATIONS[family])
        model = AutoModelForSequenceClassification.from_config(configuration)
    else:
        model = create_model(tiny_models / family)
    settings = read_settings(learningRate=0.016, layerDecay=0.5, weightDecay=0.25)
    optimiser, _ = create_optimizer_and_scheduler(model, settings, STEPS)
    groups = {id(parameter): group for group in optimiser.param_groups for parameter in group["params"]}
    parameters = dict(model.named_parameters())
    assert len(groups) == len(parameters), "each parameter is in one group"
    for name, layers in LAYERS_ABOVE[family].items():
        group = groups[id(parameters[name])]
        assert group["initial_lr"] == pytest.approx(0.016 * 0.5**layers), name
        assert group["weight_decay"] == (0.25 if parameters[name].ndim > 1 else 0), name


def test_weight_decay_lets_biases_and_norms_alone(tiny_models: Path) -> None:
    model = create_model(tiny_models / "xlnet")
    optimiser, _ = create_optimizer_and_scheduler(model, read_settings(), STEPS)
    decayed, free = optimiser.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)].rsplit(".", 1)[-1] for parameter in free["params"]} >= {"bias", "r_w_bias"}
    assert not [name for name in (names[id(p)] for p in decayed["params"]) if "norm" in name or "bias" in name]
    assert len(decayed["params"]) + len(free["params"]) == len(names)
