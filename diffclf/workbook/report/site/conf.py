"""Sphinx settings of the report; copied beside the pages when it is built. Nothing here reaches for the network."""

project = "Diffusion Classifier workbook"
author = "the diffclf authors"
language = "en"
extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx.ext.mathjax",
    "sphinx_exercise",
    "sphinx_togglebutton",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build"]

html_theme = "sphinx_book_theme"
html_title = "Diffusion Classifier workbook"
html_static_path = ["_static"]
html_css_files = ["workbook.css"]
html_copy_source = True
html_show_sphinx = False
html_last_updated_fmt = None
html_show_search_summary = False  # would fetch pages from disk, which browsers forbid
html_theme_options = {
    "use_download_button": True,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},  # the front page's table wants the room
}
html_sidebars = {"**": ["navbar-logo.html", "search-button-field.html", "sbt-sidebar-nav.html"]}

mathjax_path = "mathjax/tex-svg.js"  # one file, copied from a package when the report is built
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
nb_ipywidgets_js = {}  # the widget player comes from a network; notebooks carry a static picture instead
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "html_image"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]
