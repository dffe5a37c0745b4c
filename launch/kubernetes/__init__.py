"""Kubernetes: `python -m launch.kubernetes`."""
