//! The bf16 kernel of AMX: one `tdpbf16ps` a tile of 32 elements, `k` ascending.
//!
//! A tile is 16 rows of 64 bytes. One of `a` holds 16 rows of 16 cells; one of `b` 16 rows of cells for 16 columns;
//! one of `c` 16 rows of 16 columns. Up to 16 rows, four tiles of `c` cover a panel; up to 32, four tiles cover half
//! of one. Fewer rows than tiles hold are told to the processor, which then neither reads nor writes the others.

use super::{PANEL, Strip};
use std::arch::asm;

/// Cells along `k` in a tile.
pub(super) const STEP: usize = 16;
/// Rows of a tile.
const TILE: usize = 16;
/// Bytes in a row of a tile.
const ROW: usize = 64;
/// Bytes from one row of cells of a panel to the next.
const PANEL_ROW: usize = PANEL * 4;

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Tiles 0 to 3 are of `c`; the others of `a` and `b`, as the two functions below use them.
    fn new(rows: [usize; 8]) -> Self {
        let mut shapes = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for (tile, rows) in rows.into_iter().enumerate() {
            shapes.row_bytes[tile] = ROW as u16;
            shapes.rows[tile] = rows as u8;
        }
        shapes
    }

    /// For [`one_by_four`] and [`one_by_two`] with up to 16 rows.
    fn one_by_four(rows: usize) -> Self {
        Self::new([rows, rows, rows, rows, rows, TILE, TILE, TILE])
    }

    /// For [`two_by_two`] with 17 to 32 rows.
    fn two_by_two(rows: usize) -> Self {
        let rest = rows - TILE;
        Self::new([TILE, TILE, rest, rest, TILE, rest, TILE, TILE])
    }
}

/// # Safety
/// The processor has bf16 tiles and the system granted them; the strip's pointers are good for its sizes, with panels
/// of 64 columns and a depth that is a multiple of [`STEP`].
pub(super) unsafe fn strip(strip: &Strip) {
    let mut shaped = 0;
    let mut row = 0;
    while row < strip.rows {
        let rows = (strip.rows - row).min(2 * TILE);
        // SAFETY: the block lies within the strip.
        unsafe {
            let a = strip.a.add(row * strip.a_stride);
            let c = strip.c.add(row * strip.c_stride);
            if rows != shaped {
                let shapes = if rows > TILE {
                    Shapes::two_by_two(rows)
                } else {
                    Shapes::one_by_four(rows)
                };
                shape(&shapes);
                shaped = rows;
            }
            if rows > TILE {
                for column in (0..strip.columns).step_by(2 * TILE) {
                    two_by_two(strip, a, strip.b.add(column), c.add(column));
                }
            } else if strip.columns < PANEL {
                one_by_two(strip, a, c);
            } else {
                one_by_four(strip, a, c);
            }
        }
        row += rows;
    }
    // SAFETY: the tiles hold nothing that is still needed.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

unsafe fn shape(shapes: &Shapes) {
    // SAFETY: the operand is 64 bytes of a valid configuration. The compiler never uses tiles.
    unsafe { asm!("ldtilecfg [{0}]", in(reg) shapes, options(nostack, readonly)) };
}

/// 17 to 32 rows by 32 columns.
unsafe fn two_by_two(strip: &Strip, a: *const u32, b: *const u32, c: *mut f32) {
    // SAFETY: tiles are shaped for these rows, and the pointers are good for them.
    unsafe {
        let a_low = a.add(TILE * strip.a_stride);
        let c_low = c.add(TILE * strip.c_stride);
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {load:e}, {load:e}",
            "jz 2f",
            "tileloadd tmm0, [{c} + {c_row}]",
            "tileloadd tmm1, [{c} + {c_row} + 64]",
            "tileloadd tmm2, [{c_low} + {c_row}]",
            "tileloadd tmm3, [{c_low} + {c_row} + 64]",
            "2:",
            "tileloadd tmm4, [{a} + {a_row}]",
            "tileloadd tmm6, [{b} + {b_row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {b_row} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a_low} + {a_row}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {a_low}, 64",
            "add {b}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {c_row}], tmm0",
            "tilestored [{c} + {c_row} + 64], tmm1",
            "tilestored [{c_low} + {c_row}], tmm2",
            "tilestored [{c_low} + {c_row} + 64], tmm3",
            load = in(reg) u32::from(strip.load),
            a = inout(reg) a => _,
            a_low = inout(reg) a_low => _,
            a_row = in(reg) strip.a_stride * 4,
            b = inout(reg) b => _,
            b_row = in(reg) PANEL_ROW,
            c = in(reg) c,
            c_low = in(reg) c_low,
            c_row = in(reg) strip.c_stride * 4,
            steps = inout(reg) strip.depth / STEP => _,
            out("tmm0") _,
            out("tmm1") _,
            out("tmm2") _,
            out("tmm3") _,
            out("tmm4") _,
            out("tmm5") _,
            out("tmm6") _,
            out("tmm7") _,
            options(nostack),
        );
    }
}

