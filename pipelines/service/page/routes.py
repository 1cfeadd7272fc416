"""The page's files over HTTP. They are open to all: what they show needs a token, which the page asks for."""

from functools import cache
from pathlib import Path

from fastapi import APIRouter, HTTPException, Response

router = APIRouter()
TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)  # fmt: skip
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}


@router.get("/", include_in_schema=False)
async def front_page() -> Response:
    return _answered("index.html")


@router.get("/page/{name}", include_in_schema=False)
async def asset(name: str) -> Response:
    if name not in _files() or name == "index.html":
        raise HTTPException(404, "the page has no such file")
    return _answered(name)


def _answered(name: str) -> Response:
    content, kind = _files()[name]
    return Response(content, media_type=kind, headers=HEADERS)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """By name, so that no path comes from outside."""
    folder = Path(__file__).parent
    return {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in folder.iterdir() if path.suffix in TYPES}
