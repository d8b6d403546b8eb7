"""The sections of the page, one module each, with one function: `build(figures) -> Section | None`."""
