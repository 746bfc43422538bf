"""What a benchmark run found, as data: written and read as JSON, checked against its schema both ways.

A row is one contender in one cell (network, frames, batch). A refused row has no speed at all: only the reason.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from trt_svc.errors import InputError, shown
from trt_svc.files import replacing

SCHEMA: Literal["trt_svc.bench/1"] = "trt_svc.bench/1"
REPORT, MARKDOWN, PAGE, AUDIO = "report.json", "report.md", "report.html", "audio"
"""Names inside the folder of a report."""


class Record(BaseModel):
    """Unknown keys are refused; values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Decibels = Annotated[
    float,
    # JSON has no infinity: null means that nothing differs.
    BeforeValidator(lambda value: math.inf if value is None else value),
    PlainSerializer(lambda value: None if value == math.inf else value, return_type=float | None),
    Field(json_schema_extra={"anyOf": [{"type": "number"}, {"type": "null"}]}),
]
"""A signal-to-noise ratio; infinite where both signals are the same."""


class Latency(Record):
    """One call, from inputs where the contender wants them to finished audio where it makes it."""

    rounds: int
    median_s: float
    p95_s: float
    p99_s: float
    mean_s: float
    min_s: float
    spread: float
    """Half of the 95 % bootstrap interval of the median, relative to it."""
    drift: float
    """Median of the last third of the rounds over that of the first third, less one: a machine that warms up."""
    outliers: int
    """Rounds beyond 3 times the interquartile range above the third quartile."""
    seconds: tuple[float, ...]
    """Every round in order."""


class Ratio(Record):
    """How many times faster than another row of the cell; 95 % bootstrap interval over paired rounds."""

    value: float
    low: float
    high: float
    against: str
    """Label of that row."""


class Waveform(Record):
    """The worst of all timed rounds against torch float32 on the same input and noise."""

    mse: float
    mae: float
    max: float
    snr_db: Decibels

    @property
    def similarity(self) -> float:
        """One less the mean absolute error, as deployment guides print it."""
        return 1 - self.mae


class Opening(Record):
    """What it takes before the first audio; null where it does not apply or cannot be told."""

    from_cache: bool = False
    """The engine was there already; `build_s` is then what building took at the time."""
    build_s: float | None = None
    """Export, compilation and checks of an engine; for torch.compile this is in the first call."""
    load_s: float | None = None
    first_call_s: float | None = None
    rss_added_bytes: int | None = None
    """Peak of the process during opening and first call, less what was resident before."""
    device_bytes: int | None = None
    """Peak of GPU memory for the same."""
    engine_key: str | None = None
    engine_bytes: int | None = None


class Row(Record):
    """One contender in one cell."""

    contender: str
    """Such as torch, torch-compile, onnxruntime, openvino, tensorrt."""
    precision: str
    forms: tuple[str, ...] | None = None
    """Rewrites in its graph: () is the graph as exported, null where there is no graph."""
    chosen: str = ""
    """What `auto` chose."""
    threads: int | None = None
    """None: the runtime's own choice."""
    status: Literal["measured", "refused"]
    reason: str = ""
    """Why it is refused."""
    latency: Latency | None = None
    over_upstream: Ratio | None = None
    """Against torch eager float32, what hosts do today."""
    over_fastest_other: Ratio | None = None
    """Against the fastest row beside it."""
    inferences_per_s: float | None = None
    """Clips per second: batch over latency; "fps" in many guides."""
    audio_s_per_s: float | None = None
    rtf: float | None = None
    """Seconds of computing per second of audio."""
    gflops: float | None = None
    """Operations of the plain algorithm (or declared ones) per second, in 10^9."""
    percent_of_peak: float | None = None
    """Of the matrix-product peak measured in the same run."""
    percent_of_roofline: float | None = None
    """Of the time that operations and memory traffic, layer by layer, take at least at the measured peaks."""
    energy_j: float | None = None
    """Of the GPU per call, by NVML."""
    waveform: Waveform | None = None
    opening: Opening = Opening()

    @property
    def label(self) -> str:
        """Contender, precision and, where the graph was rewritten, how."""
        rewritten = f" + {', '.join(self.forms)}" if self.forms else ""
        return f"{self.contender} {self.precision}{rewritten}"


class Cell(Record):
    """One shape of one network, and every contender's row."""

    network: str
    frames: int
    batch: int
    audio_s: float
    """Seconds of audio per call, all clips of the batch together."""
    gflop: float
    """Matrix and convolution work of a call, two operations per multiply-add."""
    traffic_bytes: float
    """What its convolutions and matrix products read and write in float32 at least."""
    source_s: float
    """Seconds for the stage in front of the network (harmonic source and noise), the same for all contenders."""
    rows: tuple[Row, ...]


