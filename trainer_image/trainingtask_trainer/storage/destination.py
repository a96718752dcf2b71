"""The destination of a task: the place of its model, and of the checkpoints while it trains."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from trainingtask_api.reasons import Reason
from trainingtask_api.spec import Output
from trainingtask_trainer.errors import Fault, TrainerError, UserError
from trainingtask_trainer.runtime.signals import defer_interrupts
from trainingtask_trainer.storage.claim_folder import ClaimFolder
from trainingtask_trainer.storage.folder_store import (
    MODEL_MANIFEST,
    OUTPUT_REASONS,
    FileStore,
    FolderStore,
    ManifestLastStore,
    check_is_replaceable,
)
from trainingtask_trainer.storage.hub_branch import HUB_SCHEME, HubBranch
from trainingtask_trainer.storage.object_store import ObjectStore
from trainingtask_trainer.volumes import STATE_DIR

_PUBLISH_SECONDS = 600.0
_PAUSE_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """Where the model of a task goes."""

    where: str
    """Names it in messages, by the field of the spec."""
    models: FolderStore
    checkpoints: FolderStore
    model_path: str | None = None
    """The model's folder in the output claim."""
    model_uri: str | None = None
    """The model's address in an object store or on a hub."""
    initial_files: tuple[str, ...] = ()
    """What a new place of this kind holds, which a model may replace."""

    def check(self) -> None:
        """Prove before the training that model and checkpoints can be stored.

        Raises
        ------
        UserError
            When access is refused, or something else than an earlier model is there.
        Fault
            When the destination cannot be reached or fails.
        """
        self.models.check()
        check_is_replaceable(self.models.list(), MODEL_MANIFEST, self.where, self.initial_files)
        self.checkpoints.check()

    def publish(self, folder: Path) -> None:
        """Store the model in `folder`, in place of an earlier one; a failure is retried for some minutes.

        A model is hours of work, so that refused access, which may be an expired token, is retried as well, also by the
        next attempt. After SIGTERM half of the grace period is used for it.

        Raises
        ------
        Fault
            When it failed to the end.
        """
        deadline = time.monotonic() + _PUBLISH_SECONDS
        with defer_interrupts():
            while True:
                try:
                    return self.models.replace(folder, MODEL_MANIFEST)
                except TrainerError as error:
                    if error.reason not in OUTPUT_REASONS:
                        raise
                    if time.monotonic() + _PAUSE_SECONDS > deadline:
                        raise Fault(
                            Reason(error.reason),
                            f"{error.message}; the trained model could not be stored in {_PUBLISH_SECONDS / 60:.0f} minutes: "
                            "the next attempt goes on from the last checkpoint, where the model has any",
                        ) from error
                    logger.warning("The model is not stored yet, and tried again: %s", error.message)
                time.sleep(_PAUSE_SECONDS)

    def remove_checkpoints(self, manifest: str) -> None:
        """Remove the checkpoints once the model is stored; a failure is logged alone."""
        try:
            self.checkpoints.delete(manifest)
        except TrainerError as error:
            logger.warning("The checkpoints of this task stay where they are: %s", error.message)


def create_destination(output: Output, root: Path, task_name: str, task_uid: str) -> Destination:
    """Return the destination that a task names.

    Parameters
    ----------
    output
        The output section of the task.
    root
        The folder that stands for `output.volumeClaim`.
    task_name
        Name of the task: the model's folder in a claim, unless the task names another.
    task_uid
        Names the folder of the checkpoints, which the task's attempts share.

    Raises
    ------
    UserError
        When the folder is the root of the claim, which cannot be replaced as a whole, or leads out of the claim by a
        symbolic link; or when an object store's credentials are missing.
    """
    checkpoints = f"{STATE_DIR}/checkpoints/{task_uid}"
    if output.uri is not None:
        uri, field = output.uri.rstrip("/"), "output.uri"
        return _create_from_files(
            f"{field} '{uri}'",
            ObjectStore(uri, field, OUTPUT_REASONS),
            ObjectStore(f"{uri}/{checkpoints}", field, OUTPUT_REASONS),
            model_uri=uri,
        )
    if output.hub is not None:
        return Destination(
            f"output.hub '{output.hub}'",
            HubBranch(output.hub),
            HubBranch(output.hub, f"trainingtask-checkpoints-{task_uid}"),
            model_uri=f"{HUB_SCHEME}://{output.hub}",
            initial_files=("README.md",),
        )
    path = output.sub_path or task_name
    where = f"output.subPath '{path}'"
    if root / path == root:
        raise UserError(Reason.INVALID_SPEC, f"{where} is the root of the claim: name a folder in it")
    folders = [ClaimFolder(root, folder, where) for folder in (path, checkpoints, f"{STATE_DIR}/cache")]
    for folder in folders:
        folder.check_inside()
    return _create_from_files(where, *folders[:2], model_path=str((root / path).relative_to(root)))


def _create_from_files(
    where: str,
    models: FileStore,
    checkpoints: FileStore,
    *,
    model_path: str | None = None,
    model_uri: str | None = None,
) -> Destination:
    return Destination(
        where, ManifestLastStore(models, where), ManifestLastStore(checkpoints, where), model_path, model_uri
    )
