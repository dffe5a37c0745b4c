"""Golden losses: the losses of short runs of each objective and family, to show that a refactoring changes nothing."""
