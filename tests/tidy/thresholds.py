"""Holds branch coverage to its thresholds, folder by folder, and says in the end how many tests passed.

Run by `make test` after pytest: `python -m tests.tidy.thresholds FOLDER`, where FOLDER holds `tests.xml` (pytest's
JUnit report) and `coverage/data*`. Exits 1 when a folder is below its threshold or a test failed.
"""

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from coverage import Coverage
from coverage.results import Numbers

FULL = {"metering", "ledger", "billing"}
"""What counts tokens and money is covered whole: every line, every branch."""

PERCENT_MIN = 90


@dataclass(frozen=True)
class Folder:
    """Covered lines and branches of one folder of the package."""

    name: str
    covered: int
    total: int
    missing: tuple[str, ...]

    @property
    def is_enough(self) -> bool:
        if self.name in FULL:
            return self.covered == self.total
        return self.covered * 100 >= self.total * PERCENT_MIN

    def __str__(self) -> str:
        percent = self.covered * 1000 // self.total / 10 if self.total else 100
        wanted = 100 if self.name in FULL else PERCENT_MIN
        text = f"  {self.name:<12} {percent:6.1f} %  (at least {wanted} %)"
        return text if self.is_enough else "\n      ".join([text + "  TOO LOW", *self.missing])


def read_folders(root: Path) -> list[Folder]:
    """Read what was covered, summed over each first-level folder."""
    coverage = Coverage()
    coverage.load()
    numbers: dict[str, list[Numbers]] = defaultdict(list)
    missing: dict[str, list[str]] = defaultdict(list)
    for name in sorted(coverage.get_data().measured_files()):
        path = Path(name).absolute().relative_to(root)
        folder = path.parts[0] if len(path.parts) > 1 else "(root)"
        analysis = coverage._analyze(name)  # the public report cannot be grouped
        numbers[folder].append(analysis.numbers)
        if analysis.numbers.n_missing or analysis.numbers.n_missing_branches:
            missing[folder].append(f"{path}: {analysis.missing_formatted(branches=True)}")
    return [_sum(folder, numbers[folder], missing[folder]) for folder in sorted(numbers)]


def _sum(folder: str, parts: list[Numbers], missing: list[str]) -> Folder:
    covered, total = (sum(pair) for pair in zip(*(part.ratio_covered for part in parts), strict=True))
    return Folder(folder, covered, total, tuple(missing))


def read_tests(report: Path) -> tuple[int, int, int]:
    """Return how many tests passed, failed and were skipped."""
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total, failed, errors, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return total - failed - errors - skipped, failed + errors, skipped


def main() -> int:
    """Print the table and the closing line; return the exit code."""
    root = Path(__file__).resolve().parents[2]
    folders = read_folders(root / "src" / "tokenworks")
    print("\nBranch coverage:")
    for folder in folders:
        print(folder)
    passed, failed, skipped = read_tests(Path(sys.argv[1]) / "tests.xml")
    low = [folder.name for folder in folders if not folder.is_enough]
    if low:
        print(f"coverage is too low in: {', '.join(low)}")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or low or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
