"""What the server is compared with: a `transformers` text-classification pipeline, one text at a time, behind HTTP.

It speaks the same JSON, and takes the labels that reach the model's thresholds.
"""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import uvicorn
from model import MAX_TOKENS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from transformers import TextClassificationPipeline, pipeline

from trainingtask_trainer.artifacts.model_manifest import read_manifest


def create_pipeline(folder: Path) -> TextClassificationPipeline:
    """Return the pipeline of a saved model, with a sigmoid and all labels."""
    torch.set_num_threads(1)
    options = {"top_k": None, "function_to_apply": "sigmoid", "truncation": True, "max_length": MAX_TOKENS}
    found = pipeline("text-classification", str(folder), device="cpu", **options)
    assert isinstance(found, TextClassificationPipeline)  # noqa: S101
    return found


def create_app(folder: Path) -> Starlette:
    """Return the application."""
    classify = create_pipeline(folder)
    manifest = read_manifest(folder)
    thresholds = dict(zip(manifest.labels, manifest.thresholds, strict=True))
    thread = ThreadPoolExecutor(1)

    async def predict(request: Request) -> JSONResponse:
        [text] = json.loads(await request.body())["texts"]
        found = (await asyncio.get_running_loop().run_in_executor(thread, classify, [text]))[0]
        labels = [
            {"label": item["label"], "probability": item["score"]}
            for item in found
            if item["score"] >= thresholds[item["label"]]
        ]
        return JSONResponse({"predictions": [{"labels": labels}]})

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(create_app(Path(sys.argv[1])), port=int(sys.argv[2]), log_level="warning", access_log=False)
