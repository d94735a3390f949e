"""Ray jobs: a command on a running cluster, which goes on when the one who sent it leaves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.authentication import check_dashboard, sending_token
from cluster.errors import ClusterError
from cluster.private import PYTHON_OF_A_JOB, quiet_jobs, warn_if_unchecked

LAUNCHER = (
    PYTHON_OF_A_JOB
    + """\
# This folder does not last, and is unpacked anew under its users' feet where several nodes are on one machine.
: "${BENCH_DATA:=$HOME/bench-data}"
copy=$(mktemp -d)
cp -R . "$copy"
cd "$copy" || exit
export BENCH_DATA PYTHONPATH="$copy${PYTHONPATH:+:$PYTHONPATH}"
trap : TERM # python has it too, and ends in order
"${python:-python}" "$@"
status=$?
cd /
rm -r "$copy"
exit $status
"""
)


class Jobs:
    """The jobs of a cluster. Every method raises ClusterError where that does not answer or does not know the job."""

    def __init__(self, client: JobSubmissionClient, url: str, authenticated: bool) -> None:
        self._client = client
        self.url = url
        self.authenticated = authenticated

    def submit(self, folder: Path, arguments: str, environment: dict[str, str]) -> str:
        """Start the cluster's python on a copy of a folder.

        Args:
            folder: becomes the job's working directory on every node, and the first place of its modules.
            arguments: of python, as a shell reads them; everybody who may look at the cluster's jobs sees them.
            environment: as well.

        Returns:
            The job's name.
        """
        (folder / "job.sh").write_text(LAUNCHER, encoding="utf-8")
        runtime = {"working_dir": str(folder), "env_vars": environment}
        with _answers(self.url):
            return str(self._client.submit_job(entrypoint=f"sh job.sh {arguments}", runtime_env=runtime))

    def follow(self, job: str, write: Callable[[str], None]) -> bool:
        """Hand on the job's log, from its first line to the job's end; whether the job succeeded."""
        with _answers(self.url):
            asyncio.run(self._tail(job, write))
            return bool(self._client.get_job_status(job) == JobStatus.SUCCEEDED)

    async def _tail(self, job: str, write: Callable[[str], None]) -> None:
        self._client.get_job_status(job)  # of a job that there is not, the log's error says nothing
        written = 0
        while True:
            passed = 0
            async for text in self._client.tail_job_logs(job):
                write(text[max(0, written - passed) :])
                passed += len(text)
                written = max(written, passed)
            if self._client.get_job_status(job).is_terminal():
                return

    def stop(self, job: str) -> bool:
        """Ask the job to end; whether it was running."""
        with _answers(self.url):
            return bool(self._client.stop_job(job))


@contextmanager
def jobs_at(url: str, *, allow_unauthenticated: bool) -> Iterator[Jobs]:
    """The jobs of the cluster whose dashboard is at the URL.

    Raises:
        ClusterError: no cluster there, or one that lets everybody in, or not us.
    """
    warn_if_unchecked()
    quiet_jobs()
    authenticated = check_dashboard(url, allow_unauthenticated=allow_unauthenticated)
    with sending_token(authenticated), _directly():
        with _answers(url):
            client = JobSubmissionClient(url)
        yield Jobs(client, url, authenticated)


@contextmanager
def _directly() -> Iterator[None]:
    """Ray's client goes to the dashboard past every proxy, which would else be handed the token and all that is sent,
    and without a password from ~/.netrc in the token's place."""
    direct = {"no_proxy": "*", "NO_PROXY": "*", "NETRC": os.devnull}
    before = {name: os.environ.get(name) for name in direct}
    os.environ.update(direct)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _answers(url: str) -> Iterator[None]:
    """Ray raises RuntimeError for whatever the cluster answers."""
    try:
        yield
    except (RuntimeError, OSError, RayError, aiohttp.ClientError) as error:
        raise ClusterError(f"{url}: {' '.join(str(error).split())}") from None
