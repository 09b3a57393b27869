"""Writes what two runs of the client tests measured as Markdown: python report.py RESULTS.json RESULTS.json >reports/clients.md"""

import datetime
import json
import sys

READ = [json.load(open(file)) for file in sys.argv[1:]]
NAMES = ["transformers " + read["versions"]["transformers"] for read in READ]
TITLES = {
    "reading": "Checkpoints written by transformers, read by fewstep",
    "random configurations": "The same, of random configurations",
    "exports": "Exports of such checkpoints, loaded by transformers",
    "students": "Models that fewstep trained a few steps from such a checkpoint, loaded by transformers",
    "merged adapters": "A student of adapters, merged",
    "adapters": "Its adapters as PEFT loads them, against the merged network in transformers",
    "real model": "A real model",
}

print(f"""# fewstep against transformers and PEFT

Made by `bash tests/clients/run.sh` and tests/clients/report.py on {datetime.date.today()}, on a CPU. Each number is the largest
absolute difference of a logit between fewstep and transformers, both computing in f32 with the stored weights, and in
brackets the number of models or ways to load that were compared. Every load was without a warning, and without a key that
was missing or not expected. All but the real model have random weights in which nothing is near 0 or 1.

| library | {" | ".join(NAMES)} |
| --- |{" --- |" * len(READ)}""")
for library in READ[0]["versions"]:
    print(f"| {library} | {' | '.join(read['versions'][library] for read in READ)} |")
for table, title in TITLES.items():
    rows = sorted({(family, dtype) for read in READ for family, by in read["tables"].get(table, {}).items() for dtype in by})
    if not rows:
        continue
    print(f"\n## {title}\n\n| model | type | {' | '.join(NAMES)} |\n| --- | --- |{' --- |' * len(READ)}")
    for family, dtype in rows:
        cells = []
        for read in READ:
            found = read["tables"].get(table, {}).get(family, {}).get(dtype)
            cells.append(f"{found[0]:.1e} ({found[1]})" if found else "-")
        print(f"| {family} | {dtype} | {' | '.join(cells)} |")
print("\n## Refused\n")
for name, read in zip(NAMES, READ):
    refused = {family: by["f32"][1] for family, by in read["tables"].get("random configurations, refused", {}).items()}
    told = ", ".join(f"{family} {n}" for family, n in refused.items()) or "none"
    print(f"* {name}: random configurations that fewstep refused by the name of a key instead of reading them: {told}.")
print("* int8 exports of GPT-2, whose matrices lie as [in, out], by both (compressed-tensors knows no scale for that), and every"
      " int8 export where compressed-tensors is not installed: by tests with that name.")
print("\n## Greedy texts of the real model\n")
for name, read in zip(NAMES, READ):
    greedy = read["tables"].get("real model, greedy", {})
    n = {key: by["f32"][1] for key, by in greedy.items()}
    total = sum(n.values())
    print(f"* {name}: {n.get('equal texts', 0)} of {total} prompts are continued with the same text." if total
          else f"* {name}: not run, since no real model was there.")
