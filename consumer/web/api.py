"""The impact for other programs: JSON, and the OpenAPI document that describes it."""

from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

from starlette.datastructures import QueryParams

from consumer.reports.impact import REASONS, Day, Totals
from consumer.web.state import Figures, State

PATH = "/api/v1/yango/cabinet/identity-recovery-impact-14d"
SERIES = ("date", "unidentified", "recovered_within_14d", "recovered_late", "claims")
CHOICES = {"true": True, "false": False}


class BadParameter(Exception):
    """A parameter of the query is unknown, given twice, or not among what it takes."""


def wants_series(query: QueryParams) -> bool:
    given = query.multi_items()
    if any(name != "include_series" for name, _ in given) or len(given) > 1:
        raise BadParameter("the only parameter is include_series, once")
    wish = query.get("include_series", "false")
    if wish not in CHOICES:
        raise BadParameter("include_series is true or false")
    return CHOICES[wish]


def impact(state: State, figures: Figures, *, with_series: bool) -> dict[str, Any]:
    report = figures.report
    return {
        "read_at": report.read_at.isoformat(),
        "business_time_zone": report.business_time_zone,
        "is_old": state.is_old,
        "totals": asdict(report.totals),
        "series": [_day(day) for day in reversed(report.series)] if with_series else [],
        "top_reasons": dict(report.top_reasons),
    }


def _day(day: Day) -> dict[str, Any]:
    return {name: getattr(day, name) for name in SERIES} | {"date": day.date.isoformat()}


def describe() -> dict[str, Any]:
    """The OpenAPI document, made of the same names as the answers."""
    parameter = {
        "name": "include_series",
        "in": "query",
        "description": "Whether `series` has the last 30 days, or is empty.",
        "schema": {"type": "string", "enum": list(CHOICES), "default": "false"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cabinet recovery",
            "version": version("cabinet-recovery"),
            "description": "What recovery did for collection within 14 days. Read only; figures of one moment.",
        },
        "paths": {
            PATH: {
                "get": {
                    "operationId": "impact",
                    "summary": "The impact of recovery on collection within 14 days",
                    "parameters": [parameter],
                    "responses": {
                        "200": _answer("The figures that were read last.", _impact_schema()),
                        "400": _answer("A parameter is wrong.", _error_schema()),
                        "503": _answer("Nothing was read from the database yet.", _error_schema()),
                    },
                }
            }
        },
    }


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error_schema() -> dict[str, Any]:
    return _object({"error": {"type": "string"}})


def _impact_schema() -> dict[str, Any]:
    count = {"type": "integer", "minimum": 0}
    day = dict.fromkeys(SERIES, count) | {"date": {"type": "string", "format": "date"}}
    reasons = {"type": "object", "propertyNames": {"enum": list(REASONS)}, "additionalProperties": count}
    return _object({
        "read_at": {"type": "string", "format": "date-time"},
        "business_time_zone": {"type": "string"},
        "is_old": {"type": "boolean", "description": "Whether the database does not answer since."},
        "totals": _object({one.name: count for one in fields(Totals)}),
        "series": {"type": "array", "maxItems": 30, "items": _object(day), "description": "The oldest day first."},
        "top_reasons": reasons | {"description": "Why leads are not recovered: the most frequent reason first."},
    })  # fmt: skip


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False
    }  # fmt: skip
