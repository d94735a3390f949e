"""Certification logs of other programs: the tab-separated files that Cohen et al. 2019 introduced, and their relatives.

A log has a line per test image: idx, label, predict (−1: abstained), radius (rounded to 3 digits), correct, time
(seconds, or h:mm:ss). It has no counts, and says neither n nor alpha: whoever imports it must. Commas may stand in
place of tabs, and pandas may have added an index. Two kinds come from henba1/randomized_smoothing: `original_idx` in
place of idx, where correct counts all correct ones so far; and `image_id`, `original_label`, `predicted_class`,
`epsilon_value` (the radius), `total_time`, without correct. In both, −2 is an image whose selected class is not its
label.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import ValidationError
from scipy.special import ndtr

from results.bounds.radius import largest_radius
from results.errors import BenchError, StoreError
from results.printable import as_utf8, shortened
from results.store.description import RunError, add_trials, check_room, differing
from results.store.folder import AnyPath, RunFolder, refuse_devices
from results.store.lock import RunLock
from results.store.records import RunRecord, TrainingRecord
from results.store.rows import CertificateRow
from results.store.schema import CERTIFICATES, read_table
from results.store.settings import AnyTrial, ImportedTrial, read_trial_settings
from results.store.shards import write_shard

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
VERIFIED = {
    "image_id": "idx",
    "original_label": "label",
    "predicted_class": "predict",
    "epsilon_value": "radius",
    "total_time": "time",
}
"""The columns of henba1's comma-separated results, by what they are in a log."""
MISCLASSIFIED = -2
"""As predicted class: the selected class is not the label, and nothing was estimated. Only henba1's logs have it."""
UNKNOWN = "unknown"
LONGEST_LINE = 100_000
"""Bytes of a line that is looked at before a log is read."""
SEPARATORS = {
    "\t": "blanks or quotes about its names",
    ",": "blanks or quotes about its names",
    ";": "semicolons instead of tabs",
    "|": "bars instead of tabs",
    None: "blanks instead of tabs",
}
"""What may stand between the names of a header instead of tabs alone, and how that is told."""
_OTHER_NORM = re.compile(
    r"(?:(?<![a-z])|(?<=radius)|(?<=radii))(?:(?:l|ell|ℓ)[\W_]*(?:[013-9]|p)|(?:(?:l|ell|ℓ)[\W_]*)?(?:inf(?:ini)?(?:ty)?|∞))"
    r"(?:(?![a-z])|(?=radi))"
)
_CLOCK = re.compile(r"(?:(\d+) days?,? )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")


class LogError(StoreError):
    """A log that cannot be imported; the message names file and line."""


@dataclass(frozen=True)
class Line:
    """One image of a log."""

    index: int
    label: int
    predicted: int
    """−1: abstained; −2: misclassified."""
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
    [outcome] = import_logs([(log, settings)], run)
    if outcome.refused is not None:
        raise outcome.refused
    return outcome.oddities


@dataclass(frozen=True)
class Outcome:
    """What became of one log."""

    log: Path
    refused: BenchError | OSError | None
    """Why it is not in the run."""
    oddities: list[str]
    """As `import_log` gives them."""


def import_logs(logs: Iterable[tuple[Path, ImportedTrial]], run: RunFolder) -> Iterator[Outcome]:
    """Make logs trials of a run, new or existing, one after another. One that is refused leaves no trace, and the
    others go on; those that are done when the caller stops are in the run.

    Raises:
        LockedError: another process works on the run.
        RunError: the folder holds something else.
    """
    with ExitStack() as stack:
        importing: _Importing | None = None
        for log, settings in logs:
            try:
                lines, settings = _lines_of(log, settings)
            except (BenchError, OSError) as error:
                yield Outcome(log, error, [])
                continue
            if importing is None:
                importing = stack.enter_context(_importing(run))
            try:
                importing.add(log, lines, settings)
            except (BenchError, OSError) as error:
                yield Outcome(log, error, [])
                continue
            yield Outcome(log, None, _oddities(lines, settings))


@dataclass
class _Importing:
    """A run that is locked, with its trials and those that are added."""

    run: RunFolder
    known: dict[str, AnyTrial]
    added: list[ImportedTrial] = field(default_factory=list)

    def add(self, log: Path, lines: list[Line], settings: ImportedTrial) -> None:
        """Raises RunError, LogError: as `import_log`."""
        _refuse_other(self.run, self.known, settings)
        _refuse_unlike_seeds(self.run, self.known, settings, {line.index for line in lines})
        _write(lines, as_utf8(log.name), settings, self.run)
        self.added = [trial for trial in self.added if _place(trial) != _place(settings)] + [settings]
        self.known = {name: trial for name, trial in self.known.items() if _place(trial) != _place(settings)}
        self.known[settings.trial_id] = settings


