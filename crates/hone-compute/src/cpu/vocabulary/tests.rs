//! The vocabulary operation gives the same bits whichever logits are kept, and however the output matrix is packed.

use super::*;
use crate::cpu::gemm::Form;
use crate::isa::{Isa, Precision};
use crate::parameter::Packing;
use std::sync::Arc;

const WIDTH: usize = 9;

/// Hidden states, an output matrix, and what is asked of them.
struct Case {
    hidden: Tensor,
    output: Tensor,
    targets: Vec<u32>,
    seeds: [Tensor; 2],
    packing: Packing,
}

/// A tensor of numbers between -1 and 1.
fn tensor(backend: &CpuBackend, rows: usize, cols: usize, seed: u64) -> Tensor {
    let mut state = seed;
    let mut tensor = backend.empty(rows, cols);
    for x in tensor.cpu_mut() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *x = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
    }
    tensor
}

impl Case {
    fn new(backend: &CpuBackend, rows: usize, size: usize) -> Self {
        Self {
            hidden: tensor(backend, rows, WIDTH, 1),
            output: tensor(backend, size, WIDTH, 2),
            targets: (0..rows).map(|row| ((row * 7919 + size - 1) % size) as u32).collect(),
            seeds: [3, 4].map(|seed| tensor(backend, rows, 1, seed)),
            packing: Packing::Kept,
        }
    }

