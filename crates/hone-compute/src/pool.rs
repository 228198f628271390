//! A pool of threads for short parallel regions.
//!
//! A region is a number of independent tasks. Which thread runs a task is left to chance, so a task must write what
//! no other task writes, and its result must not depend on the thread: then results do not depend on their number.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Turns of waiting before a thread sleeps: some tens of microseconds, the gap between two regions of a forward pass.
const SPINS: usize = 4_000;

type Task = dyn Fn(usize) + Sync;

struct Shared {
    /// Whether the region below may be joined.
    open: AtomicBool,
    /// Threads inside the region, or looking whether they may join.
    active: AtomicUsize,
    /// Changes with every region.
    epoch: AtomicUsize,
    task: Mutex<Option<SendPointer>>,
    /// The next task of each stretch.
    next: Box<[Counter]>,
    /// How many stretches the tasks are cut into.
    stretches: AtomicUsize,
    count: AtomicUsize,
    panicked: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

/// A counter on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Counter(AtomicUsize);

#[derive(Clone, Copy)]
struct SendPointer(*const Task);
// SAFETY: the pointee is `Sync`, and `run` keeps it alive until every thread has left the region.
unsafe impl Send for SendPointer {}

/// A fixed number of threads, the calling one among them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    region: Mutex<()>,
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `threads` (at least one: the caller's).
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            open: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            epoch: AtomicUsize::new(0),
            task: Mutex::new(None),
            next: (0..threads.max(1)).map(|_| Counter::default()).collect(),
            stretches: AtomicUsize::new(1),
            count: AtomicUsize::new(0),
            panicked: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let workers = (1..threads)
            .filter_map(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("hone-{i}"))
                    .spawn(move || work(&shared, i))
                    .ok()
            })
            .collect();
        Self {
            shared,
            workers,
            region: Mutex::new(()),
        }
    }

    /// How many threads a region has.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)`, …, `task(count - 1)` and returns when all are done. A region inside a task runs in its thread.
    pub fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.run_stretches(count, 1, task);
    }

    /// The same, and a thread begins with a stretch of tasks of its own, in order: what a task fetches ahead for the one
    /// after it is then fetched by the thread that reads it. Who is done helps with the stretches of the others.
    pub fn run_apart(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.run_stretches(count, self.threads(), task);
    }

    fn run_stretches(&self, count: usize, stretches: usize, task: &(dyn Fn(usize) + Sync)) {
        if count <= 1 || self.workers.is_empty() || INSIDE.get() {
            (0..count).for_each(task);
            return;
        }
        let _region = self.region.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; no thread holds the pointer once `active` is 0 with the region closed.
        let pointer = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const Task>(task) };
        *shared.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(SendPointer(pointer));
        shared.count.store(count, SeqCst);
        shared.stretches.store(stretches, SeqCst);
        for (stretch, next) in shared.next.iter().enumerate().take(stretches) {
            next.0.store(stretch * count / stretches, SeqCst);
        }
        shared.open.store(true, SeqCst);
        shared.epoch.fetch_add(1, SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            let _guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        shared.take_tasks(0, task);
        shared.open.store(false, SeqCst);
        let mut turns = 0;
        while shared.active.load(SeqCst) != 0 {
            turns += 1;
            if turns < SPINS {
                std::hint::spin_loop()
            } else {
                std::thread::yield_now()
            }
        }
        let panicked = shared.panicked.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
    }

    /// Runs `task` on consecutive ranges of `0..length`, each of `grain` (the last may be shorter).
    pub fn ranges(&self, length: usize, grain: usize, task: &(dyn Fn(std::ops::Range<usize>) + Sync)) {
        let grain = grain.max(1);
        self.run(length.div_ceil(grain), &|i| {
            task(i * grain..length.min((i + 1) * grain))
        });
    }
}

