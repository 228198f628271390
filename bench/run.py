#!/usr/bin/env python3
"""Runs hone and its peers in turn on the same work and writes docs/benchmarks.md. Needs only Python's standard library; the peers need
what setup.sh makes, hone a release build.

usage: bench/run.py                              every row, 5 rounds; what is measured already stays
       bench/run.py --only train-m,gemm          these rows; a name may stand for several, as `train` does
       bench/run.py --machine intel              results and document of another machine: bench/results-intel, docs/benchmarks-intel.md
       bench/run.py --trial [--only ROW...]      one round of few steps, to see that all works; keeps nothing
       bench/run.py --document-only              writes the document from the stored results
       bench/run.py --check                      fails where a machine's document is not what the stored results say

A row's rounds are kept in bench/results/ROW.json once all are done; until then in ROW.json.part, from which an interrupted
measurement goes on, with the same program, versions and machine. In a round each command runs once, in the next one in the opposite order.
"""
import argparse
import datetime
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import loose
import machine
import report
import rows

BENCH = pathlib.Path(__file__).resolve().parent
REPOSITORY = BENCH.parent
LIMIT = 3600  # seconds a command may take
DIGITS = 5
TRIES = 4  # how often a command is run until other programs leave it alone
STOPPED = 75  # exit code: to be gone on with, as hone's


def rounded(number):
    return float(f"{number:.{DIGITS}g}")


def figure(found, reads="speed"):
    """What is kept of what a command printed: hone's benches give `tokens_per_second` or `runs`, the other scripts `value`.
    `reads` takes another figure from what a bench of hone printed."""
    if "error" in found:
        return found
    found = found | READERS[reads](found)
    keep = rounded if found["unit"] != "nats" else lambda loss: round(loss, 6)
    kept = {"value": keep(found["value"]), "unit": found["unit"], "runs": [keep(run) for run in found.get("runs", [])]}
    return kept | {key: found[key] for key in ("peak_bytes", "max_rss_bytes", "wall_seconds", "others") if key in found}


def speed(found):
    return {"value": found.get("value") or found.get("tokens_per_second") or statistics.median(found["runs"])}


def arithmetic(found):
    """Operations a second: those of a step are counted, attention's among them."""
    scale = found["operations"] / found["tokens"] / 1e9
    return {"value": found["tokens_per_second"] * scale, "unit": "GFLOP/s", "runs": [run * scale for run in found["runs"]]}


def seconds_in(found, operations):
    return sum(part["seconds"] for part in found["profile"] if part["operation"] in operations)


def without_attention(found):
    """Tokens a second of the time that attention did not take."""
    total = sum(found["tokens"] / run for run in found["runs"])
    tokens = found["tokens"] * len(found["runs"])
    return {"value": tokens / (total - seconds_in(found, ("attention", "attention, backward"))), "runs": []}


def cache(found):
    """The share of the time in which keys and values are put into pages."""
    return {"value": seconds_in(found, ("cache",)) / sum(found["tokens"] / run for run in found["runs"]), "unit": "of the time", "runs": []}


def memory(found):
    return {"value": found["max_rss_bytes"], "unit": "bytes", "runs": []}


READERS = {"speed": speed, "arithmetic": arithmetic, "without attention": without_attention, "cache": cache, "memory": memory}


class Busy(Exception):
    """Other programs do not leave the machine alone."""


