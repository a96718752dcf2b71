import os

import pytest

pytest.register_assert_rewrite("support.task_namespace")  # it holds assertions


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRAININGTASK_TESTS") == "full":
        return
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="takes long: make test-full"))
