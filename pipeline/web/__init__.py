"""A collection in the browser, and the same as a JSON API: `cnncodes serve my.index`."""
