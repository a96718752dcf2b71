"""The tokenizer of a transformer's checkpoint. Cuts long texts; padding waits until a batch is known."""

from collections.abc import Sequence

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trainingtask_api.spec import TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.checkpoint import checkpoint_folder, checkpoint_name, text_limit
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.places import Places

DEFAULT_MAX_LENGTH = 128

TokenIds = list[list[int]]


class Tokenizer:
    """Token ids with the special tokens of the checkpoint, at most `max_length` of them."""

    def __init__(self, spec: TrainingTaskSpec, places: Places) -> None:
        folder = checkpoint_folder(spec.model, places.model)
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise UserError(
                "ModelUnavailable", f"checkpoint '{checkpoint_name(spec.model)}' has no usable tokenizer: {error}"
            ) from error
        limit = text_limit(folder, self.tokenizer)
        wanted = spec.preprocessor.max_length if spec.preprocessor else None
        if wanted is not None and limit is not None and wanted > limit:
            raise UserError(
                "InvalidSpec",
                f"preprocessor.maxLength {wanted} is more than the {limit} tokens that checkpoint "
                f"'{checkpoint_name(spec.model)}' can read",
            )
        self.max_length = wanted or min(DEFAULT_MAX_LENGTH, limit or DEFAULT_MAX_LENGTH)

    def fit(self, texts: Sequence[str]) -> None:
        """Do nothing: the vocabulary comes with the checkpoint."""

    def transform(self, texts: Sequence[str]) -> TokenIds:
        """Return the token ids of each text."""
        return encode(self.tokenizer, texts, self.max_length)

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        return {"maxLength": self.max_length}


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> TokenIds:
    """Return the token ids of each text, cut to `max_length`, unpadded."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)
    ids: TokenIds = encoded["input_ids"]
    return ids
