"""Argument lists of gcloud for TPU VMs: pure functions of the project, the zone and the launch config."""

from collections.abc import Sequence
from dataclasses import dataclass

from base.tpu_types import tpu_slice
from launch.config import TpuConfig

LABEL = "unmask-pod"
"""Label of the machines that this tool creates; its value is the pod's name."""
SCOPES = "https://www.googleapis.com/auth/cloud-platform"
"""Scope of the VMs' service account: everything that its roles allow. The default scopes exclude Secret Manager."""
CONNECTION = "-oConnectTimeout=30 -oServerAliveInterval=15"
"""Options of ssh. With them, a connection to a lost machine ends within a minute."""

Argv = list[str]


def config_value(name: str) -> Argv:
    """Read one of gcloud's own settings."""
    return ["gcloud", "config", "get-value", name]


def store(path: str) -> Argv:
    """Write standard input to a file in a bucket."""
    return ["gcloud", "storage", "cp", "-", path]


def read(path: str) -> Argv:
    """Print a file in a bucket."""
    return ["gcloud", "storage", "cat", path]


def remove(path: str) -> Argv:
    """Remove a file from a bucket."""
    return ["gcloud", "storage", "rm", path]


@dataclass(frozen=True)
class Gcloud:
    """The gcloud calls for the machines of one project and zone."""

    project: str
    zone: str
    tpu: TpuConfig

    def create(self, name: str) -> Argv:
        """Request a pod; the call returns before the pod exists."""
        tpu = self.tpu
        slice_ = tpu_slice(tpu.accelerator)
        runtime = tpu.runtime_version or slice_.runtime_version
        options = [f"--accelerator-type={slice_.accelerator}"]
        if tpu.queued:
            options += [f"--runtime-version={runtime}", *nodes_options(name, tpu.slices)]
        else:
            options += [f"--version={runtime}"]
        if tpu.capacity != "on_demand":
            options += [f"--{tpu.capacity}"]
        if tpu.valid_until and tpu.queued:
            options += [f"--valid-until-duration={tpu.valid_until}"]
        if tpu.service_account:
            options += [f"--service-account={tpu.service_account}"]
        options += [f"--scopes={SCOPES}", f"--labels={','.join([f'{LABEL}={name}', *tpu.labels])}"]
        if tpu.network:
            options += [f"--network={tpu.network}"]
        if tpu.subnetwork:
            options += [f"--subnetwork={tpu.subnetwork}"]
        if tpu.internal_ips:
            options += ["--internal-ips"]
        return self._tpus("create", name, [*options, "--async", "--quiet"], queued=tpu.queued)

    def describe(self, name: str, *, queued: bool) -> Argv:
        """Describe a queued resource or a TPU VM as JSON."""
        return self._tpus("describe", name, ["--format=json"], queued=queued)

    def delete(self, name: str, *, queued: bool) -> Argv:
        """Delete a queued resource and its TPU VMs, or one TPU VM; the call returns after the deletion."""
        return self._tpus("delete", name, [*(["--force"] if queued else []), "--quiet"], queued=queued)

    def ssh(self, node: str, worker: str, command: str = "") -> Argv:
        """Run a command on a worker of a TPU VM, or on all; without a command, open a shell for the user."""
        options = [f"--worker={worker}", f"--ssh-flag={CONNECTION}", *self._route()]
        if command:
            options += [f"--command={command}", "--quiet"]
        return self._tpus("ssh", node, options, track=self._track())

    def scp(self, files: Sequence[str], node: str, folder: str) -> Argv:
        """Copy files into a folder in the home folder of every worker."""
        options = ["--worker=all", *(f"--scp-flag={flag}" for flag in CONNECTION.split()), *self._route()]
        place = [*files, f"{node}:{folder}/"]
        return self._tpus("scp", place, [*options, "--quiet"], track=self._track())

    def _tpus(
        self,
        verb: str,
        name: str | list[str],
        options: Sequence[str],
        *,
        queued: bool = False,
        track: Sequence[str] = (),
    ) -> Argv:
        kind = "queued-resources" if queued else "tpu-vm"
        names = [name] if isinstance(name, str) else name
        place = [f"--project={self.project}", f"--zone={self.zone}"]
        return ["gcloud", *track, "compute", "tpus", kind, verb, *names, *place, *options]

    def _track(self) -> list[str]:
        return ["alpha"] if self.tpu.internal_ips and self.tpu.iap else []  # only alpha has IAP tunnels

    def _route(self) -> list[str]:
        if not self.tpu.internal_ips:
            return []
        return ["--tunnel-through-iap"] if self.tpu.iap else ["--internal-ip"]


def nodes_options(name: str, slices: int) -> list[str]:
    """Options that name the TPU VMs of a queued resource: its own name, or a name with a number for each slice."""
    return [f"--node-id={name}"] if slices == 1 else [f"--node-count={slices}", f"--node-prefix={name}"]


def nodes(name: str, slices: int) -> list[str]:
    """The names of a pod's TPU VMs."""
    return [name] if slices == 1 else [f"{name}-{index}" for index in range(slices)]
