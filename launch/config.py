"""Every field of a launch config, declared and explained: where a run's machines come from, and what they are given.

A launch config (configs/launch_*.py) is about machines only; the command that runs on them stands after `--`. It is
read by `launch.tpu`, `launch.slurm` and `launch.kubernetes`, each of which uses its own group beside the shared fields.
"""

from collections.abc import Callable
from dataclasses import dataclass

from base.errors import UserError
from base.schema import Unused, field
from base.tpu_types import parse_topology


@dataclass(frozen=True)
class TpuConfig:
    """A TPU pod of Google Cloud, made by `python -m launch.tpu`."""

    accelerator: str = field(
        "v3-8", "type of each slice, as gcloud names it: v3-8, v4-32, v5litepod-256, ..."
    )
    slices: int = field(
        1, "slices, joined over the data-centre network; config.mesh.replica splits over them"
    )
    project: str = field("", "Google Cloud project; empty takes gcloud's own")
    zone: str = field("", "zone; empty takes gcloud's own (compute/zone)")
    runtime_version: str = field(
        "", "image of the TPU VMs; empty takes the one of the accelerator's generation"
    )
    capacity: str = field(
        "spot", "how the machines are paid for", ("spot", "on_demand", "reserved", "guaranteed")
    )
    queued: bool = field(True, "by a queued resource, which waits for capacity; False creates the VM at once")
    valid_until: str = field("", "give a queued request up after so long: 6h, 1d; empty waits without end")
    network: str = field("", "VPC network; empty is the project's default")
    subnetwork: str = field("", "subnetwork; empty is the network's own")
    internal_ips: bool = field(False, "machines without public addresses; they need Cloud NAT to install")
    iap: bool = field(
        True, "internal_ips: reach them through IAP; False: directly, from a machine in the same network"
    )
    service_account: str = field(
        "", "the service account that the VMs run as; empty is the project's default"
    )
    labels: tuple[str, ...] = field((), "labels of the cloud resources, KEY=VALUE")
    max_restarts: int = field(20, "times that a preempted pod is made anew before giving up")
    create_attempts: int = field(50, "times that a request is sent while there is no capacity")
    backoff_seconds: float = field(15.0, "first pause between such requests; they double, up to 10 minutes")
    poll_seconds: float = field(20.0, "seconds between two looks at the pod")
    grace_seconds: int = field(300, "seconds that a job has to save and stop before it is killed")


@dataclass(frozen=True)
class SlurmConfig:
    """A Slurm job, rendered by `python -m launch.slurm`."""

    partition: str = field("", "partition; empty is the cluster's default")
    account: str = field("", "account that is charged; empty is the user's default")
    qos: str = field("", "quality of service; empty is the default")
    nodes: int = field(1, "nodes")
    gpus_per_node: int = field(8, "GPUs of each node; one process a GPU. 0: CPU nodes, one process a node")
    gpu_type: str = field("", "type of GPU, as `sinfo -o %G` shows it: a100, h100; empty takes any")
    cpus_per_task: int = field(8, "CPU cores for each process")
    memory: str = field("", "memory of each node, 200G say; empty is the partition's default")
    time: str = field(
        "24:00:00", "time limit, [D-]HH:MM:SS; the job is queued again until its run has finished"
    )
    signal_before: int = field(
        300, "seconds before the limit at which the run is told to save and stop; Slurm may be 60 s early"
    )
    max_restarts: int = field(100, "times that the job is put in the queue again")
    directory: str = field(
        "", "the checkout on the cluster, an absolute path; empty is where sbatch is called"
    )
    log: str = field("%x-%j.log", "where the output goes; %x is the job's name, %j its number")
    setup: tuple[str, ...] = field((), "shell lines before the run: module loads, activating an environment")
    secrets_file: str = field(
        "", "file on the cluster that sets config.secrets, lines NAME=VALUE, readable by its owner alone"
    )
    options: tuple[str, ...] = field((), "more options of sbatch: --constraint=h100, --exclusive")


@dataclass(frozen=True)
class KubernetesConfig:
    """An indexed Job of Kubernetes, rendered by `python -m launch.kubernetes`; on GKE the road to tpu7x."""

    image: str = field("", "container image, as the Dockerfile makes it: REGION-docker.pkg.dev/...:TAG")
    namespace: str = field("default", "namespace of the Job")
    accelerator: str = field(
        "",
        "TPU type, which says nodes and topology too (tpu7x-32, v6e-16), or GKE's name of a GPU (nvidia-h100-80gb)",
    )
    slices: int = field(
        1, "TPU: slices, joined over the data-centre network; more than one need JobSet installed"
    )
    nodes: int = field(1, "GPU: machines; one Pod on each")
    gpus_per_node: int = field(8, "GPU: GPUs of each machine; one process has all of them")
    cpu: str = field("", "CPU cores that each Pod asks for, 8 or 7500m; empty asks for none")
    memory: str = field("", "memory that each Pod asks for, 64Gi; empty asks for none")
    spot: bool = field(True, "nodes that may be taken away")
    privileged: bool = field(
        True,
        "TPU: Pods may do anything on their node; False: root that may lock memory, as Autopilot asks",
    )
    service_account: str = field(
        "", "Kubernetes service account of the Pods, bound to one that reaches the bucket"
    )
    max_restarts: int = field(
        20,
        "times that a failed run is started again; of several slices, also one whose nodes were taken away",
    )
    grace_seconds: int = field(120, "seconds that a Pod has to save and stop; a spot node gives 25 at most")
    wait_seconds: int = field(1800, "seconds that a process waits for the others to be placed and to join")
    node_selector: tuple[str, ...] = field(
        (), "more labels that nodes must have, KEY=VALUE: a node pool, a reservation"
    )


