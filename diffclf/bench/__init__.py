"""Speed: the plain loop, the evaluator and the races, timed in turn."""