@contextmanager
def _importing(run: RunFolder) -> Iterator[_Importing]:
    """Lock the run, and have run.json name at the end what was added."""
    with RunLock(run):
        check_room(run)
        listed = RunRecord.read(run.description).trials if run.description.exists() else []
        places = {name: run.trial(name).settings for name in listed}
        known = {name: read_trial_settings(place) for name, place in places.items() if place.exists()}
        importing = _Importing(run, known)
        try:
            yield importing
        finally:
            if importing.added:
                add_trials(run, importing.added)


def _lines_of(log: Path, settings: ImportedTrial) -> tuple[list[Line], ImportedTrial]:
    """The lines that are asked for, and the settings with the digest of the log."""
    refuse_devices(log)
    content = log.read_bytes()
    settings = settings.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    lines = [line for line in read_log(log, content) if line.index % settings.stride == 0]
    if not lines:
        raise LogError(f"{log}: has no image whose index is a multiple of {settings.stride}")
    return lines, settings


def _write(lines: list[Line], source: str, settings: ImportedTrial, run: RunFolder) -> None:
    folder = run.trial(settings.trial_id)
    settings.write(folder.settings)
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


def _place(trial: AnyTrial) -> tuple[str, float, int]:
    """What no two trials of a run have in common."""
    return trial.name, trial.sigma, trial.seed


def _refuse_other(run: RunFolder, known: dict[str, AnyTrial], settings: ImportedTrial) -> None:
    """Raise RunError where the run has another trial in the place. What was stated of the same log may be corrected."""
    for name, trial in known.items():
        same = isinstance(trial, ImportedTrial) and trial.sha256 == settings.sha256
        if _place(trial) == _place(settings) and name != settings.trial_id and not same:
            raise RunError(f"{run.path} has {name} already ({differing(trial, settings)}): give another name or --out")


def _refuse_unlike_seeds(
    run: RunFolder, known: dict[str, AnyTrial], settings: ImportedTrial, indices: set[int]
) -> None:
    """Raise LogError where the run has other seeds of that method at that σ with which this one cannot be averaged."""
    for trial_id, trial in known.items():
        if (trial.name, trial.sigma) != (settings.name, settings.sigma) or trial.seed == settings.seed:
            continue
        folder = run.trial(trial_id)
        names = {"estimator", "n", "n0", "alpha"}
        values = {"dataset": trial.dataset, **trial.certify.model_dump(include=names)}
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
    header, fields_of = _header(log, texts[0] if texts else "")
    place = {name: position for position, name in enumerate(header) if name in COLUMNS}
    parse = _Parser(counted="original_idx" in fields_of(texts[0]), verified="correct" not in place)
    lines: list[Line] = []
    seen: dict[int, int] = {}
    for number, text in enumerate(texts[1:], start=2):
        if not text:
            continue
        try:
            fields = fields_of(text)
        except csv.Error as error:
            raise LogError(f"{log}:{number}: {error}") from None
        if len(fields) != len(header):
            raise LogError(f"{log}:{number}: has {len(fields)} fields, the header has {len(header)}")
        try:
            line = parse({name: fields[position].strip() for name, position in place.items()})
        except ValueError as error:
            raise LogError(f"{log}:{number}: {error}") from None
        if line.index in seen:
            raise LogError(f"{log}:{number}: image {line.index} stands a second time, after line {seen[line.index]}")
        seen[line.index] = number
        lines.append(line)
    if not lines:
        raise LogError(f"{log}: has no images")
    return lines


def check_header(log: Path) -> list[list[str]]:
    """The names of a file's columns as it has them, and the fields of its first line where it has one.

    Raises:
        LogError: they are not those of a log; names what is wrong.
        OSError: the file cannot be read.
    """
    refuse_devices(log)
    with log.open("rb") as file:
        start = [file.readline(LONGEST_LINE), file.readline(LONGEST_LINE)]
    try:
        texts = [line.decode("utf-8-sig").rstrip() for line in start]
    except UnicodeDecodeError as error:
        raise LogError(f"{log}: byte {error.start} is not UTF-8 text") from None
    _, fields_of = _header(log, texts[0])
    return [fields_of(text) for text in texts]


