"""The search for hyperparameters: the search space, the trials, and the table of results."""
