"""Sphinx settings of the report, copied beside its pages. No page loads anything from a network."""

from typing import Any

project = html_title = "Diffusion Classifier workbook"
author = "the diffclf authors"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.mathjax"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["workbook.css"]
html_show_sphinx = False
html_show_search_summary = False  # would fetch pages from disk, which browsers forbid
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},  # leaves room for the front page's table
}
html_sidebars = {"**": ["home-link.html", "search-field.html", "sbt-sidebar-nav.html"]}

mathjax_path = "mathjax/tex-svg.js"  # one file, copied from a package when the report is built
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
nb_ipywidgets_js = {}  # the player of widgets would come from a network
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "html_image"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]  # such as of a traceback


def _for_screen_readers(app: object, page: str, template: str, context: dict[str, Any], document: object) -> None:
    """Name the summary of a hidden cell by its text instead of MyST-NB's label; a header without text is no header."""
    body = context.get("body", "").replace(' aria-label="Toggle hidden content"', "")
    context["body"] = body.replace("<th></th>", "<td></td>")


def setup(app: Any) -> None:  # noqa: ANN401 (Sphinx need not be installed to read this file)
    """Tell Sphinx what to do with each page."""
    app.connect("html-page-context", _for_screen_readers)
