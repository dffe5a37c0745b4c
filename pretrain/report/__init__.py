"""The report of runs: one HTML page without scripts and without network, drawn from the files of their workdirs."""
