"""Checkpoints that transformers writes, read by fewstep: logits, and the tokens of a greedy continuation."""

import json

import pytest
import torch

from checkpoints import CASES, DTYPES, FAMILIES, FIRST, auto_class, build, random_overrides, save
from conftest import TOLERANCE, Ran, fewstep, largest_difference, load_cleanly, logits, token_ids

RANDOM = 8


@pytest.mark.parametrize("family,variant", CASES)
def test_logits_of_a_fresh_checkpoint_are_those_of_transformers(family, variant, tmp_path, numbers):
    model = build(family, variant)
    directory = save(model, tmp_path / "model")
    ids = token_ids(model.config.vocab_size)
    found = largest_difference(directory, ids, logits(model, ids), tmp_path)
    numbers.note("reading", family, "f32", found)
    assert found <= TOLERANCE


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_do_not_depend_on_type_or_files(family, dtype, shards, tmp_path, numbers):
    directory = save(build(family, seed=2), tmp_path / "model", dtype, shards)
    assert (directory / "model.safetensors.index.json").exists() == shards
    # transformers computes with the stored weights in f32, as fewstep does.
    model = load_cleanly(auto_class(family), directory, dtype=torch.float32)
    ids = token_ids(model.config.vocab_size, seed=8)
    found = largest_difference(directory, ids, logits(model, ids), tmp_path)
    numbers.note("reading", family, dtype, found)
    assert found <= TOLERANCE


@pytest.mark.parametrize("seed", range(RANDOM))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_configuration_is_read_right_or_refused_by_the_name_of_a_key(family, seed, tmp_path, numbers):
    overrides = random_overrides(family, seed)
    model = build(family, seed=seed, **overrides)
    directory = save(model, tmp_path / "model")
    looked = Ran(["inspect", directory])
    if looked.code:
        config = json.loads((directory / "config.json").read_text())
        keys = [*config, *(config.get("rope_parameters") or {}), *(config.get("rope_scaling") or {})]
        assert looked.code == 3 and any(f"{key}`" in looked.err for key in keys), looked.err
        numbers.note("random configurations, refused", family, "f32", 0.0)
        return
    ids = token_ids(model.config.vocab_size, seed=seed)
    theirs = logits(model, ids)
    found = largest_difference(directory, ids, theirs, tmp_path)
    numbers.note("random configurations", family, "f32", found)
    # Rounding grows with the size of the logits, which a random configuration does not bound.
    limit = TOLERANCE * max(1.0, theirs.abs().max().item())
    assert found <= limit, overrides


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "modernbert"])
def test_a_greedy_continuation_has_the_tokens_of_transformers(family, tmp_path):
    model = build(family, seed=3)
    directory = save(model, tmp_path / "model")
    prompt = [17, 5, 201, 44]
    with torch.no_grad():
        wanted = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0].tolist()
    wanted = wanted[:wanted.index(0)] if 0 in wanted else wanted
    told = fewstep("sample", directory, "--ids", "--json", "-n", 1, "--temperature", 0, "--length", len(prompt) + 24,
                   "--prompt", " ".join(map(str, prompt)))
    assert [int(i) for i in json.loads(told)["text"].split()] == wanted


def test_every_family_has_a_variant():
    assert set(FIRST) == set(FAMILIES) and len(CASES) >= 15
