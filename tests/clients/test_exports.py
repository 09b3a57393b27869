"""What fewstep writes, loaded by transformers and PEFT: exports in every type, trained students, adapters, tokenizers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from checkpoints import CASES, DTYPES, FAMILIES, TEXT, auto_class, build, save, tokenizer
from conftest import TOLERANCE, Heard, fewstep, largest_difference, load_cleanly, logits, token_ids

CAUSAL = [family for family in FAMILIES if family != "modernbert"]
# The layout of GPT-2's matrices is one that compressed-tensors has no word for, so that its int8 exports are refused.
INT8 = [family for family in FAMILIES if family != "gpt2"]


def agree(family, directory, scratch, numbers, table, dtype):
    """Loads a directory in f32 without a word, and compares its logits with fewstep's own of it."""
    model = load_cleanly(auto_class(family), directory, dtype=torch.float32)
    ids = token_ids(model.config.vocab_size, seed=11)
    theirs = logits(model, ids)
    found = largest_difference(directory, ids, theirs, scratch)
    numbers.note(table, family, dtype, found)
    assert found <= TOLERANCE, f"{directory}: {found}"
    return ids, theirs


def tensors(directory):
    return {name: t for file in sorted(Path(directory).glob("*.safetensors")) for name, t in load_file(file).items()}


@pytest.mark.parametrize("dtype", ["kept", "f32", "f16", "bf16", "int8"])
@pytest.mark.parametrize("family,variant", CASES)
def test_an_export_is_loaded_without_a_word_and_gives_the_same_logits(family, variant, dtype, tmp_path, numbers):
    if dtype == "int8" and family not in INT8:
        pytest.skip("refused, which another test shows")
    source = save(build(family, variant, seed=4), tmp_path / "source")
    out = tmp_path / "out"
    fewstep("export", source, "--out", out, "--dtype", dtype)
    if dtype == "kept":
        before, after = tensors(source), tensors(out)
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    agree(family, out, tmp_path, numbers, "exports", dtype)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_automatic_type_of_an_export_is_the_one_that_it_was_written_in(family, dtype, tmp_path):
    source = save(build(family, seed=4), tmp_path / "source")
    fewstep("export", source, "--out", tmp_path / "out", "--dtype", dtype)
    model = load_cleanly(auto_class(family), tmp_path / "out", dtype="auto")
    assert model.dtype == DTYPES[dtype]


WITHOUT = """
import importlib.util, sys
real = importlib.util.find_spec
def hidden(name, *rest):
    return None if name.split(".")[0] == "compressed_tensors" else real(name, *rest)
importlib.util.find_spec = hidden
sys.modules["compressed_tensors"] = None
import transformers
getattr(transformers, sys.argv[2]).from_pretrained(sys.argv[1], dtype="float16" if sys.argv[3:] else "float32")
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_is_refused_where_the_library_that_reads_it_is_not_there(family, tmp_path):
    fewstep("export", save(build(family, seed=4), tmp_path / "source"), "--out", tmp_path / "out", "--dtype", "int8")
    ran = subprocess.run([sys.executable, "-c", WITHOUT, tmp_path / "out", auto_class(family).__name__, "half"],
                         capture_output=True, text=True)
    assert ran.returncode and "compressed" in ran.stderr.splitlines()[-1].lower(), ran.stderr[-500:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["f32", "f16"])
def test_int8_of_gpt2_is_refused_by_the_library_that_reads_int8(dtype, tmp_path):
    fewstep("export", save(build("gpt2", seed=4), tmp_path / "source"), "--out", tmp_path / "out", "--dtype", "int8")
    with pytest.raises(Exception, match="strategy"):
        auto_class("gpt2").from_pretrained(tmp_path / "out", dtype=dtype)


def study(family, place, source, words, lora=False):
    """Trains a few steps from a checkpoint: a student of a masked model, a tuned causal one. Says which model that is."""
    (place / "text.txt").write_text("\n".join(TEXT * 40))
    dir_of = f'{{ dir = {{ path = "{source}" }} }}' if words else '"char"'
    length = 64 if family == "gpt2" else 16
    head = f'name = "study"\n[data.text]\npath = "text.txt"\ntokenizer = {dir_of}\nlength = {length}\n'
    judge = ('[model.judge]\nseed = 9\norder = "left_to_right"\nobjective.ar_nll = {}\n'
             'network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }\n'
             'train = { steps = 2, batch = 2, lr = 1e-3 }\n')
    if family == "modernbert":
        name = "student"
        models = (f'[model.teacher]\nfrom = "{source}"\norder = "parallel"\nobjective.elbo = {{}}\n'
                  'train = { steps = 0, batch = 2, lr = 1e-3 }\n'
                  '[model.student]\norder = "parallel"\n'
                  'objective.sdtt = { teacher = "teacher", teacher_steps = 4, rounds = 2 }\n'
                  'train = { steps = 6, batch = 4, lr = 5e-3 }\n'
                  + ("[model.student.lora]\nrank = 4\nalpha = 8.0\n" if lora else ""))
    else:
        name = "tuned"
        models = (f'[model.tuned]\nfrom = "{source}"\norder = "left_to_right"\nobjective.ar_nll = {{}}\n'
                  'train = { steps = 4, batch = 2, lr = 2e-3 }\n')
    tail = ('[eval]\nsamples = 2\nbatch = 2\nsteps = [2]\nheld_out = 4\njudge = "judge"\nspeed_repeats = 1\n'
            f'[export]\nmodels = ["{name}"]\n')
    (place / "study.toml").write_text(head + judge + models + tail)
    fewstep("run", "study.toml", cwd=place)
    return name


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A finished study of every family."""
    made = {}

    def of(family, variant=None):
        if (family, variant) not in made:
            place = tmp_path_factory.mktemp(family)
            source = save(build(family, variant, seed=5), place / "source", words=tokenizer())
            made[family, variant] = (place, source, study(family, place, source, True))
        return made[family, variant]

    return of


