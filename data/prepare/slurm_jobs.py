"""datatrove's executor for Slurm, without its last job: the sums of times, which we have in a report of our own."""

from datatrove.executor.slurm import SlurmPipelineExecutor


class SlurmExecutor(SlurmPipelineExecutor):
    """Launches the tasks of a stage as an array of jobs."""

    def launch_merge_stats(self) -> None:
        """Nothing: that job would run when the folder is gone."""
