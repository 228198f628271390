//! Texts as windows of tokens, drawn from a mixture.

use hone_data::{
    Boundaries, Document, MixtureOrder, MixturePlan, Source, TokenStream, Window, hold_out_documents, load_documents,
};
use hone_text::Tokenizer;

use crate::checked::refuse_no_source;
use crate::encode::encode_all;
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::mixture::{tell_bad_rows, tell_large, tell_split};
use crate::sections::resolved;

/// What is read, and how it is cut.
pub(crate) struct CorpusOptions<'a> {
    /// The key of the configuration that names the sources, for messages.
    pub key: &'a str,
    pub train: &'a [Source],
    pub held_out: f64,
    pub max_length: usize,
    pub cross_document: bool,
    pub token_cap: usize,
}

/// One source's tokens.
pub(crate) struct SourceTokens {
    pub name: String,
    pub weight: f64,
    pub train: TokenStream,
    pub held_out: TokenStream,
}

/// All sources.
pub(crate) struct Corpus {
    pub sources: Vec<SourceTokens>,
    boundaries: Boundaries,
    length: usize,
}

impl Corpus {
    /// Reads and tokenises the sources.
    pub fn load(job: &Job, data: &CorpusOptions<'_>, tokenizer: &Tokenizer) -> Result<Self> {
        refuse_no_source(data.key, data.train, "text.txt")?;
        if data.max_length < 2 {
            let section = data.key.split('.').next().unwrap_or(data.key);
            return Err(TrainError::setting(
                format!("{section}.max_length"),
                format!("is {}; expected at least 2", data.max_length),
            ));
        }
        let mut sources = Vec::new();
        for source in resolved(data.train, &job.base) {
            job.check_stop()?;
            sources.push(load_source(job, data, tokenizer, &source)?);
        }
        let boundaries = if data.cross_document {
            Boundaries::Cross
        } else {
            Boundaries::Separate
        };
        Ok(Self {
            sources,
            boundaries,
            length: data.max_length,
        })
    }

    /// The order of windows, and how often each source is seen in `windows` of them.
    pub fn order(&self, seed: u64) -> Result<MixtureOrder> {
        let counts: Vec<usize> = self
            .sources
            .iter()
            .map(|s| s.train.windows(self.length, self.boundaries).map_or(0, |w| w.len()))
            .collect();
        let weights: Vec<f64> = self.sources.iter().map(|s| s.weight).collect();
        Ok(MixtureOrder::new(&counts, &weights, seed)?)
    }

    /// Tokens and epochs that `tokens` drawn tokens mean for each source.
    pub fn plan(&self, tokens: u64) -> Result<MixturePlan> {
        let counts: Vec<u64> = self.sources.iter().map(|s| s.train.ids().len() as u64).collect();
        let weights: Vec<f64> = self.sources.iter().map(|s| s.weight).collect();
        Ok(MixturePlan::new(&counts, &weights, tokens)?)
    }

    /// Tokens to train on in all sources.
    pub fn train_tokens(&self) -> u64 {
        self.sources.iter().map(|s| s.train.ids().len() as u64).sum()
    }

    /// Tokens of a whole window.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The windows of a step.
    pub fn batch(&self, order: &MixtureOrder, step: u64, batch: usize) -> Result<Vec<Window<'_>>> {
        let draws = order.batch(step, batch).into_iter();
        draws
            .map(|draw| {
                Ok(self.sources[draw.source]
                    .train
                    .windows(self.length, self.boundaries)?
                    .get(draw.item))
            })
            .collect()
    }
}

fn load_source(job: &Job, data: &CorpusOptions<'_>, tokenizer: &Tokenizer, source: &Source) -> Result<SourceTokens> {
    let separator = tokenizer.document_separator().ok_or_else(|| {
        TrainError::setting(
            "model.tokenizer",
            "has no token that separates documents; expected <|endoftext|>, bos or eos",
        )
    })?;
    let name = source.path.file_name().map_or_else(
        || source.path.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    );
    tell_large(job, &name, &source.path);
    let loaded = load_documents(source)?;
    for note in &loaded.report.notes {
        job.message(format!("{name}: {note}"));
    }
    tell_bad_rows(job, &name, &loaded.report);
    let split = hold_out_documents(loaded.items, data.held_out)?;
    let stream = |documents: &[Document]| -> Result<TokenStream> {
        let mut stream = TokenStream::new(separator, data.token_cap);
        encode_all(
            job,
            &name,
            documents,
            |document| Ok(tokenizer.encode_ordinary(&document.text)?),
            |document, ids| Ok(stream.push_ids(&ids, document.text.len() as u64)?),
        )?;
        Ok(stream)
    };
    tell_split(job, &name, (split.train.len(), split.held_out.len()), "documents");
    let (train, held_out) = (stream(&split.train)?, stream(&split.held_out)?);
    if train.documents() == 0 {
        let hint = "lower data.held_out, or give more text".into();
        return Err(TrainError::NoData {
            what: format!("{}: {}", data.key, source.path.display()),
            hint,
        });
    }
    Ok(SourceTokens {
        name,
        weight: source.weight,
        train,
        held_out,
    })
}
