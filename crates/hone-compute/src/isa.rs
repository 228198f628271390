//! Instruction sets, and the one that a run uses.

use std::ffi::OsStr;
use std::fmt;

/// How matrix products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Operands rounded to bf16, accumulated in f32. The key-value cache holds bf16.
    Bf16,
    /// Everything in f32.
    F32,
}

/// An instruction set for which bits are promised: the same run under the same one gives the same bits everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// AMX tiles for bf16 matrix products, `vdpbf16ps` for those of attention, AVX-512 for the rest. Where there are no
    /// tiles, they are emulated to the bit by AVX-512; `vdpbf16ps` must be there.
    Amx,
    /// `vdpbf16ps` for bf16 products, those of attention too, AVX-512 for the rest.
    Avx512Bf16,
    /// AVX-512 without bf16 arithmetic: operands are rounded to bf16, kept so, and multiplied in f32.
    Avx512,
    /// AVX2 and FMA; as above.
    Avx2,
    /// Plain Rust; as above, without fused multiply-add.
    Portable,
}

/// The width of the vector code that goes with an [`Isa`].
///
/// A value is a witness: the machine has the width's features, since only [`Isa::level`] makes the [`Proof`] in it, and
/// that asks the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Avx512(Proof),
    Avx2(Proof),
    Portable,
}

/// The features of a [`Level`] were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proof(());

/// `HONE_ISA` or `HONE_THREADS` asks for what cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    /// No such instruction set.
    #[error("HONE_ISA is `{got}`; expected one of amx, avx512bf16, avx512, avx2, portable")]
    Unknown {
        /// What was named.
        got: String,
    },
    /// This machine cannot run it.
    #[error("HONE_ISA is `{got}`, which this machine does not have; it has {available}")]
    Unavailable {
        /// What was named.
        got: Isa,
        /// What there is, joined by commas.
        available: String,
    },
    /// More threads than an engine may have.
    #[error("{got} threads are asked for; expected at most {MOST_THREADS}")]
    TooManyThreads {
        /// How many.
        got: usize,
    },
    /// No such number of threads.
    #[error("HONE_THREADS is `{got}`; expected a number from 1 to {MOST_THREADS}, or nothing for one a core")]
    Threads {
        /// What was asked for.
        got: String,
    },
}

/// Threads that an engine may have.
pub(crate) const MOST_THREADS: usize = 4096;

impl Isa {
    /// All of them, those with more instructions first.
    pub const ALL: [Self; 5] = [Self::Amx, Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Portable];

    /// The name used in `HONE_ISA` and recorded in runs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// The instruction set of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// The fastest that this machine has in hardware: the first of [`Self::ALL`], but not `vdpbf16ps` where it is slower than
    /// multiply-adds in f32.
    pub fn detect() -> Self {
        Self::ALL
            .into_iter()
            .find(|isa| isa.in_hardware() && !(*isa == Self::Avx512Bf16 && bf16_is_slow()))
            .unwrap_or(Self::Portable)
    }

    /// What `HONE_ISA` names, or else the fastest.
    ///
    /// # Errors
    /// If it names no instruction set, or one that this machine lacks.
    pub fn from_environment() -> Result<Self, IsaError> {
        Self::named(std::env::var_os("HONE_ISA").as_deref())
    }

    fn named(value: Option<&OsStr>) -> Result<Self, IsaError> {
        let Some(name) = value.filter(|name| !name.is_empty()) else {
            return Ok(Self::detect());
        };
        let isa = name.to_str().and_then(Self::from_name);
        let isa = isa.ok_or_else(|| IsaError::Unknown {
            got: name.to_string_lossy().into_owned(),
        })?;
        if isa.runs_here() {
            return Ok(isa);
        }
        let available: Vec<_> = Self::all_here().into_iter().map(Self::name).collect();
        Err(IsaError::Unavailable {
            got: isa,
            available: available.join(", "),
        })
    }

    /// Those that run on this machine, emulated ones too.
    pub fn all_here() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.runs_here()).collect()
    }

    /// Whether this machine runs it, if need be emulated.
    pub fn runs_here(self) -> bool {
        self.in_hardware() || (self == Self::Amx && Self::Avx512Bf16.in_hardware())
    }

    /// Whether this machine has its instructions.
    pub fn in_hardware(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.in_hardware()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.in_hardware() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Bf16.in_hardware() && tiles_granted(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The width of its vector code.
    ///
    /// # Panics
    /// If it does not run here.
    pub(crate) fn level(self) -> Level {
        assert!(self.runs_here(), "{self} does not run on this machine");
        match self {
            Self::Amx | Self::Avx512Bf16 | Self::Avx512 => Level::Avx512(Proof(())),
            Self::Avx2 => Level::Avx2(Proof(())),
            Self::Portable => Level::Portable,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a `vdpbf16ps` takes four times as long as a multiply-add, whose work it does twice: on Intel's processors, which
/// leave bf16 to tiles.
#[cfg(target_arch = "x86_64")]
fn bf16_is_slow() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_is_slow() -> bool {
    false
}

/// Whether the processor has bf16 tiles and the system lets this process use them (asked once).
#[cfg(target_arch = "x86_64")]
fn tiles_granted() -> bool {
    use std::sync::OnceLock;
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        let (highest, ..) = {
            let leaf = std::arch::x86_64::__cpuid(0);
            (leaf.eax,)
        };
        if highest < 7 {
            return false;
        }
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        let (bf16, tile) = (leaf.edx >> 22 & 1 == 1, leaf.edx >> 24 & 1 == 1);
        bf16 && tile && request_tile_state()
    })
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tile_state() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: asks the kernel for a permission of this process; touches no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn request_tile_state() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("sse9"), None);
    }

    #[test]
    fn a_level_is_made_only_where_its_features_are() {
        for isa in Isa::ALL {
            let made = std::panic::catch_unwind(|| isa.level());
            assert_eq!(made.is_ok(), isa.runs_here(), "{isa}");
        }
    }

    #[test]
    fn what_names_no_instruction_set_is_an_error() {
        assert_eq!(Isa::named(None), Ok(Isa::detect()));
        assert_eq!(Isa::named(Some(OsStr::new(""))), Ok(Isa::detect()));
        assert_eq!(Isa::named(Some(OsStr::new("portable"))), Ok(Isa::Portable));
        let unknown = |got: &str| Err(IsaError::Unknown { got: got.to_owned() });
        assert_eq!(Isa::named(Some(OsStr::new("sse9"))), unknown("sse9"));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            assert_eq!(Isa::named(Some(OsStr::from_bytes(b"amx\xff"))), unknown("amx\u{fffd}"));
        }
    }

    #[test]
    fn tiles_are_emulated_beside_bf16_arithmetic_alone() {
        assert_eq!(Isa::Amx.runs_here(), Isa::Avx512Bf16.in_hardware());
        let here = Isa::all_here();
        assert_eq!(here.contains(&Isa::Amx), here.contains(&Isa::Avx512Bf16));
    }

    #[test]
    fn the_detected_one_runs_here() {
        let detected = Isa::detect();
        assert!(detected.in_hardware());
        assert!(Isa::all_here().contains(&Isa::Portable));
        // Only slow bf16 arithmetic is passed over
        let passed_over = Isa::ALL.into_iter().take_while(|isa| *isa != detected);
        let passed_over: Vec<_> = passed_over.filter(|isa| isa.in_hardware()).collect();
        let slow = bf16_is_slow() && detected == Isa::Avx512;
        assert_eq!(passed_over, if slow { vec![Isa::Avx512Bf16] } else { Vec::new() });
    }
}
