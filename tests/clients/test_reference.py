"""The committed references are what their program makes today."""

import importlib.util
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent.parent / "reference"


def numbers(at, value):
    """All that a JSON value holds, by its place."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(f"{at}/{key}", inner)
    else:
        yield at, value


def test_the_committed_references_are_made_again(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("make", HERE / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    monkeypatch.setattr("sys.argv", ["make.py", str(tmp_path)])
    make.main()
    kept, made = json.loads((HERE / "losses.json").read_text()), json.loads((tmp_path / "losses.json").read_text())
    old, new = dict(numbers("", kept)), dict(numbers("", made))
    assert old.keys() == new.keys()
    for key in old:
        assert old[key] == new[key] if isinstance(old[key], (str, bool)) else abs(old[key] - new[key]) < 1e-9, key
    for directory in (d for d in HERE.iterdir() if (d / "config.json").exists()):
        for name in ("model.safetensors", "expected.safetensors"):
            old, new = load_file(directory / name), load_file(tmp_path / directory.name / name)
            assert old.keys() == new.keys()
            for key in old:
                assert torch.allclose(old[key].double(), new[key].double(), atol=2e-5), (directory.name, name, key)