/// 1 to 16 rows by 64 columns.
unsafe fn one_by_four(strip: &Strip, a: *const u32, c: *mut f32) {
    // SAFETY: tiles are shaped for these rows, and the pointers are good for them.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {load:e}, {load:e}",
            "jz 2f",
            "tileloadd tmm0, [{c} + {c_row}]",
            "tileloadd tmm1, [{c} + {c_row} + 64]",
            "tileloadd tmm2, [{c} + {c_row} + 128]",
            "tileloadd tmm3, [{c} + {c_row} + 192]",
            "2:",
            "tileloadd tmm4, [{a} + {a_row}]",
            "tileloadd tmm5, [{b} + {b_row}]",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tileloadd tmm6, [{b} + {b_row} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {b_row} + 128]",
            "tdpbf16ps tmm2, tmm4, tmm7",
            "tileloadd tmm5, [{b} + {b_row} + 192]",
            "tdpbf16ps tmm3, tmm4, tmm5",
            "add {a}, 64",
            "add {b}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {c_row}], tmm0",
            "tilestored [{c} + {c_row} + 64], tmm1",
            "tilestored [{c} + {c_row} + 128], tmm2",
            "tilestored [{c} + {c_row} + 192], tmm3",
            load = in(reg) u32::from(strip.load),
            a = inout(reg) a => _,
            a_row = in(reg) strip.a_stride * 4,
            b = inout(reg) strip.b => _,
            b_row = in(reg) PANEL_ROW,
            c = in(reg) c,
            c_row = in(reg) strip.c_stride * 4,
            steps = inout(reg) strip.depth / STEP => _,
            out("tmm0") _,
            out("tmm1") _,
            out("tmm2") _,
            out("tmm3") _,
            out("tmm4") _,
            out("tmm5") _,
            out("tmm6") _,
            out("tmm7") _,
            options(nostack),
        );
    }
}

/// 1 to 16 rows by 32 columns.
unsafe fn one_by_two(strip: &Strip, a: *const u32, c: *mut f32) {
    // SAFETY: tiles are shaped for these rows, and the pointers are good for them.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "test {load:e}, {load:e}",
            "jz 2f",
            "tileloadd tmm0, [{c} + {c_row}]",
            "tileloadd tmm1, [{c} + {c_row} + 64]",
            "2:",
            "tileloadd tmm4, [{a} + {a_row}]",
            "tileloadd tmm5, [{b} + {b_row}]",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tileloadd tmm6, [{b} + {b_row} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm6",
            "add {a}, 64",
            "add {b}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {c_row}], tmm0",
            "tilestored [{c} + {c_row} + 64], tmm1",
            load = in(reg) u32::from(strip.load),
            a = inout(reg) a => _,
            a_row = in(reg) strip.a_stride * 4,
            b = inout(reg) strip.b => _,
            b_row = in(reg) PANEL_ROW,
            c = in(reg) c,
            c_row = in(reg) strip.c_stride * 4,
            steps = inout(reg) strip.depth / STEP => _,
            out("tmm0") _,
            out("tmm1") _,
            out("tmm4") _,
            out("tmm5") _,
            out("tmm6") _,
            options(nostack),
        );
    }
}
