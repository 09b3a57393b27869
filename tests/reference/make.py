"""The small reference checkpoints beside this file: random weights, inputs, and what an independent program makes of them.

    python tests/reference/make.py [DIRECTORY]     # needs torch and transformers, as tests/clients has them

Families that transformers has are computed by it; the backbone of MDLM, SDTT and DUO is written down here a second time, from
the papers' description (DiT with rotary positions and adaptive layer norms), in float64 on plain tensors. `losses.json` has golden
vectors of the objectives on tokens and on vectors: numbers, and the loss of them by a formula that is not the one of the Rust code
wherever there is another (limits of discrete steps in place of integrands, explicit matrices in place of closed forms, equations
solved in place of coefficients).
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
VOCAB, LENGTH, BATCH = 96, 16, 2


def generator(seed):
    return torch.Generator().manual_seed(seed)


# ---- DiT of MDLM, SDTT and DUO

def dit_weights(seed, vocab, width=32, cond=16, layers=2, prefix="backbone."):
    """Random weights by the names of the published checkpoints."""
    g = generator(seed)

    def noise(*shape, scale=0.15):
        return scale * torch.randn(*shape, generator=g)

    out = {"vocab_embed.embedding": noise(vocab, width),
           "sigma_map.mlp.0.weight": noise(cond, 256), "sigma_map.mlp.0.bias": noise(cond, scale=0.1),
           "sigma_map.mlp.2.weight": noise(cond, cond), "sigma_map.mlp.2.bias": noise(cond, scale=0.1),
           "output_layer.norm_final.weight": 1 + noise(width, scale=0.2),
           "output_layer.linear.weight": noise(vocab, width), "output_layer.linear.bias": noise(vocab, scale=0.1),
           "output_layer.adaLN_modulation.weight": noise(2 * width, cond),
           "output_layer.adaLN_modulation.bias": noise(2 * width, scale=0.1)}
    for i in range(layers):
        out |= {f"blocks.{i}.norm1.weight": 1 + noise(width, scale=0.2), f"blocks.{i}.norm2.weight": 1 + noise(width, scale=0.2),
                f"blocks.{i}.attn_qkv.weight": noise(3 * width, width), f"blocks.{i}.attn_out.weight": noise(width, width),
                f"blocks.{i}.mlp.0.weight": noise(4 * width, width), f"blocks.{i}.mlp.0.bias": noise(4 * width, scale=0.1),
                f"blocks.{i}.mlp.2.weight": noise(width, 4 * width), f"blocks.{i}.mlp.2.bias": noise(width, scale=0.1),
                f"blocks.{i}.adaLN_modulation.weight": noise(6 * width, cond),
                f"blocks.{i}.adaLN_modulation.bias": noise(6 * width, scale=0.1)}
    return {prefix + name: value for name, value in out.items()}


def normed(x, weight):
    x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def turned(x):
    """Rotary positions of [B, L, H, d]: pairs (i, i + d/2) turn by l 10000^(-2i/d)."""
    length, d = x.shape[1], x.shape[3]
    angle = torch.arange(length, dtype=x.dtype)[:, None] * 10000.0 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    cos, sin = angle.cos()[None, :, None], angle.sin()[None, :, None]
    a, b = x[..., : d // 2], x[..., d // 2:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def dit(weights, ids, sigma, heads, prefix="backbone."):
    """Logits [B, L, V] at total noises sigma [B]."""
    w = {name.removeprefix(prefix): value.double() for name, value in weights.items()}
    silu = torch.nn.functional.silu
    rate = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128)
    angle = sigma.double()[:, None] * rate
    c = torch.cat([angle.cos(), angle.sin()], -1) @ w["sigma_map.mlp.0.weight"].T + w["sigma_map.mlp.0.bias"]
    c = silu(silu(c) @ w["sigma_map.mlp.2.weight"].T + w["sigma_map.mlp.2.bias"])
    x = w["vocab_embed.embedding"][ids]
    b, length, width = x.shape
    for i in range(sum(name.endswith("attn_qkv.weight") for name in w)):
        p = f"blocks.{i}."
        m = (c @ w[p + "adaLN_modulation.weight"].T + w[p + "adaLN_modulation.bias"])[:, None]
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = m.chunk(6, -1)
        h = normed(x, w[p + "norm1.weight"]) * (1 + scale_a) + shift_a
        q, k, v = (h @ w[p + "attn_qkv.weight"].T).reshape(b, length, 3, heads, width // heads).unbind(2)
        q, k = turned(q), turned(k)
        scores = torch.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(width // heads)
        h = torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), v).reshape(b, length, width)
        x = x + gate_a * (h @ w[p + "attn_out.weight"].T)
        h = normed(x, w[p + "norm2.weight"]) * (1 + scale_f) + shift_f
        h = gelu(h @ w[p + "mlp.0.weight"].T + w[p + "mlp.0.bias"]) @ w[p + "mlp.2.weight"].T + w[p + "mlp.2.bias"]
        x = x + gate_f * h
    shift, scale = (c @ w["output_layer.adaLN_modulation.weight"].T + w["output_layer.adaLN_modulation.bias"])[:, None].chunk(2, -1)
    x = normed(x, w["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return x @ w["output_layer.linear.weight"].T + w["output_layer.linear.bias"]


def write(to, config, weights, expected):
    to.mkdir(parents=True, exist_ok=True)
    (to / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({name: value.float().contiguous() for name, value in weights.items()}, to / "model.safetensors", {"format": "pt"})
    save_file({name: value.contiguous() for name, value in expected.items()}, to / "expected.safetensors")


def mdlm(to):
    weights = dit_weights(1, VOCAB + 1)
    ids = torch.randint(0, VOCAB + 1, (BATCH, LENGTH), generator=generator(2))
    # Without time conditioning the network reads no noise at all.
    logits = dit(weights, ids, torch.zeros(BATCH), 2)
    config = {"architectures": ["MDLM"], "model_type": "mdlm", "hidden_dim": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 2,
              "model_length": LENGTH, "vocab_size": VOCAB + 1, "time_conditioning": False, "dropout": 0.1}
    write(to / "mdlm", config, weights, {"input_ids": ids, "logits": logits.float()})


def of_transformers(to):
    sys.path.insert(0, str(HERE.parent / "clients"))
    import checkpoints
    decoder = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_attention_heads=2, max_position_embeddings=64)
    sizes = {"gpt2": dict(vocab_size=VOCAB, n_positions=64, n_embd=32, n_head=2), "llama": dict(decoder, num_key_value_heads=1),
             "qwen2": dict(decoder, num_key_value_heads=1), "qwen3": dict(decoder, num_key_value_heads=1, head_dim=16),
             "modernbert": dict(decoder)}
    for family, size in sizes.items():
        model = checkpoints.build(family, seed=3, **size)
        ids = torch.randint(4, VOCAB, (BATCH, LENGTH), generator=generator(4))
        with torch.no_grad():
            logits = model.double()(input_ids=ids).logits
        model.float().save_pretrained(to / family)
        save_file({"input_ids": ids, "logits": logits.float().contiguous()}, to / family / "expected.safetensors")
        for other in (to / family).iterdir():
            if other.name not in ("config.json", "model.safetensors", "expected.safetensors"):
                other.unlink()


# ---- one golden vector for each objective on tokens

def rows(seed, n, v):
    """Random log-probabilities [n, v] and tokens [n]."""
    g = generator(seed)
    return torch.randn(n, v, generator=g, dtype=torch.float64).log_softmax(-1), torch.randint(0, v, (n,), generator=g)


def kl(p, q):
    """KL(p || q) of log-probabilities, row by row."""
    return (p.exp() * (p - q)).sum(-1)


def divergences(student, teacher):
    middle = torch.logaddexp(student, teacher) - math.log(2)
    return {"forward_kl": kl(teacher, student), "reverse_kl": kl(student, teacher),
            "jensen_shannon": (kl(teacher, middle) + kl(student, middle)) / 2,
            "total_variation": (student.exp() - teacher.exp()).abs().sum(-1) / 2}


def uniform_limit(logp, x0, xt, t):
    """The integrand of uniform diffusion's ELBO at alpha = 1 - t: KL of the true and the model's step from t to t - h, over h.

    By Richardson's rule from two small steps, in the place of the closed form.
    """
    v = len(logp)

    def step(h):
        a, s = 1 - t, 1 - t + h
        ratio = a / s

        def posterior(clean):
            # q(z_s | z_t, x) is in proportion to q(z_t | z_s) q(z_s | x), for a distribution of x.
            forward = torch.full((v,), (1 - ratio) / v, dtype=torch.float64)
            forward[xt] += ratio
            marginal = s * clean + (1 - s) / v
            out = forward * marginal
            return out / out.sum()

        true = posterior(torch.nn.functional.one_hot(torch.tensor(x0), v).double())
        model = posterior(logp.exp())
        return float((true * (true / model).log()).sum()) / h

    return 2 * step(1e-5) - step(2e-5)


def losses():
    n, v = 6, 7
    student, tokens = rows(5, n, v)
    teacher, _ = rows(6, n, v)
    out = {"log_probabilities": student.tolist(), "teacher": teacher.tolist(), "tokens": tokens.tolist()}
    nll = -student[torch.arange(n), tokens]
    out["ar_nll"] = nll.tolist()
    # Masked diffusion, log-linear: alpha = 1 - t, and the weight of a masked row is -alpha' / (1 - alpha) = 1 / t.
    t = torch.linspace(0.2, 0.9, n, dtype=torch.float64)
    out["t"], out["elbo"] = t.tolist(), (nll / t).tolist()
    out["divergence"] = {name: value.tolist() for name, value in divergences(student, teacher).items()}
    warm = (teacher / 2).log_softmax(-1), (student / 2).log_softmax(-1)
    out["kd_at_temperature_2"] = (4 * kl(*warm)).tolist()
    noisy = [int((x + i) % v) for i, x in enumerate(tokens)]
    out["noisy"] = noisy
    out["uniform"] = [uniform_limit(student[i], int(tokens[i]), noisy[i], float(t[i])) for i in range(n)]
    # Score entropy of absorbing diffusion at a masked row: sum_y s_y - r_y log s_y + K(r_y), with K(r) = r (log r - 1), scores s, and the true
    # ratio r = 1 / (e^sigma - 1) at the token and zero elsewhere. It is stored over r, with s = r exp(logits - offset).
    ratio = (1 / torch.expm1(t))[:, None]
    scores = ratio * (student - t[:, None]).exp()
    true = torch.nn.functional.one_hot(tokens, v).double() * ratio
    K = torch.where(true > 0, true * (true.clamp_min(1e-300).log() - 1), 0.0)
    out["offset"], out["score_entropy"] = t.tolist(), ((scores - true * scores.log() + K).sum(-1) / ratio[:, 0]).tolist()
    # D3PM on explicit matrices: four uniform kernels of V states whose products keep 3/4, 1/2, 1/4 and nothing of the text.
    kept = [1.0, 0.75, 0.5, 0.25, 0.0]
    beta = [1 - kept[k + 1] / kept[k] for k in range(4)]
    Q = [(1 - b) * torch.eye(v, dtype=torch.float64) + b / v for b in beta]
    bar = [torch.eye(v, dtype=torch.float64)]
    for q in Q:
        bar.append(bar[-1] @ q)
    out["d3pm_step"], out["d3pm"] = [], []
    for i in range(n):
        step = 1 + i % 3
        clean = torch.nn.functional.one_hot(tokens[i], v).double()
        likely = Q[step - 1][:, noisy[i]]
        true = likely * (clean @ bar[step - 1])
        model = likely * (student[i].exp() @ bar[step - 1])
        true, model = true / true.sum(), model / model.sum()
        out["d3pm_step"].append(step)
        out["d3pm"].append(float((torch.special.xlogy(true, true) - torch.special.xlogy(true, model)).sum()))
    return out


# ---- vectors

def place(path, t):
    """alpha and sigma."""
    if path == "linear":
        return 1 - t, t
    turned = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(math.pi / 2 * t, dtype=torch.float64))
    return float(turned.real), float(turned.imag)


def on_path(path, t, x0, eps):
    alpha, sigma = place(path, t)
    return alpha * x0 + sigma * eps


def wanted(path, predict, t, x0, eps):
    """What a network is to say; a velocity is the derivative of the path by its angle, or by t, as a difference."""
    if predict == "x0":
        return x0
    if predict == "noise":
        return eps
    h = 1e-5
    unit = 1.0 if path == "linear" else math.pi / 2
    return (on_path(path, t + h, x0, eps) - on_path(path, t - h, x0, eps)) / (2 * h * unit)


def ends(path, predict, t, xt, says):
    """x_0 and eps on the path through x_t of which a network says so: two equations, solved."""
    one = torch.ones(1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    columns = [torch.cat([on_path(path, t, *pair), wanted(path, predict, t, *pair)]) for pair in ((one, zero), (zero, one))]
    both = torch.linalg.solve(torch.stack(columns, 1), torch.stack([xt.flatten(), says.flatten()]))
    return both[0].reshape(xt.shape), both[1].reshape(xt.shape)


def stepped(path, predict, t, s, xt, says):
    """x_s by the one step that a network's answer leads to."""
    return on_path(path, s, *ends(path, predict, t, xt, says))


