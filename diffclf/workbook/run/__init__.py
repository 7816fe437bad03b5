"""Running the notebooks of a profile: what to run, what it costs, and one process for each notebook."""
