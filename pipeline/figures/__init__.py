"""All that the page shows, computed from what the other stages left: numbers, places and thumbnails, no drawing.

`figures.run` computes and writes, `figures.records` says what is written. Importing this loads nothing.
"""
