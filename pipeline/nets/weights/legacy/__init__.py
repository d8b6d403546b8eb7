"""Readers of the files that other programs write, one for each format."""
