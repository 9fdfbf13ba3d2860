"""A document as a page: HTML that stands alone, or Markdown, from templates that can be replaced."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from novellus_lab.errors import ConfigurationError, MissingDependencyError
from novellus_lab.settings.packaged import packaged_file

if TYPE_CHECKING:
    from novellus_lab.reports.document import Document

_FOLDER = "reports/templates"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")


def html_page(document: Document, template: str, templates: str | Path | None) -> str:
    """Return one page of HTML with everything in it, plotly.js included: it opens offline.

    Raises:
        ConfigurationError: a template is missing or wrong.
        MissingDependencyError: Jinja2 or Plotly is not installed.
    """
    drawn: list[str] = []

    def draw(figure: Any) -> Any:
        from markupsafe import Markup

        bare = _bare(figure)
        text = bare.to_html(
            full_html=False,
            include_plotlyjs=not drawn,
            config={"displaylogo": False, "responsive": True, "displayModeBar": False},
        )
        drawn.append(text)
        return Markup(text)  # noqa: S704 - Plotly writes names as JSON with < escaped

    return _render(document, f"{template}.html.j2", templates, {"draw": draw})


def markdown_page(document: Document, template: str, templates: str | Path | None) -> str:
    """Return the document in Markdown, figures left out.

    Raises:
        ConfigurationError: a template is missing or wrong.
        MissingDependencyError: Jinja2 is not installed.
    """
    return _render(document, f"{template}.md.j2", templates, {})


def markdown_text(text: object) -> str:
    """Return what somebody else wrote as text of Markdown: no markup, no HTML, no table's edge."""
    return _MARKDOWN.sub(r"\\\1", escape(" ".join(str(text).split()), quote=False))


def _render(
    document: Document, name: str, templates: str | Path | None, functions: dict[str, Any]
) -> str:
    try:
        import jinja2
    except ImportError:
        raise MissingDependencyError(
            "reports need Jinja2: pip install 'novellus_lab[reports]'"
        ) from None
    own = packaged_file(name, _FOLDER)
    places = [] if templates is None else [Path(templates)]
    if templates is not None and not Path(templates).is_dir():
        raise ConfigurationError(f"templates={str(templates)!r} is no directory")
    if own is not None:
        places.append(own.parent)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(places),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown_text
    try:
        return environment.get_template(name).render(report=document, **functions)
    except jinja2.TemplateNotFound as error:
        looked = ", ".join(map(str, places)) or "nowhere"
        raise ConfigurationError(f"there is no template {error.name} in {looked}") from None
    except jinja2.TemplateError as error:
        raise ConfigurationError(f"the template {name} can't be used: {error}") from None


def _bare(figure: Any) -> Any:
    """A copy without title: the page says it, in text that wraps."""
    import plotly.graph_objects as go

    bare = go.Figure(figure)
    bare.update_layout(
        title_text="", margin_t=16, height=max(180, (figure.layout.height or 380) - 56)
    )
    return bare
