"""HTML from templates, and the page of an error."""

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from trainingtask_web.views import formatting

# Status -> title, and what to do.
_ERROR_PAGES = {
    401: ("Who are you?", "Sign in with a Kubernetes token."),
    403: ("Not allowed", "Ask the cluster's admin for the right, or go back to the list."),
    404: (
        "Not found",
        "Look for it in the list of runs. If its namespace is not there, you may not list `trainingtasks` in it.",
    ),
    422: ("Not understood", "Correct the address, or begin with the list of runs."),
    429: ("Wait a minute", "Get a new token, and sign in with it after a minute."),
    503: ("Away for a moment", "Load this page again in a few seconds. If that goes on, tell the cluster's admin."),
}
_UNEXPECTED_ERROR = ("Something went wrong", "Load this page again. If that does not help, tell the cluster's admin.")


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a page of a template in templates/, whose links begin with `base`."""
    shared = {"here": "", "base": request.app.state.settings.base_path}
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(shared | context), status)


def render_error_page(request: Request, status: int, sentence: str) -> HTMLResponse:
    """Return the page of an error: what went wrong, and what to do."""
    title, advice = _ERROR_PAGES.get(status, _UNEXPECTED_ERROR)
    shown = "There is no such page." if sentence == "Not Found" else sentence
    return render(request, "error.html", status, title=title, sentence=shown, advice=advice, code=status)


def _render_code(text: str) -> Markup:
    """Return a sentence with its parts between backticks as code elements."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "as_json": lambda charts: [chart.to_json() for chart in charts],
    "codes": _render_code,
    "moment": formatting.format_time,
    "number": formatting.format_number,
    "score": formatting.format_score,
}
