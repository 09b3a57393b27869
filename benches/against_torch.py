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
both, fails where memory grows over 1,000 steps, and compares loss and gradients with the processor's.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys

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


def last_json(command, text):
    lines = [line for line in text.splitlines() if line.startswith("{")]
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        sys.exit(f"printed no JSON line: {' '.join(command)}")


def attempt(command, threads=None, limit=None):
    """The JSON line of a command, or None where it failed (out of memory, say) or took longer than limit seconds."""
    env = dict(os.environ, **({"RAYON_NUM_THREADS": threads} if threads else {}))
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"longer than {limit} s: {' '.join(command)}", file=sys.stderr)
        return None
    if done.returncode != 0:
        # What it measured before it failed (parity beyond its limit, say) is worth reading.
        print(done.stdout, done.stderr[-2000:], sep="\n", file=sys.stderr)
        return None
    return last_json(command, done.stdout)


def run(command, threads=None):
    """The JSON line of a command that has to work."""
    return attempt(command, threads) or sys.exit(f"failed: {' '.join(command)}")


def peak_mib(command):
    """Largest resident size of a command in MiB."""
    env = dict(os.environ, RAYON_NUM_THREADS="2")
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss / 1024


def build(features):
    command = ["cargo", "bench", "--bench", "steps", "--no-run", "--message-format", "json", *features]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        sys.exit("no cargo in PATH: give a bench that is built already with --steps")
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "steps":
            return message["executable"]
    sys.exit("cargo built no bench called steps")


def ratios(us, them, path):
    return [b[path]["median_s"] / a[path]["median_s"] for a, b in zip(us, them)]


def cpu(args, steps):
    print("| network | path | fewstep, ms (rounds) | peer, ms (rounds) | times as fast (rounds) | median |")
    print("|---|---|---|---|---|---|")
    for name in args.networks:
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


# Asked through the driver's own count, which knows about hidden devices and parts of devices.
MEMORY = """
import sys, torch
for _ in sys.stdin:
    free, total = torch.cuda.mem_get_info()
    print((total - free) >> 20, flush=True)
"""


def watched(meter, command):
    """The GPU's memory in MiB after every line that the command printed, and the last of those lines."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    used, line = [], ""
    for line in child.stdout:
        meter.stdin.write("\n")
        meter.stdin.flush()
        used.append(int(meter.stdout.readline()))
    if child.wait() != 0 or len(used) < 8:
        print(f"failed after {line!r}: {' '.join(command)}", file=sys.stderr)
        return None, line
    return used, line.strip()


def flops(network, computed):
    """Operations of a training step for one token: 6 a weight of the products, and attention's two products.

    Nominal: every row through everything, as the peer does. Computed: the head, and what stands behind the last block's
    attention, only for the masked half of the rows."""
    d, layers, length, head = network["dim"], network["layers"], network["length"], network["dim"] * network["vocab"]
    weights = 12 * layers * d * d + head
    if computed:
        weights -= (9 * d * d + head) / 2
    return 6 * weights + 12 * layers * d * length


def gpu(args, steps):
    # Its context takes memory of the card, so it is there before the batch is chosen.
    meter = subprocess.Popen([args.python, "-c", MEMORY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    meter.stdin.write("\n")
    meter.stdin.flush()
    print(f"in use before: {meter.stdout.readline().strip()} MiB")
    # In a process of its own, so that its memory is free again.
    product = run([args.python, "-c", PRODUCT])
    peak = 1e12 * product["tflops"]
    print(f"{product['name']}, torch {product['torch']}, bf16 product 8192^3: {peak / 1e12:.0f} TFLOP/s\n")
    ours = [steps, "--json", "--device", "cuda", "--bf16", "--only", "train,distill,sample"]
    peer = [args.python, args.peer, "--device", "cuda", "--dtype", "bf16"]
    programs = (ours, peer, [*peer, "--compile"])
    fits = lambda b: all(attempt([*c, *options({**GPU, "batch": b, "samples": b, "repeats": 1})], limit=600) for c in programs)
    batch = next((b for b in (64, 48, 32, 24, 16, 8, 4, 2, 1) if fits(b)), None) or sys.exit("not even one sequence fits")
    network = {**GPU, "batch": batch, "samples": batch}
    us, eager, compiled = [], [], []
    for _ in range(args.rounds):
        eager.append(run([*peer, *options(network)]))
        us.append(run([*ours, *options(network)]))
        compiled.append(run([*peer, "--compile", *options(network)]))
    print("| path | batch | fewstep, tokens/s | eager | compiled | fewstep / eager | fewstep / compiled |")
    print("|---|---|---|---|---|---|---|")
    rates = {}
    for path, label in PATHS.items():
        rates[path] = [statistics.median(r[path]["tokens_per_s"] for r in side) for side in (us, eager, compiled)]
        fast = [statistics.median(ratios(us, side, path)) for side in (eager, compiled)]
        cells = " | ".join(f"{r:,.0f}" for r in rates[path])
        print(f"| {label} | {batch} | {cells} | {fast[0]:.2f} | {fast[1]:.2f} |", flush=True)
    share = lambda rate, computed: f"{100 * rate * flops(network, computed) / peak:.0f} %"
    nominal = ", ".join(share(rate, False) for rate in rates["train"])
    print(f"\nmodel FLOP utilisation of the training step, every row counted (fewstep, eager, compiled): {nominal}")
    print(f"fewstep with what it computes counted: {share(rates['train'][0], True)}")
    wrong = []
    used, line = watched(meter, [steps, "--device", "cuda", "--bf16", "--flat", "1000", *options(network)])
    if used:
        early, late = max(used[len(used) // 4 : len(used) // 2]), max(used[3 * len(used) // 4 :])
        print(f"memory over 1,000 steps: second quarter at most {early} MiB, last quarter at most {late} MiB; last line {line}")
    if not used or late > 1.02 * early:
        wrong.append("memory over 1,000 steps")
    small = options(dict(vocab=512, length=128, batch=8, dim=256, layers=4, heads=4))
    # Products in TF32 keep ten bits, f32 ones differ by the order of sums; the line says which it looks like.
    for more in (["--limit", "5e-3"], ["--bf16"]):
        parity = attempt([steps, "--parity", "--device", "cuda", *more, *small])
        print("parity with the processor:", json.dumps(parity), flush=True)
        if not parity:
            wrong.append(f"parity {more}")
    if wrong:
        sys.exit("failed: " + ", ".join(wrong))


def networks(text):
    """Names of NETWORKS with commas between them."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        known = ",".join(NETWORKS)
        raise argparse.ArgumentTypeError(f"no network {unknown[0]!r}: write names with commas between them, such as {known}")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"a network twice in {text!r}")
    return names


def positive(text):
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds: write 1 or more")
    return int(text)


def file(text):
    if not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return text


def program(text):
    found = shutil.which(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a program that can be run")
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--peer", required=True, type=file, help="the Python program to compare with")
    p.add_argument("--python", default=sys.executable, type=program, help="the Python that runs it")
    p.add_argument("--rounds", type=positive, default=3)
    p.add_argument("--networks", default="a,b,c", type=networks, help="some of a,b,c")
    p.add_argument("--gpu", action="store_true")
    p.add_argument("--steps", type=program, help="a bench that is built already")
    args = p.parse_args()
    steps = args.steps or build(["--features", "cuda"] if args.gpu else [])
    (gpu if args.gpu else cpu)(args, steps)


if __name__ == "__main__":
    main()
