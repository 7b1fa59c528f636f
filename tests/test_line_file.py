"""What is written stays, half a line does not, and nobody else writes meanwhile."""

import json
import subprocess
import sys

import pytest

from trl_score.line_file import LineFile, write_json


def test_lines_are_whole_whatever_they_hold(tmp_path):
    texts = ["a\nb", "Ω\u2028\x85", '"', ""]
    with LineFile(tmp_path / "new" / "a.jsonl") as file:
        file.append([{"text": text} for text in texts])
        file.append([])
        file.append([{"text": "last"}])
        assert [json.loads(line)["text"] for line in file.lines()] == [*texts, "last"]


@pytest.mark.parametrize("torn", [b"{", b'{"turn": 3}', b"\xff"])
def test_half_a_line_is_cut_off_and_nothing_else(tmp_path, caplog, torn):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"turn": 1}\n{"turn": 2}\n' + torn)
    with LineFile(path) as file:
        file.append([{"turn": 4}])
    assert path.read_bytes() == b'{"turn": 1}\n{"turn": 2}\n{"turn": 4}\n'
    assert "Cut half a line off" in caplog.text


def test_what_is_cut_is_gone_and_the_next_line_follows(tmp_path):
    with LineFile(tmp_path / "a.jsonl") as file:
        file.append([{"turn": 1}, {"turn": 2}])
        file.cut(len(b'{"turn": 1}\n'))
        file.append([{"turn": 3}])
        assert [json.loads(line)["turn"] for line in file.lines()] == [1, 3]


def test_another_process_is_refused_until_the_file_is_closed(tmp_path):
    path = tmp_path / "a.jsonl"
    code = f"from trl_score.line_file import LineFile\nwith LineFile({str(path)!r}): pass"
    with LineFile(path):
        refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        with pytest.raises(BlockingIOError, match="another process has it open"), LineFile(path):
            pass
    assert refused.returncode == 1 and "another process has it open" in refused.stderr
    subprocess.run([sys.executable, "-c", code], check=True)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"turns": 2})
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        write_json(tmp_path / "a.json", {"turns": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"turns": 2}
