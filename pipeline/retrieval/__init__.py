"""How well a hash finds what belongs together, and what it costs: the evaluation behind stage `retrieval`."""
