"""Specs that the API server and pydantic must accept or refuse alike."""

import copy
from typing import Any

from trainingtask_api import names

CLASSICAL: dict[str, Any] = {"dataset": {"name": "support_tickets"}, "model": {"name": "logistic_regression"}}
TRANSFORMER: dict[str, Any] = {"dataset": {"name": "go_emotions"}, "model": {"name": "bert"}}
TABLE: dict[str, Any] = {
    "dataset": {"name": "table", "volumeClaim": "data", "path": "mine/tickets.csv"},
    "model": {"name": "logistic_regression"},
}


def task(name: str, spec: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    """Return a TrainingTask as a manifest."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def changed(base: dict[str, Any], **paths: Any) -> dict[str, Any]:
    """Return `base` with values set by path: ``changed(CLASSICAL, training__epochs=0)``."""
    spec = copy.deepcopy(base)
    for path, value in paths.items():
        *parents, last = path.split("__")
        part = spec
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    return spec


GOOD: dict[str, dict[str, Any]] = {
    "classical": CLASSICAL,
    "transformer": TRANSFORMER,
    "table": TABLE,
    "table-indicators": changed(TABLE, dataset__columns={"text": "body", "indicators": ["spam", "urgent"]}),
    "table-format": changed(TABLE, dataset__format={"separator": ";", "encoding": "cp1250", "sheet": "Data"}, dataset__onBadRow="skip"),
    "table-vectors": changed(TABLE, dataset__columns={"labels": "y", "labelFormat": "multi_hot", "labelNames": ["spam", "urgent"]}),
    "table-vectors-found": changed(TABLE, dataset__columns={"labelNames": ["spam", "urgent"]}),
    "table-texts": changed(TABLE, dataset__columns={"texts": ["subject", "body"], "labelFormat": "single"}),
    "a-plugin-model": changed(CLASSICAL, model__name="my_model", training__epochs=2, model__strategy="multi_output"),
    "hub": changed(TRANSFORMER, dataset__hub={"id": "google-research-datasets/go_emotions", "revision": "add492243ff905527e67aeb8b80c082af02207c3"}),
    "hub-checkpoint": changed(TRANSFORMER, model__checkpoint="google-bert/bert-base-uncased", model__revision="main"),
    "claim-checkpoint": changed(TRANSFORMER, model__volumeClaim="models", model__checkpoint="."),
    "nested-checkpoint": changed(TRANSFORMER, model__volumeClaim="models", model__checkpoint="bert/v2..old"),
    "gpu": changed(TRANSFORMER, device="gpu", resources={"gpus": 2, "cpu": 4, "memory": "16Gi"}),
    "cpu-quantities": changed(CLASSICAL, resources={"cpu": "500m", "memory": "512Mi", "storage": "500Mi"}),
    "cpu-fraction": changed(CLASSICAL, resources={"cpu": "1.5"}),
    "all-training": changed(TRANSFORMER, training={"epochs": 1000, "batchSize": 1, "learningRate": 1, "weightDecay": 0, "seed": 4294967295}),
    "loop": changed(TRANSFORMER, training={"loop": "accelerate", "loss": "focal", "precision": "bf16", "batching": "length_grouped", "scheduler": "cosine", "warmupFraction": 0.1, "gradientAccumulationSteps": 4, "maxGradientNorm": 0, "earlyStoppingPatience": 2, "checkpointSteps": 100}),
    "fp16-on-gpu": changed(TRANSFORMER, device="gpu", training__precision="fp16"),
    "auto": changed(TRANSFORMER, model={"name": "auto", "checkpoint": "answerdotai/ModernBERT-base"}),
    "xlnet": changed(TRANSFORMER, model__name="xlnet", training__posWeight="balanced"),
    "native": changed(CLASSICAL, model={"name": "random_forest", "strategy": "native"}, training={"trees": 300, "posWeight": "balanced"}),
    "knn": changed(CLASSICAL, model={"name": "knn", "strategy": "classifier_chain"}, training__neighbors=9),
    "svc": changed(CLASSICAL, model__name="linear_svc", training__inverseRegularization=0.5, preprocessor={"characterNgramMax": 4}),
    "embedding": changed(CLASSICAL, preprocessor={"name": "embedding", "checkpoint": ".", "volumeClaim": "models", "maxLength": 64}),
    "embedding-from-hub": changed(CLASSICAL, preprocessor={"name": "embedding", "checkpoint": "a/b", "revision": "main"}),
    "cross-validated": changed(TABLE, dataset={"name": "cross_validated", "volumeClaim": "data", "path": "cv", "includeAnswers": True, "topLabels": 8}),
    "raw": changed(TRANSFORMER, dataset__config="raw"),
    "own-code": changed(CLASSICAL, model__name="my_models.naive:NaiveBayes", dataset__name="my_data:Poems", code={"configMap": "my-code"}),
    "per-label": changed(CLASSICAL, evaluation__thresholdTuning="per_label"),
    "queue": changed(CLASSICAL, runPolicy={"queueName": "team-a", "priorityClassName": "low"}),
    "profile": changed(TRANSFORMER, device="gpu", resources={"profile": "mig-1g"}),
    "fractions": changed(TABLE, dataset__validationFraction=0.3, dataset__testFraction=0.6),
    "strategies": changed(CLASSICAL, model__strategy="classifier_chain", preprocessor={"name": "tfidf", "ngramMax": 1}),
    "tokenizer": changed(TRANSFORMER, preprocessor={"name": "tokenizer", "maxLength": 64}),
    "output": changed(CLASSICAL, output={"volumeClaim": "models", "subPath": "a/b.c"}),
    "policy": changed(CLASSICAL, runPolicy={"suspend": True, "activeDeadlineSeconds": 1, "retries": 0, "ttlSecondsAfterFinished": 0}),
    "env": changed(TRANSFORMER, env=[{"name": "HF_TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}}]),
    "image": changed(CLASSICAL, image="registry.example.com:5000/team/trainer:1.0@sha256:" + "0" * 64),
}  # fmt: skip

# name -> (spec, a part of the message of the API server and of pydantic)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no-dataset": ({"model": {"name": "bert"}}, "dataset"),
    "no-model": ({"dataset": {"name": "go_emotions"}}, "model"),
    "unknown-device": (changed(CLASSICAL, device="tpu"), "device"),
    "dataset-name": (changed(CLASSICAL, dataset__name="Go Emotions"), "must be a registered name"),
    "path-up": (changed(TABLE, dataset__path="../other"), "without '..'"),
    "path-up-inside": (changed(TABLE, dataset__path="a/../../b"), "without '..'"),
    "path-absolute": (changed(TABLE, dataset__path="/etc/passwd"), "without a leading '/'"),
    "path-without-claim": (changed(TRANSFORMER, dataset__path="x"), "go together"),
    "claim-without-path": (changed(TRANSFORMER, dataset__volumeClaim="data"), "go together"),
    "claim-name": (changed(TABLE, dataset__volumeClaim="My_Claim"), "name of a Kubernetes object"),
    "hub-and-path": (changed(TABLE, dataset__hub={"id": "a/b"}), "exclude each other"),
    "hub-id": (changed(TRANSFORMER, dataset__hub={"id": "https://example.com/x"}), "must be a hub id"),
    "hub-revision": (changed(TRANSFORMER, dataset__hub={"id": "a/b", "revision": "-x y"}), "must be a branch, a tag or a commit"),
    "table-without-path": (changed(CLASSICAL, dataset__name="table"), "required for dataset.name 'table' and"),
    "generated-with-path": (changed(TABLE, dataset__name="support_tickets"), "is generated"),
    "columns-without-table": (changed(TRANSFORMER, dataset__columns={"text": "x"}), "is for tables"),
    "labels-and-indicators": (changed(TABLE, dataset__columns={"labels": "x", "indicators": ["a", "b"]}), "exclude each other"),
    "one-indicator": (changed(TABLE, dataset__columns={"indicators": ["a"]}), "indicators"),
    "vectors-without-names": (changed(TABLE, dataset__columns={"labelFormat": "multi_hot"}), "dataset.columns.labelNames is required"),
    "names-without-vectors": (changed(TABLE, dataset__columns={"labelFormat": "list", "labelNames": ["a", "b"]}), "is for dataset.columns.labelFormat 'multi_hot'"),
    "names-of-indicators": (changed(TABLE, dataset__columns={"indicators": ["a", "b"], "labelNames": ["a", "b"]}), "are for a label column"),
    "text-and-texts": (changed(TABLE, dataset__columns={"text": "a", "texts": ["a", "b"]}), "dataset.columns.text and dataset.columns.texts exclude each other"),
    "separator": (changed(TABLE, dataset__format={"separator": "||"}), "separator"),
    "encoding": (changed(TABLE, dataset__format={"encoding": "a b"}), "must be the name of a text encoding"),
    "format-of-emotions": (changed(TRANSFORMER, dataset__format={"separator": ";"}), "dataset.format is for tables"),
    "skip-of-emotions": (changed(TRANSFORMER, dataset__onBadRow="skip"), "dataset.onBadRow is for tables"),
    "bad-rows": (changed(TABLE, dataset__onBadRow="ignore"), "onBadRow"),
    "sample-size": (changed(CLASSICAL, dataset__sampleSize=0), "sampleSize"),
    "top-labels": (changed(CLASSICAL, dataset__topLabels=1), "topLabels"),
    "validation-fraction": (changed(CLASSICAL, dataset__validationFraction=1.0), "validationFraction"),
    "no-rows-left": (changed(TABLE, dataset__validationFraction=0.5, dataset__testFraction=0.5), "must add up to less than 1"),
    "no-rows-left-by-default": (changed(TABLE, dataset__validationFraction=0.8), "must add up to less than 1"),
    "dataset-seed": (changed(CLASSICAL, dataset__seed=-1), "seed"),
    "max-length": (changed(TRANSFORMER, preprocessor={"maxLength": 0}), "maxLength"),
    "max-length-of-tfidf": (changed(CLASSICAL, preprocessor={"name": "tfidf", "maxLength": 64}), "belongs to 'tokenizer' and 'embedding'"),
    "max-length-of-classical": (changed(CLASSICAL, preprocessor={"maxLength": 64}), "preprocessor.maxLength"),
    "ngram-of-tokenizer": (changed(TRANSFORMER, preprocessor={"name": "tokenizer", "ngramMax": 2}), "belongs to 'tfidf'"),
    "ngram-of-transformer": (changed(TRANSFORMER, preprocessor={"ngramMax": 2}), "preprocessor.ngramMax"),
    "tfidf-for-transformer": (changed(TRANSFORMER, preprocessor={"name": "tfidf"}), "cannot feed a transformer"),
    "tokenizer-for-classical": (changed(CLASSICAL, preprocessor={"name": "tokenizer"}), "cannot feed a classical model"),
    "strategy-of-transformer": (changed(TRANSFORMER, model__strategy="one_vs_rest"), "a transformer predicts all labels at once"),
    "native-logistic-regression": (changed(CLASSICAL, model__strategy="native"), "learn all labels at once (random_forest, knn)"),
    "auto-without-checkpoint": (changed(TRANSFORMER, model__name="auto"), "model.checkpoint is required for model.name 'auto'"),
    "embedding-for-transformer": (changed(TRANSFORMER, preprocessor={"name": "embedding", "checkpoint": "a/b"}), "cannot feed a transformer"),
    "embedding-without-checkpoint": (changed(CLASSICAL, preprocessor={"name": "embedding"}), "preprocessor.checkpoint is required"),
    "embedding-path-without-claim": (changed(CLASSICAL, preprocessor={"name": "embedding", "checkpoint": "./x"}), "preprocessor.checkpoint must be a hub id"),
    "checkpoint-of-tfidf": (changed(CLASSICAL, preprocessor={"name": "tfidf", "checkpoint": "a/b"}), "preprocessor.checkpoint belongs to 'embedding'"),
    "checkpoint-of-own-preprocessor": (changed(TRANSFORMER, preprocessor={"checkpoint": "a/b"}), "preprocessor.checkpoint belongs to 'embedding'"),
    "config-of-table": (changed(TABLE, dataset__config="raw"), "dataset.config is for dataset.name 'go_emotions'"),
    "unknown-config": (changed(TRANSFORMER, dataset__config="full"), "config"),
    "answers-of-emotions": (changed(TRANSFORMER, dataset__includeAnswers=True), "dataset.includeAnswers is for dataset.name 'cross_validated'"),
    "cross-validated-without-path": (changed(CLASSICAL, dataset__name="cross_validated"), "dataset.path and dataset.volumeClaim are required"),
    "trees-of-knn": (changed(CLASSICAL, model__name="knn", training__trees=10), "training.trees is for random_forest"),
    "neighbors-of-transformer": (changed(TRANSFORMER, training__neighbors=3), "training.neighbors is for knn"),
    "weight-of-knn": (changed(CLASSICAL, model__name="knn", training__posWeight="balanced"), "training.posWeight is for logistic_regression, linear_svc, random_forest and transformers"),
    "weight-with-focal": (changed(TRANSFORMER, training={"loss": "focal", "posWeight": "balanced"}), "training.posWeight weights the 'bce' loss"),
    "fp16-on-cpu": (changed(TRANSFORMER, training__precision="fp16"), "needs device 'gpu'"),
    "loop-of-classical": (changed(CLASSICAL, training__loop="accelerate"), "training.loop is for transformers"),
    "unknown-loop": (changed(TRANSFORMER, training__loop="fastai"), "loop"),
    "warm-up": (changed(TRANSFORMER, training__warmupFraction=1), "warmupFraction"),
    "threshold-twice": (changed(CLASSICAL, evaluation={"threshold": 0.5, "thresholdTuning": "global"}), "exclude each other"),
    "class-path": (changed(CLASSICAL, model__name="my-models:X"), "must be a registered name"),
    "code-name": (changed(CLASSICAL, code={"configMap": "My_Code"}), "name of a Kubernetes object"),
    "output-root": (changed(CLASSICAL, output={"volumeClaim": "m", "subPath": "./."}), "must name a folder"),
    "queue-name": (changed(CLASSICAL, runPolicy={"queueName": "A B"}), "name of a Kubernetes object"),
    "unknown-strategy": (changed(CLASSICAL, model__strategy="magic"), "strategy"),
    "checkpoint-of-classical": (changed(CLASSICAL, model__checkpoint="a/b"), "a classical model starts from nothing"),
    "checkpoint-path-without-claim": (changed(TRANSFORMER, model__checkpoint="./local/dir"), "must be a hub id"),
    "checkpoint-up": (changed(TRANSFORMER, model__volumeClaim="m", model__checkpoint="../x"), "without '..'"),
    "model-claim-without-checkpoint": (changed(TRANSFORMER, model__volumeClaim="m"), "must be a folder"),
    "revision-with-claim": (changed(TRANSFORMER, model__volumeClaim="m", model__checkpoint="x", model__revision="main"), "for a hub checkpoint"),
    "epochs": (changed(TRANSFORMER, training__epochs=0), "epochs"),
    "epochs-of-classical": (changed(CLASSICAL, training__epochs=3), "training.epochs is for transformers"),
    "two-of-classical": (changed(CLASSICAL, training={"loop": "trainer", "epochs": 3}), "does not use it, remove it; training.loop is for transformers"),
    "two-of-two": (changed(CLASSICAL, training__epochs=3, preprocessor__maxLength=64), "preprocessor.maxLength belongs to"),
    "batch-size": (changed(TRANSFORMER, training__batchSize=0), "batchSize"),
    "batch-size-of-classical": (changed(CLASSICAL, training__batchSize=8), "training.batchSize is for transformers"),
    "learning-rate": (changed(TRANSFORMER, training__learningRate=0), "learningRate"),
    "learning-rate-high": (changed(TRANSFORMER, training__learningRate=2), "learningRate"),
    "weight-decay": (changed(TRANSFORMER, training__weightDecay=-0.1), "weightDecay"),
    "threshold": (changed(CLASSICAL, evaluation__threshold=0), "threshold"),
    "threshold-high": (changed(CLASSICAL, evaluation__threshold=1), "threshold"),
    "gpus-on-cpu": (changed(TRANSFORMER, resources={"gpus": 1}), "resources.gpus needs device 'gpu'"),
    "no-gpus": (changed(TRANSFORMER, device="gpu", resources={"gpus": 0}), "gpus"),
    "cpu": (changed(CLASSICAL, resources={"cpu": "two"}), "must be a number of cores"),
    "cpu-zero": (changed(CLASSICAL, resources={"cpu": 0}), "must be a number of cores"),
    "storage-without-unit": (changed(CLASSICAL, resources={"storage": "20"}), "must be a size on disk with a unit"),
    "storage-of-nothing": (changed(CLASSICAL, resources={"storage": "0Gi"}), "must be a size on disk with a unit"),
    "memory-without-unit": (changed(CLASSICAL, resources={"memory": "4096"}), "must be a memory size with a unit"),
    "output-path": (changed(CLASSICAL, output={"volumeClaim": "m", "subPath": "../x"}), "without '..'"),
    "output-without-claim": (changed(CLASSICAL, output={"subPath": "x"}), "volumeClaim"),
    "deadline": (changed(CLASSICAL, runPolicy={"activeDeadlineSeconds": 0}), "activeDeadlineSeconds"),
    "retries": (changed(CLASSICAL, runPolicy={"retries": 11}), "retries"),
    "ttl": (changed(CLASSICAL, runPolicy={"ttlSecondsAfterFinished": -1}), "ttlSecondsAfterFinished"),
    "image": (changed(CLASSICAL, image="bad image"), "must be a container image"),
    "env-name": (changed(CLASSICAL, env=[{"name": "hf-token", "secretKeyRef": {"name": "a", "key": "b"}}]), "environment variable's name"),
    "env-reserved": (changed(CLASSICAL, env=[{"name": "TRAININGTASK_POD", "secretKeyRef": {"name": "a", "key": "b"}}]), "belong to the operator"),
    "env-key": (changed(CLASSICAL, env=[{"name": "A", "secretKeyRef": {"name": "a", "key": "b c"}}]), "must be a key of a Secret"),
}  # fmt: skip
