"""From image files to a manifest: sources, decoding, a full check of every file, splits."""
