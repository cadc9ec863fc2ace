"""The start-up time of the commands and its parts.

python benchmarks/startup.py

Times `import robustsmooth`, `--help`, a misspelt key and the imports of a real run, each as a process of
its own, several times alternating; prints medians, and the slowest imports of a run.
"""

import statistics
import subprocess
import sys
import tempfile
import time

REPEATS = 7
PYTHON = [sys.executable]
CASES = {
    "python -c pass": [*PYTHON, "-c", "pass"],
    "import robustsmooth": [*PYTHON, "-c", "import robustsmooth"],
    "train --help": [*PYTHON, "-m", "robustsmooth.train", "--help"],
    "a misspelt key": [*PYTHON, "-m", "robustsmooth.train", "method.sgima=1"],
    "import torch": [*PYTHON, "-c", "import torch"],
    "import robustsmooth.smoothing": [*PYTHON, "-c", "import robustsmooth.smoothing"],
    "import pytorch_lightning": [*PYTHON, "-c", "import robustsmooth, pytorch_lightning"],
    "import robustsmooth.methods": [*PYTHON, "-c", "import robustsmooth.methods"],
}


def seconds(command: list[str], cwd: str) -> float:
    """Wall-clock seconds of one process."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    """Time all cases alternating and print medians."""
    with tempfile.TemporaryDirectory() as cwd:
        times: dict[str, list[float]] = {name: [] for name in CASES}
        for _ in range(REPEATS):
            for name, command in CASES.items():
                times[name].append(seconds(command, cwd))
        for name, measured in times.items():
            print(f"{name:30} median {statistics.median(measured):6.2f} s   min {min(measured):6.2f} s")
        trace = subprocess.run(
            [*PYTHON, "-X", "importtime", "-c", "import robustsmooth.methods"],
            cwd=cwd,
            capture_output=True,
            text=True,
        ).stderr
    rows = [line.removeprefix("import time:").split("|") for line in trace.splitlines()[1:]]
    slowest = sorted(((int(total), name.strip()) for _, total, name in rows), reverse=True)[:12]
    print("\ncumulative import time of `import robustsmooth.methods`")
    for microseconds, name in slowest:
        print(f"{microseconds / 1e6:8.2f} s  {name}")


if __name__ == "__main__":
    main()
