#!/usr/bin/env python3
"""Builds hone once as it is and once for each constraint of exactness that can be taken out of it, to measure what the constraint costs.
Results of the loosened programs are good for nothing else. Needs Rust; a build takes minutes.

usage: bench/loose.py [OUT] [NAME...]     OUT: bench/.peers/loose; without names all that are not there, or were built from other sources
"""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

BENCH = pathlib.Path(__file__).resolve().parent
REPOSITORY = BENCH.parent
MATH, SIMD, ATTENTION = (f"crates/hone-compute/src/cpu/{name}.rs" for name in ("math", "simd", "attention/mod"))
FOUR_SUMS = """let mut sum = Lanes::<S>::splat(0.0);
        let mut four = [sum; 4];
        let whole = {length} / 64 * 64;
        for at in (0..whole).step_by(64) {{
            for (i, sum) in four.iter_mut().enumerate() {{
                let at = at + 16 * i;
                *sum = {step};
            }}
        }}
        sum = four[0].add(four[1]).add(four[2].add(four[3]));
        {rest}
        """
SUM = "let blocks = x.chunks_exact(REDUCTION_LANES);"
DOT = "let (a_blocks, b_blocks) = (a.chunks_exact(REDUCTION_LANES), b.chunks_exact(REDUCTION_LANES));"
START = "let mut sum = Lanes::<S>::splat(0.0);\n        "
LOAD = "Lanes::load({0}[at..at + 16].as_ptr())".format

# What is replaced by what in which file
CHANGES = {
    # One running pass over all keys in place of segments of 512 that are merged from left to right
    "segments": [(ATTENTION, "const SEGMENT: usize = 8;", "const SEGMENT: usize = 1 << 20;")],
    # exp to five digits in place of seven, and the processor's approximate reciprocal in place of division
    "functions": [
        (MATH, "const EXP_COEFFICIENTS: [f32; 5] = [0.5, 1.666_657_6e-1, 4.166_646_7e-2, 8.363_175e-3, 1.393_364_4e-3];",
         "const EXP_COEFFICIENTS: [f32; 3] = [0.5, 1.675_6e-1, 4.2e-2];"),
        *((MATH, f"let r = S::fma(k, S::splat(-LN_2_HIGH), {x});\n        let r = S::fma(k, S::splat(-LN_2_LOW), r);\n        let q = polynomial::<S, 5>",
           f"let r = S::fma(k, S::splat(-std::f32::consts::LN_2), {x});\n        let q = polynomial::<S, 3>") for x in ("upper", "x")),
        (SIMD, "_mm512_div_ps(a, b)", "_mm512_mul_ps(a, _mm512_rcp14_ps(b))"),
        (SIMD, "_mm256_div_ps(a, b)", "_mm256_mul_ps(a, _mm256_rcp_ps(b))"),
    ],
    # Sums of a row in four chains in place of one, and the gradients of norms and biases in larger chunks of rows
    "sums": [
        (MATH, START + SUM, FOUR_SUMS.format(length="x.len()", step=f"sum.add({LOAD('x')})", rest="let x = &x[whole..];") + SUM),
        (MATH, START + DOT, FOUR_SUMS.format(length="a.len()", step=f"{LOAD('a')}.fma({LOAD('b')}, *sum)",
                                             rest="let (a, b) = (&a[whole..], &b[whole..]);") + DOT),
        ("crates/hone-compute/src/rows_left.rs", "const ROW_CHUNK: usize = 64;", "const ROW_CHUNK: usize = 512;"),
    ],
    # Log-probabilities by chunks of another size
    "vocabulary": [("crates/hone-compute/src/cpu/logprob.rs", "const VOCAB_CHUNK: usize = 2048;", "const VOCAB_CHUNK: usize = 8192;")],
    # No comparison of sampled and recomputed log-probabilities of the episodes that the first step of an update does not train on
    "check": [("crates/hone-train/src/ppo/step.rs", "check_others(engine, &learners.policy.model, asked, others)?;", "drop((asked, others));")],
}
# Another size of chunks may be slower and hide what the others cost
CHANGES["all"] = [change for name, changes in CHANGES.items() if name != "vocabulary" for change in changes]
PROGRAMS = ("exact", *CHANGES)


def sources():
    return ["Cargo.toml", "Cargo.lock", *sorted(str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "crates").rglob("*") if p.is_file())]


def digest(name):
    """Of what a program is built from."""
    summed = hashlib.sha256(repr(CHANGES.get(name)).encode())
    for path in sources():
        summed.update(path.encode() + b"\0" + hashlib.sha256((REPOSITORY / path).read_bytes()).digest())
    return summed.hexdigest()


def changed(name, text_of):
    """The files of a program that differ from the repository's."""
    texts = {}
    for path, old, new in CHANGES.get(name, []):
        text = texts.get(path) or text_of(path)
        if text.count(old) != 1:
            raise SystemExit(f"{name}: {path} has {text.count(old)} times what is to be replaced, expected once: {old}")
        texts[path] = text.replace(old, new)
    return texts


def built(out, name):
    """Whether the program is there, built from what the repository holds now."""
    stamp = out / f"{name}.sources"
    return (out / name).exists() and stamp.exists() and stamp.read_text() == digest(name)


def build(out, name):
    tree = out / "sources"
    wanted = set(sources())
    for path in (p for p in tree.rglob("*") if p.is_file() and str(p.relative_to(tree)) not in wanted):
        path.unlink()
    for path in sources():
        put(tree / path, (REPOSITORY / path).read_bytes())
    for path, text in changed(name, lambda path: (REPOSITORY / path).read_text()).items():
        put(tree / path, text.encode())
    environment = os.environ | {"CARGO_TARGET_DIR": str(out / "target"), "RUSTFLAGS": "--cap-lints warn"}
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "hone-lm"], cwd=tree, env=environment, check=True)
    shutil.copy2(out / "target/release/hone", out / name)
    (out / f"{name}.sources").write_text(digest(name))


def put(path, content):
    """Writes only what differs, so that as little as possible is built."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else BENCH / ".peers/loose").absolute()
    names = sys.argv[2:] or PROGRAMS
    if unknown := set(names) - set(PROGRAMS):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    for name in names:
        if not built(out, name):
            print(f"building {name}", flush=True)
            build(out, name)


if __name__ == "__main__":
    main()
