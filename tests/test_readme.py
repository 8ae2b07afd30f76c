"""The README's Python lines and configuration run as they stand there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import thermoq
from thermoq.config import load_config
from thermoq.demonstration import MODEL_FOLDER

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_python_lines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(thermoq.__file__).parent / MODEL_FOLDER, tmp_path / "dream-7b")
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python"), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "transformer_blocks.0.attn1.to_q.weight 2 " in printed
    assert (tmp_path / "dream-7b-dense" / "transformer").is_dir()


def test_the_configuration_loads(tmp_path: Path) -> None:
    path = tmp_path / "thermoq.yaml"
    path.write_text(block("yaml"), encoding="utf-8")
    assert load_config(path).layers[1].skip
