"""The pages: each fills a shared frame with its own part."""

from pathlib import Path
from string import Template

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from starlette.background import BackgroundTask

from .counter import count_visit
from .jobs import runs_in_worker
from .layers import redis_url

STATIC = Path(__file__).parent / "static"
# By path; in addition, the chat has a page for each room.
TITLES = {
    "/": "Chat",
    "/answers": "Answers",
    "/system": "System",
    "/jobs": "Jobs",
    "/notifications": "Notifications",
    "/analytics": "Analytics",
}


def render(path: str) -> str:
    """Return a page without the parts that do not apply to this server."""
    name = path.strip("/") or "chat"
    links = (_link(link, title, here=link == path) for link, title in TITLES.items())
    return Template((STATIC / "frame.html").read_text()).substitute(
        name=name,
        title=TITLES[path],
        links="\n".join(links),
        layer="memory" if redis_url() is None else "redis",
        jobs="worker" if runs_in_worker() else "server",
        content=(STATIC / f"{name}.html").read_text(),
    )


def _link(path: str, title: str, *, here: bool) -> str:
    current = ' aria-current="page"' if here else ""
    return f'<a href="{path}"{current}>{title}</a>'


router = APIRouter(include_in_schema=False)


# Not async, as they read files: the framework calls them in a thread.
def _show(path: str) -> HTMLResponse:
    visit = BackgroundTask(count_visit, TITLES[path])
    return HTMLResponse(render(path), background=visit)


@router.get("/")
@router.get("/room/{room_name:path}")
def chat() -> HTMLResponse:
    """Return the page for all rooms; its script gets the room from the address."""
    return _show("/")


@router.get("/answers")
def answers() -> HTMLResponse:
    return _show("/answers")


@router.get("/system")
def system() -> HTMLResponse:
    return _show("/system")


@router.get("/jobs")
def jobs() -> HTMLResponse:
    return _show("/jobs")


@router.get("/notifications")
def notifications() -> HTMLResponse:
    return _show("/notifications")


@router.get("/analytics")
def analytics() -> HTMLResponse:
    return _show("/analytics")
