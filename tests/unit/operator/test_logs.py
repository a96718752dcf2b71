import json
import logging

import pytest

from trainingtask_operator import logs


@pytest.fixture
def record() -> logging.LogRecord:
    return logging.LogRecord("a.b", logging.WARNING, __file__, 1, "no %s:\nnothing", ("way",), None)


def test_a_json_record_is_one_line_with_its_context(record: logging.LogRecord) -> None:
    formatter = logs.JsonFormatter()
    with logs.log_context(namespace="n", task="t"), logs.log_context(uid="u", attempt=None):
        line = formatter.format(record)
    assert "\n" not in line
    line_fields = json.loads(line)
    assert line_fields.pop("time").startswith("20")
    assert line_fields == {
        "level": "WARNING", "logger": "a.b", "message": "no way:\nnothing", "namespace": "n", "task": "t", "uid": "u"
    }  # fmt: skip
    assert "task" not in json.loads(formatter.format(record)), "no context outside"


def test_an_exception_stays_in_the_line(record: logging.LogRecord) -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_a_text_record_ends_with_its_context(record: logging.LogRecord) -> None:
    with logs.log_context(task="t", attempt=2):
        assert logs.TextFormatter().format(record).endswith("[task=t attempt=2]")
