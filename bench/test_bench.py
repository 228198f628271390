"""Tests of the scripts that need no peer: python3 -m unittest discover -s bench"""
import argparse
import contextlib
import io
import json
import pathlib
import sys
import tempfile
import tomllib
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import figures
import hone_stage
import loose
import machine
import report
import rows
import run
import serving
import soak

SETUP = {
    "machine": {"processor": "P", "cores": 2, "instruction_set": "avx2", "in_hardware": ["avx2"], "memory_gb": 8.0, "system": "Linux", "huge_pages": None},
    "threads": 2, "hone": {"version": "0.1.0", "checkout": "abc", "sha256": "0123456789abcdef0123"}, "versions": {"torch": "1"},
    "parameters": {"b": 1_000_000_000},
}


def found(value, unit="tokens/s", rss=100):
    return {"value": value, "unit": unit, "runs": [value], "max_rss_bytes": rss, "wall_seconds": 1.0, "others": 0.0}


def record(rounds, row="gemm"):
    return {"row": row, "date": "2026-01-01", "setup": SETUP, "commands": {key: f"do {key}" for key in rounds[0]}, "rounds": rounds}


def line(kind, theirs=("peer",), **more):
    return rows.Line("work", "peer", "hone", theirs, kind, **more)


class Outcomes(unittest.TestCase):
    def test_a_speed_is_the_ratio_of_medians_with_the_range_of_rounds(self):
        r = record([{"hone": found(h), "peer": found(p)} for h, p in ((30.0, 10.0), (20.0, 20.0), (50.0, 10.0))])
        o = report.outcome(line("speed", least=2.0, aim=4.0), r)
        self.assertEqual((o.ratio, o.figure, o.words), (3.0, "3.00x (1.00x to 5.00x)", "reached"))

    def test_the_faster_peer_counts(self):
        r = record([{"hone": found(30.0), "slow": found(10.0), "fast": found(20.0)}])
        self.assertEqual(report.outcome(line("speed", ("slow", "fast"), least=1.0), r).ratio, 1.5)

    def test_the_other_peer_counts_where_one_failed(self):
        r = record([{"hone": found(30.0), "slow": found(10.0), "fast": {"error": "no compiler"}}])
        self.assertEqual(report.outcome(line("speed", ("slow", "fast"), least=1.0), r).ratio, 3.0)

    def test_it_says_that_hone_is_slower(self):
        r = record([{"hone": found(9.0), "peer": found(10.0)}])
        self.assertEqual(report.outcome(line("speed", least=1.0), r).words, "not reached: hone is slower")
        self.assertIn("hone is slower", report.outcome(line("speed"), r).words)

    def test_memory_is_the_peers_over_ours(self):
        r = record([{"hone": found(1.0, rss=100), "peer": found(1.0, rss=250)}])
        o = report.outcome(line("memory", least=2.0), r)
        self.assertEqual((o.ratio, o.words), (2.5, "reached"))

    def test_a_share_is_of_what_the_other_could_do(self):
        # 6 operations of 10^9 weights for each of 50 tokens a second are 300 of 500 GFLOP/s
        r = record([{"hone": found(50.0), "peer": found(500.0, "GFLOP/s")}])
        o = report.outcome(line("share", least=0.55, aim=0.7, model="b", a_weight=6 / 1e9), r)
        self.assertEqual((round(o.ratio, 9), o.figure, o.words), (0.6, "60%", "reached"))

    def test_a_part_is_to_be_small(self):
        r = record([{"hone": found(4.0, "bytes"), "peer": found(100.0, "bytes")}])
        self.assertEqual(report.outcome(line("part", least=0.05), r).words, "reached")
        self.assertEqual(report.outcome(line("part", least=0.03), r).words, "not reached")

    def test_what_is_to_be_level_is_the_largest_over_the_smallest(self):
        r = record([{"a": found(100.0), "b": found(104.0), "c": found(95.0)}])
        l = rows.Line("work", "one another", "a", ("b", "c"), "level", 0.10)
        o = report.outcome(l, r)
        self.assertEqual((o.hone, o.figure, o.words), ("100, 104, 95.0 tokens/s", "9.5%", "reached"))
        r["rounds"][0]["c"] = found(80.0)
        self.assertEqual(report.outcome(l, r).words, "not reached")
        r["rounds"][0]["b"] = {"error": "ended with 2: no memory"}
        self.assertIn("no memory", report.outcome(l, r).words)

    def test_a_straight_line_has_no_deviation(self):
        def bent(*values):
            r = record([{key: found(value, "bytes") for key, value in zip("abcd", values)}])
            return report.outcome(rows.Line("work", "a line", "a", ("b", "c", "d"), "straight", 0.05, at=(1, 2, 4, 8)), r)
        self.assertLess(bent(3.0, 5.0, 9.0, 17.0).ratio, 1e-12)
        quadratic = bent(1.0, 4.0, 16.0, 64.0)
        self.assertEqual(quadratic.words, "not reached")
        # By hand: the line of least squares is 9.2609 x - 13.4783, and -4.2174 where 1 is measured
        self.assertAlmostEqual(quadratic.ratio, 1.0 + 1.0 / 4.2174, places=3)

    def test_noise_compares_distances_of_curves(self):
        def curve(*losses):
            return found(losses[-1], "nats") | {"runs": list(losses)}
        r = record([{"hone": curve(5.0, 4.1, 3.0), "torch": curve(5.2, 4.0, 3.0), "true": curve(5.0, 4.0, 3.0)}])
        l = rows.Line("work", "bf16", "hone", ("torch",), "noise", 1.0, base="true")
        o = report.outcome(l, r)
        self.assertEqual((o.figure, o.words, o.hone), ("0.50x", "reached", "0.033 apart, 3.0000 nats at last"))
        with self.assertRaises(ValueError):
            figures.apart([1.0], [1.0, 2.0])

    def test_a_plan_is_near_on_either_side(self):
        for planned in (95.0, 105.0):
            r = record([{"plan": found(planned, "bytes"), "peak": found(100.0, "bytes")}])
            o = report.outcome(rows.Line("work", "peak", "plan", ("peak",), "near", 0.10), r)
            self.assertEqual((round(o.ratio, 9), o.words), (0.05, "reached"))

    def test_what_a_constraint_costs_is_what_is_gained_without_it(self):
        r = record([{"exact": found(100.0), "loose": found(107.0)}])
        o = report.outcome(rows.Line("work", "loose", "exact", ("loose",), "cost", 0.05), r)
        self.assertEqual((o.figure, o.words), ("7.0%", "not reached"))
        self.assertEqual(report.outcome(rows.Line("work", "loose", "exact", ("loose",), "cost"), r).words, "no target")

    def test_a_limit_is_shown_in_its_unit(self):
        r = record([{"hone": found(9e9, "bytes")}])
        l = rows.Line("work", "8 GB", "hone", (), "most", 8e9, unit="bytes")
        o = report.outcome(l, r)
        self.assertEqual((o.figure, o.words, report.target(l, l.least)), ("9,000 MB", "not reached", "at most 8,000 MB"))

    def test_a_failure_is_told(self):
        r = record([{"hone": {"error": "ended with 2: no such option"}, "peer": found(1.0)}])
        self.assertIn("no such option", report.outcome(line("speed", least=1.0), r).words)


