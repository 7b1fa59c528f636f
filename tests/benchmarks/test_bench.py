"""`bench.py` runs every script and fills the marked tables; the page says of every measure what the code says."""

import json
import re
from pathlib import Path

import bench
import pytest
from measure import Measure, load, save

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text()
CAPTION = "On a machine."


def row(name: str, script: str, device: str = "cpu", target: float | None = 1.5, ratio: float = 2.0) -> Measure:
    met = None if target is None else ratio >= target
    command = f"python benchmarks/{script} --device {device}"
    return Measure(name, 1.25, 1234.5, "s", ratio, 0.125, target, met, command, device)


def marked(name: str, content: str = "old\n") -> str:
    return f"before\n<!-- bench: {name} -->\n{content}<!-- end of bench -->\nafter\n"


def test_fill_puts_the_rows_of_a_script_between_its_marks() -> None:
    rows = [row("a", "a.py"), row("a", "a.py", device="cuda", ratio=7.0), row("b", "data.py")]
    assert bench.fill(marked("a.py"), rows, CAPTION) == marked(
        "a.py",
        "\n| measure | ours | other | ratio | target | reached | ratio on a GPU |\n|---|---|---|---|---|---|---|\n"
        "| a | 1.25 s | 1,234 s | 2.00 ± 0.12 | 1.50 | yes | 7.00 ± 0.12 |\n\nOn a machine.\n\n",
    )


def test_fill_again_gives_the_same_page() -> None:
    page = bench.fill(marked("a.py") + marked("targets"), [row("a", "a.py")], CAPTION)
    assert bench.fill(page, [row("a", "a.py")], CAPTION) == page
    assert page.count("| a | 1.25 s") == 2


def test_targets_are_all_rows_that_have_one() -> None:
    rows = [row("a", "a.py"), row("b", "b.py", target=None), row("c", "c.py", ratio=1.0)]
    filled = bench.fill(marked("targets"), rows, CAPTION)
    assert re.findall(r"^\| (\w) \|.*\| (\S*) \|  \|$", filled, re.MULTILINE) == [("a", "yes"), ("c", "**no**")]


def test_a_mark_without_rows_is_left_as_it_is() -> None:
    assert bench.fill(marked("b.py"), [row("a", "a.py")], CAPTION) == marked("b.py")


def test_a_row_of_a_gpu_alone_leaves_the_other_columns_empty() -> None:
    line = bench.markdown([row("a", "a.py", device="cuda")]).splitlines()[-1]
    assert line == "| a |  |  |  | 1.50 |  | 2.00 ± 0.12 |"


def test_something_that_never_came_to_an_end() -> None:
    never = Measure("a", 3.0, None, "s", None, None, None, None, "python benchmarks/a.py --device cpu")
    assert bench.markdown([never]).splitlines()[-1] == "| a | 3.00 s | - | - |  |  |  |"


def test_fill_docs_reads_the_rows_and_the_machine(tmp_path: Path) -> None:
    page, output = tmp_path / "page.md", tmp_path / "summary.json"
    page.write_text(marked("a.py"))
    save([row("a", "a.py")], output)
    (tmp_path / "machine.json").write_text(json.dumps({"cpu": {"chip": "a chip", "cores": "2", "torch": "9.9"}}))
    assert bench.main(["--fill_docs", "--output", str(output), "--pages", str(page)]) == 0
    assert "| a | 1.25 s |" in page.read_text()
    assert "`make bench` on a chip, 2 cores; torch 9.9." in page.read_text()


def test_fill_docs_without_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Run `make bench` first"):
        bench.fill_pages(tmp_path / "summary.json", [])


def test_a_script_that_fails_keeps_no_other_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    (tmp_path / "runs.py").write_text("import sys; print(sys.argv[1:])")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    failed = bench.run_scripts(["fails.py", "runs.py"], "cpu", tmp_path / "rows.json", ["--quick"])
    assert failed == ["fails.py"]
    assert f"['--device', 'cpu', '--output', '{tmp_path / 'rows.json'}', '--quick']" in capfd.readouterr().out


def test_a_gpu_is_given_what_it_takes_part_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in bench.SCRIPTS:
        (tmp_path / name).write_text("")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "describe_machine", lambda device: {"chip": device})
    (tmp_path / "machine.json").write_text('{"cpu": {"chip": "before"}}')
    assert bench.main(["--device", "cuda", "--output", str(tmp_path / "summary.json")]) == 0
    run = re.findall(r"^== (\S+)$", capfd.readouterr().out, re.MULTILINE)
    assert set(bench.SCRIPTS) - set(run) == set(bench.CPU_ONLY)
    assert json.loads((tmp_path / "machine.json").read_text()) == {"cpu": {"chip": "before"}, "cuda": {"chip": "cuda"}}


def test_every_benchmark_is_run() -> None:
    scripts = {path.name for path in bench.HERE.glob("*.py") if "parse_options(__doc__" in path.read_text()}
    assert scripts == set(bench.SCRIPTS)


@pytest.mark.parametrize("page", bench.PAGES, ids=lambda page: page.name)
def test_every_mark_of_a_page_is_known(page: Path) -> None:
    marks = re.findall(r"<!-- bench: (\S+) -->", page.read_text())
    assert marks
    assert set(marks) <= {*bench.SCRIPTS, "targets"}
    assert page.read_text().count("<!-- end of bench -->") == len(marks)


def section_of(script: str) -> str:
    """The section of the page whose command is this script's."""
    return next(part for part in PAGE.split("\n## ") if f"\n    python benchmarks/{script}" in part)


def listed_measures(script: str) -> dict[str, float | None]:
    """Name -> target, as the page has them."""
    lines = section_of(script).partition("| measure | target |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: float(target) if target else None for name, target, _ in cells}


@pytest.mark.slow
@pytest.mark.parametrize("script", bench.SCRIPTS)
def test_each_script_runs_and_the_page_lists_its_measures(
    script: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "summary.json"
    failed = bench.run_scripts([script], "cpu", output, ["--quick"])
    printed = capfd.readouterr()
    assert failed == [], printed.err
    rows, listed = load(output), listed_measures(script)
    assert all(value is None or value > 0 for row in rows for value in (row.ours, row.other, row.ratio))
    assert [row.name for row in rows if row.name not in printed.out or row.met is not None] == []
    assert {row.command for row in rows} == {f"python benchmarks/{script} --device cpu"}
    assert f"<!-- bench: {script} -->" in section_of(script)
    written = {row.name: None if row.target is None else round(row.target, 2) for row in rows}
    assert written == {name: listed.get(name, "is not on the page") for name in written}
    # A script leaves out what it compares with a package that is not installed, and says so.
    assert [name for name in listed.keys() - written.keys() if f"Left out: {name}" not in printed.out] == []
