"""Optional packages: what a command needs beyond the library's own dependencies, checked before its work starts."""

from importlib.util import find_spec

__all__ = ["require"]

MODULES = {
    "notebooks": ("IPython", "ipykernel", "ipywidgets", "matplotlib", "nbclient", "nbformat", "pandas", "papermill")
    + ("seaborn", "sklearn", "traitlets", "yaml"),
    "report": ("jinja2", "markupsafe", "myst_nb", "sphinx", "sphinx_book_theme", "sphinx_copybutton"),
}
"""Extra of pyproject.toml -> the modules of its packages; `report` includes `notebooks`."""


def _is_missing(module: str) -> bool:
    try:
        return find_spec(module) is None
    except (ImportError, ValueError):  # a finder that refuses it, a module without a specification
        return True


def require(command: str, extra: str) -> None:
    """Raise ValueError, with the packages and the command that installs them, if a command's extra is not installed."""
    extras = ("notebooks", "report") if extra == "report" else (extra,)
    if missing := [module for name in extras for module in MODULES[name] if _is_missing(module)]:
        raise ValueError(f"`diffclf {command}` needs {', '.join(missing)}: pip install 'diffclf[{extra}]'")
