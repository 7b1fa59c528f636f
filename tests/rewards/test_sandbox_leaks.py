"""After many programs the sandbox holds what it held after few; the benchmark that counts looks at ten thousand."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sandbox_leaks.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("sandbox_leaks", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sandbox_leaks", module)  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counted in /proc")
@pytest.mark.slow
def test_nothing_grows_and_nothing_is_left() -> None:
    # In a process of its own: what other tests have left running in this one would be counted.
    command = [sys.executable, str(SCRIPT), "--executions", "1000", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_growth_is_seen(benchmark: ModuleType, tmp_path: Path) -> None:
    before = benchmark.footprint(tmp_path)
    with (tmp_path / "file").open("w"):
        after = benchmark.footprint(tmp_path)
    assert (after.handles, after.folders) == (before.handles + 1, before.folders + 1)
    assert after.processes == before.processes
    assert after.resident_kb > 1000
