"""How a run stays alive: processes, interruption, checkpoints, the workdir. Both stages run on it."""
