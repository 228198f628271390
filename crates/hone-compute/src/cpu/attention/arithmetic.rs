//! How the products of attention are computed: in f32, or on operands rounded to bf16.
//!
//! A right operand is made of 32-bit cells, as in [`gemm`](crate::cpu::gemm): one f32, or two bf16 that are neighbours
//! along the chain of a sum, the even one in the lower half. The last cell of an odd chain has 0 in its upper half. A
//! chain starts at even places, so whether a sum is computed at once or in parts, it pairs the same elements.
//!
//! | precision | instruction set | right operand | left operand | a cell is added |
//! |---|---|---|---|---|
//! | f32 | all | [`Full`]: f32 | f32 | as one multiply-add |
//! | bf16 | `amx`, `avx512bf16` | [`Dot`]: pairs | pairs | by `vdpbf16ps`: the odd product, then the even one |
//! | bf16 | others | [`Split`]: pairs | rounded, in f32 | as two multiply-adds in f32: the even product, then the odd one |
//!
//! # Soundness
//! Functions here are `unsafe` for the reasons given in [`simd`](crate::cpu::simd): they need the processor's features
//! and pointers that are good for a vector. [`Way`] is the witness of the features.

use std::marker::PhantomData;

use crate::cpu::Cpu;
use crate::cpu::gemm::transpose::Transpose;
use crate::cpu::gemm::{Form, Forms, rounded_bits};
use crate::cpu::simd::Simd;
use crate::isa::Level;

use super::BLOCK;

/// One way of computing products.
///
/// # Safety
/// As for [`Simd`]; [`Dot`] needs AVX512-BF16, too.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Arithmetic: Copy {
    /// Its vectors.
    type S: Transpose;
    /// Elements of a cell of a right operand.
    const SPAN: usize;
    /// Elements of a 32-bit number of a left operand.
    const PACKED: usize;
    /// Parts in which the products of a cell are added: each is one number of a left operand.
    const PARTS: usize = Self::SPAN / Self::PACKED;
    /// Rows of a tile that registers have room for.
    const ROWS: usize = 6;
    /// A part of a vector of cells of a right operand.
    type Right: Copy;

    /// Reads what a part of a vector of cells is multiplied as.
    unsafe fn right(p: *const u32, part: usize) -> Self::Right;

    /// Adds the products of one part; `left` is that part's number.
    unsafe fn add(left: *const u32, right: Self::Right, sum: Vector<Self>) -> Vector<Self>;

    /// The first part of a cell of which only the even element is taken: whatever the odd one is, it adds an exact zero,
    /// where that of the left operand is 0.
    unsafe fn even(right: Self::Right) -> Self::Right;

    /// `x`, rounded as left operands are, in f32; `out`, of its length, may hold it.
    unsafe fn rounded<'a>(x: &'a [f32], out: &'a mut [f32]) -> &'a [f32];

    /// Writes `factor * x`, rounded, as a row of a left operand, filled up with zeros to whole cells.
    unsafe fn left_row(x: &[f32], factor: f32, out: &mut [u32]);

    /// Writes `factor * x`, rounded, as a row of cells of a right operand; `SPAN` rows, of which the last may be empty.
    unsafe fn right_row(x: [&[f32]; 2], factor: f32, out: &mut [u32]);

    /// Rounds a block's row of f32 to a row of a left operand, in its place; at least `count` of them.
    unsafe fn narrow(row: *mut f32, count: usize);

    /// Writes the same places of two rows (queries, of which the first is even) as a part of a left operand whose chain
    /// runs over rows, in which a row has [`BLOCK`] places.
    unsafe fn across(rows: [Vector<Self>; 2], out: *mut u32);
}

pub(super) type Vector<A> = <<A as Arithmetic>::S as Simd>::V;

/// f32.
#[derive(Clone, Copy)]
pub(super) struct Full<S>(PhantomData<S>);

/// Rounded to bf16, multiplied in f32.
#[derive(Clone, Copy)]
pub(super) struct Split<S>(PhantomData<S>);

/// Rounded to bf16, multiplied in pairs.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Dot;

impl<S: Transpose> Arithmetic for Full<S> {
    type S = S;
    const SPAN: usize = 1;
    const PACKED: usize = 1;
    type Right = S::V;

