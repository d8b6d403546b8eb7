"""What `out/figures` holds: one record a subject, written by `pipeline.figures` and read by the page, which knows
nothing else. Nothing here loads torch, scikit-learn or h5py.
"""