    fn with<R>(&self, backend: &CpuBackend, run: impl FnOnce(&Vocabulary<'_>) -> R) -> R {
        let kept = self.packing == Packing::Kept;
        run(&Vocabulary {
            hidden: &self.hidden,
            output: &self.output,
            forward: kept.then(|| Arc::new(backend.pack_forward(&self.output, None))),
            targets: &self.targets,
            temperature: 0.8,
        })
    }

    /// The gradients of the hidden states and of the output matrix.
    fn gradients(&self, backend: &CpuBackend, statistics: &TokenStatistics, kept: KeptLogits) -> [Vec<u32>; 2] {
        let mut dhidden = backend.empty(self.hidden.rows(), WIDTH);
        let mut dweight = backend.empty(self.output.rows(), WIDTH);
        let upstream = VocabularyUpstream {
            dlogprob: Some(&self.seeds[0]),
            dentropy: Some(&self.seeds[1]),
            statistics,
            kept,
        };
        let into = VocabularyGradients {
            dhidden: Some(&mut dhidden),
            dweight: Some((&mut dweight, false)),
        };
        self.with(backend, |v| backend.token_statistics_backward(v, upstream, into));
        [bits(&dhidden), bits(&dweight)]
    }

    /// Statistics, and the gradients of a weighted sum of log-probabilities.
    fn weighted(&self, backend: &CpuBackend) -> ([Vec<u32>; 3], [Vec<u32>; 2]) {
        let mut dhidden = backend.empty(self.hidden.rows(), WIDTH);
        let mut dweight = backend.empty(self.output.rows(), WIDTH);
        let into = VocabularyGradients {
            dhidden: Some(&mut dhidden),
            dweight: Some((&mut dweight, false)),
        };
        let statistics = self.with(backend, |v| backend.weighted_logprobs(v, self.seeds[0].cpu(), into));
        (bits_of(&statistics), [bits(&dhidden), bits(&dweight)])
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.cpu().iter().map(|x| x.to_bits()).collect()
}

fn bits_of(statistics: &TokenStatistics) -> [Vec<u32>; 3] {
    [&statistics.logprob, &statistics.entropy, &statistics.normaliser].map(bits)
}

/// Fewer rows than a block, as many, two blocks and more; vocabularies that are no multiple of anything.
const SHAPES: [(usize, usize); 5] = [(5, 301), (3, 4097), (64, 70_001), (100, 70_001), (137, 70_001)];

#[test]
fn kept_logits_change_no_bit() {
    for isa in Isa::all_here() {
        for precision in [Precision::Bf16, Precision::F32] {
            let backend = CpuBackend::new(isa, precision, 2);
            for (rows, size) in SHAPES {
                let what = format!("{isa} {precision:?}, {rows} rows of {size}");
                let case = Case::new(&backend, rows, size);
                let plain = case.with(&backend, |v| backend.token_statistics(v));
                let (statistics, kept) = case.with(&backend, |v| backend.token_statistics_keeping(v));
                assert!(bits_of(&statistics) == bits_of(&plain), "{what}: statistics");
                assert_eq!(kept.rows, whole_rows(size).min(rows), "{what}");
                // All made again, in memory that holds something else
                let mut logits = backend.empty(kept.rows, size);
                backend.fill(&mut logits, f32::NAN);
                let again = case.gradients(&backend, &plain, KeptLogits { logits, rows: 0 });
                let got = case.gradients(&backend, &statistics, kept);
                assert!(got == again, "{what}: gradients");
            }
        }
    }
}

#[test]
fn the_way_back_reads_the_logits_that_are_kept() {
    let backend = CpuBackend::new(Isa::Portable, Precision::F32, 2);
    let (rows, size) = (70, 70_001);
    let case = Case::new(&backend, rows, size);
    let (statistics, kept) = case.with(&backend, |v| backend.token_statistics_keeping(v));
    let [right, _] = case.gradients(&backend, &statistics, kept);
    let (_, mut kept) = case.with(&backend, |v| backend.token_statistics_keeping(v));
    backend.fill(&mut kept.logits, 0.5);
    let [other, _] = case.gradients(&backend, &statistics, kept);
    let block = 64 * WIDTH;
    assert_ne!(other[..block], right[..block], "rows that are kept");
    assert_eq!(other[block..], right[block..], "rows that are made again");
}

#[test]
fn packing_slice_by_slice_changes_no_bit() {
    for isa in Isa::all_here() {
        for precision in [Precision::Bf16, Precision::F32] {
            let backend = CpuBackend::new(isa, precision, 2);
            for (rows, size) in SHAPES {
                let what = format!("{isa} {precision:?}, {rows} rows of {size}");
                let mut case = Case::new(&backend, rows, size);
                let all = |case: &Case| {
                    let plain = case.with(&backend, |v| backend.token_statistics(v));
                    let (statistics, kept) = case.with(&backend, |v| backend.token_statistics_keeping(v));
                    let logits = bits(&kept.logits);
                    let gradients = case.gradients(&backend, &statistics, kept);
                    (
                        bits_of(&plain),
                        bits_of(&statistics),
                        logits,
                        gradients,
                        case.weighted(&backend),
                    )
                };
                let kept = all(&case);
                case.packing = Packing::ForAWhile;
                assert!(all(&case) == kept, "{what}");
            }
        }
    }
}

#[test]
fn slices_bound_what_is_packed_at_once() {
    let most = |rows: usize, size: usize| {
        let backend = CpuBackend::new(Isa::Portable, Precision::F32, 1);
        let mut case = Case::new(&backend, rows, size);
        case.packing = Packing::ForAWhile;
        case.weighted(&backend);
        backend
            .waiting()
            .1
            .map(|operands| operands.iter().copied().max().unwrap_or(0))
    };
    // Of the right operands and of the left ones, which are gradients of logits
    let right = |(k, n)| RightMatrix::cells_of(Form::Full, 16, k, n);
    let left = |(m, k)| LeftMatrix::cells_of(Form::Full, m, k);
    let slice = [(WIDTH, SLICE), (SLICE, WIDTH)].map(right).into_iter().max();
    let gradient = [(64, SLICE), (SLICE, 64)].map(left).into_iter().max();
    let slices = [gradient, slice].map(Option::unwrap);
    assert_eq!(most(128, 70_001), slices, "two blocks of rows");
    let whole = right((WIDTH, 70_001));
    assert!(whole > slices[1]);
    assert_eq!(
        most(129, 70_001),
        [slices[0], whole],
        "more, for which the whole is packed once"
    );
}

/// The gradients of [`Case::weighted`] for one block of rows, each by one product with all gradients of logits.
fn gradients_at_once(backend: &CpuBackend, case: &Case) -> [Vec<u32>; 2] {
    let (cpu, rows, size) = (&backend.cpu, case.hidden.rows(), case.output.rows());
    let (statistics, kept) = case.with(backend, |v| backend.token_statistics_keeping(v));
    assert_eq!(kept.rows, rows, "one block");
    let gradient = LogprobBackward {
        targets: &case.targets,
        temperature: 0.8,
        log_normaliser: statistics.normaliser.cpu(),
        entropy: statistics.entropy.cpu(),
        dlogprob: case.seeds[0].cpu(),
        dentropy: &vec![0.0; rows],
    };
    let mut dlogits = kept.logits.cpu().to_vec();
    for (row, dlogits) in dlogits.chunks_mut(size).enumerate() {
        gradient.row(cpu, row, 0..size, dlogits);
    }
    let (mut left, mut right) = (LeftMatrix::new(), RightMatrix::new());
    left.pack(cpu, &dlogits, rows, size);
    right.pack(cpu, case.output.cpu(), size, WIDTH);
    let mut dhidden = vec![f32::NAN; rows * WIDTH];
    gemm::multiply(cpu, &Product::of(&left, &right), &mut dhidden, WIDTH);
    left.pack_transposed(cpu, &dlogits, size, rows);
    right.pack(cpu, case.hidden.cpu(), rows, WIDTH);
    let mut dweight = vec![f32::NAN; size * WIDTH];
    gemm::multiply(cpu, &Product::of(&left, &right), &mut dweight, WIDTH);
    [dhidden, dweight].map(|x| x.iter().map(|x| x.to_bits()).collect())
}

#[test]
fn gradients_are_the_same_by_slices_and_at_once() {
    for isa in Isa::all_here() {
        for precision in [Precision::Bf16, Precision::F32] {
            let backend = CpuBackend::new(isa, precision, 2);
            for (rows, size) in [(5, 301), (3, 4097), (64, 70_001)] {
                let case = Case::new(&backend, rows, size);
                let (_, got) = case.weighted(&backend);
                let what = format!("{isa} {precision:?}, {rows} rows of {size}");
                assert!(got == gradients_at_once(&backend, &case), "{what}");
            }
            // More than two blocks of rows, for which all slices of the output matrix are packed once
            let [few, many] = [64, 137].map(|rows| Case::new(&backend, rows, 70_001).weighted(&backend));
            assert!(few.1[0][..] == many.1[0][..64 * WIDTH], "{isa} {precision:?}");
        }
    }
}
