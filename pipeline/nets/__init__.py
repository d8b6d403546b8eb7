"""Architectures, their layer tables, the network and its weights."""
