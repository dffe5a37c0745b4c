"""datatrove's executor for Slurm, without its last job: the sums of times, which we have in a report of our own."""

from datatrove.executor.slurm import SlurmPipelineExecutor


class SlurmExecutor(SlurmPipelineExecutor):
    """Launches the tasks of a stage as an array of jobs, or as several arrays where they are many."""

    launched: tuple[str, ...] = ()
    """The ids of all arrays, in the order of their launch."""

    @property
    def job_id(self) -> str | int | None:
        """The id of the array that was launched last; None before, -1 where there is nothing to launch."""
        return self._job_id

    @job_id.setter
    def job_id(self, job: str | int | None) -> None:
        self._job_id = job
        if isinstance(job, str):
            self.launched = (*self.launched, job)

    def launch_merge_stats(self) -> None:
        """Nothing: that job would run when the folder is gone."""