@pytest.mark.parametrize("variant", ["tied", "untied"])
@pytest.mark.parametrize("family", ["gpt2", "qwen2", "qwen3", "modernbert"])
def test_a_student_is_loaded_without_a_word_and_gives_the_same_logits(family, variant, studies, tmp_path, numbers):
    place, source, name = studies(family, variant)
    out = place / "runs/study/export" / name
    ids, theirs = agree(family, out, tmp_path, numbers, "students", "f32")
    before = logits(load_cleanly(auto_class(family), source, dtype=torch.float32), ids)
    assert (theirs - before).abs().max() > 1e-2, "the student did not learn"
    # transformers reads a tokenizer of the same ids there, and the settings for texts that the source had.
    words = AutoTokenizer.from_pretrained(out)
    assert words(TEXT[0]).input_ids == AutoTokenizer.from_pretrained(source)(TEXT[0]).input_ids
    if (source / "generation_config.json").exists():
        assert GenerationConfig.from_pretrained(out).to_dict() == GenerationConfig.from_pretrained(source).to_dict()


@pytest.mark.parametrize("dtype", ["f16", "bf16", "int8"])
@pytest.mark.parametrize("family", INT8)
def test_a_student_in_another_type_is_the_same_to_both(family, dtype, studies, tmp_path, numbers):
    place, _, name = studies(family)
    fewstep("export", place / "runs/study", "--model", name, "--out", tmp_path / "out", "--dtype", dtype)
    agree(family, tmp_path / "out", tmp_path, numbers, "students", dtype)


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "modernbert"])
def test_a_student_of_files_that_hold_a_tied_head_twice_is_the_same_to_every_loader(family, tmp_path, numbers):
    """Some savers write the head beside the embedding that it is tied to."""
    source = save(build(family, "tied", seed=6), tmp_path / "source", words=tokenizer())
    from safetensors.torch import save_file
    stored = load_file(source / "model.safetensors")
    embedding = next(t for name, t in stored.items() if name.endswith(("wte.weight", "embed_tokens.weight", "tok_embeddings.weight")))
    head = "decoder.weight" if family == "modernbert" else "lm_head.weight"
    save_file({**stored, head: embedding.clone()}, source / "model.safetensors", {"format": "pt"})
    name = study(family, tmp_path, source, True)
    out = tmp_path / "runs/study/export" / name
    agree(family, out, tmp_path, numbers, "students", "f32")
    after = load_file(out / "model.safetensors")
    assert head not in after or torch.equal(after[head], after[next(n for n, t in stored.items() if t is embedding)])


def test_adapters_are_what_peft_reads_and_give_the_merged_students_logits(tmp_path, numbers):
    source = save(build("modernbert", seed=5), tmp_path / "source", words=tokenizer())
    name = study("modernbert", tmp_path, source, True, lora=True)
    adapters = tmp_path / "adapters"
    fewstep("export", tmp_path / "runs/study", "--model", name, "--adapters", "--out", adapters)
    assert (adapters / "adapter_config.json").exists() and not (adapters / "model.safetensors").exists()
    merged = tmp_path / "runs/study/export" / name
    ids, merged = agree("modernbert", merged, tmp_path, numbers, "merged adapters", "f32")
    auto = auto_class("modernbert")
    with Heard() as heard:
        base = auto.from_pretrained(source, dtype=torch.float32)
        assert (logits(base, ids) - merged).abs().max() > 1e-2, "the adapters did not learn"
        ways = {"PeftModel": PeftModel.from_pretrained(base, adapters),
                "AutoPeftModel": AutoPeftModel.from_pretrained(adapters, dtype=torch.float32),
                "AutoModelForMaskedLM": auto.from_pretrained(adapters, dtype=torch.float32)}
        later = auto.from_pretrained(source, dtype=torch.float32)
        later.load_adapter(str(adapters))
        ways["load_adapter"] = later
    assert not heard.lines, heard.lines
    for way, model in ways.items():
        found = (logits(model, ids) - merged).abs().max().item()
        numbers.note("adapters", way, "f32", found)
        assert found <= TOLERANCE, way


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_an_export_of_a_source_without_tokenizer_has_the_one_that_it_was_trained_with(family, tmp_path):
    source = save(build(family, "tied", seed=5), tmp_path / "source")
    name = study(family, tmp_path, source, False)
    out = tmp_path / "runs/study/export" / name
    # For Qwen2 the automatic choice of transformers 5 is its own class, whatever tokenizer_config.json names.
    words = (PreTrainedTokenizerFast if family == "qwen2" else AutoTokenizer).from_pretrained(out)
    text = TEXT[0]
    assert words.decode(words(text).input_ids) == text and len(words) == len(set("".join(TEXT) + "\n"))
    told = fewstep("sample", out, "-n", 1, "--prompt", text, "--temperature", 0, "--length", 80, "--json")
    assert json.loads(told)["text"].startswith(text)


def test_tokenizers_of_fewsteps_own_models_are_loaded_by_their_class(tmp_path):
    fewstep("run", "tiny", cwd=tmp_path)
    out = tmp_path / "runs/tiny/export/student"
    words = AutoTokenizer.from_pretrained(out)
    for line in fewstep("sample", out, "-n", 3, "--steps", 4, "--json").splitlines():
        text = json.loads(line)["text"]
        ids = words(text).input_ids
        assert len(ids) == len(text.split()) and words.decode(ids) == text

