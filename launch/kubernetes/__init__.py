"""Jobs of Kubernetes: `python -m launch.kubernetes`."""
