"""Certification logs of other programs: the tab-separated files that Cohen et al. 2019 introduced.

A log has a line per test image: idx, label, predict (−1: abstained), radius (rounded to 3 digits), correct, time
(seconds, or h:mm:ss). It has no counts, and says neither n nor alpha: whoever imports it must.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import ValidationError
from scipy.special import ndtr

from results.bounds.radius import largest_radius
from results.errors import StoreError
from results.printable import as_utf8, shortened
from results.store.description import add_trials
from results.store.folder import AnyPath, RunFolder, refuse_devices
from results.store.lock import RunLock
from results.store.records import RunRecord, TrainingRecord
from results.store.rows import CertificateRow
from results.store.schema import CERTIFICATES, read_table
from results.store.settings import ImportedTrial, read_trial_settings
from results.store.shards import write_shard

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
UNKNOWN = "unknown"
SEPARATORS = {
    "\t": "blanks or quotes about its names",
    ",": "commas instead of tabs",
    ";": "semicolons instead of tabs",
    "|": "bars instead of tabs",
    None: "blanks instead of tabs",
}
"""What may stand between the names of a header instead of tabs alone, and how that is told."""
_OTHER_NORM = re.compile(
    r"(?:(?<![a-z])|(?<=radius)|(?<=radii))(?:(?:l|ell|ℓ)[\W_]*(?:[013-9]|p)|(?:(?:l|ell|ℓ)[\W_]*)?(?:inf(?:ini)?(?:ty)?|∞))"
    r"(?:(?![a-z])|(?=radi))"
)
_CLOCK = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")


class LogError(StoreError):
    """A log that cannot be imported; the message names file and line."""


@dataclass(frozen=True)
class Line:
    """One image of a log."""

    index: int
    label: int
    predicted: int
    radius: float
    correct: bool
    seconds: float


def stated(**given: object) -> ImportedTrial:
    """What is stated of a log: the keys of `ImportedTrial`, and `n`, `n0` and `alpha` of its certification.

    Raises:
        LogError: one of them is not allowed; names the option of `bench import`.
    """
    options = {"name": "method", "stride": "skip"}
    certify = {key: given.pop(key) for key in ("n", "n0", "alpha") if key in given}
    try:
        return ImportedTrial.model_validate({**given, "certify": certify})
    except ValidationError as error:
        [first, *_] = error.errors()
        key = str(first["loc"][-1])
        raise LogError(
            f"--{options.get(key, key)} {shortened(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}"
        ) from None


def import_log(log: Path, settings: ImportedTrial, run: RunFolder) -> list[str]:
    """Make a log a trial of a run, new or existing.

    Returns:
        What is odd about the log, in sentences: radii that its n and alpha do not allow, images that are missing.

    Raises:
        LogError: a line that is not one of a log; names file and line.
        LockedError: another process works on the run.
        RunError: the run has that method, σ and seed already, from elsewhere; or the folder holds something else.
        OSError: the log cannot be read.
    """
    refuse_devices(log)
    content = log.read_bytes()
    settings = settings.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    lines = [line for line in read_log(log, content) if line.index % settings.stride == 0]
    if not lines:
        raise LogError(f"{log}: has no image whose index is a multiple of {settings.stride}")
    with RunLock(run):
        _write(lines, as_utf8(log.name), settings, run)
    return _oddities(lines, settings)


def _write(lines: list[Line], source: str, settings: ImportedTrial, run: RunFolder) -> None:
    replace = _holds(run, settings)
    _refuse_unlike_seeds(run, settings, {line.index for line in lines})
    add_trials(run, [settings], replace=replace)
    folder = run.trial(settings.trial_id)
    rows = [_row(line, settings) for line in sorted(lines, key=lambda line: line.index)]
    write_shard(folder, rows)
    record = TrainingRecord(
        title=f"{settings.name} (imported)",
        checkpoint_sha256=settings.sha256,
        test_images=len(lines),
        torch_version=UNKNOWN,
        source=source,
    )
    record.write(folder.training)


def _holds(run: RunFolder, settings: ImportedTrial) -> bool:
    """Whether the run has the same log in the same place: what was stated of it may then be corrected."""
    if not run.description.exists():
        return False
    for trial_id in RunRecord.read(run.description).trials:
        known = read_trial_settings(run.trial(trial_id).settings)
        same = isinstance(known, ImportedTrial) and known.sha256 == settings.sha256
        if same and (known.name, known.sigma, known.seed) == (settings.name, settings.sigma, settings.seed):
            return True
    return False


def _refuse_unlike_seeds(run: RunFolder, settings: ImportedTrial, indices: set[int]) -> None:
    """Raise LogError where the run has other seeds of that method at that σ with which this one cannot be averaged."""
    for trial_id in RunRecord.read(run.description).trials if run.description.exists() else []:
        folder = run.trial(trial_id)
        known = read_trial_settings(folder.settings)
        if (known.name, known.sigma) != (settings.name, settings.sigma) or known.seed == settings.seed:
            continue
        names = {"estimator", "n", "n0", "alpha"}
        values = {"dataset": known.dataset, **known.certify.model_dump(include=names)}
        own = {"dataset": settings.dataset, **settings.certify.model_dump(include=names)}
        odd = [name for name in ("estimator", "dataset", "n", "n0", "alpha") if values[name] != own[name]]
        if odd:
            raise LogError(
                f"--{odd[0]} {own[odd[0]]}: {trial_id} of {run.path} has {values[odd[0]]}, so these seeds of one "
                "method cannot be averaged: give another --method"
            )
        shards = [read_table(path, CERTIFICATES) for path in folder.shard_files()]
        if indices != {index for shard in shards for index in shard["index"].to_pylist()}:
            raise LogError(
                f"{trial_id} of {run.path} has other test images than this log, so these seeds of one method cannot be "
                "averaged: give another --method"
            )


def read_log(log: Path, content: bytes) -> list[Line]:
    """The lines of a log, in its order.

    Raises:
        LogError: as `import_log`.
    """
    try:
        texts = [text.rstrip() for text in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise LogError(f"{log}: byte {error.start} is not UTF-8 text") from None
    header = texts[0].split("\t") if texts else []
    if missing := [name for name in COLUMNS if name not in header]:
        raise LogError(f"{log}:1: {_wrong_header(texts[0] if texts else '', missing)}")
    place = {name: header.index(name) for name in COLUMNS}
    lines: list[Line] = []
    seen: dict[int, int] = {}
    for number, text in enumerate(texts[1:], start=2):
        if not text:
            continue
        fields = text.split("\t")
        if len(fields) != len(header):
            raise LogError(f"{log}:{number}: has {len(fields)} fields, the header has {len(header)}")
        try:
            line = _parse({name: fields[position].strip() for name, position in place.items()})
        except ValueError as error:
            raise LogError(f"{log}:{number}: {error}") from None
        if line.index in seen:
            raise LogError(f"{log}:{number}: image {line.index} stands a second time, after line {seen[line.index]}")
        seen[line.index] = number
        lines.append(line)
    if not lines:
        raise LogError(f"{log}: has no images")
    return lines


def _wrong_header(text: str, missing: list[str]) -> str:
    """What is wrong with a header in which not all columns are found between tabs."""
    for separator, name in SEPARATORS.items():
        names = [part.strip(" \t\"'") for part in text.split(separator)]
        other = [column for column in names if "radi" in column.lower() and _OTHER_NORM.search(column.lower())]
        if other and len(names) > 1 and "radius" not in names:
            return f"{other[0]} is a radius in another norm: only radii in the l2 norm are certified and compared here"
        if not set(COLUMNS) - set(names):
            return f"the header has {name}: between {' '.join(COLUMNS)} must be tabs and nothing else"
    return f"the header lacks {', '.join(missing)}; expected {' '.join(COLUMNS)} between tabs"


def check_imported(holder: dict[int, AnyPath], table: pa.Table) -> None:
    """What holds for an imported certificate; raises LogError with the first image for which it does not.

    Args:
        holder: the file of each image.
    """
    rows = table.select(["index", "label", "predicted", "status", "correct", "radius", "estimator"]).to_pandas()
    certified = rows["predicted"] >= 0
    for wrong, reason in (
        (rows["estimator"] != "imported", "estimator is not imported"),
        (rows["status"] != np.where(certified, "certified", "abstained"), "its status does not follow from predicted"),
        (~certified & (rows["radius"] != 0), "it abstained with a radius"),
        (~np.isfinite(rows["radius"]) | (rows["radius"] < 0), "the radius is not a number of at least 0"),
        (rows["correct"] != (rows["predicted"] == rows["label"]), "correct is wrong"),
    ):
        if wrong.any():
            index = int(rows["index"][wrong.to_numpy().argmax()])
            raise LogError(f"{holder[index]}: image {index}: {reason}")


def _parse(field: dict[str, str]) -> Line:
    whole = {}
    for name, least in (("idx", 0), ("label", 0), ("predict", -1), ("correct", 0)):
        if not re.fullmatch(r"-?\d{1,18}", field[name]) or int(field[name]) < least:
            raise ValueError(f"{name} {field[name]!r}: must be a whole number of at least {least}")
        whole[name] = int(field[name])
    try:
        radius = float(field["radius"])
    except ValueError:
        radius = math.nan
    if not math.isfinite(radius) or radius < 0:
        raise ValueError(f"radius {field['radius']!r}: must be a number of at least 0")
    if whole["predict"] == -1 and radius > 0:
        raise ValueError(f"radius {field['radius']}: must be 0 where predict is -1")
    if whole["correct"] != (whole["predict"] == whole["label"]):
        raise ValueError(f"correct {field['correct']}: does not follow from label {whole['label']} and predict")
    return Line(whole["idx"], whole["label"], whole["predict"], radius, bool(whole["correct"]), _seconds(field["time"]))


def _seconds(text: str) -> float:
    """ "16.5", "0:00:16.5", "1 day, 2:03:04" -> seconds."""
    clock = _CLOCK.fullmatch(text)
    if clock:
        days, hours, minutes, seconds = clock.groups(default="0")
        return ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60 + float(seconds)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"time {text!r}: must be seconds or h:mm:ss")
    return value


def _row(line: Line, settings: ImportedTrial) -> CertificateRow:
    certified = line.predicted >= 0
    return CertificateRow(
        trial_id=settings.trial_id,
        method=settings.name,
        sigma=settings.sigma,
        seed=settings.seed,
        dataset=settings.dataset,
        split="test",
        index=line.index,
        label=line.label,
        predicted=line.predicted,
        status="certified" if certified else "abstained",
        correct=line.correct,
        radius=line.radius,
        p_lower=float(ndtr(line.radius / settings.sigma)) if certified else 0.0,
        n=settings.certify.n,
        n0=settings.certify.n0,
        alpha=settings.certify.alpha,
        estimator="imported",
        classifier=UNKNOWN,
        seconds=line.seconds,
        precision=UNKNOWN,
        engine=UNKNOWN,
        device=UNKNOWN,
        torch_version=UNKNOWN,
        checkpoint_sha256=settings.sha256,
    )


def _oddities(lines: list[Line], settings: ImportedTrial) -> list[str]:
    found = []
    certify = settings.certify
    limit = float(largest_radius(certify.n, certify.alpha, settings.sigma))
    # Radii are rounded to three significant digits: half a unit of the third may be the rounding's.
    unit = 10.0 ** (math.floor(math.log10(limit)) - 2) if limit > 0 else 0.0
    above = [line.radius for line in lines if line.radius > limit + unit / 2 + 1e-12]
    if above:
        found.append(
            f"{len(above)} radii, up to {max(above):g}, are above {limit:.4g}, the largest that n = {certify.n} and "
            f"alpha = {certify.alpha:g} allow at σ = {settings.sigma:g}: the log was made with another n or alpha"
        )
    indices = sorted(line.index for line in lines)
    steps = np.diff(indices)
    if len(steps) and (steps != steps[0]).any():
        common = int(np.gcd.reduce(steps))
        expected = range(indices[0], indices[-1] + 1, common)
        missing = len(expected) - len(indices)
        first = next(index for index, there in zip(expected, indices, strict=False) if index != there)
        found.append(f"{missing} images are missing between its first and its last, the first is {first}")
    return found