class Document(unittest.TestCase):
    def test_it_has_every_line_and_says_where_hone_loses(self):
        r = record([{"hone": found(80.0, "GFLOP/s"), "torch": found(100.0, "GFLOP/s"), "ordered": found(160.0, "GFLOP/s")}])
        text = report.document({"gemm": r}, "bench/results-other")
        self.assertIn("from the results in\n`bench/results-other`", text)
        for row in rows.ROWS:
            here = self.assertIn if row.name == "gemm" else self.assertNotIn
            here(f"### {row.name}\n", text)
            for l in row.lines:
                here(f"| {l.work} | {l.against} |", text)
        losses = text.split("## Where hone loses")[1].split("## Row by row")[0]
        self.assertIn("0.80x of torch.matmul", losses)
        self.assertIn("0.50x of PyTorch's product", losses)
        self.assertIn("- train-m: not measured", losses.split("Without a figure")[1])
        self.assertIn("do ordered", text)

    def test_every_machine_has_a_document(self):
        self.assertEqual(run.places("other"), (run.BENCH / "results-other", run.REPOSITORY / "docs/benchmarks-other.md"))
        self.assertEqual([run.of_machine(run.places(name)[0]) for name in (None, "other")], ["", " --machine other"])
        with tempfile.TemporaryDirectory() as scratch:
            there = pathlib.Path(scratch)
            for path in ("results/gemm.json", "results-a/gemm.json", "results-begun/gemm.json.part", "docs/benchmarks.md", "docs/benchmarks-b.md"):
                (there / path).parent.mkdir(exist_ok=True)
                (there / path).touch()
            self.assertEqual(run.every_place(there, there), [run.places(name) for name in (None, "a", "b")])

    def test_a_table_is_of_one_processor(self):
        with tempfile.TemporaryDirectory() as scratch:
            folder, r = pathlib.Path(scratch), record([{"hone": found(1.0)}])
            r["setup"] = {**r["setup"], "machine": {"processor": "mine"}}
            (folder / "gemm.json").write_text(report.as_json(r))
            run.refuse_another_processor(folder, {"machine": {"processor": "mine"}})
            with self.assertRaisesRegex(SystemExit, "another processor .mine; this one: yours"):
                run.refuse_another_processor(folder, {"machine": {"processor": "yours"}})

    def test_a_record_comes_back_as_it_was_kept(self):
        r = record([{"hone": found(1.0)}, {"hone": found(2.0)}])
        self.assertEqual(json.loads(report.as_json(r)), r)