@dataclass(frozen=True)
class LaunchConfig:
    """Where a run's machines come from, and what they are given."""

    workdir: str = field(
        "", "the run's folder; gs:// where there is more than one machine. {name} is the run's name"
    )
    shared_workdir: bool = field(
        False, "the workdir is a folder that all machines share under this path, not in a bucket"
    )
    source: str = field(
        "commit",
        "the code on the machines: a git commit, or an archive of the working tree as it is",
        ("commit", "archive"),
    )
    commit: str = field("", "source=commit: the git commit, branch or tag; empty is what is checked out")
    python: str = field("python3.11", "the Python that makes the environment on the machines")
    extras: tuple[str, ...] = field((), "extras of the project to install; empty takes the accelerator's")
    env: tuple[str, ...] = field((), "names of environment variables passed on; secrets go in `secrets`")
    secrets: tuple[str, ...] = field(
        (),
        "NAME=SECRET: an environment variable and the secret in Secret Manager that the machines read it from",
    )
    price: float = field(0.0, "price of a chip (TPU) or GPU an hour, for what a plan costs; 0 is not known")
    tpu: TpuConfig = field(TpuConfig, "a TPU pod")
    slurm: SlurmConfig = field(SlurmConfig, "a Slurm cluster")
    kubernetes: KubernetesConfig = field(KubernetesConfig, "a Kubernetes cluster")


SHARED = {
    "tpu": ("workdir", "shared_workdir", "source", "commit", "python", "extras", "env", "secrets", "price"),
    "slurm": ("workdir", "env", "secrets"),
    "kubernetes": ("workdir", "env", "secrets"),
}
"""The fields beside its own group that each launcher reads."""


def unused_by(launcher: str) -> Callable[[LaunchConfig], list[Unused]]:
    """What gives the fields of a launch config that a launcher does not read, by its module's last name."""
    of_its_own = {"tpu": _of_tpu, "slurm": _of_slurm, "kubernetes": _of_kubernetes}[launcher]

    def unused_fields(config: LaunchConfig) -> list[Unused]:
        others = tuple(
            name for name in config.__dataclass_fields__ if name not in (launcher, *SHARED[launcher])
        )
        because = f"python -m launch.{launcher} does not read it; leave it out"
        return [Unused(others, because), *of_its_own(config)]

    return unused_fields


def _of_tpu(config: LaunchConfig) -> list[Unused]:
    found = []
    if config.source == "archive":
        because = "config.source='archive' sends the working tree; unset it, or set config.source=commit"
        found.append(Unused(("commit",), because, ("source",)))
    if not config.tpu.queued:
        because = "config.tpu.queued=False waits for nothing; unset it, or set config.tpu.queued=True"
        found.append(Unused(("tpu.valid_until",), because, ("tpu.queued",)))
    if not config.tpu.internal_ips:
        because = "machines have public addresses; unset it, or set config.tpu.internal_ips=True"
        found.append(Unused(("tpu.iap",), because, ("tpu.internal_ips",)))
    return found


def _of_slurm(config: LaunchConfig) -> list[Unused]:
    found = []
    if not config.slurm.gpus_per_node:
        because = "config.slurm.gpus_per_node=0 asks for no GPU; unset it, or set config.slurm.gpus_per_node"
        found.append(Unused(("slurm.gpu_type",), because, ("slurm.gpus_per_node",)))
    if not config.secrets:
        because = "config.secrets names none that it would hold; unset it, or set config.secrets"
        found.append(Unused(("slurm.secrets_file",), because, ("secrets",)))
    return found


def _of_kubernetes(config: LaunchConfig) -> list[Unused]:
    job = config.kubernetes
    if not job.accelerator:
        return []
    gpu = job.accelerator.startswith("nvidia-")
    names = ("privileged",) if gpu else ("nodes", "gpus_per_node")
    because = f"config.kubernetes.accelerator={job.accelerator!r} is a {'GPU' if gpu else 'TPU'}; unset it"
    fields = tuple(f"kubernetes.{name}" for name in names)
    found = [Unused(fields, because, ("kubernetes.accelerator",))]
    if gpu and job.nodes == 1:
        because = "config.kubernetes.nodes=1 waits for no other; unset it"
        found.append(Unused(("kubernetes.wait_seconds",), because, ("kubernetes.nodes",)))
    if not gpu and _is_one_machine(job.accelerator):
        because = (
            f"config.kubernetes.accelerator={job.accelerator!r} is one machine and waits for none; unset it"
        )
        found.append(Unused(("kubernetes.wait_seconds",), because, ("kubernetes.accelerator",)))
    return found


def _is_one_machine(accelerator: str) -> bool:
    """Whether a TPU type has one machine; of what is none, where it is read says so."""
    try:
        return parse_topology(accelerator)[1].hosts == 1
    except UserError:
        return False
