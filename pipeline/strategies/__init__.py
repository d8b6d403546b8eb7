"""Transfer strategies under one protocol: direct use, frozen features, fine-tuning, from scratch, small baselines.

Importing this loads nothing heavy; `pipeline.strategies.run` holds the stage's one call.
"""