    #[inline(always)]
    unsafe fn right(p: *const u32, _: usize) -> S::V {
        unsafe { S::load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn add(left: *const u32, right: S::V, sum: S::V) -> S::V {
        unsafe { S::fma(S::splat(*left.cast()), right, sum) }
    }

    #[inline(always)]
    unsafe fn even(right: S::V) -> S::V {
        right
    }

    #[inline(always)]
    unsafe fn rounded<'a>(x: &'a [f32], _: &'a mut [f32]) -> &'a [f32] {
        x
    }

    #[inline(always)]
    unsafe fn left_row(x: &[f32], factor: f32, out: &mut [u32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = (x * factor).to_bits();
        }
    }

    #[inline(always)]
    unsafe fn right_row(x: [&[f32]; 2], factor: f32, out: &mut [u32]) {
        unsafe { Self::left_row(x[0], factor, out) }
    }

    #[inline(always)]
    unsafe fn narrow(_: *mut f32, _: usize) {}

    #[inline(always)]
    unsafe fn across(rows: [S::V; 2], out: *mut u32) {
        unsafe {
            S::store(out.cast(), rows[0]);
            S::store(out.add(BLOCK).cast(), rows[1]);
        }
    }
}

#[inline(always)]
fn rounded_row<'a>(x: &[f32], out: &'a mut [f32]) -> &'a [f32] {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f32::from_bits(rounded_bits(x));
    }
    out
}

/// Writes pairs of two rows; the second may be empty.
#[inline(always)]
fn pair_row([even, odd]: [&[f32]; 2], factor: f32, out: &mut [u32]) {
    if odd.is_empty() {
        for (out, &even) in out.iter_mut().zip(even) {
            *out = rounded_bits(even * factor) >> 16;
        }
    } else {
        for ((out, &even), &odd) in out.iter_mut().zip(even).zip(odd) {
            *out = rounded_bits(even * factor) >> 16 | rounded_bits(odd * factor);
        }
    }
}

impl<S: Transpose> Arithmetic for Split<S> {
    type S = S;
    const SPAN: usize = 2;
    const PACKED: usize = 1;
    // Of 16 registers, the halves of cells take two more.
    const ROWS: usize = if S::LANES == 16 { 6 } else { 4 };
    type Right = S::V;

    #[inline(always)]
    unsafe fn right(p: *const u32, part: usize) -> S::V {
        unsafe { if part == 0 { S::load_lower(p) } else { S::load_upper(p) } }
    }

    #[inline(always)]
    unsafe fn add(left: *const u32, right: S::V, sum: S::V) -> S::V {
        unsafe { S::fma(S::splat(*left.cast()), right, sum) }
    }

    #[inline(always)]
    unsafe fn even(right: S::V) -> S::V {
        right
    }

    #[inline(always)]
    unsafe fn rounded<'a>(x: &'a [f32], out: &'a mut [f32]) -> &'a [f32] {
        rounded_row(x, out)
    }

    #[inline(always)]
    unsafe fn left_row(x: &[f32], factor: f32, out: &mut [u32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = rounded_bits(x * factor);
        }
        if x.len() % 2 == 1 {
            out[x.len()] = 0;
        }
    }

    #[inline(always)]
    unsafe fn right_row(x: [&[f32]; 2], factor: f32, out: &mut [u32]) {
        pair_row(x, factor, out);
    }

    #[inline(always)]
    unsafe fn narrow(row: *mut f32, count: usize) {
        let mut at = 0;
        while at < count {
            // SAFETY: a block's row is a whole number of vectors.
            unsafe { S::store(row.add(at), S::round_bf16(S::load(row.add(at)))) };
            at += S::LANES;
        }
    }

    #[inline(always)]
    unsafe fn across([even, odd]: [S::V; 2], out: *mut u32) {
        unsafe { Full::<S>::across([S::round_bf16(even), S::round_bf16(odd)], out) }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Arithmetic, BLOCK, Dot, pair_row, rounded_row};
    use crate::cpu::simd::{Avx512, Simd};
    use std::arch::x86_64::*;

