"""The fields of a launch config: which machines a run gets, and which code and variables the machines get.

A launch config (configs/launch_*.py) describes machines only. The command that runs on them comes after `--`.
`launch.tpu`, `launch.slurm` and `launch.kubernetes` read it. Each reads the shared fields and its own group.
"""

from collections.abc import Callable
from dataclasses import dataclass

from base.errors import UserError
from base.schema import Unused, field
from base.tpu_types import parse_topology


@dataclass(frozen=True)
class TpuConfig:
    """A TPU pod of Google Cloud, which `python -m launch.tpu` creates."""

    accelerator: str = field(
        "v3-8", "type of each slice, as gcloud names it: v3-8, v4-32, v5litepod-256, ..."
    )
    slices: int = field(
        1, "number of slices; the data-centre network joins them, and config.mesh.replica splits over them"
    )
    project: str = field("", "Google Cloud project; empty takes gcloud's own")
    zone: str = field("", "zone; empty takes gcloud's own (compute/zone)")
    runtime_version: str = field(
        "", "image of the TPU VMs; empty takes the image for the accelerator's generation"
    )
    capacity: str = field(
        "spot", "how the machines are paid for", ("spot", "on_demand", "reserved", "guaranteed")
    )
    queued: bool = field(
        True, "create a queued resource, which waits for capacity; False creates the VM at once"
    )
    valid_until: str = field("", "time limit of a queued request: 6h, 1d; empty waits without a limit")
    network: str = field("", "VPC network; empty is the project's default")
    subnetwork: str = field("", "subnetwork; empty is the network's own")
    internal_ips: bool = field(False, "machines without public addresses; they need Cloud NAT to install")
    iap: bool = field(
        True,
        "with internal_ips: True connects through IAP; False connects directly, from a machine in the same network",
    )
    service_account: str = field(
        "", "the service account that the VMs run as; empty is the project's default"
    )
    labels: tuple[str, ...] = field((), "labels of the cloud resources, KEY=VALUE")
    max_restarts: int = field(20, "how often the launcher creates the pod again after a preemption")
    create_attempts: int = field(50, "how often the launcher sends a request while there is no capacity")
    backoff_seconds: float = field(
        15.0, "first pause between these requests, in seconds; each pause doubles, up to 10 minutes"
    )
    poll_seconds: float = field(20.0, "seconds between two checks of the pod's state")
    grace_seconds: int = field(300, "seconds that a job has to save and stop before it is killed")


@dataclass(frozen=True)
class SlurmConfig:
    """A Slurm job, whose script `python -m launch.slurm` writes."""

    partition: str = field("", "partition; empty is the cluster's default")
    account: str = field("", "account that is charged; empty is the user's default")
    qos: str = field("", "quality of service; empty is the default")
    nodes: int = field(1, "number of nodes")
    gpus_per_node: int = field(
        8, "GPUs of each node; each GPU has one process. 0: CPU nodes with one process each"
    )
    gpu_type: str = field("", "type of GPU, as `sinfo -o %G` shows it: a100, h100; empty takes any")
    cpus_per_task: int = field(8, "CPU cores for each process")
    memory: str = field("", "memory of each node, as in 200G; empty is the partition's default")
    time: str = field(
        "24:00:00", "time limit, [D-]HH:MM:SS; the job goes back to the queue until its run has finished"
    )
    signal_before: int = field(
        300, "seconds before the time limit when Slurm tells the run to save and stop; it may be 60 s early"
    )
    max_restarts: int = field(100, "how often the job goes back to the queue")
    directory: str = field(
        "", "absolute path of the checkout on the cluster; empty is the folder where sbatch is called"
    )
    log: str = field("%x-%j.log", "file for the output; %x is the job's name, %j its number")
    setup: tuple[str, ...] = field((), "shell lines before the run: module loads, activating an environment")
    secrets_file: str = field(
        "",
        "file on the cluster with the values of config.secrets, lines NAME=VALUE; only its owner may read it",
    )
    options: tuple[str, ...] = field((), "more options of sbatch: --constraint=h100, --exclusive")


@dataclass(frozen=True)
class KubernetesConfig:
    """An indexed Job of Kubernetes, whose manifest `python -m launch.kubernetes` writes. tpu7x comes only on GKE."""

    image: str = field("", "container image that the Dockerfile makes: REGION-docker.pkg.dev/...:TAG")
    namespace: str = field("default", "namespace of the Job")
    accelerator: str = field(
        "",
        "TPU type, which sets nodes and topology too (tpu7x-32, v6e-16), or GKE's name of a GPU (nvidia-h100-80gb)",
    )
    slices: int = field(
        1, "TPU: number of slices; the data-centre network joins them. Several slices need JobSet installed"
    )
    nodes: int = field(1, "GPU: number of machines; each has one Pod")
    gpus_per_node: int = field(8, "GPU: GPUs of each machine; one process uses all of them")
    cpu: str = field("", "CPU cores that each Pod asks for, 8 or 7500m; empty asks for none")
    memory: str = field("", "memory that each Pod asks for, 64Gi; empty asks for none")
    spot: bool = field(True, "use spot nodes, which the cloud may take away")
    privileged: bool = field(
        True,
        "TPU: True makes privileged Pods; False makes Pods of root that may only lock memory, as Autopilot requires",
    )
    service_account: str = field("", "Kubernetes service account of the Pods; it needs access to the bucket")
    max_restarts: int = field(
        20,
        "how often a failed run starts again; with several slices, a run that lost a node counts as failed",
    )
    grace_seconds: int = field(120, "seconds that a Pod has to save and stop; a spot node gives 25 at most")
    wait_seconds: int = field(1800, "seconds that a process waits for the other processes to start and join")
    node_selector: tuple[str, ...] = field(
        (), "more labels that a node must have, KEY=VALUE: a node pool, a reservation"
    )


