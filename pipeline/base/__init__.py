"""What all of the library rests on: errors, files, stops, limits. Imports nothing else of it."""
