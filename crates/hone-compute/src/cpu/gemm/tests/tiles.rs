//! The AMX kernel itself, against its emulation; on processors without tiles its instructions are interpreted.
//!
//! Where there are no tiles, each tile instruction raises SIGILL. The handler decodes it, does on memory what Intel's
//! manual says, and goes on behind it. So encodings, strides and loops of the kernel are tested on every AVX-512 machine.

use super::super::{PANEL, Strip, amx, amx_emulated};
use super::{Random, tile_model};
use crate::Isa;
use std::cell::UnsafeCell;

const ROWS: usize = 16;
const ROW: usize = 64;

/// The state that `ldtilecfg` and the loads set up.
struct Machine {
    rows: [usize; 8],
    row_bytes: [usize; 8],
    data: [[u8; ROWS * ROW]; 8],
    /// How many products were computed.
    products: usize,
}

struct ThisThread(UnsafeCell<Machine>);
thread_local! {
    static MACHINE: ThisThread = const {
        ThisThread(UnsafeCell::new(Machine {
            rows: [0; 8],
            row_bytes: [0; 8],
            data: [[0; ROWS * ROW]; 8],
            products: 0,
        }))
    };
}

impl Machine {
    /// `ldtilecfg`, or what `tilerelease` leaves where there is no operand.
    unsafe fn configure(&mut self, operand: Option<*const u8>) {
        self.rows = [0; 8];
        self.row_bytes = [0; 8];
        self.data = [[0; ROWS * ROW]; 8];
        let Some(operand) = operand else { return };
        // SAFETY: the operand of the instruction is 64 bytes.
        let bytes = unsafe { operand.cast::<[u8; 64]>().read() };
        check(bytes[0] == 1 && bytes[1..16].iter().all(|&b| b == 0));
        check(bytes[32..48].iter().all(|&b| b == 0) && bytes[56..].iter().all(|&b| b == 0));
        for tile in 0..8 {
            self.row_bytes[tile] = usize::from(u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]));
            self.rows[tile] = usize::from(bytes[48 + tile]);
            check(self.rows[tile] <= ROWS && self.row_bytes[tile] <= ROW);
            check((self.rows[tile] == 0) == (self.row_bytes[tile] == 0));
        }
    }

    unsafe fn load(&mut self, tile: usize, base: *const u8, stride: usize) {
        check(self.rows[tile] > 0);
        self.data[tile] = [0; ROWS * ROW];
        for row in 0..self.rows[tile] {
            // SAFETY: what the instruction reads.
            unsafe {
                base.wrapping_add(row * stride)
                    .copy_to_nonoverlapping(self.data[tile][row * ROW..].as_mut_ptr(), self.row_bytes[tile]);
            }
        }
    }

    unsafe fn store(&self, tile: usize, base: *mut u8, stride: usize) {
        check(self.rows[tile] > 0);
        for row in 0..self.rows[tile] {
            // SAFETY: what the instruction writes.
            unsafe {
                base.wrapping_add(row * stride)
                    .copy_from_nonoverlapping(self.data[tile][row * ROW..].as_ptr(), self.row_bytes[tile]);
            }
        }
    }

    fn word(&self, tile: usize, row: usize, column: usize) -> u32 {
        let at = row * ROW + column * 4;
        let d = &self.data[tile];
        u32::from_le_bytes([d[at], d[at + 1], d[at + 2], d[at + 3]])
    }

    /// `tdpbf16ps`.
    fn product(&mut self, c: usize, a: usize, b: usize) {
        check(self.rows[a] == self.rows[c] && self.rows[c] > 0);
        check(self.row_bytes[b] == self.row_bytes[c]);
        check(self.row_bytes[a] / 4 == self.rows[b]);
        check(c != a && c != b && a != b);
        let halves = |x: u32| [f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000)];
        for i in 0..self.rows[c] {
            for j in 0..self.row_bytes[c] / 4 {
                let (mut left, mut right) = ([0.0; 32], [0.0; 32]);
                for k in 0..self.rows[b] {
                    left[2 * k..2 * k + 2].copy_from_slice(&halves(self.word(a, i, k)));
                    right[2 * k..2 * k + 2].copy_from_slice(&halves(self.word(b, k, j)));
                }
                let sum = tile_model(&left, &right, f32::from_bits(self.word(c, i, j)));
                let at = i * ROW + j * 4;
                self.data[c][at..at + 4].copy_from_slice(&sum.to_bits().to_le_bytes());
            }
        }
        self.products += 1;
    }
}

/// A panic must not leave a signal handler.
fn check(holds: bool) {
    if !holds {
        std::process::abort();
    }
}

/// The operand in memory that a ModRM byte names.
struct Address {
    base: usize,
    index: usize,
    /// Bytes of the instruction that it takes up, ModRM among them.
    length: usize,
}

/// Decodes ModRM, SIB and displacement. `extension` has the bits that VEX adds to base and index.
unsafe fn address(code: *const u8, extension: (usize, usize), register: &dyn Fn(usize) -> usize) -> Address {
    // SAFETY: the bytes of an instruction that the processor has read.
    unsafe {
        let modrm = *code;
        let (mode, low) = (modrm >> 6, usize::from(modrm & 7));
        check(mode != 3);
        let mut length = 1;
        let (mut base, mut index) = (low, 0);
        if low == 4 {
            let sib = *code.add(1);
            length = 2;
            base = usize::from(sib & 7);
            let number = usize::from(sib >> 3 & 7) | extension.1 << 3;
            if number != 4 {
                index = register(number) << (sib >> 6);
            }
        }
        check(!(mode == 0 && base == 5));
        let base = register(base | extension.0 << 3);
        let displacement = match mode {
            0 => 0,
            1 => isize::from(*code.add(length).cast::<i8>()),
            _ => code.add(length).cast::<i32>().read_unaligned() as isize,
        };
        length += [0, 1, 4][usize::from(mode)];
        Address {
            base: base.wrapping_add_signed(displacement),
            index,
            length,
        }
    }
}

