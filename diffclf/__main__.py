"""The command line, as `diffclf` and as `python -m diffclf`."""

import sys

__all__ = ["run"]


def run() -> int:
    """Run the command line and return its exit status; an interrupt while it is imported leaves no traceback."""
    try:
        from diffclf.commands.main import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
