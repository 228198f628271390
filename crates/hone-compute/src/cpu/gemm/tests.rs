//! Every instruction set and precision against scalar models of its chain, and against f64.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use super::bf16::rounded_bits;
use super::*;
use crate::isa::{Isa, Precision};

/// Numbers that are the same in every run.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.bits() >> 33) as usize % limit
    }

    /// Between -1 and 1.
    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vector(&mut self, length: usize) -> Vec<f32> {
        (0..length).map(|_| self.unit()).collect()
    }

    /// Magnitudes whose products reach from the normal numbers to far below the denormal ones, and some denormals.
    fn tiny_vector(&mut self, length: usize) -> Vec<f32> {
        (0..length)
            .map(|_| {
                let exponent = if self.below(8) == 0 {
                    0
                } else {
                    56 + self.below(10) as u32
                };
                let bits = self.bits() as u32;
                f32::from_bits(bits & 0x807f_ffff | exponent << 23)
            })
            .collect()
    }
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

/// A fused multiply-add that takes and leaves denormals as zeros.
fn flushing_fma(a: f32, b: f32, c: f32) -> f32 {
    flush(flush(a).mul_add(flush(b), flush(c)))
}

/// `c + a b` for one tile: `tdpbf16ps`, after Intel's manual.
pub(super) fn tile_model(a: &[f32], b: &[f32], c: f32) -> f32 {
    let (mut even, mut odd) = (0.0, 0.0);
    for (a, b) in a.chunks_exact(2).zip(b.chunks_exact(2)) {
        even = flushing_fma(a[0], b[0], even);
        odd = flushing_fma(a[1], b[1], odd);
    }
    flush(flush(c) + flush(even + odd))
}

/// One element of a product, by scalar arithmetic.
fn chain(cpu: &Cpu, a: &[f32], b: &[f32], start: f32) -> f32 {
    let rounded = |x: &[f32], multiple: usize| -> Vec<f32> {
        let mut x = x.to_vec();
        if cpu.precision == Precision::Bf16 {
            x.iter_mut().for_each(|x| *x = round_bf16(*x));
        }
        x.resize(x.len().next_multiple_of(multiple), 0.0);
        x
    };
    match (cpu.precision, cpu.isa) {
        (Precision::Bf16, Isa::Amx) => rounded(a, 32)
            .chunks_exact(32)
            .zip(rounded(b, 32).chunks_exact(32))
            .fold(start, |c, (a, b)| tile_model(a, b, c)),
        (Precision::Bf16, Isa::Avx512Bf16) => rounded(a, 2)
            .chunks_exact(2)
            .zip(rounded(b, 2).chunks_exact(2))
            .fold(start, |c, (a, b)| flushing_fma(a[0], b[0], flushing_fma(a[1], b[1], c))),
        (precision, isa) => {
            let multiple = if precision == Precision::Bf16 { 2 } else { 1 };
            let products = rounded(a, multiple).into_iter().zip(rounded(b, multiple));
            products.fold(start, |c, (a, b)| match isa {
                Isa::Portable => a * b + c,
                _ => a.mul_add(b, c),
            })
        }
    }
}

/// The bf16 number nearest to `x`.
fn round_bf16(x: f32) -> f32 {
    f32::from_bits(rounded_bits(x))
}

/// The bits of `x`, as f32, that a left operand of one row holds.
fn packed_row(cpu: &Cpu, x: &[f32]) -> Vec<u32> {
    let mut left = LeftMatrix::new();
    left.pack(cpu, x, 1, x.len());
    let cells = left.cells.cells();
    let bits = |i: usize| match left.form {
        Form::Pairs if i.is_multiple_of(2) => cells[i / 2] << 16,
        Form::Pairs => cells[i / 2] & 0xffff_0000,
        Form::Rounded | Form::Full => cells[i],
    };
    (0..x.len()).map(bits).collect()
}

/// The transpose of `x`, which is `[rows, columns]`.
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

