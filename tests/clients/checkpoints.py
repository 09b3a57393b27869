"""Fresh random checkpoints of every family that transformers has and fewstep reads, in many forms.

Nothing is near 0 or 1 that a wrong reading could pass over: norms, biases and embeddings are random too.
"""

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers
from transformers import (AutoModelForCausalLM, AutoModelForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig,
                          LlamaForCausalLM, ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

VOCAB = 320
SPECIAL = ["<|endoftext|>", "<s>", "[MASK]", "[PAD]"]
TEXT = ["The lamp by the window burned late, and nobody came to put it out.",
        "A boat of seven planks crosses the river when the wind is from the west.",
        "Anna counts the apples: seven, eight, nine; then she counts them again.",
        "It rained on the hills, it rained on the sea, and the road between was dry."]

# name: (class, configuration, overrides of each variant); the first variant is what exports and students are made of.
small = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=0, pad_token_id=3)
decoder = dict(small, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
               max_position_embeddings=128)
llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
FAMILIES = {
    "gpt2": (GPT2LMHeadModel, GPT2Config,
             dict(small, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=0),
             {"tied": {}, "untied": {"tie_word_embeddings": False}, "wide": {"n_inner": 96, "layer_norm_epsilon": 1e-6}}),
    "llama": (LlamaForCausalLM, LlamaConfig, decoder,
              {"grouped": {"num_key_value_heads": 2}, "tied": {"tie_word_embeddings": True},
               "biases": {"attention_bias": True, "mlp_bias": True},
               "llama3": {"rope_scaling": llama3, "num_key_value_heads": 1}, "theta": {"rope_theta": 500000.0},
               "eps": {"rms_norm_eps": 1e-3}, "head": {"head_dim": 32}}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, decoder,
              {"tied": {"tie_word_embeddings": True, "num_key_value_heads": 2}, "untied": {"num_key_value_heads": 4},
               "theta": {"rope_theta": 1e6, "num_key_value_heads": 1}}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, decoder,
              {"tied": {"tie_word_embeddings": True, "num_key_value_heads": 2, "head_dim": 32},
               "untied": {"num_key_value_heads": 4, "head_dim": 16},
               "biases": {"attention_bias": True, "num_key_value_heads": 2, "head_dim": 16}}),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig,
                   dict(small, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
                        max_position_embeddings=128, local_attention=8, cls_token_id=1, sep_token_id=0),
                   {"tied": {}, "untied": {"tie_word_embeddings": False},
                    "biases": {"attention_bias": True, "mlp_bias": True, "norm_bias": True},
                    "every2": {"global_attn_every_n_layers": 2}, "no_bias": {"decoder_bias": False},
                    "wide_window": {"local_attention": 64}}),
}
CASES = [(family, variant) for family, (_, _, _, variants) in FAMILIES.items() for variant in variants]
FIRST = {family: next(iter(variants)) for family, (_, _, _, variants) in FAMILIES.items()}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def auto_class(family):
    return AutoModelForMaskedLM if family == "modernbert" else AutoModelForCausalLM


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        with torch.no_grad():
            p.copy_(1 + 0.2 * noise if p.dim() == 1 and "norm" in name.lower() and name.endswith("weight")
                    else 0.15 * noise if p.dim() > 1 else 0.1 * noise)
    return model.eval()


def build(family, variant=None, seed=1, **more):
    """A model with random weights."""
    cls, config, base, variants = FAMILIES[family]
    overrides = {**base, **(variants[variant or FIRST[family]]), **more}
    return randomise(cls(config(**overrides)), seed)


def random_overrides(family, seed):
    """Another configuration of a family, as someone might have made it."""
    pick = random.Random(f"{family} {seed}")
    heads = pick.choice([1, 2, 4, 8])
    width = heads * pick.choice([8, 16, 24])
    layers, inner = pick.randint(1, 5), pick.choice([33, 64, 160])
    vocab = pick.choice([257, 300, 512])
    if family == "gpt2":
        return dict(vocab_size=vocab, n_embd=width, n_head=heads, n_layer=layers, n_inner=pick.choice([None, inner]),
                    tie_word_embeddings=pick.random() < 0.5, layer_norm_epsilon=pick.choice([1e-5, 1e-3]),
                    activation_function=pick.choice(["gelu_new", "gelu_new", "relu", "gelu"]),
                    scale_attn_by_inverse_layer_idx=pick.random() < 0.15)
    out = dict(vocab_size=vocab, hidden_size=width, num_attention_heads=heads, num_hidden_layers=layers,
               intermediate_size=inner, tie_word_embeddings=pick.random() < 0.5)
    if family == "modernbert":
        return dict(out, local_attention=pick.choice([4, 8, 32]), global_attn_every_n_layers=pick.choice([1, 2, 3]),
                    global_rope_theta=pick.choice([160000.0, 1e4]), local_rope_theta=pick.choice([1e4, 5e4]),
                    attention_bias=pick.random() < 0.3, mlp_bias=pick.random() < 0.3, norm_bias=pick.random() < 0.3,
                    hidden_activation=pick.choice(["gelu", "gelu", "silu"]))
    out.update(num_key_value_heads=pick.choice([n for n in (1, 2, 4, 8) if heads % n == 0]),
               rope_theta=pick.choice([1e4, 1e6]), rms_norm_eps=pick.choice([1e-6, 1e-5, 1e-3]),
               rope_scaling=pick.choice([None, None, llama3, {"rope_type": "linear", "factor": 4.0}]),
               head_dim=pick.choice([8, 16, 24]) if family == "qwen3" else width // heads)
    if family == "llama":
        out.update(attention_bias=pick.random() < 0.3, mlp_bias=pick.random() < 0.3)
    return out


def tokenizer(begins=False):
    """A byte-level BPE with the tokens that models here name; `begins`: it puts <s> in front of every text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(TEXT * 8, trainer)
    if begins:
        from tokenizers.processors import TemplateProcessing
        bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert bpe.get_vocab_size() == VOCAB
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<s>", mask_token="[MASK]",
                                   pad_token="[PAD]")


def save(model, directory, dtype="f32", shards=False, words=None):
    """Writes a model as transformers does, in a type, in one file or several, with a tokenizer where one is given."""
    model.to(DTYPES[dtype]).save_pretrained(directory, **({"max_shard_size": "60KB"} if shards else {}))
    model.float()
    if words:
        words.save_pretrained(directory)
    return directory
