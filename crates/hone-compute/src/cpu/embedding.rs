//! Rows chosen by number: token embeddings, and the selection of some rows of an activation.

use super::Cpu;
use super::elementwise::{Add, map_here, row_grain, rows};
use crate::pool::Parts;

/// Columns of the gradient a task of [`scatter_add`] takes.
const COLUMNS: usize = 128;

/// `y[i] = table[ids[i]]`; `table` is `[v, d]`, `y` `[n, d]`. Every id must be below `v`.
pub(crate) fn gather(cpu: &Cpu, table: &[f32], ids: &[u32], d: usize, y: &mut [f32]) {
    let v = rows(table.len(), d);
    assert_eq!(y.len(), ids.len() * d, "{} rows of width {d}", ids.len());
    let y = Parts::new(y);
    cpu.pool.ranges(ids.len(), row_grain(d), &|range| {
        for i in range {
            let id = ids[i] as usize;
            assert!(id < v, "row {id} of {v}");
            // SAFETY: each row is in one task.
            unsafe { y.get(i * d..(i + 1) * d) }.copy_from_slice(&table[id * d..][..d]);
        }
    });
}

/// `dtable[ids[i]] += dy[i]` for `i` in order; `dy` is `[n, d]`, `dtable` `[v, d]`. Every id must be below `v`.
pub(crate) fn scatter_add(cpu: &Cpu, ids: &[u32], dy: &[f32], d: usize, dtable: &mut [f32]) {
    let v = rows(dtable.len(), d);
    assert_eq!(dy.len(), ids.len() * d, "{} rows of width {d}", ids.len());
    let dtable = Parts::new(dtable);
    cpu.pool.ranges(d, COLUMNS, &|columns| {
        for (&id, dy) in ids.iter().zip(dy.chunks_exact(d)) {
            let id = id as usize;
            assert!(id < v, "row {id} of {v}");
            let at = id * d + columns.start..id * d + columns.end;
            // SAFETY: each column is in one task.
            let row = unsafe { dtable.get(at) };
            map_here(cpu.level, &Add, [&dy[columns.clone()]], [row]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{WIDTHS, bits, cpus, ids, normal};

    #[test]
    fn gathers_and_scatters() {
        for d in WIDTHS {
            let (v, n) = (11, 300);
            let (table, ids, dy) = (normal(1, v * d), ids(2, n, v), normal(3, n * d));
            let mut expected = normal(4, v * d);
            let start = expected.clone();
            for (i, &id) in ids.iter().enumerate() {
                for j in 0..d {
                    expected[id as usize * d + j] += dy[i * d + j];
                }
            }
            for cpu in cpus() {
                let mut y = vec![0.0; n * d];
                gather(&cpu, &table, &ids, d, &mut y);
                for (i, &id) in ids.iter().enumerate() {
                    assert_eq!(y[i * d..][..d], table[id as usize * d..][..d]);
                }
                let mut dtable = start.clone();
                scatter_add(&cpu, &ids, &dy, d, &mut dtable);
                assert_eq!(bits(&dtable), bits(&expected), "in order, one at a time");
            }
        }
    }

    #[test]
    fn scattering_is_the_transpose_of_gathering() {
        let (v, n, d) = (9, 5, 7);
        let (x, chosen, dy) = (normal(1, v * d), ids(2, n, v), normal(3, n * d));
        for cpu in cpus() {
            let (mut y, mut dx) = (vec![0.0; n * d], vec![0.0; v * d]);
            gather(&cpu, &x, &chosen, d, &mut y);
            scatter_add(&cpu, &chosen, &dy, d, &mut dx);
            let product =
                |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
            assert!((product(&y, &dy) - product(&x, &dx)).abs() < 1e-5);
        }
    }

    #[test]
    #[should_panic(expected = "row 3 of 3")]
    fn refuses_a_row_beyond_the_table() {
        let cpu = cpus().next().expect("there is the portable instruction set");
        gather(&cpu, &[0.0; 6], &[0, 3], 2, &mut [0.0; 4]);
    }
}
