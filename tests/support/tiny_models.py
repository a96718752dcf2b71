"""Checkpoints of the transformer families with random weights: small enough to train in a second."""

from pathlib import Path
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["slow", "charged", "password", "guide", "the", "page"]
FAMILIES = ("bert", "distilbert", "roberta", "xlnet", "albert", "modernbert")


def write_tiny_models(root: Path) -> Path:
    """Write a checkpoint of each of `FAMILIES`, with a vocabulary of letters and a few words, into `root`."""
    import torch

    torch.manual_seed(0)
    for family in FAMILIES:
        tokenizer = _tokenizer(family)
        _model(family, tokenizer).save_pretrained(root / family)
        tokenizer.save_pretrained(root / family)
    return root


def _tokenizer(family: str) -> Any:
    """Return the tokenizer that the family's checkpoints on the hub have."""
    import transformers

    if family in ("bert", "distilbert"):
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        pieces = [*special, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
        return transformers.BertTokenizer({piece: index for index, piece in enumerate(pieces)})
    if family == "roberta":
        pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *LETTERS, "\u0120"]  # the byte-level name of a blank
        return transformers.RobertaTokenizer({piece: index for index, piece in enumerate(pieces)}, [])
    if family in ("xlnet", "albert"):
        special = {
            "xlnet": ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"],
            "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
        }[family]
        scores = [(piece, 0.0) for piece in special] + [(piece, -3.0) for piece in ("\u2581", *LETTERS)]
        scores += [(f"\u2581{word}", -2.0) for word in WORDS]
        return {"xlnet": transformers.XLNetTokenizer, "albert": transformers.AlbertTokenizer}[family](scores)
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    words = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _model(family: str, tokenizer: Any) -> Any:
    import transformers as library

    vocabulary = {"vocab_size": len(tokenizer)}
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    positions = {"max_position_embeddings": 64}
    if family == "bert":
        return library.BertModel(library.BertConfig(**vocabulary, **size, **positions))
    if family == "distilbert":
        distilled = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
        return library.DistilBertModel(library.DistilBertConfig(**vocabulary, **distilled, **positions))
    if family == "roberta":
        return library.RobertaModel(library.RobertaConfig(**vocabulary, **size, max_position_embeddings=66))
    if family == "xlnet":
        return library.XLNetModel(library.XLNetConfig(**vocabulary, d_model=32, n_layer=1, n_head=2, d_inner=32))
    if family == "albert":
        return library.AlbertModel(library.AlbertConfig(**vocabulary, **size, **positions, embedding_size=16))
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    special |= {"bos_token_id": special["cls_token_id"], "eos_token_id": special["sep_token_id"]}
    return library.ModernBertModel(library.ModernBertConfig(**vocabulary, **size, **positions, **special))
