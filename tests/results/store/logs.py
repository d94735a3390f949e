"""Logs of other programs: where the published ones are, and small ones."""

from __future__ import annotations

from pathlib import Path

REFERENCE = Path(__file__).parents[4] / "shared" / "reference"
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
GOOD = ["0\t3\t3\t0.378\t1\t15.4", "20\t7\t-1\t0.0\t0\t0:00:15.6", "40\t4\t5\t0.341\t0\t1 day, 1:00:01"]
RESULTS = (
    "network,image_id,original_label,predicted_class,tmp_path,epsilon_value,smallest_sat_value,total_time,verifier"
)
VERIFIER = "RS_vit-base_cifar10_uncond_50M_500K_0.5_0.01_100_1000"


def write_log(folder: Path, lines: list[str], header: str = HEADER) -> Path:
    log = folder / "a log.tsv"
    log.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return log


def result(index: int, label: int, predicted: int, radius: float, verifier: str = VERIFIER) -> str:
    """A line of `csv_result_writer.py`."""
    return f"{verifier},{index},{label},{predicted},,{radius},,0:00:08.099520,{verifier}"
