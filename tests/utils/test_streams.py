"""Commands whose standard output or standard error is closed, ends early or lies on a full disk."""

import subprocess
import sys
from pathlib import Path

import pytest

# Prints more than the buffers of Python and of a pipe hold, then writes a file, as commands do after their table.
_WORK = """
import sys
from pathlib import Path
from ser_ft.utils.errors import InputError, run_command
from ser_ft.utils.progress import progress_bar
from ser_ft.utils.streams import silent_libraries

def work():
    for number in progress_bar(range(9_000)):
        print("row", number)
    with silent_libraries():
        print("a file failed", file=sys.stderr)
    with open("file.txt", "w") as file:
        file.write("complete")
    if sys.argv[1:]:
        raise InputError(sys.argv[1])

sys.exit(run_command(work))
"""


def run(folder: Path, command: str) -> tuple[int, str]:
    """Run a line of bash, where PYTHON is the interpreter; return the exit code and what reaches standard error."""
    line = f"set -o pipefail; {command.replace('PYTHON', sys.executable)}"
    result = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return result.returncode, result.stderr


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(_WORK)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("PYTHON work.py 2> errors | head -1 > rows", 141),
        ("PYTHON -u work.py 2> errors | head -1 > rows", 141),
        ("PYTHON work.py 2>&1 | true", 141),
        ("PYTHON work.py >&- 2> errors", 0),
        ("PYTHON work.py > rows 2>&-", 0),
        ("PYTHON -u work.py > rows 2> /dev/full", 0),
        ("PYTHON work.py wrong <&- >&- 2>&-", 2),
        ("{ PYTHON work.py > rows; } 2>&1 | true", 0),
    ],
)
def test_streams_that_end_or_are_closed_cost_no_output_file_and_print_no_traceback(
    script: Path, command: str, code: int
) -> None:
    assert run(script, command) == (code, "")
    assert (script / "file.txt").read_text() == "complete"
    errors, rows = script / "errors", script / "rows"
    assert not errors.exists() or not {"Traceback", "ignored", "Broken pipe"} & set(errors.read_text().split())
    assert not rows.exists() or len(rows.read_text().splitlines()) == (1 if "head" in command else 9_000)


def test_help_onto_a_full_disk_is_one_line_and_into_a_pipe_that_ends_is_quiet(tmp_path: Path) -> None:
    code, error = run(tmp_path, "PYTHON -u -m ser_ft.cli --help > /dev/full")
    assert code == 1
    assert error.startswith("ser-ft: failed: the disk is full")
    assert error.count("\n") == 1
    assert run(tmp_path, "PYTHON -m ser_ft.cli --help | true") == (141, "")