class Listening(Record):
    """A contender's audio on the network's listening input, judged against torch float32."""

    contender: str
    """Label of its rows."""
    metrics: dict[str, float | None]
    """By name of the metric; null where it says nothing about this pair."""
    notes: dict[str, str] = {}
    """Why a metric is null."""
    audio: str | None = None
    """File inside the report's folder; so is `difference`, which is scaled up by `difference_gain_db`."""
    difference: str | None = None
    difference_gain_db: float | None = None


class Network(Record):
    """What was benchmarked."""

    name: str
    family: str
    variant: str
    origin: str
    """A checkpoint file, or the published config whose weights were drawn at random."""
    trained: bool
    """Random weights time the same, but what they say is noise: no ear-like metric is asked about it."""
    weights_sha256: str
    parameters: int
    sample_rate: int
    hop: int
    gflop_per_audio_s: float
    listened_to: str
    """The recording, or what stands for it."""
    recording: str | None = None
    """Audio files inside the report's folder: the recording, and the reference's audio."""
    reference: str | None = None
    listening: tuple[Listening, ...] = ()


class LeftOut(Record):
    """A contender that cannot run here."""

    contender: str
    precision: str | None = None
    network: str | None = None
    """Null: none of them."""
    reason: str


Reached = Literal["moonshot", "stretch", "floor", "missed", "not measured"]


class GoalResult(Record):
    """A goal of the recipe, and the best valid row that counts towards it."""

    network: str
    shape: str
    asked: str
    """Floor, stretch and moonshot, in words."""
    value: float | None = None
    row: str = ""
    quality: str = ""
    """Of that row, in words."""
    reached: Reached
    reason: str = ""
    """Why it is not measured, or what is faster but not good enough."""


class Peaks(Record):
    """What this machine reached in this run, the best of probes made between the cells."""

    device: str
    gflops: dict[str, float]
    """Matrix products, by type: fp32 always, others where they were raced."""
    conv_gflops: float | None = None
    copy_gb_per_s: float
    gflops_seen: tuple[float, ...] = ()
    """Every probe of fp32 in order: a machine that slows down shows here."""


class Provenance(Record):
    """Where, when and from what."""

    created: str
    """ISO 8601, UTC."""
    command: str
    trt_svc: str
    commit: str | None = None
    dirty: bool | None = None
    """Were there changes beyond the commit?"""
    python: str
    system: str
    cpu: str
    cores: int
    affinity: tuple[int, ...]
    """Cores that the process may use."""
    threads: int
    """Of torch; other runtimes choose for themselves."""
    memory_bytes: int | None = None
    load: tuple[float, ...] = ()
    """Load average of the machine when the run began."""
    busy_cores: int = 0
    """Kept busy on purpose by other processes while contenders raced: such times say nothing of a quiet machine."""
    gpus: tuple[str, ...] = ()
    packages: dict[str, str] = {}


class Rules(Record):
    """Limits beyond which a row is refused."""

    gate_db: dict[str, float]
    """Lowest SNR against torch float32, by precision."""
    max_spread: float
    peak_slack: float
    """How far implied operations per second may exceed the measured peak: probes are noisy too."""


class Report(Record):
    """A whole run."""

    schema_name: Literal["trt_svc.bench/1"] = Field(SCHEMA, alias="schema")
    recipe: str
    about: str = ""
    provenance: Provenance
    rules: Rules
    peaks: Peaks
    took_s: float
    stopped: bool = False
    """It was interrupted: what is missing was not reached."""
    networks: tuple[Network, ...]
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...] = ()
    goals: tuple[GoalResult, ...] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    def network(self, name: str) -> Network:
        return next(network for network in self.networks if network.name == name)


def write_report(report: Report, path: Path) -> None:
    """As JSON, whole or not at all, only if it fits its own schema."""
    Report.model_validate(report.as_dict())
    text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as part:
        part.write_text(text + "\n", "utf-8")


def read_report(path: Path) -> Report:
    """A report file, or the one in a folder; refuses what does not fit the schema."""
    where = path / REPORT if path.is_dir() else path
    try:
        return Report.model_validate_json(where.read_text("utf-8"))
    except OSError as err:
        found = f"it cannot be read ({err.strerror or err})."
        raise InputError(f"report {shown(str(where))}", found, "Give a report.json of `trt-svc bench`.") from err
    except (ValidationError, UnicodeDecodeError) as err:
        found = f"it is no report of this version ({_first(err)})."
        raise InputError(f"report {shown(str(where))}", found, "Give a report.json of `trt-svc bench`.") from err


def _first(err: ValidationError | UnicodeDecodeError) -> str:
    if isinstance(err, UnicodeDecodeError):
        return "not text"
    fault = err.errors()[0]
    return shown(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}")
