"""Cheap classifiers to compare with, or to draw up a shortlist with."""
