//! Bits per byte: -log2 of the documents' likelihood over their UTF-8 bytes.
//!
//! A document's tokens `d1 .. dn` are predicted from the separator `S` and from each other: inputs `S d1 .. d(n-1)`,
//! targets `d1 .. dn`, cut into consecutive windows. A window sees nothing of the one before, so the number includes what
//! a short context costs. The separator is context only, never a target; there is no template.

use std::sync::Arc;

use hone_compute::{Engine, Layout, Tape};
use hone_data::{TokenStream, Window};
use hone_model::{Tokens, Transformer};

use crate::error::Error;

/// Tokens computed together.
const PACK: usize = 4096;

/// How well a model predicts documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct BitsPerByte {
    /// -log2 likelihood over bytes.
    pub bits_per_byte: f64,
    /// -ln likelihood of all documents.
    pub nats: f64,
    /// Tokens predicted.
    pub tokens: u64,
    /// UTF-8 bytes.
    pub bytes: u64,
    /// Documents.
    pub documents: u64,
}

impl BitsPerByte {
    /// The two together, as if their documents had been measured at once.
    pub fn joined(&self, other: &Self) -> Self {
        Self::new(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
            self.documents + other.documents,
        )
    }

    fn new(nats: f64, tokens: u64, bytes: u64, documents: u64) -> Self {
        let bits_per_byte = if bytes == 0 {
            0.0
        } else {
            nats / std::f64::consts::LN_2 / bytes as f64
        };
        Self {
            bits_per_byte,
            nats,
            tokens,
            bytes,
            documents,
        }
    }
}

