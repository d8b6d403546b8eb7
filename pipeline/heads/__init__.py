"""Heads: classifiers of codes, chosen on validation and reported once on test."""
