"""Networks of libraries as they are: torch modules, tapped by forward hooks. A library is a module with `FAMILY`."""