fn packed(cpu: &Cpu, a: &[f32], m: usize, b: &[f32], n: usize) -> (LeftMatrix, RightMatrix) {
    let (mut left, mut right) = (LeftMatrix::new(), RightMatrix::new());
    left.pack(cpu, a, m, a.len() / m);
    right.pack(cpu, b, b.len() / n, n);
    (left, right)
}

fn everywhere(threads: usize) -> impl Iterator<Item = Cpu> {
    Isa::all_here()
        .into_iter()
        .flat_map(move |isa| [Precision::Bf16, Precision::F32].map(|precision| Cpu::new(isa, precision, threads)))
}

fn assert_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "{what}: {i}: {got:e}, {want:e}");
    }
}

#[test]
fn every_element_is_the_scalar_chain() {
    let shapes = [
        (1, 1, 1),
        (2, 7, 3),
        (5, 80, 17),
        (7, 33, 65),
        (13, 300, 64),
        (40, 31, 130),
        (33, 540, 70),
        (41, 48, 96),
        (15, 64, 224),
        (9, 540, 130),
        (24, 70, 192),
        (75, 20, 40),
        (197, 64, 66),
        // So deep that a task goes through its columns more than once.
        (131, 2100, 5),
    ];
    for cpu in everywhere(2) {
        let mut random = Random::new(1);
        for (m, k, n) in shapes {
            for tiny in [false, true] {
                let [a, b, start] = [m * k, k * n, m * n].map(|length| {
                    if tiny {
                        random.tiny_vector(length)
                    } else {
                        random.vector(length)
                    }
                });
                let (left, right) = packed(&cpu, &a, m, &b, n);
                let columns = transposed(&b, k, n);
                let model = |start: &[f32]| -> Vec<f32> {
                    (0..m * n)
                        .map(|i| {
                            let (a, b) = (&a[i / n * k..][..k], &columns[i % n * k..][..k]);
                            chain(&cpu, a, b, start[i])
                        })
                        .collect()
                };
                let what = format!("{} {:?} {m} {k} {n} {tiny}", cpu.isa, cpu.precision);
                let mut c = vec![f32::NAN; m * n];
                multiply(&cpu, &Product::of(&left, &right), &mut c, n);
                assert_bits(&c, &model(&vec![0.0; m * n]), &what);
                c.copy_from_slice(&start);
                multiply(&cpu, &Product::of(&left, &right).accumulate(), &mut c, n);
                assert_bits(&c, &model(&start), &what);
            }
        }
    }
}

#[test]
fn products_of_one_region_are_those_of_each_alone() {
    for cpu in everywhere(3) {
        let mut random = Random::new(3);
        for m in [1, 16, 70, 300] {
            let k = 96;
            let a = random.vector(m * k);
            let weights: Vec<_> = [64, 3, 0, 500].map(|n| (n, random.vector(k * n))).into();
            let (mut left, mut rights) = (LeftMatrix::new(), Vec::new());
            left.pack(&cpu, &a, m, k);
            for (n, b) in &weights {
                let mut right = RightMatrix::new();
                right.pack(&cpu, b, k, *n);
                rights.push(right);
            }
            let products: Vec<_> = rights.iter().map(|right| Product::of(&left, right)).collect();
            let mut alone: Vec<_> = weights.iter().map(|(n, _)| vec![f32::NAN; m * n]).collect();
            let mut together = alone.clone();
            for (product, c) in products.iter().zip(&mut alone) {
                multiply(&cpu, product, c, product.b.n());
            }
            let outs = products.iter().zip(&mut together);
            multiply_all(&cpu, outs.map(|(p, c)| (p, &mut c[..], p.b.n())).collect());
            for (i, (alone, together)) in alone.iter().zip(&together).enumerate() {
                assert!(alone.iter().all(|x| !x.is_nan()));
                assert_bits(together, alone, &format!("{} {m} rows, product {i}", cpu.isa));
            }
        }
    }
}

