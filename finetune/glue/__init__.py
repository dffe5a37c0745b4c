"""The GLUE benchmark: fine-tune its tasks one after another, and make a table of the scores."""
