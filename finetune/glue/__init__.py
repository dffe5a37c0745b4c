"""The tasks of GLUE one after another, and the table they come to."""
