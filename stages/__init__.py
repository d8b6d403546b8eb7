"""The stages of dvc.yaml, one script each: `python -m stages.<name>` from the project's folder."""
