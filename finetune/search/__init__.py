"""The search for hyperparameters: what may be drawn, the trials, and what they came to."""
