"""A headless Chromium without a network, for tests of pages on disk."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

_FAULT = re.compile(r"net::ERR|Failed to load|Uncaught|Cross origin|blocked by|https?://")


def load(address, profile, *options):
    """Load an address; return the page as it stands after its scripts ran, and what went wrong on the way.

    profile: a folder of the test's own, so that a browser of the user's is left alone.
    """
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=8000",
            *options, "--dump-dom", address,
        ],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert done.stdout, done.stderr
    return done.stdout, [line for line in said if _FAULT.search(line)]


LISTENER = """<script>
var faults = [];
addEventListener("error", e => faults.push(e.target.src || e.target.href || e.message), true);
addEventListener("unhandledrejection", e => faults.push(String(e.reason)));
</script>"""

HARNESS = """<!doctype html><title>harness</title>
<iframe width="{width}" height="900" src="{address}"></iframe><pre></pre>
<script>
addEventListener("load", () => setTimeout(async () => {{
  const view = document.querySelector("iframe").contentWindow, page = view.document;
  const found = view.axe ? (await view.axe.run()).violations : [];
  document.querySelector("pre").textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    wide: [...page.querySelectorAll("article *")].filter(e => {{
      if (e.getBoundingClientRect().right <= {width} + 1) return false;
      for (let up = e.parentElement; up; up = up.parentElement)
        if (["auto", "scroll", "hidden"].includes(view.getComputedStyle(up).overflowX)) return false;
      return true;
    }}).map(e => e.outerHTML.slice(0, 120)),
    nameless: [...page.images].filter(i => !i.alt).map(i => i.src),
    elsewhere: view.performance.getEntriesByType("resource").map(r => r.name),
    formulas: page.querySelectorAll("mjx-container svg").length,
    faults: view.faults,
    violations: found.flatMap(rule => rule.nodes.map(node => rule.id + ": " + node.html.slice(0, 160))),
  }});
}}, 3000));
</script>"""


def measure(page, folder, width, axe=""):
    """Return what a page on disk measures in a frame of that many pixels, and what failed to load or run there.

    What is loaded is a copy beside the page that takes note of every error event. axe: the text of axe-core, which then
    looks for what keeps people out (`violations`, "rule: element").
    """
    probe, added = page.with_name(f"probe-{page.name}"), LISTENER + (f"<script>{axe}</script>" if axe else "")
    probe.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head>{added}", 1), encoding="utf-8")
    harness = folder / "harness.html"
    harness.write_text(HARNESS.format(width=width, address=probe.as_uri()), encoding="utf-8")
    try:
        dom, _ = load(harness.as_uri(), folder / "profile", "--allow-file-access-from-files")
    finally:
        probe.unlink()
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", dom, re.S)[1]))
