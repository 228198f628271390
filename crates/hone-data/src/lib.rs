//! Datasets, mixtures and importers.
//!
//! - Files: [`open`] tells compression and layout from content and reads with bounded memory; [`Source`] is a file as a
//!   configuration names it.
//! - Rows to items: `load_documents`, `load_demonstrations`, `load_rankings`, `load_prompts`, each with a `for_each_` form
//!   that holds one row at a time (replies judged one by one have only that); [`take_documents`] stops early; [`inspect`] says what a file is.
//! - Splits: [`hold_out`] and [`hold_out_documents`] take the end of a source.
//! - Order: [`EpochOrder`] and [`MixtureOrder`] are functions of (seed, index); [`MixturePlan`] says how often each source
//!   is passed over.
//! - Annotations: [`annotations::Store`] keeps what people judged, hands out what is to be judged, and is a source itself.
//! - Tokens: [`TokenStream`] cuts documents into windows; a [`TokenExample`] is a conversation with the tokens to train on.
//!
//! Nothing here knows a tokenizer or a chat template: text becomes tokens through [`Encode`].
#![forbid(unsafe_code)]

pub mod annotations;
mod convert;
mod error;
mod format;
mod held_out;
pub mod html;
mod inspect;
mod items;
mod load;
mod mixture;
mod order;
mod posts;
mod preview;
mod read;
mod source;
mod tokens;

pub use error::{BadRow, DataError};
pub use format::{Format, Kind};
pub use held_out::{HeldOut, check_share, hold_out, hold_out_documents};
pub use inspect::{Column, Inspection, Lengths, inspect};
pub use items::{
    Demonstration, Document, Message, Opening, Prompt, PromptInput, Ranking, TokenExample, Unpaired, identity_of,
};
pub use load::{
    LoadReport, Loaded, for_each_demonstration, for_each_document, for_each_prompt, for_each_ranking,
    for_each_unpaired, load_demonstrations, load_documents, load_prompts, load_rankings, take_documents,
};
pub use mixture::{Draw, MixtureOrder, MixturePlan, Progress, SourcePlan};
pub use order::{EpochOrder, Permutation};
pub use posts::{Posts, PostsReport, Thread};
pub use preview::{Piece, TrainedTurns, preview_messages, preview_tokens};
pub use read::{
    Compression, Container, Contents, DOCUMENT_MARKER, DocumentSplit, Hints, Limits, Opened, Row, Rows, TextFile, open,
};
pub use source::Source;
pub use tokens::{Boundaries, DEFAULT_TOKEN_CAP, Encode, TokenStream, Window, Windows};
