"""The layouts of files on disk, each with the number of its last change."""

# One number per on-disk layout. A reader refuses a version it does not know.
VERSIONS = {
    "manifest": 1,
    "weights": 1,
    "codes": 1,
    "head": 1,
    "predictions": 1,
    "bits": 1,
    "index": 1,
    "run": 1,
    "collection": 2,
    "reference": 1,
    "classifier": 2,
    "checkpoint": 1,
    "figures": 1,
    "unfinished": 1,
    "items": 1,
}
