import json
import logging

import pytest

from trainingtask_operator import logs


@pytest.fixture
def record() -> logging.LogRecord:
    return logging.LogRecord("a.b", logging.WARNING, __file__, 1, "no %s:\nnothing", ("way",), None)


def test_a_json_record_is_one_line_with_the_task_it_is_about(record: logging.LogRecord) -> None:
    formatter = logs.JsonFormatter()
    with logs.about(namespace="n", task="t"), logs.about(uid="u", attempt=None):
        line = formatter.format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert said.pop("time").startswith("20")
    assert said == {
        "level": "WARNING", "logger": "a.b", "message": "no way:\nnothing", "namespace": "n", "task": "t", "uid": "u"
    }  # fmt: skip
    assert "task" not in json.loads(formatter.format(record)), "outside it is about nothing"


def test_an_exception_stays_in_the_line(record: logging.LogRecord) -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_a_text_record_names_the_task(record: logging.LogRecord) -> None:
    with logs.about(task="t", attempt=2):
        assert logs.TextFormatter().format(record).endswith("[task=t attempt=2]")
