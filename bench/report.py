"""From stored rounds to figures, and to the document."""
import json
import statistics
from dataclasses import dataclass

import figures
import machine
import rows

UNITS = {
    "bytes": (1e6, "MB"), "tokens/s": (1, "tokens/s"), "pairs/s": (1, "pairs/s"), "GFLOP/s": (1, "GFLOP/s"), "GB/s": (1, "GB/s"), "nats": (1, "nats"), "ms": (1, "ms"), "of the time": (0.01, "% of the time")}


def as_json(record):
    """A round in a line, so that differences can be read."""
    rounds = ",\n  ".join(json.dumps(r) for r in record["rounds"])
    head = json.dumps({k: v for k, v in record.items() if k != "rounds"}, indent=1).removesuffix("\n}")
    return f'{head},\n "rounds": [\n  {rounds}\n ]\n}}\n'


def failures(record):
    """What failed in a record: the errors by measure."""
    return {key: found["error"] for r in record["rounds"] for key, found in r.items() if "error" in found}


def each_round(record, key, what="value"):
    return [r[key][what] for r in record["rounds"]]


def amount(value, unit):
    scale, name = UNITS[unit]
    value /= scale
    if unit == "nats":
        return f"{value:.4f} {name}"
    return f"{value:,.0f} {name}" if value >= 100 else f"{value:.1f} {name}"


@dataclass
class Outcome:
    """A line of the table, worked out; without figures where it failed."""

    hone: str
    peer: str
    figure: str
    words: str
    ratio: float = None
    state: str = "failed"  # failed, missed, reached, aim, untargeted


def outcome(line, record):
    """The line's figure from a row's record."""
    failed = failures(record)
    theirs = [key for key in line.theirs if key not in failed]
    # Of several peers one may fail; of what stands side by side, none
    needed = [line.ours, *([line.base] if line.base else []), *(line.theirs if line.kind in ("level", "straight") else ())]
    if not theirs and line.theirs:
        needed.append(line.theirs[0])
    if told := next((failed[key] for key in needed if key in failed), None):
        return Outcome("", "", "", f"failed: {told}")
    # The best of the peers: the least memory, else the highest figure
    what = "max_rss_bytes" if line.kind == "memory" else "value"
    best = min if line.kind in ("memory", "part") else max
    them = best(theirs, key=lambda key: figures.median(record, key, what)) if theirs else None
    factor = record["setup"]["parameters"][line.model] * line.a_weight if line.model else 1.0
    found = figures.ratio(line, them, lambda key, what: figures.median(record, key, what), factor)
    each = [figures.ratio(line, them, lambda key, what, r=r: r[key][what], factor) for r in record["rounds"]]
    show = shown(line)
    figure = show(found)
    if max(each) > min(each):
        figure += f" ({show(min(each))} to {show(max(each))})"
    words, state = judged(line, found)
    return Outcome(*both(line, them, record), figure, words, found, state)


def both(line, them, record):
    """What stands for hone, and for what it is compared with."""
    def told(key):
        what = "max_rss_bytes" if line.kind == "memory" else "value"
        return amount(figures.median(record, key, what), "bytes" if line.kind == "memory" else record["rounds"][0][key]["unit"])

    if line.kind in ("level", "straight"):
        inner = [told(key) for key in (line.ours, *line.theirs)]
        return ", ".join(text.rpartition(" ")[0] for text in inner[:-1]) + f", {inner[-1]}", ""
    if line.kind == "noise":
        def curve(key):
            runs = figures.median(record, key, "runs")
            return f"{figures.apart(runs, figures.median(record, line.base, 'runs')):.2g} apart, {told(key)} at last"
        return curve(line.ours), curve(them)
    return told(line.ours), told(them) if them else ""


def shown(line):
    """How a line's figure is written."""
    if line.kind in ("speed", "memory", "noise"):
        return times
    unit = line.unit
    return percent if unit is None else lambda value: amount(value, unit)


def judged(line, ratio):
    if line.kind in figures.SMALL:
        if line.least is None:
            return "no target", "untargeted"
        return ("reached", "reached") if ratio <= line.least else ("not reached", "missed")
    slower = line.kind == "speed" and ratio < 1.0
    if line.least is None:
        return ("no target; hone is slower" if slower else "no target; hone is faster"), "untargeted"
    if ratio < line.least:
        return ("not reached: hone is slower" if slower else "not reached"), "missed"
    if line.aim and ratio >= line.aim:
        return "aim reached", "aim"
    return "reached", "reached"


def times(ratio):
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.1f}x"


def percent(ratio):
    return f"{100 * ratio:.1f}%" if abs(ratio) < 0.1 else f"{100 * ratio:.0f}%"


def target(line, value):
    if value is None:
        return "-"
    if line.kind == "noise":
        return f"at most {value:g}x"
    if line.kind in figures.SMALL:
        return "at most " + (f"{value:.0%}" if line.unit is None else amount(value, line.unit))
    return f"{value:.0%}" if line.kind == "share" else f"{value:g}x"


