"""The graph of stages: what dvc.yaml says of each (`stages`, `dvc_yaml`), and which files are its code (`closure`)."""
