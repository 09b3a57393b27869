#!/usr/bin/env python3
"""The benches beside the same network in PyTorch: Markdown tables of ratios measured in turn.

    python3 benches/against_torch.py --peer torch_peer.py                 networks a, b and c on the processor, f32, 2 threads
    python3 benches/against_torch.py --peer torch_peer.py --networks b --rounds 5
    python3 benches/against_torch.py --peer torch_peer.py --gpu           127M parameters in bf16 on a GPU, eager and compiled

The peer is a program that takes --vocab --length --batch --dim --layers --heads --samples --steps --repeats --threads
--device --dtype --compile and prints one JSON line with median_s and tokens_per_s of train, distill and sample. Both programs
run in turn, A B A B ...; a cell is the median of a run, and "times as fast" the median over rounds of peer / fewstep.
Peak memory is the largest resident size of a process that does distillation steps (its sampler draws one sequence, and a
training step needs less). On a GPU the script also measures the matrix-product peak, finds the largest batch that fits
both, watches memory over 1,000 steps, and compares loss and gradients with the processor's.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

NETWORKS = {
    "a": dict(vocab=64, length=64, batch=64, dim=128, layers=4, heads=4, samples=64, repeats=7),
    "b": dict(vocab=512, length=128, batch=8, dim=256, layers=4, heads=4, samples=16, repeats=7),
    "c": dict(vocab=50257, length=256, batch=8, dim=384, layers=6, heads=6, samples=8, repeats=3),
}
# 127M parameters: embedding and head are apart in both programs, 38.6M each, and a block of this width has 7.1M.
GPU = dict(vocab=50257, length=1024, dim=768, layers=7, heads=12, repeats=10)
PATHS = dict(train="training step", distill="distillation step", sample="sampling in 8 steps")


def options(network):
    return [text for key, value in network.items() for text in (f"--{key}", str(value))]


def last_json(text):
    return json.loads([line for line in text.splitlines() if line.startswith("{")][-1])


def attempt(command, threads=None):
    """The JSON line of a command, or None where it failed (out of memory, say)."""
    env = dict(os.environ, **({"RAYON_NUM_THREADS": threads} if threads else {}))
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        print(done.stderr.strip().splitlines()[-1:] or done.returncode, file=sys.stderr)
        return None
    return last_json(done.stdout)


def run(command, threads=None):
    """The JSON line of a command that has to work."""
    return attempt(command, threads) or sys.exit(f"failed: {' '.join(command)}")


def peak_mib(command):
    """Largest resident size of a command in MiB."""
    env = dict(os.environ, RAYON_NUM_THREADS="2")
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, command
    return usage.ru_maxrss / 1024


def build(features):
    command = ["cargo", "bench", "--bench", "steps", "--no-run", "--message-format", "json", *features]
    for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "steps":
            return message["executable"]
    sys.exit("cargo built no bench called steps")


def ratios(us, them, path):
    return [b[path]["median_s"] / a[path]["median_s"] for a, b in zip(us, them)]


def cpu(args, steps):
    print("| network | path | fewstep, ms (rounds) | peer, ms (rounds) | times as fast (rounds) | median |")
    print("|---|---|---|---|---|---|")
    for name in args.networks.split(","):
        network, us, them = NETWORKS[name], [], []
        size = ", ".join(f"{k} {v}" for k, v in network.items() if k != "repeats")
        for _ in range(args.rounds):
            them.append(run([args.python, args.peer, *options(network), "--threads", "2"]))
            us.append(run([steps, "--json", "--only", "train,distill,sample", *options(network)], threads="2"))
        for path, label in PATHS.items():
            cells = [", ".join(f"{1e3 * r[path]['median_s']:.0f}" for r in side) for side in (us, them)]
            fast = ratios(us, them, path)
            many = ", ".join(f"{r:.2f}" for r in fast)
            print(f"| ({name}) {size} | {label} | {cells[0]} | {cells[1]} | {many} | **{statistics.median(fast):.2f}** |", flush=True)
        few = {**network, "samples": 1, "repeats": 2}
        ours = peak_mib([steps, "--only", "distill", *options(few)])
        theirs = peak_mib([args.python, args.peer, *options(few), "--threads", "2"])
        print(f"| ({name}) | peak memory of distillation, MiB | {ours:.0f} | {theirs:.0f} | | {ours / theirs:.2f} of the peer's |", flush=True)


PRODUCT = """
import json, statistics, time, torch
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
times = []
for _ in range(30):
    torch.cuda.synchronize()
    begin = time.perf_counter()
    a @ b
    torch.cuda.synchronize()
    times.append(time.perf_counter() - begin)
