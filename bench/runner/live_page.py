"""The page of a run that goes on, made of its files alone, and made again only where they have changed."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import pandas as pd
import pyarrow as pa

from bench.runner.display import POLL_SECONDS, POLL_SECONDS_OF_A_STORE, duration
from bench.runner.progress import RunProgress, read_progress, seconds_left
from methods import METHODS
from methods.registry import RegistryError
from results.errors import BenchError
from results.report.page import Parts, page_of, page_parts
from results.report.page.charts import training_charts
from results.report.page.content import Content, Progress
from results.report.tables import tables_of
from results.store.folder import AnyPath, RunFolder, listing
from results.store.merge import merged
from results.store.records import RunRecord
from results.store.remote import RemotePath
from results.store.reported import MADE_FROM, is_current
from results.store.run import PLANNED, Run, frame_of, read_thumbnails
from results.store.schema import CERTIFICATES, EPOCHS, TRIALS, read_table
from results.store.secrecy import without_place
from results.store.settings import AnyTrial, NativeTrial, read_trial_settings

NOT_YET = "There is no run here yet; this page shows it as soon as one has begun."
ODD = "what is finished cannot be put together: bench report says why"
Value = TypeVar("Value")


@dataclass(frozen=True)
class Page:
    """A page, and what tells it from another."""

    html: bytes
    tag: str


class _Kept(Generic[Value]):
    """The last thing that was made, and of what."""

    def __init__(self) -> None:
        self.value: Value | None = None
        self._of: object = None

    def get(self, of: object, make: Callable[[], Value]) -> Value:
        """It, or another where it was made of something else."""
        if self.value is None or self._of != of:
            self.value, self._of = make(), of
        return self.value


class LivePage:
    """The page of a run as its folder is now. Several threads may ask for it."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._period = POLL_SECONDS_OF_A_STORE if isinstance(folder.path, RemotePath) else POLL_SECONDS
        self._looked = -float("inf")
        self._page = _page(_not_yet())
        self._finished = _Kept[Parts]()
        self._report = _Kept[Page]()
        self._epochs: dict[tuple[AnyPath, int], pa.Table] = {}

    def now(self) -> Page:
        """The page, from files that were looked at a second ago at most (in a store, ten). A run that is not there, or
        that is being written or deleted, is no error: the next look will tell."""
        with self._lock:
            if time.monotonic() - self._looked >= self._period:
                try:
                    self._page = self._look()
                except FileNotFoundError:
                    self._page = _page(_not_yet())
                except (OSError, BenchError):
                    pass
                self._looked = time.monotonic()  # from the end on: of a large run a look takes seconds
            return self._page

    def close(self) -> None:
        """Wait until the page is made that is being made, and have no other made."""
        self._lock.acquire()

    def _look(self) -> Page:
        progress, record = read_progress(self.folder), RunRecord.read(self.folder.description)
        if progress.holder is None and is_current(self.folder):
            written = dict(listing(self.folder.path))[self.folder.page]
            return self._report.get(written, lambda: _page(self.folder.page.read_text(encoding="utf-8")))
        parts, notes = self._of_finished(progress, record)
        members = [member for names in record.members.values() for member in names]
        epochs = self._epochs_of([*record.trials, *members])
        content: Content = {
            **parts.content,
            "progress": progress_of(progress, notes),
            "charts": {**parts.content["charts"], **training_charts(epochs)},
        }
        return _page(Parts(content, parts.data))

    def _of_finished(self, progress: RunProgress, record: RunRecord) -> tuple[Parts, list[str]]:
        """What the page says of the trials that are finished, and what is odd about them."""
        done = {trial.trial_id for trial in progress.trials if trial.stage == "done"}
        names = [name for name in record.trials if name in done]
        planned = [read_trial_settings(self.folder.trial(name).settings) for name in record.trials]
        files = [
            (str(path), written)
            for folder in map(self.folder.trial, names)
            for path, written in [*listing(folder.path), *listing(folder.shards)]
            if path.suffix in MADE_FROM
        ]
        of = (sorted(files), record, planned)
        try:
            return self._finished.get(of, lambda: finished_parts(self.folder, record, planned, names)), []
        except BenchError:
            before = self._finished.value
            return before or finished_parts(self.folder, record, planned, []), [ODD]

    def _epochs_of(self, names: Iterable[str]) -> pd.DataFrame:
        """Of every model that was or is being trained. What was read is kept until its file changes."""
        found: dict[tuple[AnyPath, int], pa.Table] = {}
        for folder in map(self.folder.trial, dict.fromkeys(names)):
            for path, written in listing(folder.path):
                if path == folder.epochs:
                    known = self._epochs.get((path, written))
                    found[path, written] = read_table(path, EPOCHS).cast(EPOCHS) if known is None else known
        self._epochs = found
        return frame_of(pa.concat_tables([EPOCHS.empty_table(), *found.values()]))


