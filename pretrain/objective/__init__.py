"""What is learnt: masks, the loss, the compiled train step, evaluation on held-out rows."""