impl Shared {
    /// Takes tasks in the thread `thread` of the pool.
    fn take_tasks(&self, thread: usize, task: &(dyn Fn(usize) + Sync)) {
        INSIDE.set(true);
        let (count, stretches) = (self.count.load(SeqCst), self.stretches.load(SeqCst));
        let result = catch_unwind(AssertUnwindSafe(|| {
            for turn in 0..stretches {
                let stretch = (thread + turn) % stretches;
                let end = (stretch + 1) * count / stretches;
                loop {
                    let i = self.next[stretch].0.fetch_add(1, SeqCst);
                    if i >= end {
                        break;
                    }
                    task(i);
                }
            }
        }));
        INSIDE.set(false);
        if let Err(panic) = result {
            self.next.iter().for_each(|next| next.0.store(count, SeqCst));
            *self.panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }
}

fn work(shared: &Shared, thread: usize) {
    let mut seen = 0;
    loop {
        let mut turns = 0;
        while shared.epoch.load(SeqCst) == seen && !shared.stop.load(SeqCst) {
            turns += 1;
            if turns < SPINS {
                std::hint::spin_loop();
                continue;
            }
            shared.sleepers.fetch_add(1, SeqCst);
            let mut guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            while shared.epoch.load(SeqCst) == seen && !shared.stop.load(SeqCst) {
                guard = shared.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            shared.sleepers.fetch_sub(1, SeqCst);
        }
        if shared.stop.load(SeqCst) {
            return;
        }
        seen = shared.epoch.load(SeqCst);
        shared.active.fetch_add(1, SeqCst);
        if shared.open.load(SeqCst) {
            let pointer = *shared.task.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(SendPointer(pointer)) = pointer {
                // SAFETY: the region is open and this thread counted as active, so `run` has not returned.
                shared.take_tasks(thread, unsafe { &*pointer });
            }
        }
        shared.active.fetch_sub(1, SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        {
            let _guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so joining fails only if the thread was killed.
            let _ = worker.join();
        }
    }
}

/// A slice of which tasks write parts that do not overlap.
pub(crate) struct Parts<'a, T> {
    pointer: *mut T,
    length: usize,
    lifetime: std::marker::PhantomData<&'a mut [T]>,
}
// SAFETY: `get` hands out parts under the caller's promise that no two overlap.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Takes the slice over for as long as it is shared out.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            pointer: slice.as_mut_ptr(),
            length: slice.len(),
            lifetime: std::marker::PhantomData,
        }
    }

    /// The part `range`.
    ///
    /// # Safety
    /// No two parts that are alive at once may overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get(&self, range: std::ops::Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "part {range:?} of {}",
            self.length
        );
        // SAFETY: in bounds by the assertion, not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }
}

impl<T> Parts<'_, T> {
    /// The first place of `range`, for parts that are not contiguous.
    pub fn start(&self, range: std::ops::Range<usize>) -> *mut T {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "part {range:?} of {}",
            self.length
        );
        self.pointer.wrapping_add(range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for count in [0, 1, 2, 7, 1000] {
                for _ in 0..50 {
                    let mut hits = vec![0_u8; count];
                    let parts = Parts::new(&mut hits);
                    // SAFETY: each task has its own element.
                    pool.run(count, &|i| unsafe { parts.get(i..i + 1) }[0] += 1);
                    assert!(hits.iter().all(|&h| h == 1), "{threads} threads, {count} tasks");
                    let parts = Parts::new(&mut hits);
                    // SAFETY: as above.
                    pool.run_apart(count, &|i| unsafe { parts.get(i..i + 1) }[0] += 1);
                    assert!(hits.iter().all(|&h| h == 2), "{threads} threads, {count} tasks apart");
                }
            }
        }
    }

    #[test]
    fn regions_nest_and_survive_a_pause() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(4, &|j| {
                sum.fetch_add(j, SeqCst);
            })
        });
        std::thread::sleep(std::time::Duration::from_millis(5));
        pool.run(4, &|j| {
            sum.fetch_add(j, SeqCst);
        });
        assert_eq!(sum.load(SeqCst), 4 * 6 + 6);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives() {
        let pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|i| assert!(i != 3, "task three"))));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(8, &|i| {
            sum.fetch_add(i, SeqCst);
        });
        assert_eq!(sum.load(SeqCst), 28);
    }
}
