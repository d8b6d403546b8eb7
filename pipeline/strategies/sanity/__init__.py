"""The procedure for choosing hyperparameters, step by step, each with what was seen and what to try next.

The order is that of Stanford's CS231n notes: the first loss, a handful of batches learned by heart, the rate at which
the loss falls, a short coarse grid, finer grids about its winner, and the curve of the best run. `run.check` does it
all, `step.Step` is what each of them says.
"""