class Readings(unittest.TestCase):
    """What is read from the JSON of a bench: two runs of 100 tokens, of 1 and 2 seconds."""

    printed = {
        "tokens_per_second": 75.0, "runs": [100.0, 50.0], "unit": "tokens/s", "tokens": 100, "operations": 3e9, "max_rss_bytes": 7,
        "profile": [{"operation": "attention", "seconds": 0.25}, {"operation": "attention, backward", "seconds": 0.75}, {"operation": "cache", "seconds": 0.3}],
    }

    def test_readers(self):
        def read(name):
            kept = run.figure(self.printed, name)
            return round(kept["value"], 9), kept["unit"]
        self.assertEqual(read("speed"), (75.0, "tokens/s"))
        self.assertEqual(read("arithmetic"), (2.25, "GFLOP/s"))
        self.assertEqual(read("without attention"), (100.0, "tokens/s"))
        self.assertEqual(read("cache"), (0.1, "of the time"))
        self.assertEqual(read("memory"), (7, "bytes"))

    def test_losses_keep_their_digits(self):
        self.assertEqual(run.figure({"value": 9.8129153, "unit": "nats", "runs": [9.8129153]})["runs"], [9.812915])

    def test_every_measure_has_a_reader_and_every_figure_a_unit(self):
        for row in rows.ROWS:
            for m in row.measures:
                self.assertIn(m.reads, run.READERS)
                self.assertIn(m.unit, report.UNITS)


