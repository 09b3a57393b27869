"""The committed references are what their program makes today."""

import importlib.util
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent.parent / "reference"


def test_the_committed_references_are_made_again(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("make", HERE / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    monkeypatch.setattr("sys.argv", ["make.py", str(tmp_path)])
    make.main()
    kept, made = json.loads((HERE / "losses.json").read_text()), json.loads((tmp_path / "losses.json").read_text())
    assert kept.keys() == made.keys()
    for key in kept:
        old, new = ([v for name in sorted(x) for v in x[name]] if isinstance(x, dict) else x for x in (kept[key], made[key]))
        assert torch.allclose(torch.tensor(old).double(), torch.tensor(new).double(), atol=1e-9), key
    for directory in (d for d in HERE.iterdir() if (d / "config.json").exists()):
        for name in ("model.safetensors", "expected.safetensors"):
            old, new = load_file(directory / name), load_file(tmp_path / directory.name / name)
            assert old.keys() == new.keys()
            for key in old:
                assert torch.allclose(old[key].double(), new[key].double(), atol=2e-5), (directory.name, name, key)
