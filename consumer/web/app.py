"""What is asked for by which address, and who answers."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import sqlalchemy as sa
import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from consumer.errors import one_line
from consumer.reports.story import read_story
from consumer.web import api
from consumer.web.guard import Guard
from consumer.web.live import Live
from consumer.web.pages import Pages, static_folder
from consumer.web.state import State
from consumer.web.texts import choose_language
from db.connect import DatabaseError

log = structlog.get_logger(__name__)

SEARCHES = 3  # connections that are left beside the watcher's
LEAD_ID_CHARACTERS = 200
VARY = {"vary": "Accept-Language"}


@dataclass
class Site:
    """Answers from the state; only a lead that is searched for is a question to the database."""

    engine: sa.Engine
    state: State
    live: Live
    pages: Pages
    _searches: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SEARCHES))

    async def overview(self, request: Request) -> Response:
        return _html(self.pages.overview(_language(request)))

    async def lead(self, request: Request) -> Response:
        language, lead_id = _language(request), request.query_params.get("id", "").strip()
        if not 0 < len(lead_id) <= LEAD_ID_CHARACTERS or "\0" in lead_id:
            return _html(self.pages.error(language, "error_lead_id"), 400)
        if self._searches.locked():
            return _html(self.pages.error(language, "error_busy", lead_id), 503)
        try:
            async with self._searches:
                story = await asyncio.to_thread(read_story, self.engine, lead_id)
        except (DatabaseError, sa.exc.SQLAlchemyError) as error:
            log.warning("search.failed", reason=one_line(error))
            return _html(self.pages.error(language, "error_away", lead_id), 503)
        return _html(self.pages.lead(language, story), 200 if story.lead is not None else 404)

    async def stream(self, request: Request) -> Response:
        if self.live.is_full:
            return PlainTextResponse("too many pages are open\n", 503, {"retry-after": "30"})
        events = self.live.stream(_language(request))
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no", **VARY})

    async def impact(self, request: Request) -> Response:
        try:
            with_series = api.wants_series(request.query_params)
        except api.BadParameter as error:
            return JSONResponse({"error": str(error)}, 400)
        if (figures := self.state.figures) is None:
            return JSONResponse({"error": "nothing was read from the database yet"}, 503, {"retry-after": "5"})
        return JSONResponse(api.impact(self.state, figures, with_series=with_series))

    async def description(self, _: Request) -> Response:
        return JSONResponse(api.describe())

    async def health(self, _: Request) -> Response:
        return PlainTextResponse(*(("old\n", 503) if self.state.is_old else ("ok\n", 200)))

    async def missing(self, request: Request, _: Exception) -> Response:
        return _html(self.pages.error(_language(request), "error_unknown_page"), 404)


def make_app(engine: sa.Engine, state: State, stopping: asyncio.Event, hosts: Iterable[str]) -> Starlette:
    pages = Pages(state)
    site = Site(engine, state, Live(state, pages, stopping), pages)
    return Starlette(
        routes=[
            Route("/", site.overview),
            Route("/lead", site.lead),
            Route("/live", site.stream),
            Route("/health", site.health),
            Route("/openapi.json", site.description),
            Route(api.PATH, site.impact),
            Mount("/static", StaticFiles(directory=static_folder())),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={404: site.missing},
    )


def _language(request: Request) -> str:
    return choose_language(request.headers.get("accept-language", ""))


def _html(page: str, status: int = 200) -> Response:
    return HTMLResponse(page, status, VARY)
