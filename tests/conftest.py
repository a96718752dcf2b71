import pytest

pytest.register_assert_rewrite("support.tasks_on_cluster")  # its checks are the tests' own
