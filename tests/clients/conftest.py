"""What the client tests share: running the program, loading a directory without a word, comparing logits, noting numbers.

They are run by run.sh, which names the program in FEWSTEP_BIN and the file for the numbers in FEWSTEP_CLIENTS_RESULTS.
"""

import json
import logging
import os
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

BINARY = os.environ["FEWSTEP_BIN"]
# Both compute in f32; between two exports of one model, and between a checkpoint and what is made of it.
TOLERANCE = 5e-5

torch.manual_seed(0)
torch.set_num_threads(int(os.environ.get("FEWSTEP_CLIENTS_THREADS", "2")))


class Ran:
    """What a finished command of the program printed."""

    def __init__(self, args, cwd=None):
        done = subprocess.run([BINARY, *map(str, args)], cwd=cwd, capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"})
        self.code, self.out, self.err, self.args = done.returncode, done.stdout, done.stderr, args
        assert "panicked" not in self.err, self.err

    def ok(self):
        assert self.code == 0, f"fewstep {' '.join(map(str, self.args))}: exit {self.code}\n{self.err}"
        return self


def fewstep(*args, cwd=None):
    """The output of a command that must succeed."""
    return Ran(args, cwd).ok().out


def token_ids(vocab, rows=2, length=16, seed=7):
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.float()


def largest_difference(directory, ids, wanted, scratch):
    """The largest |logit of fewstep - logit given| of the model in a directory, by `fewstep inspect --against`."""
    file = Path(scratch) / "against.safetensors"
    save_file({"input_ids": ids.contiguous(), "logits": wanted.float().contiguous()}, file)
    return json.loads(fewstep("inspect", directory, "--against", file, "--json"))["largest_absolute_error"]


class Heard(logging.Handler):
    """The warnings of transformers and PEFT while something is loaded."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __enter__(self):
        self.loggers = [logging.getLogger(name) for name in ("transformers", "peft")]
        for logger in self.loggers:
            logger.addHandler(self)
        self.caught = warnings.catch_warnings(record=True)
        self.python = self.caught.__enter__()
        warnings.simplefilter("always")
        return self

    def __exit__(self, *error):
        self.caught.__exit__(*error)
        for logger in self.loggers:
            logger.removeHandler(self)
        # What Python libraries say of each other is none of a directory's business.
        ours = [w for w in self.python if not issubclass(w.category, (DeprecationWarning, FutureWarning))]
        self.lines += [str(w.message) for w in ours]


def load_cleanly(cls, directory, **options):
    """A model of transformers from a directory; a warning, or a key too many or too few, is an error."""
    with Heard() as heard:
        model, said = cls.from_pretrained(directory, output_loading_info=True, **options)
    wrong = {key: list(value) for key, value in said.items() if value}
    assert not wrong and not heard.lines, f"{directory}: {wrong} {heard.lines}"
    return model.eval()


class Numbers:
    """Largest differences by table, family and type, kept for the report."""

    def __init__(self):
        self.tables = {}

    def note(self, table, family, dtype, difference):
        kept = self.tables.setdefault(table, {}).setdefault(family, {}).setdefault(dtype, [0.0, 0])
        self.tables[table][family][dtype] = [max(kept[0], float(difference)), kept[1] + 1]


NUMBERS = Numbers()


@pytest.fixture(scope="session")
def numbers():
    yield NUMBERS
    file = os.environ.get("FEWSTEP_CLIENTS_RESULTS")
    if not file:
        return
    import importlib.metadata as installed
    names = ["torch", "transformers", "peft", "safetensors", "tokenizers", "compressed-tensors", "numpy"]
    versions = {name: installed.version(name) for name in names}
    Path(file).write_text(json.dumps({"versions": versions, "tables": NUMBERS.tables}, indent=1) + "\n")