class Serving(unittest.TestCase):
    answer = (b"HTTP/1.1 200 OK\r\n\r\n" b'data: {"choices": [{"text": ""}]}\n\n' b'data: {"choices": [{"text": "so", "finish_reason": null}]}\n\n'
              b'data: {"choices": [{"text": "", "finish_reason": "length"}]}\n\n' b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\ndata: [DONE]\n\n')

    def test_the_first_text_is_seen_when_it_is_whole(self):
        end = self.answer.index(b"so") + 2
        self.assertFalse(serving.has_text(self.answer[:end]))
        self.assertTrue(serving.has_text(self.answer[:self.answer.index(b"null") + 8]))

    def test_tokens_are_those_of_the_usage(self):
        self.assertEqual(serving.tokens(self.answer), 2)
        self.assertEqual(serving.tokens(self.answer[:self.answer.index(b"usage")]), 0)

    def test_an_answer_that_ends_early_without_a_stop_is_a_fault(self):
        def faults(new, received):
            a = argparse.Namespace(new=new, data="unused", length=8, streams=1)
            s = soak.Soak.__new__(soak.Soak)
            s.a, s.known, s.faults, s.whole, s.tokens = a, {}, [], 0, 0
            s.end({"received": bytearray(received), "which": None})
            return s.faults
        self.assertEqual(faults(2, self.answer), [])
        self.assertIn("2 tokens", faults(3, self.answer)[0])
        self.assertEqual(faults(3, self.answer.replace(b'"length"', b'"stop"')), [])
        self.assertEqual(len(faults(2, self.answer.replace(b"data: [DONE]", b""))), 1)


class Loose(unittest.TestCase):
    def test_every_change_finds_its_place_once(self):
        for name in loose.CHANGES:
            texts = loose.changed(name, lambda path: (loose.REPOSITORY / path).read_text())
            self.assertTrue(all(text != (loose.REPOSITORY / path).read_text() for path, text in texts.items()))
        with self.assertRaises(SystemExit):
            loose.changed("check", lambda path: "nothing")

    def test_a_program_of_other_sources_is_not_measured(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            self.assertFalse(loose.built(folder, "exact"))
            (folder / "exact").write_text("program")
            (folder / "exact.sources").write_text("others")
            self.assertFalse(loose.built(folder, "exact"))
            (folder / "exact.sources").write_text(loose.digest("exact"))
            self.assertTrue(loose.built(folder, "exact"))
            bench = object.__new__(run.Bench)
            bench.loose, bench.wait = folder, 0.0
            self.assertIn("loose.py", bench.measured(rows.Measure("all", "all", "LOOSE/all bench gemm"))["error"])

    def test_rows_ask_for_programs_that_are_built(self):
        words = [word for row in rows.ROWS for m in row.measures for word in m.command.split() if word.startswith("LOOSE/")]
        self.assertEqual({word.removeprefix("LOOSE/") for word in words}, set(loose.PROGRAMS))


class Stage(unittest.TestCase):
    def written(self, stage, *more):
        arguments = hone_stage.parsed([stage, "hone", "--model", "m", "--data", str(self.data), "--steps", "2", "--batch", "2", *more])
        return tomllib.loads(hone_stage.configuration(arguments, self.folder))

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.data = self.folder / "data.jsonl"
        self.data.write_text("".join(json.dumps({"text": f"text {i}", "messages": [i]}) + "\n" for i in range(5)))

    def test_losses_take_a_source_a_text_in_their_order(self):
        made = self.written("pretrain", "--losses")
        texts = [json.loads(pathlib.Path(path).read_text())["text"] for path in made["data"]["train"]]
        self.assertEqual(texts, ["text 0", "text 1", "text 2", "text 3"])
        self.assertEqual((made["train"]["schedule"], made["train"]["warmup_steps"], made["data"]["cross_document"]), ("constant", 0, True))
        with self.assertRaises(SystemExit):
            self.written("pretrain", "--losses", "--batch", "3")

    def test_conversations_are_joined(self):
        made = self.written("sft", "--join", "2", "--rank", "4")
        rows_ = pathlib.Path(made["data"]["train"][0]).read_text().splitlines()
        self.assertEqual([json.loads(row)["messages"] for row in rows_], [[0, 1], [2, 3]])
        self.assertEqual(made["lora"]["rank"], 4)

    def test_preference_is_dpo_on_whole_batches_of_pairs(self):
        made = self.written("preference")
        self.assertEqual((made["preference"]["method"], made["preference"]["beta"]), ("dpo", 0.1))
        self.assertEqual((made["train"]["batch"], made["train"]["steps"], made["data"]["held_out"]), (2, 2, 0.0))
        rows_ = pathlib.Path(made["data"]["train"][0]).read_text().splitlines()
        self.assertEqual([json.loads(row)["text"] for row in rows_], ["text 0", "text 1", "text 2", "text 3"])
        with self.assertRaises(SystemExit):
            self.written("preference", "--batch", "3")

    def test_pairs_are_counted_by_the_second(self):
        (self.folder / "runs/run").mkdir(parents=True)
        steps = [{"seconds": seconds, "tokens_per_second": 1.0} for seconds in (9.0, 9.0, 1.0, 2.0, 4.0)]
        (self.folder / "runs/run/timings.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        a = hone_stage.parsed(["preference", "true", "--model", "m", "--data", "d", "--batch", "4"])
        self.assertEqual(hone_stage.trained(a, self.folder), {"value": 2.0, "unit": "pairs/s", "runs": [4.0, 2.0, 1.0]})

    def test_ppo_has_its_own_section(self):
        made = self.written("ppo", "--reward", "r")
        self.assertEqual((made["ppo"]["rollout_batch"], made["ppo"]["updates"]), (2, 2))
        self.assertNotIn("batch", made["train"])


class Rows(unittest.TestCase):
    def test_lines_name_measures_that_are_there(self):
        self.assertEqual(len({row.name for row in rows.ROWS}), len(rows.ROWS))
        for row in rows.ROWS:
            keys = [m.key for m in row.measures]
            self.assertEqual(len(set(keys)), len(keys), row.name)
            for l in row.lines:
                self.assertLessEqual({l.ours, *l.theirs, *([l.base] if l.base else [])}, set(keys), row.name)
                if l.kind == "straight":
                    self.assertEqual(len(l.at), 1 + len(l.theirs))

    def test_every_script_that_is_named_exists(self):
        for row in rows.ROWS:
            for m in row.measures:
                words = m.command.split()
                if words[0] == "PYTHON":
                    self.assertTrue((run.BENCH / words[1]).is_file(), m.command)

    def test_names_stand_for_rows(self):
        self.assertEqual([r.name for r in rows.chosen(["gemm", "train-m"])], ["train-m", "gemm"])
        self.assertEqual([r.name for r in rows.chosen(["stream"])], ["stream-m", "stream-b"])
        with self.assertRaises(SystemExit):
            rows.chosen(["nothing"])


class FakeBench:
    """Answers by key, in order, and remembers who was asked."""

    def __init__(self, fails=()):
        self.asked, self.fails = [], fails

    def command(self, measure):
        return [measure.key]

    def shown(self, text):
        return text

    def measured(self, measure):
        self.asked.append(measure.key)
        return {"error": "broken"} if measure.key in self.fails else found(1.0)


class Measuring(unittest.TestCase):
    row = rows.Row("pair", (rows.Measure("hone", "hone", "HONE"), rows.Measure("peer", "peer", "PYTHON")), ())

    def measure(self, bench, runs, folder, setup=SETUP):
        with contextlib.redirect_stdout(io.StringIO()):
            return run.measure_row(self.row, bench, setup, runs, pathlib.Path(folder))

    def test_the_order_turns_and_the_record_is_kept(self):
        with tempfile.TemporaryDirectory() as folder:
            bench = FakeBench()
            made = self.measure(bench, 3, folder)
            self.assertEqual(bench.asked, ["hone", "peer", "peer", "hone", "hone", "peer"])
            self.assertEqual(run.load(pathlib.Path(folder) / "pair.json"), made)
            self.assertFalse((pathlib.Path(folder) / "pair.json.part").exists())

    def test_an_interrupted_row_goes_on_unless_the_program_changed(self):
        with tempfile.TemporaryDirectory() as folder:
            part = pathlib.Path(folder) / "pair.json.part"
            begun = record([{"hone": found(1.0), "peer": found(1.0)}] * 2, "pair")
            run.save(part, begun)
            bench = FakeBench()
            self.assertEqual(len(self.measure(bench, 3, folder)["rounds"]), 3)
            self.assertEqual(len(bench.asked), 2)
            run.save(part, begun)
            bench = FakeBench()
            other = {**SETUP, "hone": {**SETUP["hone"], "sha256": "f"}}
            self.measure(bench, 3, folder, other)
            self.assertEqual(len(bench.asked), 6)

    def test_what_failed_is_not_tried_again(self):
        with tempfile.TemporaryDirectory() as folder:
            bench = FakeBench(fails=("peer",))
            made = self.measure(bench, 3, folder)
            self.assertEqual(bench.asked.count("peer"), 1)
            self.assertEqual(report.failures(made), {"peer": "broken"})


class Disturbed(unittest.TestCase):
    """What `Bench.measured` does about other programs, with shares given in place of runs."""

    def measured(self, shares, busy=False, wait=1.0):
        bench = object.__new__(run.Bench)
        bench.trial, bench.busy, bench.wait, bench.environment, bench.command = False, busy, wait, None, lambda measure: []
        answers = iter(shares)
        replaced = machine.run, machine.wait_until_quiet
        machine.run = lambda *_: {"value": 1.0, "unit": "tokens/s", "others": next(answers), "wall_seconds": 1.0, "max_rss_bytes": 1}
        machine.wait_until_quiet = lambda seconds: seconds
        try:
            return bench.measured(rows.Measure("hone", "hone", "HONE"))["others"]
        finally:
            machine.run, machine.wait_until_quiet = replaced

    def test_a_disturbed_command_is_repeated(self):
        self.assertEqual(self.measured([0.5, 0.3, 0.02]), 0.02)

    def test_a_busy_machine_stops_the_measurement_unless_asked_not_to(self):
        with self.assertRaises(run.Busy):
            self.measured([0.5] * run.TRIES)
        with self.assertRaises(run.Busy):
            self.measured([0.5], wait=0.0)
        self.assertEqual(self.measured([0.5, 0.3, 0.4, 0.6], busy=True), 0.3)


class Commands(unittest.TestCase):
    def python(self, code, limit=60):
        return machine.run([sys.executable, "-c", code], ".", None, limit)

    def test_the_last_line_counts_and_memory_is_the_childs(self):
        done = self.python("x = bytearray(200_000_000); print('noise'); print('{\"value\": 3}')")
        self.assertEqual(done["value"], 3)
        self.assertGreater(done["max_rss_bytes"], 200_000_000)
        self.assertLess(done["max_rss_bytes"], 400_000_000)

    def test_memory_of_a_childs_child_counts(self):
        code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(200_000_000)']); print('{}')"
        self.assertGreater(self.python(code)["max_rss_bytes"], 200_000_000)

    def test_failures_say_what_was_said(self):
        self.assertEqual(self.python("import sys; sys.exit('no model')")["error"], "ended with 1: no model")
        self.assertIn("stopped after", self.python("import time; time.sleep(60)", limit=0.5)["error"])
        self.assertIn("no JSON", self.python("print('x')")["error"])
        self.assertIn("error", machine.run(["./absent"], ".", None, 1))


if __name__ == "__main__":
    unittest.main()
