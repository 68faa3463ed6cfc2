"""What the documents give to be typed in psql is what this schema understands."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from tests.database import Database
from tests.days import today

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *(PROJECT / "docs" / name for name in ("runbook.md", "operations.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_statement_of_a_page_runs(page: Path, database: Database) -> None:
    blocks = re.findall(r"^```sql\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks

    for block in blocks:
        database.connection.execute(block.encode())


def test_the_query_for_closing_windows_finds_a_matched_lead_and_no_other(database: Database) -> None:
    page = (PROJECT / "docs" / "runbook.md").read_text(encoding="utf-8")
    (query,) = (block for block in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if "48 hours" in block)
    almost_over = today() - timedelta(days=13)
    lead = database.lead(created_at=almost_over, matched_to=database.person())
    database.lead(created_at=almost_over)
    database.lead(created_at=today(), matched_to=database.person())

    found = list(database.connection.execute(query.encode()))

    assert [row["lead_id"] for row in found] == [lead]
    database.sweep()
    assert list(database.connection.execute(query.encode())) == []