@dataclass(frozen=True)
class LaunchConfig:
    """The machines of a run, and the code and variables that the machines get."""

    workdir: str = field(
        "", "the run's folder; several machines need a gs:// path. {name} is replaced by the run's name"
    )
    shared_workdir: bool = field(
        False, "the workdir is not in a bucket; all machines mount the same folder at this path"
    )
    source: str = field(
        "commit",
        "the code on the machines: a git commit, or an archive of the working tree with its uncommitted changes",
        ("commit", "archive"),
    )
    commit: str = field("", "source=commit: the git commit, branch or tag; empty is the current commit")
    python: str = field("python3.11", "the Python that makes the environment on the machines")
    extras: tuple[str, ...] = field(
        (), "extras of the project to install; empty takes the accelerator's extra"
    )
    env: tuple[str, ...] = field(
        (), "names of environment variables that the machines get from here; secrets go in `secrets`"
    )
    secrets: tuple[str, ...] = field(
        (),
        "NAME=SECRET: an environment variable, and the secret in Secret Manager that holds its value",
    )
    price: float = field(
        0.0, "price of one chip (TPU) or GPU for an hour; the plan prints the run's cost. 0: not known"
    )
    tpu: TpuConfig = field(TpuConfig, "a TPU pod")
    slurm: SlurmConfig = field(SlurmConfig, "a Slurm cluster")
    kubernetes: KubernetesConfig = field(KubernetesConfig, "a Kubernetes cluster")


SHARED = {
    "tpu": ("workdir", "shared_workdir", "source", "commit", "python", "extras", "env", "secrets", "price"),
    "slurm": ("workdir", "env", "secrets"),
    "kubernetes": ("workdir", "env", "secrets"),
}
"""The shared fields that each launcher reads, beside its own group."""


def unused_by(launcher: str) -> Callable[[LaunchConfig], list[Unused]]:
    """Make the function that lists the fields of a launch config that a launcher does not read.

    Args:
      launcher: the last part of the launcher's module name: tpu, slurm or kubernetes.
    """
    of_its_own = {"tpu": _of_tpu, "slurm": _of_slurm, "kubernetes": _of_kubernetes}[launcher]

    def unused_fields(config: LaunchConfig) -> list[Unused]:
        others = tuple(
            name for name in config.__dataclass_fields__ if name not in (launcher, *SHARED[launcher])
        )
        because = f"python -m launch.{launcher} does not read it; leave it out"
        return [Unused(others, because), *of_its_own(config)]

    return unused_fields


def _of_tpu(config: LaunchConfig) -> list[Unused]:
    unused = []
    if config.source == "archive":
        because = "config.source='archive' sends the working tree; unset it, or set config.source=commit"
        unused.append(Unused(("commit",), because, ("source",)))
    if not config.tpu.queued:
        because = "config.tpu.queued=False waits for nothing; unset it, or set config.tpu.queued=True"
        unused.append(Unused(("tpu.valid_until",), because, ("tpu.queued",)))
    if not config.tpu.internal_ips:
        because = "machines have public addresses; unset it, or set config.tpu.internal_ips=True"
        unused.append(Unused(("tpu.iap",), because, ("tpu.internal_ips",)))
    return unused


def of_attached(config: LaunchConfig) -> list[Unused]:
    """The fields that `launch.tpu up --attach` does not read: they are about the creation of a pod."""
    names = (
        *("runtime_version", "capacity", "queued", "valid_until", "network", "subnetwork", "service_account"),
        *("labels", "create_attempts", "backoff_seconds"),
    )
    because = "--attach uses a TPU VM that exists; leave it out"
    return [Unused(tuple(f"tpu.{name}" for name in names), because)]


def _of_slurm(config: LaunchConfig) -> list[Unused]:
    unused = []
    if not config.slurm.gpus_per_node:
        because = "config.slurm.gpus_per_node=0 asks for no GPU; unset it, or set config.slurm.gpus_per_node"
        unused.append(Unused(("slurm.gpu_type",), because, ("slurm.gpus_per_node",)))
    if not config.secrets:
        because = (
            "config.secrets is empty, so no secret is read from the file; unset it, or set config.secrets"
        )
        unused.append(Unused(("slurm.secrets_file",), because, ("secrets",)))
    return unused


def _of_kubernetes(config: LaunchConfig) -> list[Unused]:
    job = config.kubernetes
    if not job.accelerator:
        return []
    gpu = job.accelerator.startswith("nvidia-")
    names = ("privileged",) if gpu else ("nodes", "gpus_per_node")
    because = f"config.kubernetes.accelerator={job.accelerator!r} is a {'GPU' if gpu else 'TPU'}; unset it"
    fields = tuple(f"kubernetes.{name}" for name in names)
    unused = [Unused(fields, because, ("kubernetes.accelerator",))]
    if gpu and job.nodes == 1:
        because = "config.kubernetes.nodes=1 is one process, which waits for no other; unset it"
        unused.append(Unused(("kubernetes.wait_seconds",), because, ("kubernetes.nodes",)))
    if not gpu and _is_one_machine(job.accelerator):
        because = (
            f"config.kubernetes.accelerator={job.accelerator!r} is one machine and waits for none; unset it"
        )
        unused.append(Unused(("kubernetes.wait_seconds",), because, ("kubernetes.accelerator",)))
    return unused


def _is_one_machine(accelerator: str) -> bool:
    """Whether a TPU type has one machine; False for an unknown type, which a later check refuses."""
    try:
        return parse_topology(accelerator)[1].hosts == 1
    except UserError:
        return False
