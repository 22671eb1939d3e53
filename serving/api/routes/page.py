"""The page for people at `/`, and its files; no part of the documented API."""

from importlib import resources

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from recsys.shown import templates_of
from serving.api.access.scopes import ReadRoute
from serving.api.page.form import PageForm
from serving.api.page.view import REFUSALS, view_of
from serving.api.refusals import UnknownItemError
from serving.api.routes.dependencies import ServiceWorkers

router = APIRouter(route_class=ReadRoute, include_in_schema=False)

TEMPLATES = templates_of("serving.api.page")
TEMPLATES.filters["percent"] = lambda share: f"{100 * share:.2g} %" if share >= 1e-4 else "< 0.01 %"
FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
HEADERS = {
    # Nothing from elsewhere but the items' pictures, whose hosts are not told who looks at what.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' https:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Headers of the page, which shows what a user did."""


@router.get("/")
async def page(request: Request, workers: ServiceWorkers) -> HTMLResponse:
    """Show the lists of the model that serves."""
    services, sees_users = request.app.state.previews, request.scope["caller"].has("admin")
    form, problem = PageForm.read(request.query_params)
    status = 422 if problem else 200
    try:
        view = await workers.run(view_of, form, services, sees_users=sees_users, problem=problem)
    except REFUSALS as error:
        status = 404 if isinstance(error, UnknownItemError) else 422
        view = await workers.run(view_of, form, services, sees_users=sees_users, problem=str(error))
    return HTMLResponse(TEMPLATES.get_template("page.html").render(view=view, form=form), status, HEADERS)


@router.get("/page/{name}")
async def page_file(name: str) -> Response:
    """Return a file of the page."""
    if name not in FILES:
        raise HTTPException(404)
    content = (resources.files("serving.api.page") / "static" / name).read_bytes()
    return Response(content, media_type=FILES[name], headers={"X-Content-Type-Options": "nosniff"})
