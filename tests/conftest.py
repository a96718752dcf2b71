import pytest

pytest.register_assert_rewrite("support.task_namespace")  # it holds assertions
