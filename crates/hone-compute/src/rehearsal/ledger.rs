//! What a rehearsal writes down: bytes as the processor's backend would hold them, operations, and the time they take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cpu::buffer::{best_fit, capacity_class};

/// Bytes of the processor's backend, by what holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Tensors, those that were freed and wait to be used again among them: weights, gradients, moments, activations.
    pub tensors: usize,
    /// Weights in the form of the kernels.
    pub packed: usize,
    /// Operands of products in the form of the kernels, kept between products.
    pub operands: usize,
    /// Pages of keys and values.
    pub pages: usize,
}

impl MemoryUse {
    /// All of it.
    pub fn total(&self) -> usize {
        self.tensors + self.packed + self.operands + self.pages
    }
}

/// What this machine does in a second, as measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// Floating-point operations of matrix products in the precision of the run.
    pub matrix: f64,
    /// Those of attention, in the precision of the run, its gradient included.
    pub attention: f64,
    /// Bytes read from memory.
    pub memory: f64,
}

/// What a rehearsal came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// Bytes held now.
    pub now: MemoryUse,
    /// Bytes held when they were most.
    pub peak: MemoryUse,
    /// Floating-point operations of matrix products and attention.
    pub operations: f64,
    /// Seconds, where speeds were given.
    pub seconds: f64,
}

/// What kind of memory a [`Held`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Packed,
    Pages,
}

#[derive(Default)]
struct State {
    account: Account,
    speeds: Option<Speeds>,
    /// Freed tensors by class: how much of each was ever written, in numbers.
    free: BTreeMap<usize, Vec<usize>>,
    /// Cells that idle left and right operands have room for.
    spare: [Vec<usize>; 2],
    /// Freed pages by their bytes.
    pages: BTreeMap<usize, usize>,
}

/// The ledger of one rehearsal.
#[derive(Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
}

impl State {
    /// Bytes of pages that wait for use.
    fn idle_pages(&self) -> usize {
        self.pages.iter().map(|(bytes, count)| bytes * count).sum()
    }

    fn moved(&mut self) {
        if self.account.now.total() > self.account.peak.total() {
            self.account.peak = self.account.now;
        }
    }
}

impl Ledger {
    /// From now on time is counted at these speeds.
    pub fn count_time(&self, speeds: Speeds) {
        self.state().speeds = Some(speeds);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn account(&self) -> Account {
        self.state().account
    }

    /// The memory of a tensor of `length` numbers, as [`crate::cpu::buffer::Store::take`] finds it. Memory that was never
    /// written costs nothing.
    pub fn tensor(self: &Arc<Self>, length: usize) -> Buffer {
        let class = capacity_class(length);
        let mut state = self.state();
        let found = state.free.get_mut(&class).and_then(|idle| {
            let index = best_fit(idle.iter().copied(), length)?;
            Some(idle.swap_remove(index))
        });
        let before = found.unwrap_or(0);
        let written = before.max(length);
        state.account.now.tensors += (written - before) * size_of::<f32>();
        state.moved();
        Buffer {
            ledger: Arc::clone(self),
            length,
            written,
        }
    }

    /// Gives idle memory back.
    pub fn release_idle(&self) {
        let mut state = self.state();
        let written: usize = state.free.values().flatten().sum();
        state.account.now.tensors -= written * size_of::<f32>();
        state.free.clear();
        let cells: usize = state.spare.iter().flatten().sum();
        state.account.now.operands -= cells * size_of::<u32>();
        state.spare = Default::default();
        state.account.now.pages -= state.idle_pages();
        state.pages.clear();
    }

    /// The lengths that waiting tensors of each capacity were used to, and the cells of waiting left and right operands.
    #[cfg(test)]
    pub fn waiting(&self) -> (BTreeMap<usize, Vec<usize>>, [Vec<usize>; 2]) {
        let state = self.state();
        (state.free.clone(), state.spare.clone())
    }

    /// Bytes of tensors and pages that wait for use.
    pub fn idle(&self) -> usize {
        let state = self.state();
        state.free.values().flatten().sum::<usize>() * size_of::<f32>() + state.idle_pages()
    }

    /// Memory that is given back when dropped; that of pages waits for the next.
    pub fn hold(self: &Arc<Self>, kind: Kind, bytes: usize) -> Held {
        let mut state = self.state();
        match state
            .pages
            .get_mut(&bytes)
            .filter(|idle| kind == Kind::Pages && **idle > 0)
        {
            Some(idle) => *idle -= 1,
            None => *place(&mut state.account.now, kind) += bytes,
        }
        state.moved();
        Held {
            ledger: Arc::clone(self),
            kind,
            bytes,
        }
    }

    /// An operand of `cells`, in the memory of the idle one that fits best.
    pub fn operand(self: &Arc<Self>, side: Side, cells: usize) -> Operand {
        let mut state = self.state();
        let idle = &mut state.spare[side as usize];
        let found = best_fit(idle.iter().copied(), cells).map(|index| idle.swap_remove(index));
        let before = found.unwrap_or(0);
        let cells = before.max(cells);
        state.account.now.operands += (cells - before) * size_of::<u32>();
        state.moved();
        Operand {
            ledger: Arc::clone(self),
            side,
            cells,
        }
    }

    /// Matrix products: the time is that of the operations or that of the bytes, whichever is longer.
    pub fn products(&self, operations: f64, bytes: f64) {
        self.work(operations, |s| s.matrix, bytes);
    }

    /// Attention.
    pub fn attends(&self, operations: f64, bytes: f64) {
        self.work(operations, |s| s.attention, bytes);
    }

    /// Work that only waits for memory.
    pub fn moves(&self, bytes: f64) {
        self.work(0.0, |s| s.attention, bytes);
    }

    fn work(&self, operations: f64, speed: impl Fn(&Speeds) -> f64, bytes: f64) {
        let mut state = self.state();
        state.account.operations += operations;
        if let Some(speeds) = state.speeds {
            state.account.seconds += (operations / speed(&speeds)).max(bytes / speeds.memory);
        }
    }
}

fn place(memory: &mut MemoryUse, kind: Kind) -> &mut usize {
    match kind {
        Kind::Packed => &mut memory.packed,
        Kind::Pages => &mut memory.pages,
    }
}

/// The memory of a tensor; goes back to those that wait when dropped.
pub(crate) struct Buffer {
    ledger: Arc<Ledger>,
    length: usize,
    written: usize,
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.length
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let class = capacity_class(self.length);
        if class == 0 {
            return;
        }
        self.ledger.state().free.entry(class).or_default().push(self.written);
    }
}

/// Memory that is given back when dropped. A clone holds as much again.
pub(crate) struct Held {
    ledger: Arc<Ledger>,
    kind: Kind,
    bytes: usize,
}

impl Clone for Held {
    fn clone(&self) -> Self {
        self.ledger.hold(self.kind, self.bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.ledger.state();
        match self.kind {
            Kind::Pages => *state.pages.entry(self.bytes).or_default() += 1,
            Kind::Packed => state.account.now.packed -= self.bytes,
        }
    }
}

/// Which operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// An operand in the form of the kernels; its memory waits for the next when dropped.
pub(crate) struct Operand {
    ledger: Arc<Ledger>,
    side: Side,
    cells: usize,
}

impl Drop for Operand {
    fn drop(&mut self) {
        self.ledger.state().spare[self.side as usize].push(self.cells);
    }
}