def led(path, predict, t, s, xt, xs):
    """The constant answer, per number, whose one step from x_t leads to x_s: a line is fixed by two points."""
    zero, one = torch.zeros_like(xt), torch.ones_like(xt)
    at_zero, at_one = (stepped(path, predict, t, s, xt, says) for says in (zero, one))
    return (xs - at_zero) / (at_one - at_zero)


def mean_square(x):
    return float((x * x).mean())


def vectors():
    """Paths, and the losses of students that say one vector whatever they read."""
    b, m, d = 3, 2, 2
    g = generator(8)
    x0, eps = (torch.randn(b, m, d, generator=g, dtype=torch.float64) for _ in range(2))
    student, teacher, critic = (torch.randn(d, generator=g, dtype=torch.float64) for _ in range(3))
    c, a, f = (v.expand(b, m, d) for v in (student, teacher, critic))
    out = {"x0": x0.tolist(), "eps": eps.tolist(), "student": student.tolist(), "teacher": teacher.tolist(), "critic": critic.tolist(),
           "t": 0.7, "s": 0.2, "paths": [], "losses": []}
    for path in ("trigonometric", "linear"):
        for predict in ("noise", "x0", "v"):
            t, s = out["t"], out["s"]
            xt = on_path(path, t, x0, eps)
            out["paths"].append({
                "path": path, "predict": predict, "xt": xt.tolist(), "target": wanted(path, predict, t, x0, eps).tolist(),
                "x0": ends(path, predict, t, xt, c)[0].tolist(), "xs": stepped(path, predict, t, s, xt, c).tolist()})

    def loss(method, path, predict, value):
        out["losses"].append({"method": method, "path": path, "predict": predict, "loss": value})

    for path in ("trigonometric", "linear"):
        for predict in ("x0", "v"):
            # Progressive: one step from 1 to 0 in the place of two.
            def halves(says):
                middle = stepped(path, predict, 1.0, 0.5, eps, says)
                return led(path, predict, 1.0, 0.0, eps, on_path(path, 0.0, *ends(path, predict, 0.5, middle, says)))

            loss({"progressive": {"steps": 2, "rounds": 1}}, path, predict, mean_square(c - halves(a)))
            if predict == "v":
                loss({"shortcut": {"finest": 2, "share": 1.0}}, path, predict, mean_square(c - halves(c)))
            # Consistency on the grid of 0 and 1.
            for distill in (True, False):
                near = ends(path, predict, 1.0, eps, a)[0] if distill else x0
                far = ends(path, predict, 1.0, eps, c)[0]
                squares = ((far - near) ** 2).sum((1, 2))
                edge = 0.00054 * math.sqrt(m * d)
                huber = float((torch.sqrt(squares + edge * edge) - edge).mean())
                loss({"consistency": {"first_grid": 1, "last_grid": 1, "distill": distill}}, path, predict,
                     huber / (10 * math.sqrt(m * d)))
            if predict == "x0":
                # The gradient of matching is (critic - teacher) over the size of what the teacher would change.
                size = (c - a).abs().mean((1, 2), keepdim=True) + 1e-3
                loss({"matching": {"steps": 1, "critic_lr": 1e-3}}, path, predict, mean_square((f - a) / size) / 2)
    # Velocities of the straight path do not depend on the time.
    v = eps - x0
    loss({"shortcut": {"finest": 2, "share": 0.0}}, "linear", "v", mean_square(c - v))
    squares = ((c - v) ** 2).mean((1, 2))
    loss({"mean_flow": {"share": 0.0}}, "linear", "v", float((squares / (squares + 1e-3)).mean()))
    # sCM where tan phi = 1: cos phi d f / d phi of f = cos phi x - sin phi F with a constant F, by a difference along the path.
    phi, h = math.pi / 4, 1e-5

    def consistent(at):
        x = math.cos(at) * x0 + math.sin(at) * eps
        return math.cos(at) * x - math.sin(at) * c

    tangent = -math.cos(phi) * (consistent(phi + h) - consistent(phi - h)) / (2 * h)
    norm = (tangent ** 2).mean((1, 2), keepdim=True).sqrt()
    loss({"continuous": {"distill": False, "warmup": 0.0, "mean": 0.0, "deviation": 0.0}}, "trigonometric", "v",
         mean_square(tangent / (norm + 0.1)))
    # Embeddings: the levels' own x_0 and target, and what rounding costs.
    v, n = 5, 4
    codebook, offsets = torch.randn(v, d, generator=g, dtype=torch.float64), torch.randn(v, generator=g, dtype=torch.float64)
    points, tokens = torch.randn(n, d, generator=g, dtype=torch.float64), torch.randint(0, v, (n,), generator=g)
    nll = torch.nn.functional.cross_entropy(points @ codebook.T + offsets, tokens)
    told = torch.nn.functional.cross_entropy((student @ codebook.T + offsets).expand(n, v), tokens)
    out["rounding"] = {"codebook": codebook.tolist(), "offsets": offsets.tolist(), "vectors": points.tolist(), "tokens": tokens.tolist(),
                       "nll": float(nll), "class_log_probability": -n * float(told)}
    # Chen's sqrt schedule of Diffusion-LM: abar_t = 1 - sqrt(t / T + 1e-4), its betas cut at 0.999, as in eq. of its appendix A.
    levels = 10
    bar = [1 - math.sqrt(k / levels + 1e-4) for k in range(levels + 1)]
    kept, alphas = 1.0, []
    for k in range(levels):
        kept *= 1 - min(1 - bar[k + 1] / bar[k], 0.999)
        alphas.append(kept)
    out["levels"], out["alphas_cumprod"] = levels, alphas
    return out


def main():
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    torch.set_num_threads(1)
    mdlm(to)
    of_transformers(to)
    (to / "losses.json").write_text(json.dumps({**losses(), "vectors": vectors()}, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
