"""Text prompts: the tokens that stand in front of them, and the greedy texts of a real model."""

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints import build, save, tokenizer
from conftest import fewstep, largest_difference, logits, token_ids

PROMPTS = ["Once upon a time there was a miller who",
           "The best way to cook rice is",
           "In the morning the fishermen",
           "A triangle has three sides, and a square has",
           "Water boils at a temperature of",
           "def add(a, b):\n    return",
           "The capital of France is",
           "My grandmother kept her letters in",
           "To repair a flat tyre on a bicycle, first",
           "1, 2, 3, 4,",
           "The opposite of cold is",
           "Bees are important because",
           "\"Where have you been?\" asked the teacher. \"I",
           "Winter came early that year, and the",
           "Dear Sir, I am writing to",
           "A good book should",
           "The moon goes around the Earth, and the Earth goes",
           "Question: What do plants need to grow?\nAnswer:",
           "She opened the box and found",
           "If it rains tomorrow, we will"]
NEW = int(os.environ.get("FEWSTEP_CLIENTS_NEW", "24"))
COUNT = int(os.environ.get("FEWSTEP_CLIENTS_PROMPTS", str(len(PROMPTS))))


def greedy(model, ids, new):
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                             max_new_tokens=new, do_sample=False)
    return out[0, len(ids):].tolist()


@pytest.mark.parametrize("begins", [False, True], ids=["adds nothing", "adds <s>"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_text_prompt_is_continued_from_the_ids_that_transformers_makes_of_it(family, begins, tmp_path):
    directory = save(build(family, seed=3), tmp_path / "model", words=tokenizer(begins))
    words, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    prompt = "The road between the hills was dry"
    ids = words(prompt).input_ids
    assert (ids[0] == 1) == begins
    wanted = greedy(model, ids, 20)
    wanted = wanted[:wanted.index(0)] if 0 in wanted else wanted
    told = fewstep("sample", directory, "-n", 1, "--temperature", 0, "--prompt", prompt, "--length", len(ids) + 20,
                   "--json")
    # The random model writes bytes that are no text, so both sides decode the same way.
    assert json.loads(told)["text"] == words.decode(ids[begins:] + wanted)


def real():
    """The directory of the real model, or why there is none."""
    directory = Path(os.environ.get("FEWSTEP_CLIENTS_MODEL", ""))
    if not (directory / "model.safetensors").is_file():
        pytest.skip(f"skipped: no real model here ({os.environ.get('FEWSTEP_CLIENTS_NO_MODEL', 'none was given')})")
    return directory


def test_greedy_texts_of_a_real_model_have_the_tokens_of_transformers(tmp_path, numbers):
    directory = real()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    from tokenizers import Tokenizer
    words = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ids = token_ids(model.config.vocab_size, rows=1, length=32)
    numbers.note("real model", "SmolLM2-135M-Instruct", "f32", largest_difference(directory, ids, logits(model, ids), tmp_path))
    apart = []
    for prompt in PROMPTS[:COUNT]:
        given = words.encode(prompt).ids
        wanted = greedy(model, given, NEW)
        end = model.config.eos_token_id
        wanted = wanted[:wanted.index(end)] if end in wanted else wanted
        asked = ["sample", directory, "-n", 1, "--temperature", 0, "--json", "--length", len(given) + NEW, "--prompt"]
        ids = json.loads(fewstep(*asked, " ".join(map(str, given)), "--ids"))["text"].split()
        text = json.loads(fewstep(*asked, prompt))["text"]
        # The tokens one by one; and the text, whose tokens the prompt of a text must lead to as well.
        same = [int(i) for i in ids] == given + wanted and text == words.decode(given + wanted, skip_special_tokens=False)
        numbers.note("real model, greedy", "equal texts" if same else "other texts", "f32", 0.0)
        if not same:
            apart.append((prompt, text, words.decode(wanted)))
    assert not apart, apart

