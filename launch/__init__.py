"""Launchers: start the same command on many machines. They import nothing of the other packages."""
