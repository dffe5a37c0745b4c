"""What a run reports: metrics, the progress line, summaries at its start and end."""
