//! Why a server does not start, or ends.

use std::io;

/// A server that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// No model to serve.
    #[error("no model to serve; expected at least one")]
    NoModel,
    /// Two models of one name.
    #[error("two models are called `{name}`; name them apart with NAME=DIR")]
    SameName {
        /// The name.
        name: String,
    },
    /// A model whose template cannot be used.
    #[error("model `{name}`: {source}")]
    Template {
        /// The model.
        name: String,
        /// Why.
        source: hone_text::TextError,
    },
    /// A reward model that cannot score.
    #[error("model `{name}`: {source}")]
    Reward {
        /// The model.
        name: String,
        /// Why.
        source: hone_train::TrainError,
    },
    /// An address that others reach, without a token.
    #[error(
        "--host {host} is reached from other machines, and no token is asked for; give --token FILE, or serve on 127.0.0.1"
    )]
    OpenHost {
        /// The host.
        host: String,
    },
    /// A token that is easily guessed.
    #[error(
        "{path}: the token {got}; expected one line of at least {} (for example from `openssl rand -hex 32`)",
        crate::LEAST_TOKEN
    )]
    WeakToken {
        /// The file.
        path: String,
        /// What it is: its length, where it is one word.
        got: String,
    },
    /// A token's file that cannot be read.
    #[error("{path}: {source}")]
    Token {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A folder of runs that is none.
    #[error(
        "{path}: cannot be read as a folder of runs: {source}; expected the folder in which runs are, such as `runs`"
    )]
    Runs {
        /// The folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An address that cannot be taken.
    #[error("cannot listen on {host} port {port}: {source}; is another program there? --port takes another one")]
    Listen {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A folder of jobs that cannot be used.
    #[error("--jobs: {path}: {reason}")]
    JobsFolder {
        /// The folder, or the file in it.
        path: String,
        /// Why.
        reason: String,
    },
    /// A store of annotations that cannot be used.
    #[error("--annotations: {0}")]
    Annotations(#[source] hone_data::DataError),
    /// The system refused something that the server needs.
    #[error("cannot {action}: {source}")]
    Io {
        /// What.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The thread that works through the jobs ended by itself, which is a defect.
    #[error("the thread of the jobs ended unexpectedly; they go on with the next server")]
    JobsEnded,
    /// The thread that computes ended by itself, which is a defect.
    #[error("the engine ended unexpectedly; running answers were given up")]
    EngineEnded,
}

impl ServeError {
    /// Whether other arguments would help.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoModel
                | Self::SameName { .. }
                | Self::OpenHost { .. }
                | Self::WeakToken { .. }
                | Self::Token { .. }
                | Self::Listen { .. }
                | Self::JobsFolder { .. }
                | Self::Annotations(_)
                | Self::Runs { .. }
        )
    }
}
