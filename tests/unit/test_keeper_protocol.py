"""Mode 'adaptive' forgets no match, whatever happens in whatever order; and each part of its protocol is needed."""

from dataclasses import fields

import pytest

from tests.keeper_protocol import History, Protocol


def test_the_protocol_forgets_nothing() -> None:
    history = History(Protocol(), faults=1)

    assert history.first_loss() is None
    assert len(history) > 10_000


@pytest.mark.parametrize("error", [flag.name for flag in fields(Protocol)])
def test_a_protocol_with_an_error_loses_a_match(error: str) -> None:
    assert History(Protocol(**{error: True}), faults=1).first_loss()
