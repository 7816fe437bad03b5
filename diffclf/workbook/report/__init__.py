"""The HTML report of a run: pages that open from disk, with search and mathematics, and need no network."""
