"""The report of fine-tuning runs, searches and benchmarks as one HTML page (see `pretrain.report`)."""
