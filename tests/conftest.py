import pytest

pytest.register_assert_rewrite("scene")  # its checks are the tests' own