    /// Where the cells of two rows come from, the even row's halves first in a vector of both.
    static INTERLEAVED: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 32 {
            places[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        places
    };

    #[inline(always)]
    unsafe fn pairs(x: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits without invalid patterns.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
    }

    /// `low` and `high` rounded, one after the other. A denormal number becomes 0, as `vdpbf16ps` takes it.
    #[inline(always)]
    unsafe fn rounded(low: __m512, high: __m512) -> __m512i {
        // SAFETY: as above.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
    }

    impl Arithmetic for Dot {
        type S = Avx512;
        const SPAN: usize = 2;
        const PACKED: usize = 2;
        type Right = __m512i;

        #[inline(always)]
        unsafe fn right(p: *const u32, _: usize) -> __m512i {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }

        #[inline(always)]
        unsafe fn add(left: *const u32, right: __m512i, sum: __m512) -> __m512 {
            unsafe { _mm512_dpbf16_ps(sum, pairs(_mm512_set1_epi32(*left as i32)), pairs(right)) }
        }

        #[inline(always)]
        unsafe fn even(right: __m512i) -> __m512i {
            unsafe { _mm512_and_si512(right, _mm512_set1_epi32(0xffff)) }
        }

        #[inline(always)]
        unsafe fn rounded<'a>(x: &'a [f32], out: &'a mut [f32]) -> &'a [f32] {
            rounded_row(x, out)
        }

        #[inline(always)]
        unsafe fn left_row(x: &[f32], factor: f32, out: &mut [u32]) {
            let whole = x.len() - x.len() % 32;
            // SAFETY: the caller has the vectors.
            let factors = unsafe { Avx512::splat(factor) };
            for at in (0..whole).step_by(32) {
                let to = &mut out[at / 2..at / 2 + 16];
                // SAFETY: there are 32 numbers from `at` on, and 16 cells in `to`.
                unsafe {
                    let low = Avx512::mul(Avx512::load(x.as_ptr().add(at)), factors);
                    let high = Avx512::mul(Avx512::load(x.as_ptr().add(at + 16)), factors);
                    _mm512_storeu_si512(to.as_mut_ptr().cast(), rounded(low, high));
                }
            }
            for (out, x) in out[whole / 2..].iter_mut().zip(x[whole..].chunks(2)) {
                pair_row([&x[..1], &x[1..]], factor, std::slice::from_mut(out));
            }
        }

        #[inline(always)]
        unsafe fn right_row(x: [&[f32]; 2], factor: f32, out: &mut [u32]) {
            pair_row(x, factor, out);
        }

        #[inline(always)]
        unsafe fn narrow(row: *mut f32, count: usize) {
            let mut at = 0;
            while at < count {
                // SAFETY: a block's row is a multiple of 32 long; cells are written where numbers have been read.
                unsafe {
                    let low = Avx512::load(row.add(at));
                    let high = Avx512::load(row.add(at + 16));
                    _mm512_storeu_si512(row.add(at / 2).cast(), rounded(low, high));
                }
                at += 32;
            }
        }

        #[inline(always)]
        unsafe fn across(rows: [__m512; 2], out: *mut u32) {
            unsafe {
                let places = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
                let cells = _mm512_permutexvar_epi16(places, rounded(rows[0], rows[1]));
                _mm512_storeu_si512(out.cast(), cells);
            }
        }
    }

    const _: () = assert!(BLOCK.is_multiple_of(32));
}

/// How an engine computes products. A value is a witness that the machine can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Full(Level),
    Split(Level),
    /// AVX-512 with bf16.
    Dot(Proof),
}

/// AVX512-BF16 is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proof(());

impl Way {
    /// Elements of a cell of a right operand.
    pub fn span(self) -> usize {
        match self {
            Self::Full(_) => 1,
            Self::Split(_) | Self::Dot(_) => 2,
        }
    }

    pub fn of(cpu: &Cpu) -> Self {
        match Forms::of(cpu).left {
            Form::Full => Self::Full(cpu.level),
            Form::Rounded => Self::Split(cpu.level),
            Form::Pairs => {
                // Each of the instruction sets with this form runs only where the instruction is.
                assert!(cpu.isa.runs_here(), "{} does not run here", cpu.isa);
                Self::Dot(Proof(()))
            }
        }
    }
}

/// Makes a function that runs a kernel over an [`Arithmetic`] in the [`Way`] that is given first, as
/// [`dispatch`](crate::cpu::simd::dispatch) does for widths.
macro_rules! dispatch_way {
    (fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $kernel:ident;) => {
        fn $name(way: $crate::cpu::attention::arithmetic::Way, $($arg: $ty),*) {
            use $crate::cpu::attention::arithmetic::{Full, Split, Way};
            #[inline(always)]
            unsafe fn full<S: $crate::cpu::gemm::transpose::Transpose>($($arg: $ty),*) {
                unsafe { $kernel::<Full<S>>($($arg),*) }
            }
            #[inline(always)]
            unsafe fn split<S: $crate::cpu::gemm::transpose::Transpose>($($arg: $ty),*) {
                unsafe { $kernel::<Split<S>>($($arg),*) }
            }
            $crate::cpu::simd::dispatch! { fn full_at($($arg: $ty),*) = full; }
            $crate::cpu::simd::dispatch! { fn split_at($($arg: $ty),*) = split; }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16")]
            unsafe fn dot($($arg: $ty),*) {
                unsafe { $kernel::<$crate::cpu::attention::arithmetic::Dot>($($arg),*) }
            }
            match way {
                Way::Full(level) => full_at(level, $($arg),*),
                Way::Split(level) => split_at(level, $($arg),*),
                // SAFETY: the way is a witness that the machine has the features.
                #[cfg(target_arch = "x86_64")]
                Way::Dot(_) => unsafe { dot($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                Way::Dot(_) => unreachable!("an instruction set of another processor"),
            }
        }
    };
}
pub(super) use dispatch_way;