HEAD = """# Benchmarks

hone and what one would use otherwise, on the same work and the same machine. `bench/run.py` writes this page from the results in
`RESULTS`; [bench/README.md](../bench/README.md) says how to measure again. Nothing here is edited by hand.

## How it is measured
- **In turn.** In each round every command runs once, hone and peers one after the other, and in the next round in the opposite order. Figures are medians over the rounds; the ratio is that of the medians, in brackets the least and the greatest of the single rounds.
- **The same work.** Same shapes, same random weights, same precision, same number of threads, batch, lengths and new tokens. Where the work differs, the row's notes say so.
- **The peers as a careful user runs them.** bf16 where it is faster, fused AdamW, scaled dot-product attention. Where there are two ways to do the same work, both are measured and the faster counts.
- **hone with itself.** The rows *growth-training* and those behind it say how time and memory grow, whether odd shapes are slower, what `hone plan` is worth and what exactness costs; only *losses* has a peer. Not every machine has every row. Their figure is a share that is to be small, or, of shapes, large.
- **Nothing else.** Before each command the script waits for the machine to be quiet, and runs a command again that was disturbed. What other programs took is given with each row. (On a busy machine PyTorch and llama.cpp, whose threads wait for each other often, lose far more than hone: ratios taken there mean nothing.)
- **Memory** is the most that a process held (`ru_maxrss` of `wait4`), for all alike.
- **The commands** below are those that were run, in the folder `bench`; `DATA` is the folder of the models, `python` the peers' Python.

Speeds of a shared or virtual machine change from minute to minute; ratios of one round are what to compare.
"""


def document(records, folder="bench/results"):
    """The whole page, of the results in a folder."""
    setups = []
    for record in records.values():
        if shared(record["setup"]) not in setups:
            setups.append(shared(record["setup"]))
    parts = [HEAD.replace("RESULTS", folder), *machines(setups), "## Results\n", table(records), *where_hone_loses(records), "## Row by row\n"]
    parts += [details(row, records[row.name], setups) for row in rows.ROWS if row.name in records]
    return "\n".join(parts).rstrip() + "\n"


def shared(setup):
    return {**setup, "hone": {k: v for k, v in setup["hone"].items() if k != "checkout"}}


def machines(setups):
    if not setups:
        return ["## Machine and versions\nNothing is measured yet.\n"]
    lines = ["## Machine and versions\n"]
    for number, setup in enumerate(setups, 1):
        m, title = setup["machine"], f"### Setup {number}\n" if len(setups) > 1 else ""
        versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
        pages = f"; transparent huge pages: {m['huge_pages']}" if m["huge_pages"] else ""
        lines.append(
            f"{title}- Processor: {m['processor']}, {m['cores']} cores; {setup['threads']} threads for hone and every peer\n"
            f"- Instruction sets in hardware: {', '.join(m['in_hardware'])}; hone uses {m['instruction_set']}\n"
            f"- Memory: {m['memory_gb']} GB; {m['system']}{pages}\n"
            f"- hone {setup['hone']['version']} (SHA-256 of the program: {setup['hone']['sha256'][:16]})\n- {versions}\n")
    return lines


def table(records):
    lines = ["| work | against | hone | peer | ratio | at least | aim | in words |", "|---|---|---|---|---|---|---|---|"]
    for row in rows.ROWS:
        for line in row.lines if row.name in records else ():
            o = outcome(line, records[row.name])
            words = "failed, see below" if o.state == "failed" else o.words
            cells = (line.work, line.against, o.hone, o.peer, o.figure, target(line, line.least), target(line, line.aim), words)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def where_hone_loses(records):
    found = [(line, outcome(line, records[row.name])) for row in rows.ROWS if row.name in records for line in row.lines]
    slower = [f"- {line.work}: {o.figure} of {line.against}" for line, o in found if line.kind == "speed" and o.ratio is not None and o.ratio < 1.0]
    missed = [f"- {line.work}: {o.figure} against {line.against}; the target is {target(line, line.least)}" for line, o in found if o.state == "missed"]
    open_ = [f"- {line.work}: {o.words}" for line, o in found if o.state == "failed"]
    measured = len(found) - len(open_)
    open_ += [f"- {row.name}: not measured" for row in rows.ROWS if row.name not in records]
    lines = ["## Where hone loses\n"]
    for title, items, none in (("Slower than the peer", slower, "nowhere"), ("Targets that are not reached", missed, "none")):
        lines.append(f"{title}:\n\n" + "\n".join(items) + "\n" if items else f"{title}: {none} of what is measured.\n" if measured else f"{title}: unknown.\n")
    if open_:
        lines.append("Without a figure:\n\n" + "\n".join(open_) + "\n")
    return lines


def details(row, record, setups):
    lines = [f"### {row.name}"]
    if row.note:
        lines.append(row.note)
    failed = failures(record)
    rounds, which = len(record["rounds"]), ""
    if len(setups) > 1:
        which = f", setup {1 + setups.index(shared(record['setup']))}"
    shares = [found["others"] for r in record["rounds"] for found in r.values() if found.get("others") is not None]
    checkout = record["setup"]["hone"]["checkout"]
    lines.append(f"\n{rounds} rounds on {record['date']}{which}" + (f", checkout {checkout}" if checkout else "") + ".")
    if shares:
        lines[-1] += f" Other programs took {percent(statistics.median(shares))} of the processor in the median of the commands, {percent(max(shares))} at most."
        if max(shares) > machine.DISTURBED:
            lines[-1] += " **The machine was busy: this is not a fair comparison.**"
    lines += ["", "| | median | least to most | peak memory | whole process |", "|---|---|---|---|---|"]
    for measure in row.measures:
        if measure.key in failed:
            lines.append(f"| {measure.who} | failed: {failed[measure.key].replace('|', '/')} | | | |")
            continue
        values, unit = each_round(record, measure.key), record["rounds"][0][measure.key]["unit"]
        spread = f"{amount(min(values), unit)} to {amount(max(values), unit)}"
        memory, wall = (statistics.median(each_round(record, measure.key, what)) for what in ("max_rss_bytes", "wall_seconds"))
        lines.append(f"| {measure.who} | {amount(statistics.median(values), unit)} | {spread} | {amount(memory, 'bytes')} | {wall:.0f} s |")
    lines += ["", "```sh", *(record["commands"][measure.key] for measure in row.measures), "```", ""]
    return "\n".join(lines)
