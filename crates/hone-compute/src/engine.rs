//! The engine: a device, a precision, and the operations on whole tensors that a device must offer.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::backend::Backend;
use crate::cpu::backend::CpuBackend;
use crate::isa::{Isa, IsaError, MOST_THREADS, Precision};
use crate::profile::{OperationTime, Profiled};
use crate::rehearsal::{Account, Rehearsal, Speeds};
use crate::rows_left::RowsLeft;
use crate::tensor::Tensor;

/// How to make an [`Engine`].
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The instruction set; none: `HONE_ISA`, or the fastest of the machine.
    pub isa: Option<Isa>,
    /// How matrix products are computed.
    pub precision: Precision,
    /// Threads; none: `HONE_THREADS`, or as many as the machine has cores. Results do not depend on it.
    pub threads: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            isa: None,
            precision: Precision::Bf16,
            threads: None,
        }
    }
}

/// A device with its kernels. Cloning shares it.
#[derive(Clone)]
pub struct Engine {
    backend: Arc<dyn Backend>,
}

impl Engine {
    /// An engine on this machine's processor.
    ///
    /// # Errors
    /// If this machine lacks the instruction set that is asked for, or `HONE_ISA` or `HONE_THREADS`, where they are read,
    /// hold what is no instruction set or no number of threads, or if more threads are asked for than an engine may have.
    pub fn new(options: &EngineOptions) -> Result<Self, IsaError> {
        let (isa, threads) = resolve(options)?;
        Ok(Self {
            backend: Arc::new(CpuBackend::new(isa, options.precision, threads)),
        })
    }

    /// An engine that computes nothing: its tensors have shapes and no numbers (they read as zeros), and it counts the
    /// memory and the operations that [`Engine::new`] with the same options would take for the same calls. See
    /// [`Engine::account`].
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn rehearsal(options: &EngineOptions) -> Result<Self, IsaError> {
        let (isa, threads) = resolve(options)?;
        Ok(Self {
            backend: Arc::new(Rehearsal::new(isa, options.precision, threads)),
        })
    }

    /// From now on a rehearsal counts time too, as of a machine with these speeds.
    pub fn count_time(&self, speeds: Speeds) {
        self.backend.count_time(speeds);
    }

    /// Whether this is a rehearsal: numbers that are given to it are not looked at.
    pub fn rehearses(&self) -> bool {
        self.account().is_some()
    }

    /// What a rehearsal counted so far; none of an engine that computes.
    pub fn account(&self) -> Option<Account> {
        self.backend.account()
    }

    /// An engine on this backend.
    #[cfg(test)]
    pub(crate) fn on(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    /// The same engine with every operation timed; see [`Self::operation_times`]. Results do not change.
    pub fn profiled(&self) -> Self {
        Self {
            backend: Arc::new(Profiled::new(Arc::clone(&self.backend))),
        }
    }

    /// What the operations of a profiled engine took since [`Self::clear_operation_times`], by name; empty for another.
    pub fn operation_times(&self) -> Vec<(&'static str, OperationTime)> {
        self.backend.operation_times()
    }

    /// Starts the times of a profiled engine from nothing.
    pub fn clear_operation_times(&self) {
        self.backend.clear_operation_times();
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.backend.isa()
    }

    /// How matrix products are computed.
    pub fn precision(&self) -> Precision {
        self.backend.precision()
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.backend.threads()
    }

    /// The rows of `n` that are to be computed where these are wanted, in any order, some perhaps more than once: sums over
    /// rows in which only the others are left out, and would add 0, have the same bits.
    ///
    /// # Panics
    /// If one of them is not below `n`.
    pub fn rows_left(&self, wanted: &[u32], n: usize) -> RowsLeft {
        RowsLeft::with(wanted, n, self.backend.rows_of_a_step())
    }

    /// A tensor of zeros.
    pub fn zeros(&self, rows: usize, cols: usize) -> Tensor {
        let mut tensor = self.backend.empty(rows, cols);
        self.backend.fill(&mut tensor, 0.0);
        tensor
    }

    /// A tensor with these numbers, row by row.
    ///
    /// # Panics
    /// If there are not `rows * cols` of them.
    pub fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Tensor {
        let mut tensor = self.backend.empty(rows, cols);
        self.write(&mut tensor, values);
        tensor
    }

    /// The numbers of a tensor, row by row.
    pub fn read(&self, tensor: &Tensor) -> Vec<f32> {
        self.backend.read(tensor)
    }

    /// Replaces the numbers of a tensor.
    ///
    /// # Panics
    /// If the count differs.
    pub fn write(&self, tensor: &mut Tensor, values: &[f32]) {
        assert_eq!(tensor.len(), values.len(), "as many numbers as the tensor holds");
        self.backend.write(tensor, values);
    }

    /// `average = decay * average + (1 - decay) * value`, for averages of weights.
    pub fn exponential_average(&self, average: &mut Tensor, value: &Tensor, decay: f64) {
        self.backend.exponential_average(average, value, decay);
    }

    /// Bytes held for later use by freed tensors.
    pub fn idle_bytes(&self) -> usize {
        self.backend.idle_bytes()
    }

    /// Gives memory of freed tensors back to the system.
    pub fn release_idle_memory(&self) {
        self.backend.release_idle_memory();
    }
}

/// The instruction set and the number of threads that are asked for.
fn resolve(options: &EngineOptions) -> Result<(Isa, usize), IsaError> {
    let isa = match options.isa {
        Some(isa) if !isa.runs_here() => {
            let available: Vec<_> = Isa::all_here().into_iter().map(Isa::name).collect();
            return Err(IsaError::Unavailable {
                got: isa,
                available: available.join(", "),
            });
        }
        Some(isa) => isa,
        None => Isa::from_environment()?,
    };
    let threads = match options.threads {
        Some(threads) if threads > MOST_THREADS => return Err(IsaError::TooManyThreads { got: threads }),
        Some(threads) => threads.max(1),
        None => threads_named(std::env::var_os("HONE_THREADS").as_deref())?.unwrap_or_else(cores),
    };
    Ok((isa, threads))
}

/// The number of threads that the value of `HONE_THREADS` asks for; none where it is unset or empty.
fn threads_named(value: Option<&OsStr>) -> Result<Option<usize>, IsaError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let threads = value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|threads| (1..=MOST_THREADS).contains(threads));
    threads.map(Some).ok_or_else(|| IsaError::Threads {
        got: value.to_string_lossy().into_owned(),
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_has_a_limit_of_threads() {
        let options = EngineOptions {
            threads: Some(MOST_THREADS + 1),
            ..EngineOptions::default()
        };
        assert_eq!(
            Engine::new(&options).err(),
            Some(IsaError::TooManyThreads { got: MOST_THREADS + 1 })
        );
    }

    #[test]
    fn threads_are_a_number_above_zero() {
        let named = |value: &str| threads_named(Some(OsStr::new(value)));
        assert_eq!(threads_named(None), Ok(None));
        assert_eq!(named(""), Ok(None));
        assert_eq!(named("1"), Ok(Some(1)));
        assert_eq!(named("4096"), Ok(Some(4096)));
        for bad in ["0", "-1", "4097", "two", "2.0", " 2", "99999999999999999999999"] {
            assert_eq!(named(bad), Err(IsaError::Threads { got: bad.to_owned() }), "{bad}");
        }
        let message = named("two").unwrap_err().to_string();
        assert_eq!(
            message,
            "HONE_THREADS is `two`; expected a number from 1 to 4096, or nothing for one a core"
        );
    }
}
