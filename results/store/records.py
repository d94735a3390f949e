"""The JSON files of a run beside its trials' settings, each typed, and checked where it is read."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue

from results.store.folder import AnyPath
from results.store.record import FileRecord, Record
from results.store.schema import SCHEMA_VERSION, refuse_version

Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0, lt=1e300)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]


class GroupRecord(Record):
    """The workers of each trial of a run."""

    workers: Positive
    cpus_per_worker: Amount
    gpus_per_worker: Amount


class RunRecord(FileRecord):
    """run.json: which trials form a run, and how it came about."""

    schema_version: Literal[SCHEMA_VERSION] = SCHEMA_VERSION  # type: ignore[valid-type]  # one number, told once
    trials: list[str]
    """Ids, in the order of the grid."""
    members: dict[str, list[str]] = {}
    """Of each ensemble, by its id."""
    teachers: dict[str, str] = {}
    """Of each trial that learns from another's votes, that other; both by id."""
    group: GroupRecord | None = None
    """Of the last command that had something to do."""
    trained_by: Positive | None = None
    """Workers of a trial, by the last command that trained."""
    grid: dict[str, JsonValue] | None = None
    """As the last command loaded it; none where no grid was run."""
    command: list[str] = []
    """The last one that added trials, without its secrets."""
    time: str = ""
    """Of that command; ISO 8601, UTC."""
    git_commit: str | None = None
    versions: dict[str, str | None] = {}
    """Of the packages that matter."""

    @classmethod
    def refuse(cls, values: dict[str, Any], path: AnyPath) -> None:
        """Raise VersionError where the file is of another version of this program."""
        refuse_version(path, values.get("schema_version"))


class TrainedOn(Record):
    """What trained a model."""

    memory_kind: Literal["accelerator", "resident"]
    workers: Positive
    device: str
    train_precision: Literal["fp32", "bf16"]
    auto_precision: Literal["fp32", "bf16"]
    torch_version: str
    reserved_bytes: Count | None = None
    """Peak of what torch took of the accelerators, its cache included, summed over workers; null on CPUs."""
    driver_bytes: Count | None = None
    """What the accelerators' drivers counted of the workers after the last epoch; null where one does not tell."""


class TrainingRecord(FileRecord):
    """training.json: the model of a trial. What is null is unknown, or has no meaning for a trial of its kind."""

    sealed: ClassVar[bool] = True

    training_id: str | None = None
    """`Trial.training_id`, of a native trial."""
    title: str
    """The method's name in tables."""
    variant_of: str | None = None
    colour_group: str | None = None
    """Both as `results.store.rows.TrialRow` has them."""
    checkpoint_sha256: str
    members: list[str] = []
    """Trials whose models form this one."""
    teacher: str | None = None
    """Trial whose votes this one learnt from."""
    teacher_seconds: Amount | None = None
    """Of `train_seconds`, the teacher's training and its votes, whoever has them in common."""
    num_classes: Annotated[int, Field(ge=2, lt=2**16)] | None = None
    classes: list[str] | None = None
    """The name of each label, where the data has names."""
    train_images: Positive | None = None
    test_images: Annotated[int, Field(ge=1, le=10**7)]
    copies: Positive | None = None
    """m, noise samples of an image in a training step."""
    decomposition_kept: Positive | None = None
    """Directions that the linear decomposition keeps, of channel × height × width."""
    parameters: Count | None = None
    """Numbers that training changes, summed over members."""
    model_bytes: Count | None = None
    """Of the files of weights, summed over members; of an external model, of its parameters and buffers in memory."""
    train_seconds: Amount | None = None
    """Wall clock, summed over members."""
    train_samples_per_second: Amount | None = None
    train_joules: Amount | None = None
    """Of the accelerators, by their drivers' counters, summed over members."""
    memory_bytes: Count | None = None
    """Peak while training, summed over workers and members."""
    member_memory_bytes: Count | None = None
    """Peak of the largest member alone."""
    memory_kind: Literal["accelerator", "resident"] | None = None
    reserved_bytes: Count | None = None
    driver_bytes: Count | None = None
    """Both as `TrainedOn` has them, summed over members."""
    workers: Positive | None = None
    device: str | None = None
    train_precision: str | None = None
    auto_precision: Literal["fp32", "bf16"] | None = None
    """What "auto" means for the certification: what the machine that trained computes fast in."""
    torch_version: str
    source: str | None = None
    """What finds an external model again; an imported log's name."""
    sources: list[str] = []
    """Of the parts of a composed classifier, each as `source` is of an external model."""
    answers: list[list[float]] | None = None
    """Of an external model, or of the parts of a composed one, to fixed images (`bench.certify.examine`)."""


class WorkerRecord(Record):
    """A worker at its last pulse, and what it took of its machine."""

    host: str = ""
    pid: Count | None = None
    """None until the process is there."""
    doing: str = ""
    """starting, idle, training, or the images it certifies."""
    gpus: list[str] = []
    """Its accelerators, by their numbers on the host."""
    elastic: bool = False
    """Beyond the group's own, where there is room."""
    cores: Amount | None = None
    memory_bytes: Count | None = None
    gpu: Amount | None = None
    """Share of time in which its accelerator computes."""
    steps: Count | None = None
    """Passes of its trainings and batches of its certifications; one that does not grow for long is replaced."""
    apart: str = ""
    """What it does that has no steps: loading, compiling, …"""


class StateRecord(FileRecord):
    """state.json: who works on a trial, or why the last attempt failed."""

    state: Literal["waiting", "running", "failed"]
    host: str = ""
    pid: Positive | None = None
    since: Amount | None = None
    """Unix seconds, as `at`."""
    at: Amount | None = None
    workers: list[WorkerRecord] = []
    error: str = ""


class DivergedRecord(FileRecord):
    """diverged.json: of a search, a training that would fail in every attempt."""

    reason: str


class DevicesRecord(FileRecord):
    """devices.json: accelerators that the last command on a run left out."""

    left_out: list[str]
    """A sentence of each, with its reason."""


class BatchRecord(FileRecord):
    """batch.json: how all who certify a trial classify noise samples."""

    batch: Positive | None = None
    """Samples of a forward pass, where they are fewer than usual."""
    engine: Literal["triton", "cudnn", "inductor", "eager"] | None = None
    """Of a classifier that is to be compiled: whether it was, where the certification began."""


class TrialForecast(Record):
    """What was expected of a trial, in seconds of wall clock with all workers of its group."""

    train_seconds: Amount
    certify_seconds: Amount
    """At most: nothing is estimated where the selected class is wrong."""


class ForecastRecord(FileRecord):
    """forecast.json: what the last command was expected to cost where nothing else computes. What counts later are the
    proportions: which trial takes how many times as long as another."""

    trials: dict[str, TrialForecast]
    """By id, also those that only others need."""
    start_seconds: Amount
    """Until the first trial trains."""
    trial_seconds: Amount
    """Of each trial, besides training and certification."""
    report_seconds: Amount
    at_once: Annotated[int, Field(ge=1)] = 1
    """Trials that run at the same time; each has the seconds above, whatever runs beside it."""
    others: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the machine's cores that others used meanwhile; null: not known."""


class ReportRecord(FileRecord):
    """report.json: what a run's report was made from, and its files."""

    made_from: str
    files: dict[str, int]
    """Times of writing, ns since 1970."""


class ClaimRecord(FileRecord):
    """lock-*.json: who claims a run (`results.store.lock`)."""

    host: str
    pid: int
    machine: str
    started: int | None
    """When its process began, in clock ticks since the machine booted."""
    since: str
    command: str
