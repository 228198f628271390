//! `tdpbf16ps` to the bit, in AVX-512.
//!
//! The instruction sums, for each output, the 16 products of even elements of a tile and the 16 of odd ones, each as
//! a chain of fused multiply-adds from 0; adds the two sums; and adds that to the accumulator. Every operation rounds
//! to nearest even and takes and leaves denormals as zeros (Intel, Software Developer's Manual, volume 2). Here MXCSR
//! makes the processor treat denormals in this way. Rust's own arithmetic may not run under a changed MXCSR, so all of
//! the arithmetic stands in one block of assembly that changes it and puts it back.
//!
//! # Soundness
//! The assembly reads and writes what a strip's pointers are good for: `R` rows of `a` and of `c`, 32 columns, and
//! `depth` rows of a panel of `b`. It leaves MXCSR as it was and names every register that it changes.

use super::amx::STEP;
use super::{PANEL, Strip};
use std::arch::asm;

/// All exceptions masked, rounding to nearest, denormals zero both ways.
const TILE_MXCSR: u32 = 0x1f80 | 0x8000 | 0x0040;
/// Columns computed at once: two vectors.
const WIDTH: usize = 32;
/// Rows computed at once, as long as there are so many.
const ROWS: usize = 4;

/// # Safety
/// The processor has AVX-512, and the strip's pointers are good for its sizes, with panels of 64 columns and a depth
/// that is a multiple of [`STEP`].
pub(super) unsafe fn strip(strip: &Strip) {
    let mut row = 0;
    while row < strip.rows {
        let rows = if strip.rows - row < ROWS { 1 } else { ROWS };
        for column in (0..strip.columns).step_by(WIDTH) {
            // SAFETY: the block lies within the strip.
            unsafe {
                let a = strip.a.add(row * strip.a_stride);
                let b = strip.b.add(column);
                let c = strip.c.add(row * strip.c_stride + column);
                if !strip.load {
                    for r in 0..rows {
                        c.add(r * strip.c_stride).write_bytes(0, WIDTH);
                    }
                }
                if strip.depth > 0 {
                    match rows {
                        1 => one_row(strip, a, b, c),
                        _ => four_rows(strip, a, b, c),
                    }
                }
            }
        }
        row += rows;
    }
}

/// Makes a function that adds all tiles of a strip to some rows of 32 columns.
///
/// A row is given as the places of its cells in `a` and of its outputs in `c`, and the registers of its four sums: of
/// the even and the odd elements for the first 16 columns, and for the others.
macro_rules! rows {
    ($name:ident, $(($a:literal, $c:literal, $even:literal, $odd:literal, $more_even:literal, $more_odd:literal)),*) => {
        /// # Safety
        /// As for [`strip`], which has so many rows from `a` and `c` on and 32 columns from `b` and `c` on, and a depth.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn $name(strip: &Strip, a: *const u32, b: *const u32, c: *mut f32) {
            let mut mxcsr = [0, TILE_MXCSR];
            let (a_stride, c_stride) = (4 * strip.a_stride, 4 * strip.c_stride);
            // SAFETY: see the top of the file.
            unsafe {
                asm!(
                    "stmxcsr [{mxcsr}]",
                    "ldmxcsr [{mxcsr} + 4]",
                    "vpbroadcastd zmm31, {k:e}",
                    // A tile
                    "2:",
                    $(
                        concat!("vpxord ", $even, ", ", $even, ", ", $even),
                        concat!("vpxord ", $odd, ", ", $odd, ", ", $odd),
                        concat!("vpxord ", $more_even, ", ", $more_even, ", ", $more_even),
                        concat!("vpxord ", $more_odd, ", ", $more_odd, ", ", $more_odd),
                    )*
                    "mov {k}, {step}",
                    // A cell of every row: an even element in its lower half, an odd one in its upper half
                    "3:",
                    "vmovdqu32 zmm16, [{b}]",
                    "vmovdqu32 zmm17, [{b} + 64]",
                    "vpslld zmm18, zmm16, 16",
                    "vpandd zmm19, zmm16, zmm31",
                    "vpslld zmm20, zmm17, 16",
                    "vpandd zmm21, zmm17, zmm31",
                    $(
                        concat!("vpbroadcastd zmm22, [", $a, "]"),
                        "vpslld zmm23, zmm22, 16",
                        "vpandd zmm22, zmm22, zmm31",
                        concat!("vfmadd231ps ", $even, ", zmm23, zmm18"),
                        concat!("vfmadd231ps ", $odd, ", zmm22, zmm19"),
                        concat!("vfmadd231ps ", $more_even, ", zmm23, zmm20"),
                        concat!("vfmadd231ps ", $more_odd, ", zmm22, zmm21"),
                    )*
                    "add {a}, 4",
                    "add {b}, {panel}",
                    "dec {k}",
                    "jnz 3b",
                    // The two sums, and the accumulator
                    $(
                        concat!("vaddps ", $even, ", ", $even, ", ", $odd),
                        concat!("vaddps ", $more_even, ", ", $more_even, ", ", $more_odd),
                        concat!("vmovups zmm16, [", $c, "]"),
                        concat!("vmovups zmm17, [", $c, " + 64]"),
                        concat!("vaddps zmm16, zmm16, ", $even),
                        concat!("vaddps zmm17, zmm17, ", $more_even),
                        concat!("vmovups [", $c, "], zmm16"),
                        concat!("vmovups [", $c, " + 64], zmm17"),
                    )*
                    "dec {tiles}",
                    "jnz 2b",
                    "ldmxcsr [{mxcsr}]",
                    "/* {a1} {a3} {c1} {c3} */",
                    mxcsr = in(reg) mxcsr.as_mut_ptr(),
                    // The upper halves of cells first, then the cells that are left in a tile
                    k = inout(reg) 0xffff_0000_usize => _,
                    tiles = inout(reg) strip.depth / STEP => _,
                    a = inout(reg) a => _,
                    a1 = in(reg) a_stride,
                    a3 = in(reg) 3 * a_stride,
                    b = inout(reg) b => _,
                    c = in(reg) c,
                    c1 = in(reg) c_stride,
                    c3 = in(reg) 3 * c_stride,
                    step = const STEP,
                    panel = const 4 * PANEL,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                    out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                    out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                    out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                    out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                    out("zmm31") _,
                    options(nostack),
                );
            }
        }
    };
}

rows!(one_row, ("{a}", "{c}", "zmm0", "zmm1", "zmm2", "zmm3"));
rows!(
    four_rows,
    ("{a}", "{c}", "zmm0", "zmm1", "zmm2", "zmm3"),
    ("{a} + {a1}", "{c} + {c1}", "zmm4", "zmm5", "zmm6", "zmm7"),
    ("{a} + 2 * {a1}", "{c} + 2 * {c1}", "zmm8", "zmm9", "zmm10", "zmm11"),
    ("{a} + {a3}", "{c} + {c3}", "zmm12", "zmm13", "zmm14", "zmm15")
);
