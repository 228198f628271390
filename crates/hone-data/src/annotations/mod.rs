//! A store of human judgements: one SQLite file in which people's rankings, ratings and written answers are kept, and the queue that
//! hands out what is to be judged.
//!
//! - **Events are appended, never changed.** A judgement, a skip or an undo is a row of its own; an edit or undo names the event that it
//!   supersedes. For an item and annotator the newest event that was not undone is live, and that is what training reads.
//! - **Overlap is exact**: an item is in the hands of, or judged by, at most as many annotators as the project says, and in the end
//!   by exactly as many. Claiming is one transaction that holds the write lock from its beginning.
//! - **One thread writes.** Requests of other threads queue up for it; those that wait are written in one transaction, each within its own
//!   savepoint, and are answered once it is on the disk.
//! - **Order is a function**: an annotator's next item, and the order in which they see its answers, follow from the project's seed.
//!
//! Sources: Krippendorff, "Content analysis", 2018, chapter 11 (repeated and known items); Ouyang et al. (InstructGPT), 2022, appendix B
//! (what is asked of labelers).

mod check;
mod direct;
mod events;
mod export;
mod import;
mod learned;
mod own;
mod people;
mod problem;
mod progress;
mod queue;
mod record;
mod schema;
mod store;
mod types;
mod writer;

pub use check::{MOST_RESPONSES, same_text};
pub use direct::Direct;
pub use export::{Export, Exported};
pub use import::{Imported, ItemFile, items_of};
pub use own::Own;
pub use people::SignIn;
pub use problem::AnnotationProblem;
pub use progress::{AnnotatorProgress, Progress, SkipReason};
pub use record::{Record, Status, content_digest, is_store};
pub use store::{Added, Store, now};
pub use types::{
    Annotator, Degree, Input, Judgement, NewItem, Project, Response, Rewrite, Role, Settings, Submission, Submitted,
    Task, TaskKind, Undone,
};

pub(crate) use record::rows;
