#!/usr/bin/env bash
# The gcloud calls of `python -m launch.tpu up` for a pod of one slice, as a short script to read and to edit.
# It creates the pod, installs the newest commit, starts the command, and shows the log of machine 0.
# It does no checks and no plan, it does not retry, and it does not restart after a preemption. `python -m launch.tpu up`
# does all this, and it can continue a run that this script started. python3 here must have the project installed.
#
#   NAME=roberta-no PROJECT=my-project ZONE=europe-west4-a TYPE=v3-8 RUNTIME=tpu-ubuntu2204-base DISTRIBUTED=false \
#     launch/tpu_pod.sh python -m pretrain --config=configs/roberta_base_oscar_no.py --workdir=gs://BUCKET/roberta-no
#
# To delete the pod: gcloud compute tpus queued-resources delete $NAME --project=$PROJECT --zone=$ZONE --force --quiet
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NAME:?}" "${PROJECT:?}" "${ZONE:?}" "${TYPE:?}" "${RUNTIME:?}" "${POLL_SECONDS:=20}"
[[ $NAME =~ ^[a-z][a-z0-9-]*$ ]] || { echo "NAME=$NAME should be small letters, digits and hyphens" >&2 && exit 2; }
place=(--project="$PROJECT" --zone="$ZONE")
folder=unmask/$NAME                # in the home folder of every machine
staged=.cache/launch/$NAME         # on this machine, while the files are copied
distributed=${DISTRIBUTED:-true}   # false for a TPU type with one machine: v3-8, v5litepod-8, v6e-8

on_all() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=all \
    "--ssh-flag=-oConnectTimeout=30 -oServerAliveInterval=15" --command="$1" --quiet
}
copy() {
  on_all "mkdir -p -m 700 $folder"
  gcloud compute tpus tpu-vm scp "$@" "$NAME:$folder/" "${place[@]}" --worker=all \
    --scp-flag=-oConnectTimeout=30 --scp-flag=-oServerAliveInterval=15 --quiet
}

# The code for the machines: the newest commit, without files whose names look like secrets. launch.tpu packs it so too.
(umask 077 && mkdir -p "$staged")
python3 -m launch.archive "$staged/code.tar.gz"

# Create the pod. Spot machines cost a fraction of the price, but the cloud may take them away.
gcloud compute tpus queued-resources create "$NAME" "${place[@]}" --accelerator-type="$TYPE" \
  --runtime-version="$RUNTIME" --node-id="$NAME" --spot \
  --scopes=https://www.googleapis.com/auth/cloud-platform --labels="unmask-pod=$NAME" --async --quiet

# Wait for the pod. This takes minutes or days.
until state=$(gcloud compute tpus queued-resources describe "$NAME" "${place[@]}" --format=json) &&
  if grep -qE '"(FAILED|SUSPENDED)"' <<<"$state"; then echo "$state" >&2 && exit 1; fi &&
  grep -q '"ACTIVE"' <<<"$state" &&
  gcloud compute tpus tpu-vm describe "$NAME" "${place[@]}" --format=json | grep -q '"READY"'; do
  sleep "$POLL_SECONDS"
done

# Install the code, Python, and the pinned dependencies with JAX for TPU. launch/tpu/remote.py does it on each machine.
echo '{"python": "python3.11", "extras": ["tpu"]}' >"$staged/setup.json"
copy "$staged/code.tar.gz" "$staged/setup.json" launch/tpu/remote.py
on_all "python3 $folder/remote.py setup"

# Start the command, detached. The command is sent in a file, so that no shell changes its arguments. For secrets, set
# "secrets" to {"HF_TOKEN": "hf-token"}: only names. Each machine reads the values from Secret Manager itself.
NAME=$NAME PROJECT=$PROJECT DISTRIBUTED=$distributed python3 - "$@" >"$staged/job.json" <<'PYTHON'
import json, os, sys, uuid
name = os.environ["NAME"]
print(json.dumps({"launch": uuid.uuid4().hex, "run": name, "digest": "", "command": sys.argv[1:], "secrets": {},
                  "project": os.environ["PROJECT"], "distributed": os.environ["DISTRIBUTED"] == "true"}))
PYTHON
copy "$staged/job.json"
on_all "python3 $folder/remote.py start"
rm -r "$staged"

# Show the log. Ctrl-C ends the display, not the job.
gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=0 \
  "--ssh-flag=-oConnectTimeout=30 -oServerAliveInterval=15" \
  --command="python3 $folder/remote.py logs --offset=0 --follow=1" --quiet