/// The passes over a panel of 64 columns ask for every line of the next one, each once, where more than one pass is made.
#[test]
fn passes_fetch_all_of_the_next_panel() {
    let cells = vec![0_u32; 2 * 40 * PANEL];
    // What is spread to f32 first is twice as deep as the cells of the next panel
    let (as_it_is, spread) = ((40, PANEL), (80, PANEL / 2));
    for (rows, most, lines, (depth, panel)) in [
        (7, 12, 2, as_it_is),
        (12, 12, 2, as_it_is),
        (13, 12, 1, as_it_is),
        (16, 12, 1, as_it_is),
        (24, 12, 1, as_it_is),
        (25, 6, 1, as_it_is),
        (64, 6, 1, as_it_is),
        (7, 8, 2, as_it_is),
        (8, 8, 2, as_it_is),
        (9, 8, 1, as_it_is),
        (24, 8, 1, as_it_is),
        (25, 6, 1, spread),
        (64, 6, 1, spread),
    ] {
        let whole = Strip {
            a: cells.as_ptr(),
            a_stride: 40,
            b: cells.as_ptr(),
            next: cells[40 * PANEL..].as_ptr(),
            rows,
            columns: PANEL,
            panel,
            pass: 0,
            depth,
            c: std::ptr::null_mut(),
            c_stride: PANEL,
            load: false,
        };
        let next = whole.next;
        let strips = if rows <= 24 {
            Vec::from(whole.halves())
        } else {
            vec![whole]
        };
        let mut fetched = Vec::new();
        for strip in strips {
            let mut row = 0;
            while row < rows {
                let (line, step) = strip.ahead(row, most, lines);
                assert!(step == 0 || step == lines * LINE);
                if step > 0 {
                    let first = (line.addr() - next.addr()) / size_of::<u32>();
                    fetched.extend((0..depth * lines).map(|i| first + i * LINE));
                }
                row += next_rows(rows - row, most);
            }
        }
        let all: Vec<_> = (0..40 * PANEL).step_by(LINE).collect();
        assert_eq!(fetched, all, "{rows} rows, {most} at a time");
    }
}

#[test]
fn products_are_close_to_those_in_f64() {
    for cpu in everywhere(1) {
        let mut random = Random::new(2);
        for (m, k, n) in [(3, 1000, 5), (17, 256, 100), (64, 80, 64)] {
            let (a, b) = (random.vector(m * k), random.vector(k * n));
            let (left, right) = packed(&cpu, &a, m, &b, n);
            let mut c = vec![0.0; m * n];
            multiply(&cpu, &Product::of(&left, &right), &mut c, n);
            let exact = |x: f32| match cpu.precision {
                Precision::Bf16 => f64::from(round_bf16(x)),
                Precision::F32 => f64::from(x),
            };
            for i in 0..m {
                for j in 0..n {
                    let products: Vec<f64> = (0..k).map(|l| exact(a[i * k + l]) * exact(b[l * n + j])).collect();
                    let sum: f64 = products.iter().sum();
                    // Higham, Accuracy and Stability of Numerical Algorithms, 3.1: at most 2 k roundings.
                    let size: f64 = products.iter().map(|x| x.abs()).sum();
                    let bound = 2.0 * k as f64 * f64::from(f32::EPSILON) / 2.0 * size;
                    let error = (f64::from(c[i * n + j]) - sum).abs();
                    assert!(error <= bound, "{} {m} {k} {n}: {error:e}", cpu.isa);
                }
            }
        }
    }
}

