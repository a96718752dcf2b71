"""Checkpoints of the transformer families with random weights: small enough to train in a second."""

from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_tiny_models(root: Path) -> Path:
    """Write checkpoints `bert` and `distilbert`, with a vocabulary of letters, into `root` and return it."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast, DistilBertConfig, DistilBertModel

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary += ["slow", "charged", "password", "guide", "the", "page"]
    (root / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    models = {
        "bert": BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=64,
            )
        ),
        "distilbert": DistilBertModel(
            DistilBertConfig(
                vocab_size=len(vocabulary), dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64
            )
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        BertTokenizerFast(str(root / "vocab.txt")).save_pretrained(root / name)
    return root
