"""The folder in which inputs are laid out: a finished run, a trained run, and both put right again between inputs."""

from __future__ import annotations

import copy
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import typer

from bench.cli.base import app
from bench.settings.grid import SHIPPED
from results.store.folder import RunFolder, read_json, write_json, write_text
from results.store.lock import RunLock
from results.store.logs import import_log, stated
from results.store.merge import merge_run
from tests.conftest import small_trial, trial_ids, write_fake_run
from tests.fuzz.command import FOLDER, begin_work, listing, outcome_of

LOG = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n" + "".join(f"{i}\t{i}\t{i}\t0.5\t1\t0.1\n" for i in range(9))


class Workshop:
    """Finished runs in a folder, and what is known of commands and grids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Deep, so that a path that leaves the run stays where it is seen.
        self.run = folder / "deep" / "runs" / "run"
        self.trained = folder / "deep" / "runs" / "trained"
        self.data = folder / "data" / "cifar-10-batches-py"  # there, so that nothing is downloaded, but empty
        self.grid_texts = [
            (resources.files("bench") / "grids" / f"{name}.toml").read_text(encoding="utf-8") for name in SHIPPED
        ]
        self._grids = [tomllib.loads(text) for text in self.grid_texts]
        self.commands = sorted(_commands(typer.main.get_command(app), ""))
        self._build()

    def grid(self, random: Random) -> dict[str, Any]:
        """One of the shipped grids, to be changed."""
        return copy.deepcopy(random.choice(self._grids))

    def _build(self) -> None:
        trials = [small_trial(method, certify={"n": 2000, "n0": 10}) for method in ("generalised_ld", "gaussian")]
        run = write_fake_run(self.run, trials, images=8, shard=4)
        (self.folder / "log").write_text(LOG)
        import_log(self.folder / "log", stated(name="theirs", sigma=0.25), run)
        self._leave_unfinished(run)
        merge_run(run)
        settings = self.folder / "trial.json"
        settings.write_text(small_trial(certify={"n": 20, "n0": 5, "images": 4, "precision": "fp32"}).model_dump_json())
        with small_work():
            ended = outcome_of(["trial", str(settings), "--out", str(self.trained)], self.folder)
        assert ended.status == 0, ended
        os.mkfifo(self.folder / "fifo")
        self.data.mkdir(parents=True)
        (self.data / "readme.html").touch()
        self._built = listing(self.folder)
        self._contents = {path: path.read_bytes() for path in map(Path, self._built) if path.is_file()}

    def _leave_unfinished(self, run: RunFolder) -> None:
        """One trial more, at which somebody worked, and an ensemble of it."""
        trial, ensemble = small_trial("consistency"), small_trial("ensemble")
        write_text(run.trial(trial.trial_id).settings, trial.model_dump_json())
        write_text(run.trial(ensemble.trial_id).settings, ensemble.model_dump_json())
        worker = {"host": "here", "pid": 1, "doing": "images 0-3", "cores": 0.5, "gpu": None, "elastic": False}
        state = {"state": "failed", "error": "the loss became nan", "workers": [worker, worker]}
        write_json(run.trial(trial.trial_id).state, state)
        members = {ensemble.trial_id: [trial.trial_id, trial_ids(run)[0]]}
        write_json(
            run.description,
            read_json(run.description)
            | {"trials": [*trial_ids(run), trial.trial_id, ensemble.trial_id], "members": members},
        )

    def files_of(self, run: Path) -> list[Path]:
        """What a command reads of a run."""
        read = (".json", ".parquet", ".safetensors")
        return [path for path in self._contents if path.is_relative_to(run) and path.suffix in read and path.is_file()]

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def restore(self) -> None:
        """Everything as it was built."""
        found = listing(self.folder)
        for name in sorted(found.keys() - self._built.keys(), reverse=True):  # what a folder holds before the folder
            shutil.rmtree(name) if found[name] == FOLDER else Path(name).unlink()
        for name, built in sorted(self._built.items()):
            if found.get(name) == built:
                continue
            path = Path(name)
            if found.get(name) == FOLDER:
                shutil.rmtree(path)
            if built == FOLDER:
                path.unlink(missing_ok=True)
                path.mkdir()
            elif path in self._contents:
                path.unlink(missing_ok=True)
                path.write_bytes(self._contents[path])
                os.utime(path, ns=(built[1], built[1]))
            else:
                path.unlink(missing_ok=True)
                os.mkfifo(path)
                os.utime(path, ns=(built[1], built[1]))


def _commands(command: Any, name: str) -> Iterator[tuple[str, list[str]]]:
    """Every command by its words, with its options."""
    for word, part in getattr(command, "commands", {}).items():
        yield from _commands(part, f"{name} {word}")
    yield name, [option for parameter in command.params for option in parameter.opts if option.startswith("--")]


@contextmanager
def small_work() -> Iterator[None]:
    """Tables with few resamples and no figures, which take seconds."""
    with (
        patch("results.analysis.statistics.RESAMPLES", 50),
        patch("results.report.write.figures_of", lambda *_: iter(())),
        patch("os.fsync"),
    ):
        yield


def _only_to_report(run: RunFolder, *, name: str = "run", **options: Any) -> RunLock:
    return RunLock(run, name=name, **options) if name == "report" else begin_work()


@contextmanager
def without_work(shop: Workshop) -> Iterator[None]:
    """Nothing is downloaded, trained or started: where that would begin, the input counts as accepted."""
    here = Path.cwd()
    os.chdir(shop.folder)
    try:
        with (
            small_work(),
            patch.dict(os.environ, {"BENCH_DATA": str(shop.data.parent)}),
            patch("results.store.lock.RunLock", _only_to_report),
            patch("cluster.connected", begin_work),
            patch("bench.runner.watch.WatchServer.serve", lambda server: server.page.now()),
            patch("bench.runner.single.run_single", begin_work),
            patch("bench.runner.single.certify_source", begin_work),
            patch("bench.audit.perf_certify.measure", begin_work),
            patch("bench.audit.perf_train.measure_training", begin_work),
            patch("bench.audit.forecast.forecast", begin_work),
            patch("bench.audit.search_cost.training_cost", begin_work),
            patch("bench.audit.doctor.examine_machine", begin_work),
            patch("bench.audit.attack.attack_run", begin_work),
            patch("bench.audit.predict.predict_source", begin_work),
            patch("bench.audit.selftest.self_test", begin_work),
        ):
            yield
    finally:
        os.chdir(here)