/// Measures a model on documents, in windows of at most `length` tokens. `progress` is told how many tokens were done.
///
/// # Errors
/// No document with a byte in it; a length of 0 or beyond the model's context; a token beyond the vocabulary; a
/// log-probability that is not finite.
pub fn bits_per_byte(
    engine: &Engine,
    model: &Transformer,
    documents: &TokenStream,
    length: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<BitsPerByte, Error> {
    if documents.text_bytes() == 0 {
        return Err(Error::Empty {
            metric: "bits_per_byte",
            what: "text",
        });
    }
    let context = model.architecture().context;
    if length == 0 || length > context {
        return Err(Error::Window { length, context });
    }
    let vocabulary = model.architecture().vocab_size;
    if let Some(&id) = documents.ids().iter().find(|&&id| id as usize >= vocabulary) {
        return Err(Error::UnknownToken { id, vocabulary });
    }
    let windows = documents.document_windows(length);
    let (mut nats, mut tokens) = (0.0, 0);
    let mut rest = windows.as_slice();
    while !rest.is_empty() {
        // As many windows as fit, at least one
        let mut size = 0;
        let fitting = rest.iter().take_while(|w| {
            size += w.targets.len();
            size <= PACK
        });
        let (pack, after) = rest.split_at(fitting.count().max(1));
        rest = after;
        nats += pack_nats(engine, model, pack, tokens)?;
        tokens += pack.iter().map(|w| w.targets.len() as u64).sum::<u64>();
        progress(tokens);
    }
    Ok(BitsPerByte::new(
        nats,
        tokens,
        documents.text_bytes(),
        documents.documents() as u64,
    ))
}

/// -ln likelihood of windows; `before` tokens were done earlier.
fn pack_nats(engine: &Engine, model: &Transformer, pack: &[Window<'_>], before: u64) -> Result<f64, Error> {
    let ids: Arc<[u32]> = pack.iter().flat_map(|w| w.inputs.iter().copied()).collect();
    let targets: Arc<[u32]> = pack.iter().flat_map(|w| w.targets.iter().copied()).collect();
    let segments: Vec<usize> = pack.iter().flat_map(|w| w.segments.iter().copied()).collect();
    let layout = Layout::whole(&segments);
    let mut tape = Tape::inference(engine, model.parameters());
    let hidden = model.hidden(
        &mut tape,
        &Tokens {
            ids: &ids,
            layout: &layout,
        },
    );
    let logprobs = engine.read(model.logprobs(&mut tape, &hidden, &targets, 1.0).logprob.value());
    let mut nats = 0.0;
    for (token, &got) in (before..).zip(&logprobs) {
        if !got.is_finite() {
            return Err(Error::NotFinite {
                metric: "bits_per_byte",
                item: 0,
                token: token as usize,
                got,
            });
        }
        nats -= f64::from(got);
    }
    Ok(nats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_compute::{EngineOptions, Isa, Precision};
    use hone_generate::logprobs_of;
    use hone_model::NewModel;

    fn tiny(context: usize) -> (Engine, Transformer) {
        let options = EngineOptions {
            isa: Some(Isa::Portable),
            precision: Precision::F32,
            threads: Some(1),
        };
        let engine = Engine::new(&options).unwrap();
        let new = NewModel {
            family: "llama".into(),
            width: 16,
            layers: 1,
            heads: 2,
            kv_heads: None,
            head_dim: None,
            intermediate: Some(32),
            context,
            tied: true,
            rope_theta: 10_000.0,
        };
        let model = Transformer::random(&engine, new.architecture(40).unwrap(), 3);
        (engine, model)
    }

    fn stream(separator: u32, documents: &[&[u32]], bytes: u64) -> TokenStream {
        let mut stream = TokenStream::new(separator, 100);
        for ids in documents {
            stream.push_ids(ids, bytes).unwrap();
        }
        stream
    }

    #[test]
    fn windows_are_summed_from_separate_contexts() {
        let (engine, model) = tiny(4);
        let document = [5, 6, 7, 8, 9, 10];
        let got = bits_per_byte(&engine, &model, &stream(1, &[&document, &document], 11), 4, &mut |_| {}).unwrap();
        // By hand: S 5 6 7 -> 5 6 7 8, then 8 9 -> 9 10, each alone
        let first = &logprobs_of(&engine, &model, &[&[1, 5, 6, 7, 8][..4]], 1.0)[0].logprobs;
        let mut nats: f64 = first.iter().map(|&x| -f64::from(x)).sum();
        let layout = Layout::whole(&[4]);
        let ids: Arc<[u32]> = vec![1, 5, 6, 7].into();
        let mut tape = Tape::inference(&engine, model.parameters());
        let hidden = model.hidden(
            &mut tape,
            &Tokens {
                ids: &ids,
                layout: &layout,
            },
        );
        let last = tape.select_rows(&hidden, &vec![3].into());
        let eighth = model.logprobs(&mut tape, &last, &vec![8].into(), 1.0);
        nats -= f64::from(engine.read(eighth.logprob.value())[0]);
        let second = &logprobs_of(&engine, &model, &[&[8, 9, 10]], 1.0)[0].logprobs;
        nats -= second.iter().map(|&x| f64::from(x)).sum::<f64>();
        assert!((got.nats - 2.0 * nats).abs() < 1e-9, "{} {}", got.nats, 2.0 * nats);
        assert!((got.bits_per_byte - 2.0 * nats / 2f64.ln() / 22.0).abs() < 1e-12);
        assert_eq!((got.tokens, got.bytes, got.documents), (12, 22, 2));
    }

    #[test]
    fn a_uniform_model_costs_the_logarithm_of_its_vocabulary() {
        let (engine, mut model) = tiny(8);
        let output = model.output();
        let zeros = vec![0.0; 40 * 16];
        model.parameters_mut().set(&engine, output, &zeros);
        let got = bits_per_byte(&engine, &model, &stream(0, &[&[1, 2, 3]], 3), 8, &mut |_| {}).unwrap();
        assert!((got.bits_per_byte - 40f64.log2()).abs() < 1e-5, "{}", got.bits_per_byte);
    }

    #[test]
    fn joining_adds_what_was_counted() {
        let a = BitsPerByte::new(2.0, 3, 4, 1);
        let b = BitsPerByte::new(1.0, 1, 2, 2);
        assert_eq!(a.joined(&b), BitsPerByte::new(3.0, 4, 6, 3));
    }

    #[test]
    fn nothing_foreign_tokens_and_windows_beyond_the_context_are_refused() {
        let (engine, model) = tiny(4);
        let measure = |documents: &[&[u32]], length| {
            bits_per_byte(&engine, &model, &stream(1, documents, 1), length, &mut |_| {}).unwrap_err()
        };
        assert!(matches!(measure(&[&[]], 4), Error::Empty { .. }));
        let foreign = measure(&[&[40]], 4);
        assert!(matches!(foreign, Error::UnknownToken { id: 40, vocabulary: 40 }));
        assert!(matches!(measure(&[&[2]], 5), Error::Window { length: 5, context: 4 }));
        assert!(matches!(measure(&[&[2]], 0), Error::Window { .. }));
    }
}
