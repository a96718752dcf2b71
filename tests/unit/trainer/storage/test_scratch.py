from pathlib import Path

import pytest

from trainingtask_api.names import ENV_STORAGE_LIMIT
from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import UserError
from trainingtask_trainer.storage.scratch import check_free_space


def test_more_than_the_pod_may_write_is_the_tasks_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_STORAGE_LIMIT, "0")  # a node that does not measure its disk
    check_free_space(tmp_path, 11 << 20, "dataset.uri 's3://bucket/a.csv'")
    monkeypatch.setenv(ENV_STORAGE_LIMIT, str(10 << 20))
    check_free_space(tmp_path, 10 << 20, "dataset.uri 's3://bucket/a.csv'")
    with pytest.raises(UserError, match=r"has 11 MiB, and the pod may write 10 MiB: raise resources.storage") as raised:
        check_free_space(tmp_path, 11 << 20, "dataset.uri 's3://bucket/a.csv'")
    assert raised.value.reason == Reason.STORAGE_EXCEEDED
