"""What it runs on: the mesh, the global batch, the devices' peak rates and memory, FLOPs of a step."""