def _header(log: Path, text: str) -> tuple[list[str], Callable[[str], list[str]]]:
    """The columns of a log, by the names of `COLUMNS` where they are of them, and what splits a line into fields."""
    for fields_of in (_between_tabs, _between_commas):
        try:
            names = fields_of(text)
        except csv.Error:
            continue
        if set(names) >= VERIFIED.keys():
            return [VERIFIED.get(name, "") for name in names], fields_of
        if "idx" not in names:
            names = ["idx" if name == "original_idx" else name for name in names]
        if set(names) >= set(COLUMNS):
            return names, fields_of
    raise LogError(f"{log}:1: {_wrong_header(text)}")


def _between_tabs(text: str) -> list[str]:
    return text.split("\t")


def _between_commas(text: str) -> list[str]:
    return next(csv.reader([text], skipinitialspace=True), [])


def _wrong_header(text: str) -> str:
    """What is wrong with a header in which not all columns are found."""
    columns = set(COLUMNS)
    known = {*COLUMNS, *VERIFIED, "original_idx"} - {"label", "time", "correct"}
    found = False
    for separator, name in SEPARATORS.items():
        names = [part.strip(" \t\"'") for part in text.split(separator)]
        other = [column for column in names if "radi" in column.lower() and _OTHER_NORM.search(column.lower())]
        if other and len(names) > 1 and "radius" not in names:
            return f"{other[0]} is a radius in another norm: only radii in the l2 norm are certified and compared here"
        if not columns - set(names):
            return f"the header has {name}: between {' '.join(COLUMNS)} must be tabs, or commas, and nothing else"
        found |= not known.isdisjoint(names)
    if text and not found:
        return (
            f"is no certification log: its first line is {shortened(text)}, and a log has a line for each image under "
            f"{' '.join(COLUMNS)}"
        )
    missing = [name for name in COLUMNS if name not in _between_tabs(text)]
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
        (
            ~np.where(certified, rows["status"] == "certified", rows["status"].isin(["abstained", "misclassified"])),
            "its status does not follow from predicted",
        ),
        (~certified & (rows["radius"] != 0), "it abstained with a radius"),
        (~np.isfinite(rows["radius"]) | (rows["radius"] < 0), "the radius is not a number of at least 0"),
        (rows["correct"] != (rows["predicted"] == rows["label"]), "correct is wrong"),
    ):
        if wrong.any():
            index = int(rows["index"][np.asarray(wrong).argmax()])
            raise LogError(f"{holder[index]}: image {index}: {reason}")


class _Parser:
    """Turns the fields of one line after another into images."""

    def __init__(self, *, counted: bool, verified: bool) -> None:
        """
        Args:
            counted: correct may also be the number of all correct ones so far.
            verified: there is no correct.
        """
        self._counted, self._verified = counted, verified
        self._correct = 0

    def __call__(self, text: dict[str, str]) -> Line:
        least = MISCLASSIFIED if self._counted or self._verified else -1
        index, label = _whole("idx", text["idx"], 0), _whole("label", text["label"], 0)
        predicted = _whole("predict", text["predict"], least)
        try:
            radius = float(text["radius"])
        except ValueError:
            radius = math.nan
        if not math.isfinite(radius) or radius < 0:
            raise ValueError(f"radius {text['radius']!r}: must be a number of at least 0")
        if predicted < 0 and radius > 0:
            raise ValueError(f"radius {text['radius']}: must be 0 where predict is {predicted}")
        correct = predicted == label
        self._correct += correct
        if not self._verified:
            number = _whole("correct", {"True": "1", "False": "0"}.get(text["correct"], text["correct"]), 0)
            if number != correct and not (self._counted and number == self._correct):
                raise ValueError(f"correct {text['correct']}: does not follow from label {label} and predict")
        return Line(index, label, predicted, radius, correct, _seconds(text["time"]))


def _whole(name: str, text: str, least: int) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text) or int(text) < least:
        raise ValueError(f"{name} {text!r}: must be a whole number of at least {least}")
    return int(text)


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
        predicted=max(line.predicted, -1),
        status="misclassified" if line.predicted == MISCLASSIFIED else "certified" if certified else "abstained",
        correct=line.correct,
        radius=line.radius,
        p_lower=float(ndtr(line.radius / settings.sigma)) if certified else 0.0,
        n=0 if line.predicted == MISCLASSIFIED else settings.certify.n,
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