print(json.dumps(dict(name=torch.cuda.get_device_name(), torch=torch.__version__,
                      tflops=2 * 8192**3 / statistics.median(times[5:]) / 1e12)))
"""


def gpu_mib():
    """Memory in use on the first GPU, by all processes, in MiB."""
    ask = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    return int(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()[0])


def watched(command):
    """The GPU's memory, asked for every half second while the command runs, and the last line that it printed."""
    used = [gpu_mib()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while child.poll() is None:
        used.append(gpu_mib())
        time.sleep(0.5)
    lines = child.stdout.read().splitlines()
    if child.returncode != 0 or len(used) < 8:
        sys.exit(f"failed after {lines[-1:]}: {' '.join(command)}")
    return used, lines[-1]


def gpu(args, steps):
    # In a process of its own, so that its memory is free again.
    product = run([args.python, "-c", PRODUCT])
    peak = product["tflops"]
    print(f"{product['name']}, torch {product['torch']}, bf16 product 8192^3: {peak:.0f} TFLOP/s\n")
    ours = [steps, "--json", "--device", "cuda", "--bf16"]
    peer = [args.python, args.peer, "--device", "cuda", "--dtype", "bf16"]
    programs = ([*ours, "--only", "train,distill,sample"], peer, [*peer, "--compile"])
    fits = lambda b: all(attempt([*c, *options({**GPU, "batch": b, "samples": b, "repeats": 1})]) for c in programs)
    batch = next((b for b in (64, 48, 32, 24, 16, 8, 4, 2, 1) if fits(b)), None) or sys.exit("not even one sequence fits")
    network = {**GPU, "batch": batch, "samples": batch}
    us, eager, compiled = [], [], []
    for _ in range(args.rounds):
        eager.append(run([*peer, *options(network)]))
        us.append(run([*ours, "--only", "train,distill,sample", *options(network)]))
        compiled.append(run([*peer, "--compile", *options(network)]))
    # Multiplications of a training step for one token: 6 a weight of the products, and attention's two products.
    d, layers, length = network["dim"], network["layers"], network["length"]
    weights = 12 * layers * d * d + d * network["vocab"]
    flops = 6 * weights + 12 * layers * d * length
    print("| path | batch | fewstep, tokens/s | eager | compiled | fewstep / eager | fewstep / compiled | MFU of fewstep, eager, compiled |")
    print("|---|---|---|---|---|---|---|---|")
    for path, label in PATHS.items():
        rate = [statistics.median(r[path]["tokens_per_s"] for r in side) for side in (us, eager, compiled)]
        fast = [statistics.median(ratios(us, side, path)) for side in (eager, compiled)]
        mfu = ", ".join(f"{100 * r * flops / (peak * 1e12):.0f} %" for r in rate) if path == "train" else "-"
        rates = " | ".join(f"{r:,.0f}" for r in rate)
        print(f"| {label} | {batch} | {rates} | {fast[0]:.2f} | {fast[1]:.2f} | {mfu} |", flush=True)
    used, line = watched([steps, "--device", "cuda", "--bf16", "--flat", "1000", *options(network)])
    half = used[len(used) // 4 : len(used) // 2], used[3 * len(used) // 4 :]
    print(f"\nmemory over 1,000 steps: second quarter at most {max(half[0])} MiB, last quarter at most {max(half[1])} MiB; "
          f"last line {line}")
    small = options(dict(vocab=512, length=128, batch=8, dim=256, layers=4, heads=4))
    for more in ([], ["--bf16"]):
        print("parity with the processor:", json.dumps(run([steps, "--parity", "--device", "cuda", *more, *small])))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--peer", required=True)
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--networks", default="a,b,c")
    p.add_argument("--gpu", action="store_true")
    p.add_argument("--steps", help="a bench that is built already")
    args = p.parse_args()
    steps = args.steps or build(["--features", "cuda"] if args.gpu else [])
    (gpu if args.gpu else cpu)(args, steps)


if __name__ == "__main__":
    main()