#[test]
fn parts_have_the_bits_of_the_whole() {
    let (m, k, n) = (211, 150, 50_257 % 1000 + 64);
    for precision in [Precision::Bf16, Precision::F32] {
        for isa in Isa::all_here() {
            let cpu = Cpu::new(isa, precision, 1);
            let mut random = Random::new(3);
            let (a, b) = (random.vector(m * k), random.vector(k * n));
            let (left, right) = packed(&cpu, &a, m, &b, n);
            let mut whole = vec![0.0; m * n];
            multiply(&cpu, &Product::of(&left, &right), &mut whole, n);
            for threads in 1..=3 {
                let cpu = Cpu::new(isa, precision, threads);
                let mut c = vec![0.0; m * n];
                multiply(&cpu, &Product::of(&left, &right), &mut c, n);
                assert_bits(&c, &whole, &format!("{isa}, {threads} threads"));
                for turn in 0..12 {
                    let from = random.below(m);
                    let rows = from..from + 1 + random.below((m - from).min(45));
                    let from = random.below(n / PANEL + 1) * PANEL;
                    let cols = from..from + 1 + random.below(n - from);
                    let ldc = cols.len() + random.below(9);
                    let mut c = vec![7.0; rows.len() * ldc];
                    // Every other time the rows are packed by themselves, as another batch would have them.
                    if turn % 2 == 0 {
                        let part = Product::of(&left, &right).rows(rows.clone()).cols(cols.clone());
                        multiply(&cpu, &part, &mut c, ldc);
                    } else {
                        let some = &a[rows.start * k..rows.end * k];
                        let (left, _) = packed(&cpu, some, rows.len(), &b, n);
                        multiply(&cpu, &Product::of(&left, &right).cols(cols.clone()), &mut c, ldc);
                    }
                    for (i, row) in rows.clone().enumerate() {
                        let what = format!("{isa} {precision:?} {rows:?} {cols:?}, row {row}");
                        let c = &c[i * ldc..(i + 1) * ldc];
                        let whole = &whole[row * n..(row + 1) * n];
                        assert_bits(&c[..cols.len()], &whole[cols.clone()], &what);
                        assert!(c[cols.len()..].iter().all(|&x| x == 7.0), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_chain_can_be_cut_where_a_tile_ends() {
    let (m, k, n) = (9, 96, 70);
    for cpu in everywhere(1) {
        let mut random = Random::new(4);
        let (a, b) = (random.vector(m * k), random.vector(k * n));
        let (left, right) = packed(&cpu, &a, m, &b, n);
        let mut whole = vec![0.0; m * n];
        multiply(&cpu, &Product::of(&left, &right), &mut whole, n);
        let cut = 32;
        let mut c = vec![0.0; m * n];
        for part in [0..cut, cut..k] {
            let a: Vec<f32> = a.chunks(k).flat_map(|a| a[part.clone()].to_vec()).collect();
            let (left, right) = packed(&cpu, &a, m, &b[part.start * n..part.end * n], n);
            multiply(&cpu, &Product::of(&left, &right).accumulate(), &mut c, n);
        }
        assert_bits(&c, &whole, cpu.isa.name());
    }
}

#[test]
fn transposed_operands_pack_to_the_same_cells() {
    for cpu in everywhere(2) {
        let mut random = Random::new(5);
        for (m, k) in [(1, 1), (3, 7), (16, 32), (65, 31), (70, 81), (300, 130)] {
            let a = random.vector(m * k);
            let across = transposed(&a, m, k);
            let (mut one, mut other) = (LeftMatrix::new(), LeftMatrix::new());
            // The memory holds something else before.
            other.pack(&cpu, &random.vector(400 * 200), 400, 200);
            one.pack(&cpu, &a, m, k);
            other.pack_transposed(&cpu, &across, m, k);
            assert_eq!((other.m(), other.k()), (m, k));
            assert!(one.cells.cells() == other.cells.cells(), "{} left {m} {k}", cpu.isa);
            let (mut one, mut other) = (RightMatrix::new(), RightMatrix::new());
            other.pack(&cpu, &random.vector(400 * 200), 400, 200);
            one.pack(&cpu, &across, k, m);
            other.pack_transposed(&cpu, &a, k, m);
            assert_eq!((other.k(), other.n()), (k, m));
            assert!(one.cells.cells() == other.cells.cells(), "{} right {m} {k}", cpu.isa);
        }
    }
}

#[test]
fn packing_both_ways_at_once_is_packing_each() {
    let mut random = Random::new(77);
    for (m, k, before, behind) in [
        (1, 1, 0, 0),
        (5, 3, 2, 0),
        (64, 40, 0, 7),
        (65, 1024, 0, 0),
        (130, 1061, 3, 1),
        (33, 2100, 0, 0),
    ] {
        let a = random.vector(m * k);
        let width = before + k + behind;
        for cpu in everywhere(3) {
            let [mut left, mut alone, mut transposed] = [(); 3].map(|()| LeftMatrix::new());
            // Cells of earlier use must not show, those behind the last column neither
            let noise = random.vector(m * (k + 1));
            left.pack(&cpu, &noise, m, k + 1);
            alone.pack(&cpu, &noise, m, k + 1);
            let noise = random.vector(m * k);
            transposed.pack(&cpu, &noise, k, m);
            let mut numbers = vec![7.0; m * width];
            for (row, a) in numbers.chunks_mut(width).zip(a.chunks(k)) {
                row[before..before + k].copy_from_slice(a);
            }
            let change = |row: usize, columns: Range<usize>, part: &mut [f32]| {
                for (x, column) in part.iter_mut().zip(columns) {
                    *x *= ((row + column - before) % 3) as f32;
                }
            };
            let mut again = numbers.clone();
            let columns = SomeColumns::of(&mut numbers, (m, width), before..before + k);
            pack_both(&cpu, columns, (&mut left, &mut transposed), &change);
            let columns = SomeColumns::of(&mut again, (m, width), before..before + k);
            alone.pack_changed(&cpu, columns, &change);
            assert_eq!(numbers, again, "{} [{m}, {k}]", cpu.isa);
            for row in numbers.chunks(width) {
                assert!(row[..before].iter().chain(&row[before + k..]).all(|&x| x == 7.0));
            }
            let changed: Vec<f32> = (0..m * k).map(|i| a[i] * ((i / k + i % k) % 3) as f32).collect();
            let (mut one, mut other) = (LeftMatrix::new(), LeftMatrix::new());
            one.pack(&cpu, &changed, m, k);
            other.pack_transposed(&cpu, &changed, k, m);
            for (got, want, length) in [(&left, &one, k), (&alone, &one, k), (&transposed, &other, m)] {
                let filled = want.form.cells(length).next_multiple_of(16);
                assert_eq!((got.m(), got.k(), got.stride), (want.m(), want.k(), want.stride));
                for row in 0..want.m() {
                    let cells = row * want.stride..row * want.stride + filled;
                    assert_eq!(
                        got.cells.cells()[cells.clone()],
                        want.cells.cells()[cells],
                        "{} [{m}, {k}]",
                        cpu.isa
                    );
                }
            }
        }
    }
}

#[test]
fn empty_sums_are_zero() {
    for cpu in everywhere(1) {
        let (mut left, mut right) = (LeftMatrix::new(), RightMatrix::new());
        left.pack(&cpu, &[], 3, 0);
        right.pack(&cpu, &[], 0, 5);
        let mut c = vec![1.0; 15];
        multiply(&cpu, &Product::of(&left, &right).accumulate(), &mut c, 5);
        assert_eq!(c, [1.0; 15]);
        multiply(&cpu, &Product::of(&left, &right), &mut c, 5);
        assert_eq!(c, [0.0; 15]);
        right.pack_transposed(&cpu, &[], 0, 0);
        multiply(&cpu, &Product::of(&left, &right), &mut [], 0);
    }
}

#[test]
fn what_is_not_finite_shows() {
    let (m, k, n) = (7, 40, 20);
    for cpu in everywhere(1) {
        let mut a = vec![1.0; m * k];
        let b = vec![1.0; k * n];
        a[k + 39] = f32::NAN;
        a[2 * k] = f32::INFINITY;
        a[3 * k + 1] = f32::INFINITY;
        a[3 * k + 5] = f32::NEG_INFINITY;
        // Rounds to infinity in bf16, and not in f32.
        a[4 * k + 2] = f32::MAX;
        let (left, right) = packed(&cpu, &a, m, &b, n);
        let mut c = vec![0.0; m * n];
        multiply(&cpu, &Product::of(&left, &right), &mut c, n);
        for j in 0..n {
            assert_eq!(c[j], 40.0, "{}", cpu.isa);
            assert!(c[n + j].is_nan(), "{}", cpu.isa);
            assert_eq!(c[2 * n + j], f32::INFINITY, "{}", cpu.isa);
            assert!(c[3 * n + j].is_nan(), "{}", cpu.isa);
            let largest = match cpu.precision {
                Precision::Bf16 => f32::INFINITY,
                Precision::F32 => f32::MAX,
            };
            assert_eq!(c[4 * n + j], largest, "{}", cpu.isa);
            assert_eq!(c[5 * n + j], 40.0, "{}", cpu.isa);
        }
    }
}

#[test]
fn rounding_is_to_nearest_even() {
    let cases = [
        (0x3f80_0000, 0x3f80),
        (0x3f80_7fff, 0x3f80),
        // Halfway: to the even neighbour, below and above.
        (0x3f80_8000, 0x3f80),
        (0x3f81_8000, 0x3f82),
        (0x3f80_8001, 0x3f81),
        (0xbf80_8001, 0xbf81),
        (0x8000_0000, 0x8000),
        // The largest f32 rounds to infinity, a denormal to a denormal.
        (0x7f7f_ffff, 0x7f80),
        (0x7f80_0000, 0x7f80),
        (0xff80_0000, 0xff80),
        (0x0001_7fff, 0x0001),
        (0x0000_8001, 0x0001),
        // NaN stays NaN, its sign and upper bits kept, made quiet.
        (0x7f80_0001, 0x7fc0),
        (0xffa5_1234, 0xffe5),
        (0x7fff_ffff, 0x7fff),
    ];
    let x: Vec<f32> = cases.iter().map(|c| f32::from_bits(c.0)).collect();
    for cpu in everywhere(1) {
        let packed = packed_row(&cpu, &x);
        for (i, &(from, to)) in cases.iter().enumerate() {
            assert_eq!(to_bf16_bits(x[i]), to, "{from:x}");
            let expected = if cpu.precision == Precision::Bf16 {
                u32::from(to) << 16
            } else {
                from
            };
            assert_eq!(packed[i], expected, "{} {from:x}", cpu.isa);
        }
    }
}

#[test]
fn long_rows_round_as_short_ones() {
    let mut random = Random::new(6);
    let x: Vec<f32> = (0..200_003).map(|_| f32::from_bits(random.bits() as u32)).collect();
    for cpu in everywhere(2) {
        for (x, got) in x.iter().zip(packed_row(&cpu, &x)) {
            let expected = if cpu.precision == Precision::Bf16 {
                rounded_bits(*x)
            } else {
                x.to_bits()
            };
            assert_eq!(got, expected, "{} {:x}", cpu.isa, x.to_bits());
        }
    }
}

#[test]
fn parts_of_the_sums_are_the_same_chain() {
    for isa in Isa::all_here() {
        for precision in [Precision::Bf16, Precision::F32] {
            let cpu = Cpu::new(isa, precision, 2);
            for (m, k, n) in [(3, 293, 75), (130, 293, 75), (40, 576, 16)] {
                let mut random = Random::new((m + k) as u64);
                let (a, b) = (random.vector(m * k), random.vector(k * n));
                let (mut left, mut right) = (LeftMatrix::new(), RightMatrix::new());
                left.pack(&cpu, &a, m, k);
                right.pack(&cpu, &b, k, n);
                let mut whole = vec![f32::NAN; m * n];
                multiply(&cpu, &Product::of(&left, &right), &mut whole, n);
                let mut parts = vec![f32::NAN; m * n];
                for range in [0..64, 64..256, 256..k] {
                    let part: Vec<f32> = a.chunks(k).flat_map(|row| &row[range.clone()]).copied().collect();
                    left.pack(&cpu, &part, m, range.len());
                    right.pack(&cpu, &b[range.start * n..range.end * n], range.len(), n);
                    let product = Product::of(&left, &right);
                    let product = if range.start > 0 { product.accumulate() } else { product };
                    multiply(&cpu, &product, &mut parts, n);
                }
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&parts), bits(&whole), "{isa} {precision:?}, {m} x {k} x {n}");
            }
        }
    }
}
