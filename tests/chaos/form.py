"""The full suite, or the short form of it that CI has time for."""

import os
from typing import TypeVar

Value = TypeVar("Value", int, float)

IS_SHORT = os.environ.get("CHAOS_FORM") == "short"


def in_form(full: Value, short: Value) -> Value:
    return short if IS_SHORT else full
