"""What learns: optimisers, learning rates, the train state."""
