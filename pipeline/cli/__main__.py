"""`python -m pipeline.cli`: the same as `cnncodes`."""

from pipeline.cli import main

main()
