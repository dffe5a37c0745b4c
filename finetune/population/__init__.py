"""Several runs trained as one program: their state, their step, their evaluations."""
