"""A saved model wherever it is, as a local folder."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError, join_names
from trainingtask_trainer.storage.folder_store import MODEL_MANIFEST
from trainingtask_trainer.storage.hub_branch import HUB_SCHEME, MAIN, HubBranch
from trainingtask_trainer.storage.object_store import ObjectStore
from trainingtask_trainer.storage.store_errors import StoreReasons
from trainingtask_trainer.volumes import STATE_DIR

_STORE_SCHEMES = ("s3", "gs", "az")
_FIELD = "the model"
_MAX_FILES = 1000
_REASONS: Final = StoreReasons(
    not_found=Reason.MODEL_UNAVAILABLE, denied=Reason.MODEL_UNAVAILABLE, unavailable=Reason.SOURCE_UNAVAILABLE
)


@contextmanager
def fetch_model(address: str, is_wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Path]:
    """Yield the folder of a saved model: the folder itself, or a copy of what is in an object store or on the hub.

    Parameters
    ----------
    address
        A folder, ``s3://``, ``gs://`` or ``az://``, or ``hf://owner/name``.
    is_wanted
        Whether a file of this name is copied; a folder is as it is.

    Raises
    ------
    UserError
        When there is no saved model, or access is refused.
    Fault
        When the store or the hub cannot be reached.
    """
    scheme, separator, name = address.partition("://")
    if not separator:
        yield Path(address)
        return
    store: ObjectStore | HubBranch
    if scheme in _STORE_SCHEMES:
        store = ObjectStore(address.rstrip("/"), _FIELD, _REASONS)
    elif scheme == HUB_SCHEME:
        store = HubBranch(name.rstrip("/"), MAIN, _FIELD, _REASONS)
    else:
        raise UserError(
            Reason.MODEL_UNAVAILABLE,
            f"'{address.partition('?')[0]}' is no place of a saved model: name a folder, s3://, gs:// or az://, or "
            f"{HUB_SCHEME}://owner/name",
        )
    files = [entry for entry in store.list() if not entry.name.startswith(f"{STATE_DIR}/")]
    names = [entry.name for entry in files]
    if MODEL_MANIFEST not in names or len(files) > _MAX_FILES:
        raise UserError(
            Reason.MODEL_UNAVAILABLE,
            f"{address} is not a saved model with {MODEL_MANIFEST} and at most {_MAX_FILES} files: it holds "
            f"{join_names(names, limit=10) or 'nothing'}",
        )
    with tempfile.TemporaryDirectory(prefix="trainingtask-") as scratch:
        store.download([entry for entry in files if is_wanted(entry.name)], Path(scratch))
        yield Path(scratch)