class Bench:
    """Where everything is, and what stands for it in the commands that are shown."""

    def __init__(self, a, scratch):
        peers = pathlib.Path(a.peers).absolute()
        self.threads, self.trial, self.busy, self.wait = a.threads, a.trial, a.busy, 0.0 if a.trial else 60 * a.wait
        self.data = pathlib.Path(a.data).absolute() if a.data else peers / "data"
        self.python = pathlib.Path(a.python).absolute() if a.python else peers / "env/bin/python"
        self.loose = pathlib.Path(a.loose).absolute() if a.loose else peers / "loose"
        built = pathlib.Path(a.hone).absolute()
        for path, hint in ((built, "cargo build --release"), (self.python, "bash bench/setup.sh"), (self.data / "manifest.json", "bash bench/setup.sh")):
            if not path.exists():
                raise SystemExit(f"{path} is not there: {hint}")
        # A copy, so that a build meanwhile does not change what is measured
        self.hone = scratch / "hone"
        shutil.copy2(built, self.hone)
        self.manifest = json.loads((self.data / "manifest.json").read_text())
        self.names = {str(self.hone): "hone", str(self.python): "python", str(self.data): "DATA", str(self.loose): "LOOSE", str(BENCH): "bench", str(scratch): "SCRATCH",
                      str(peers): "PEERS", str(pathlib.Path.home()): "HOME"}
        # Compiled in the process itself, so that all of its work is seen to be its own
        self.environment = os.environ | {
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(scratch / "hf"),
            "TOKENIZERS_PARALLELISM": "false", "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"), "TMPDIR": str(scratch)}
        # So that hone is asked for nothing but what the command says
        for name in ("HONE_ISA", "HONE_THREADS"):
            self.environment.pop(name, None)

    def setup(self):
        """What a row's rounds have in common."""
        tell = [str(self.python), str(BENCH / "peers/versions.py")]
        version = subprocess.run([self.hone, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
        commit = subprocess.run(["git", "-C", str(REPOSITORY), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        return {
            "machine": machine.described(self.hone), "threads": self.threads,
            "hone": {"version": version, "checkout": commit.stdout.strip() or None, "sha256": hashlib.sha256(self.hone.read_bytes()).hexdigest()},
            "versions": json.loads(subprocess.run(tell, capture_output=True, text=True, check=True).stdout),
            "parameters": self.manifest["parameters"],
        }

    def command(self, measure):
        steps = measure.steps[1 if self.trial else 0]
        values = {"HONE": str(self.hone), "PYTHON": str(self.python), "THREADS": str(self.threads), "STEPS": str(steps),
                  "WEIGHTS": str(2 * self.manifest["parameters"]["b"])}
        words = [values.get(word, word) for word in measure.command.split()]
        folders = {"DATA": str(self.data), "LOOSE": str(self.loose)}
        parts = [word.partition("/") for word in words]
        return ["".join((folders.get(first, first) if slash else first, slash, rest)) for first, slash, rest in parts]

    def shown(self, text):
        """A text in which this machine's paths are replaced by what they stand for, the longest first."""
        for path in sorted(self.names, key=len, reverse=True):
            text = text.replace(path, self.names[path])
        return text

    def measured(self, measure):
        """Runs the command, again where other programs disturbed it; the least disturbed result, or Busy where that is not allowed."""
        results = []
        for word in measure.command.split():
            name = word.removeprefix("LOOSE/")
            if name != word and not loose.built(self.loose, name):
                return {"error": f"{word} is not there, or was built from other sources: python3 bench/loose.py"}
        while len(results) < TRIES:
            self.wait = machine.wait_until_quiet(self.wait)
            found = figure(machine.run(self.command(measure), BENCH, self.environment, LIMIT), measure.reads)
            if "error" in found:
                return {"error": self.shown(found["error"])}
            results.append(found)
            if self.trial or (found["others"] or 0.0) <= machine.DISTURBED:
                return found
            if self.wait <= 0.0:
                break
        if not self.busy:
            raise Busy(f"{measure.who}: other programs took {found['others']:.0%} of the processor")
        return min(results, key=lambda r: r["others"])


def same_setup(record, setup):
    """Whether rounds of both may stand in one record: what was built counts, not from which checkout."""
    def key(s):
        return {**s, "hone": s["hone"]["sha256"]}
    return key(record["setup"]) == key(setup)


def load(path):
    return json.loads(path.read_text()) if path.exists() else None


def save(path, record):
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(report.as_json(record))
    os.replace(temporary, path)


def measure_row(row, bench, setup, runs, folder):
    """Does the rounds of a row that are missing, and keeps each; the whole record, with how many were done now."""
    final, part = folder / f"{row.name}.json", folder / f"{row.name}.json.part"
    record = load(part)
    if record is None or not same_setup(record, setup):
        commands = {m.key: bench.shown(" ".join(bench.command(m))) for m in row.measures}
        record = {"row": row.name, "date": datetime.date.today().isoformat(), "setup": setup, "commands": commands, "rounds": []}
    while len(record["rounds"]) < runs:
        number = len(record["rounds"])
        order = row.measures if number % 2 == 0 else row.measures[::-1]
        found = {}
        for measure in order:
            # What failed once is not tried again in this row
            failed = next((r[measure.key] for r in record["rounds"] if "error" in r[measure.key]), None)
            found[measure.key] = failed or bench.measured(measure)
            result = found[measure.key]
            told = result.get("error") or f"{result['value']:,.6g} {result['unit']} in {result['wall_seconds']:.0f} s, others {result['others']}"
            print(f"{row.name} {number + 1}/{runs}  {measure.who}: {told}", flush=True)
        record["rounds"].append({m.key: found[m.key] for m in row.measures})
        save(part, record)
    os.replace(part, final)
    return record


def stored(folder):
    """The records of the rows that are measured, by name."""
    return {row.name: record for row in rows.ROWS if (record := load(folder / f"{row.name}.json"))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows, with commas or spaces between them")
    parser.add_argument("--runs", type=int, default=5, help="rounds of each row (5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of hone and of every peer (2)")
    parser.add_argument("--hone", default=str(REPOSITORY / "target/release/hone"), help="the program (target/release/hone)")
    parser.add_argument("--peers", default=str(BENCH / ".peers"), help="what setup.sh made (bench/.peers)")
    parser.add_argument("--python", help="the peers' Python (PEERS/env/bin/python)")
    parser.add_argument("--data", help="models and data (PEERS/data)")
    parser.add_argument("--loose", help="what loose.py made (PEERS/loose)")
    parser.add_argument("--machine", metavar="NAME", help="see above")
    parser.add_argument("--results", help="where results are kept (bench/results)")
    parser.add_argument("--document", help="what is written (docs/benchmarks.md)")
    parser.add_argument("--wait", type=float, default=60, metavar="MINUTES", help="waits for other programs to end, so long in all (60)")
    parser.add_argument("--busy", action="store_true", help="measures although other programs run; the document says so")
    parser.add_argument("--fresh", action="store_true", help="measures again what is measured already")
    for flag in ("trial", "document-only", "check", "list"):
        parser.add_argument(f"--{flag}", action="store_true", help="see above" if flag != "list" else "the names of the rows")
    a = parser.parse_args()
    if a.results and not a.document:
        parser.error("--results needs --document, or the usual document would be written")
    asked = rows.chosen([name for names in a.only for name in names.split(",") if name])
    folder, document = (pathlib.Path(given or usual) for given, usual in zip((a.results, a.document), places(a.machine)))
    if a.list:
        print("\n".join(row.name for row in asked))
    elif a.check:
        chosen = any((a.machine, a.results, a.document))
        for folder, document in [(folder, document)] if chosen else every_place():
            if not document.exists() or document.read_text() != written(folder):
                raise SystemExit(f"{document} is not what the results say: python3 bench/run.py --document-only{of_machine(folder)}")
    elif a.document_only:
        if not stored(folder):
            raise SystemExit(f"{folder} has no results")
        document.write_text(written(folder))
    else:
        try:
            measure_all(a, asked, folder, document)
        except Busy as busy:
            print(f"stopped: {busy}; the same command goes on with it when the machine is quiet (--busy measures all the same)", file=sys.stderr)
            return STOPPED
    return 0


def places(name):
    """Where a machine's results and document are; the first one has no name."""
    suffix = f"-{name}" if name else ""
    return BENCH / f"results{suffix}", REPOSITORY / f"docs/benchmarks{suffix}.md"


def every_place(bench=BENCH, repository=REPOSITORY):
    """Those of each machine that has results or a document."""
    folders = {path.parent.name.removeprefix("results").removeprefix("-") for path in bench.glob("results*/*.json")}
    documents = {path.stem.removeprefix("benchmarks").removeprefix("-") for path in repository.glob("docs/benchmarks*.md")}
    return [places(name) for name in sorted(folders | documents)]


def of_machine(folder):
    return f" --machine {folder.name.removeprefix('results-')}" if folder.name.startswith("results-") else ""


def written(folder):
    """The document of a folder of results."""
    try:
        named = folder.resolve().relative_to(REPOSITORY)
    except ValueError:
        named = folder
    return report.document(stored(folder), str(named))


def refuse_another_processor(folder, setup):
    """Figures of one table are of one processor."""
    mine = setup["machine"]["processor"]
    for name, record in stored(folder).items():
        theirs = record["setup"]["machine"]["processor"]
        if theirs != mine:
            raise SystemExit(f"{folder}/{name}.json is of another processor ({theirs}; this one: {mine}): --machine NAME keeps results of its own")


def measure_all(a, asked, folder, document):
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as scratch:
        bench = Bench(a, pathlib.Path(scratch))
        setup = bench.setup()
        if a.trial:
            folder = pathlib.Path(scratch) / "results"
        folder.mkdir(parents=True, exist_ok=True)
        refuse_another_processor(folder, setup)
        for row in asked:
            runs = 1 if a.trial else min(a.runs, row.rounds or a.runs)
            old = load(folder / f"{row.name}.json")
            if a.fresh:
                (folder / f"{row.name}.json.part").unlink(missing_ok=True)
            elif old and same_setup(old, setup) and len(old["rounds"]) >= runs and not report.failures(old):
                print(f"{row.name}: measured already (--fresh measures again)")
                continue
            record = measure_row(row, bench, setup, runs, folder)
            for line in row.lines:
                print(f"{row.name}: {line.work}: {report.outcome(line, record).words}", flush=True)
            if not a.trial:
                document.write_text(written(folder))


if __name__ == "__main__":
    sys.exit(main())
