"""The layout of the pages that people look at: templates beside this file, all on base.html.

    render("contact_sheet.html", sections=...) -> str        the same content gives the same text

A page is one file without anything from elsewhere; what is filled in is escaped. Templates hold no scripts: the
evaluation report's are filled in, allowed by their digests.
"""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2


def render(name: str, **content: Any) -> str:
    """The page. Raises jinja2.UndefinedError if the template asks for what `content` does not have."""
    return _environment().get_template(name).render(content)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
