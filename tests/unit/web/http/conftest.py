import pytest
from sqlalchemy import Engine


@pytest.fixture
def engine(sqlite: Engine) -> Engine:
    """SQLite: none of these tests depends on the database."""
    return sqlite