/// Does one tile instruction.
unsafe extern "C" fn interpret(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    const REGISTERS: [libc::c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    // SAFETY: the system passes a context, and the code at its instruction pointer has been read by the processor.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let register = |i: usize| registers[REGISTERS[i] as usize] as usize;
        let code = registers[libc::REG_RIP as usize] as *const u8;
        // VEX of three bytes, map 0F38, 128 bits: C4 RXBmmmmm WvvvvLpp opcode.
        check(*code == 0xc4);
        let (second, third, opcode) = (*code.add(1), *code.add(2), *code.add(3));
        check(second & 0x1f == 2 && third & 0x84 == 0 && second & 0x80 != 0);
        let extension = (usize::from(second >> 5 & 1 ^ 1), usize::from(second >> 6 & 1 ^ 1));
        let (third_tile, prefix) = (usize::from(third >> 3 & 15 ^ 15), third & 3);
        let modrm = *code.add(4);
        let tile = usize::from(modrm >> 3 & 7);
        let machine = &mut *MACHINE.with(|m| m.0.get());
        let mut length = 5;
        match (prefix, opcode) {
            (0, 0x49) if modrm == 0xc0 => machine.configure(None),
            (0, 0x49) => {
                let at = address(code.add(4), extension, &register);
                machine.configure(Some(at.base.wrapping_add(at.index) as *const u8));
                length = 4 + at.length;
            }
            // tilezero
            (3, 0x49) => machine.data[tile] = [0; ROWS * ROW],
            // tileloadd
            (3, 0x4b) => {
                let at = address(code.add(4), extension, &register);
                machine.load(tile, at.base as *const u8, at.index);
                length = 4 + at.length;
            }
            // tilestored
            (2, 0x4b) => {
                let at = address(code.add(4), extension, &register);
                machine.store(tile, at.base as *mut u8, at.index);
                length = 4 + at.length;
            }
            // tdpbf16ps: destination in ModRM.reg, a in ModRM.rm, b in VEX.vvvv.
            (2, 0x5c) => machine.product(tile, usize::from(modrm & 7), third_tile),
            _ => check(false),
        }
        registers[libc::REG_RIP as usize] += length as i64;
    }
}

#[test]
fn the_kernel_of_tiles_agrees_with_its_emulation() {
    if !Isa::Avx512.in_hardware() {
        return;
    }
    let interpreted = !Isa::Amx.in_hardware();
    if interpreted {
        // SAFETY: the handler answers tile instructions, and ends the process at any other.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = interpret as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    }
    let mut random = Random::new(7);
    for rows in [1, 2, 5, 15, 16, 17, 23, 31, 32, 33, 48, 49, 64, 65] {
        for (columns, depth, load, tiny) in [
            (PANEL, 16, false, false),
            (PANEL, 48, true, false),
            (PANEL, 32, false, true),
            (PANEL / 2, 32, true, false),
            (PANEL / 2, 16, false, true),
        ] {
            let a_stride = depth + [0, 16, 48][rows % 3];
            let c_stride = PANEL + rows % 7;
            let mut cells = |count: usize| -> Vec<u32> {
                let mut halves = || {
                    let x = if tiny { random.tiny_vector(2) } else { random.vector(2) };
                    x[0].to_bits() >> 16 | x[1].to_bits() & 0xffff_0000
                };
                (0..count).map(|_| halves()).collect()
            };
            // No row more than the strip has, so that reading beyond would be seen by a checker of memory.
            let a = cells((rows - 1) * a_stride + depth);
            let b = cells(depth * PANEL);
            let before = random.vector(rows * c_stride + 3);
            let [hardware, emulated] = [amx::strip as unsafe fn(&Strip), amx_emulated::strip].map(|run| {
                let mut c = before.clone();
                let strip = Strip {
                    a: a.as_ptr(),
                    a_stride,
                    b: b.as_ptr(),
                    next: b.as_ptr(),
                    rows,
                    columns,
                    panel: PANEL,
                    pass: 0,
                    depth,
                    c: c.as_mut_ptr(),
                    c_stride,
                    load,
                };
                // SAFETY: the vectors are as large as the strip says; the handler stands in for tiles.
                unsafe { run(&strip) };
                c
            });
            let what = format!("{rows} rows, {columns} columns, depth {depth}, load {load}");
            super::assert_bits(&hardware, &emulated, &what);
            assert_ne!(hardware[..columns], before[..columns], "{what}");
            for row in 0..rows {
                let gap = row * c_stride + columns..(row + 1) * c_stride;
                assert_eq!(hardware[gap.clone()], before[gap], "{what}: between rows");
            }
        }
    }
    if interpreted {
        // SAFETY: this thread's machine, outside the handler.
        let machine = MACHINE.with(|m| unsafe { &*m.0.get() });
        assert!(machine.products > 0, "tile instructions ran");
        assert_eq!(machine.rows, [0; 8], "released");
    }
}
