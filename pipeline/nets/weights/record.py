"""Weights as one record, and the one file format that extraction reads."""