def finished_parts(folder: RunFolder, record: RunRecord, planned: Sequence[AnyTrial], names: Sequence[str]) -> Parts:
    """The page of some finished trials of a run, with the looks of all methods that it will have.

    Args:
        planned: the settings of all its trials.
        names: the ids of those that are finished.

    Raises:
        BenchError: as `merged` and `page_parts`.
    """
    together = merged(folder, names)
    run = Run(
        frame_of(together.certificates),
        frame_of(together.trials),
        frame_of(together.epochs),
        frame_of(together.spectra),
        (record,),
        planned=pd.DataFrame([_known_of(trial) for trial in planned], columns=PLANNED),
    )
    return page_parts(run, list(tables_of(run)) if names else [], read_thumbnails(folder.path))


def progress_of(run: RunProgress, notes: Sequence[str] = ()) -> Progress:
    """How far a run is, for its page."""
    said = [f"{failed} failed: bench status says why"] if (failed := run.count("failed")) else []
    left = seconds_left(run)
    if run.holder is None and run.count("done", "failed") < len(run.trials):
        said.append("nobody runs it now: the same command goes on from there")
    elif left and run.holder:
        said.append(f"about {duration(left)} left")
    return {
        "done": run.count("done"),
        "trials": [
            {
                "sigma": trial.sigma,
                "title": trial.label,
                "stage": trial.stage,
                "epochs": f"{trial.epochs}/{trial.epochs_wanted}" if trial.epochs_wanted else "",
                "images": f"{trial.images}/{trial.images_wanted}" if trial.images_wanted else "",
                "left": duration(trial.seconds_left) if trial.seconds_left else "",
            }
            for trial in run.trials
        ],
        "said": [*said, *notes],
    }


def _known_of(trial: AnyTrial) -> dict[str, object]:
    """A row of `Run.planned`."""
    method = None
    if isinstance(trial, NativeTrial):
        with suppress(RegistryError):  # of a plugin, which this process has not; its name does
            method = METHODS.find(trial.method)
    told = without_place(trial.model_dump(mode="json"), trial.dataset)
    return {
        "method": trial.name,
        "title": method.title if method else trial.name,
        "colour_group": method.colour_group if method else None,
        "sigma": trial.sigma,
        "model": told["model"],
        "dataset": trial.dataset,
        "settings": json.dumps(told),
    }


def _not_yet() -> Parts:
    certificates, trials, epochs = (frame_of(schema.empty_table()) for schema in (CERTIFICATES, TRIALS, EPOCHS))
    empty = Run(certificates, trials, epochs)
    parts = page_parts(empty, [], pd.DataFrame(columns=["dataset", "index", "png"]))
    content: Content = {**parts.content, "progress": {"done": 0, "trials": [], "said": [NOT_YET]}}
    return Parts(content, parts.data)


def _page(content: Parts | str) -> Page:
    """A page that asks for itself again, or a report as it is."""
    html = (content if isinstance(content, str) else page_of(content, live=True)).encode()
    return Page(html, f'"{hashlib.sha256(html).hexdigest()[:32]}"')
