"""Which codes to use and whether to tune, from the training images alone, before anything is measured on test."""
