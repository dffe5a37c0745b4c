#!/bin/bash -l
#@DIRECTIVES

# Rendered by python -m launch.slurm. The job goes back to the queue until its run has finished. Slurm itself requeues
# the job when it takes the job's nodes or loses one of them. This script requeues the job when a signal stopped the run.

#@SETTINGS

say() { printf '%s: %s\n' "${SLURM_JOB_NAME-job}" "$*" >&2; }

# Before the time limit, Slurm sends SIGTERM to the processes of the run. This shell ignores the signal and waits for
# the processes. Then it decides below.
trap : TERM

# config.slurm.setup
#@SETUP

# Secrets come from a file that only the user can read. Slurm keeps a copy of this script, so they do not stand here.
if [[ -n $secrets_file ]]; then
  if ! mode=$(stat -L -c %a -- "$secrets_file") || [[ $mode != ?00 ]]; then
    say "$secrets_file should be a file that you alone can read (chmod 600)"
    exit 2
  fi
  set -a
  # shellcheck source=/dev/null
  source "$secrets_file"
  set +a
fi
for name in $names; do
  if [[ -z ${!name-} ]]; then
    say "$name is not set; variables of config.env come from the environment of sbatch, variables of config.secrets from config.slurm.secrets_file"
    exit 2
  fi
done

export UNMASK_DISTRIBUTED=1
srun "${srun_options[@]}" "${command[@]}"
status=$?

outcome="the run was stopped and is saved"
if ((status == hung)); then
  outcome="the run hung, and its watchdog ended it"
elif ((status == 0 && ${#markers[@]})); then
  "$python" -m launch.finished "${markers[@]}"
  status=$?
fi
case $status in
  0) say "the run has finished" && exit 0 ;;
  "$unfinished" | "$hung") ;;
  143) outcome="the run was stopped before a step was saved" ;;
  *) say "the run has failed with exit status $status" && exit "$status" ;;
esac

# If the job is not RUNNING any more, its owner has cancelled it, or Slurm itself is putting it back in the queue.
state=$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")
if [[ $state != RUNNING ]]; then
  say "$outcome; the job is ${state:-gone}"
elif ((status == 143 && SECONDS > limit_seconds / 2)); then
  say "$outcome in half of config.slurm.time: not put in the queue again"
elif ((${SLURM_RESTART_COUNT:-0} >= max_restarts)); then
  say "$outcome; not put in the queue again, after $max_restarts times (config.slurm.max_restarts)"
elif scontrol requeue "$SLURM_JOB_ID"; then
  say "$outcome; put in the queue again"
  exit 0
else
  say "$outcome; to go on, sbatch this script again"
fi
exit "$status"
