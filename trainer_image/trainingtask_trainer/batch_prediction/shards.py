"""Shards of a batch prediction: equal shares of its parts, one for each pod of an Indexed Job."""

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError

_INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
_SHARD = re.compile(r"(?:(\d{1,6})/)?(\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Shard `index`, from 0, of `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard ``I/N``, or with ``N`` alone the one of an Indexed Job's pod.

        Raises
        ------
        UserError
            When it is none.
        """
        found = _SHARD.fullmatch(text)
        index = (found[1] or os.environ.get(_INDEX_VARIABLE, "")) if found else ""
        if found is None or not index.isdecimal() or not int(index) < int(found[2]):
            raise UserError(
                Reason.INVALID_SPEC,
                f"--shard '{text[:20]}' is none: name I/N with I from 0 to N - 1, or N alone in a pod of an Indexed Job, which has"
                f" {_INDEX_VARIABLE}",
            )
        return cls(int(index), int(found[2]))

    def number_name(self, address: str) -> str:
        """Return the address of this shard's output, numbered as the hub and Spark do: ``a-00000-of-00004.csv``."""
        suffix = PurePosixPath(address).suffix
        return f"{address.removesuffix(suffix)}-{self.index:05}-of-{self.count:05}{suffix}"

    def get_range(self, parts: int) -> range:
        """Return the shard's parts, which follow each other: the shards in their order are the file."""
        return range(parts * self.index // self.count, parts * (self.index + 1) // self.count)
