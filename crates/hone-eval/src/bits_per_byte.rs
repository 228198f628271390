//! Bits per byte: -log2 of a document's likelihood over its UTF-8 bytes.
//!
//! A document's tokens `d1 .. dn` are predicted from the separator `S` and from each other: inputs `S d1 .. d(n-1)`,
//! targets `d1 .. dn`, cut into consecutive windows of the model's context. A window sees nothing of the one before, so
//! the number includes what a short context costs. The separator is context only, never a target; there is no template.

use std::sync::Arc;

use hone_compute::{Engine, Layout, Tape};
use hone_model::{Tokens, Transformer};

use crate::error::Error;

/// Tokens computed together.
const PACK: usize = 4096;

/// A document as tokens, and the bytes of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenDocument {
    /// Its tokens, without separator.
    pub ids: Vec<u32>,
    /// UTF-8 bytes of its text.
    pub bytes: u64,
}

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

/// One window: a part of one document with the context that comes before it in the window.
struct Window<'a> {
    document: usize,
    /// The token before the first target.
    before: u32,
    targets: &'a [u32],
}

/// Measures a model on documents. `separator` is the first context of each; `progress` is told how many tokens were done.
///
/// # Errors
/// No document with a byte in it; a token beyond the vocabulary; a log-probability that is not finite.
pub fn bits_per_byte(
    engine: &Engine,
    model: &Transformer,
    separator: u32,
    documents: &[TokenDocument],
    progress: &mut dyn FnMut(u64),
) -> Result<BitsPerByte, Error> {
    let bytes: u64 = documents.iter().map(|d| d.bytes).sum();
    if bytes == 0 {
        return Err(Error::Empty {
            metric: "bits_per_byte",
            what: "text",
        });
    }
    let vocabulary = model.architecture().vocab_size;
    let beyond = |id: u32| id as usize >= vocabulary;
    for (document, d) in documents.iter().enumerate() {
        if let Some(id) = std::iter::once(separator)
            .chain(d.ids.iter().copied())
            .find(|&id| beyond(id))
        {
            return Err(Error::UnknownToken {
                document,
                id,
                vocabulary,
            });
        }
    }
    let windows: Vec<Window<'_>> = windows_of(documents, separator, model.architecture().context);
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
        nats += pack_nats(engine, model, pack)?;
        tokens += pack.iter().map(|w| w.targets.len() as u64).sum::<u64>();
        progress(tokens);
    }
    Ok(BitsPerByte::new(nats, tokens, bytes, documents.len() as u64))
}

fn windows_of(documents: &[TokenDocument], separator: u32, length: usize) -> Vec<Window<'_>> {
    let mut windows = Vec::new();
    for (document, d) in documents.iter().enumerate() {
        let mut before = separator;
        for targets in d.ids.chunks(length) {
            windows.push(Window {
                document,
                before,
                targets,
            });
            before = targets[targets.len() - 1];
        }
    }
    windows
}

fn pack_nats(engine: &Engine, model: &Transformer, pack: &[Window<'_>]) -> Result<f64, Error> {
    let inputs = |w: &Window<'_>| -> Vec<u32> {
        std::iter::once(w.before)
            .chain(w.targets[..w.targets.len() - 1].iter().copied())
            .collect()
    };
    let ids: Arc<[u32]> = pack.iter().flat_map(inputs).collect();
    let targets: Arc<[u32]> = pack.iter().flat_map(|w| w.targets.iter().copied()).collect();
    let layout = Layout::whole(&pack.iter().map(|w| w.targets.len()).collect::<Vec<_>>());
    let mut tape = Tape::inference(engine, model.parameters());
    let hidden = model.hidden(
        &mut tape,
        &Tokens {
            ids: &ids,
            layout: &layout,
        },
    );
    let logprobs = engine.read(model.logprobs(&mut tape, &hidden, &targets, 1.0).logprob.value());
    let (mut nats, mut at) = (0.0, 0);
    for window in pack {
        for token in 0..window.targets.len() {
            let got = logprobs[at];
            if !got.is_finite() {
                return Err(Error::NotFinite {
                    metric: "bits_per_byte",
                    item: window.document,
                    token,
                    got,
                });
            }
            nats -= f64::from(got);
            at += 1;
        }
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

    #[test]
    fn windows_are_summed_from_separate_contexts() {
        let (engine, model) = tiny(4);
        let document = TokenDocument {
            ids: vec![5, 6, 7, 8, 9, 10],
            bytes: 11,
        };
        let got = bits_per_byte(&engine, &model, 1, &[document.clone(), document], &mut |_| {}).unwrap();
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
        let document = TokenDocument {
            ids: vec![1, 2, 3],
            bytes: 3,
        };
        let got = bits_per_byte(&engine, &model, 0, &[document], &mut |_| {}).unwrap();
        assert!((got.bits_per_byte - 40f64.log2()).abs() < 1e-5, "{}", got.bits_per_byte);
    }

    #[test]
    fn joining_adds_what_was_counted() {
        let a = BitsPerByte::new(2.0, 3, 4, 1);
        let b = BitsPerByte::new(1.0, 1, 2, 2);
        assert_eq!(a.joined(&b), BitsPerByte::new(3.0, 4, 6, 3));
    }

    #[test]
    fn nothing_and_foreign_tokens_are_refused() {
        let (engine, model) = tiny(4);
        let empty = TokenDocument { ids: vec![], bytes: 0 };
        assert!(matches!(
            bits_per_byte(&engine, &model, 1, &[empty], &mut |_| {}),
            Err(Error::Empty { .. })
        ));
        let foreign = TokenDocument {
            ids: vec![40],
            bytes: 1,
        };
        let error = bits_per_byte(&engine, &model, 1, &[foreign], &mut |_| {});
        assert!(matches!(
            error,
            Err(Error::UnknownToken {
                document: 0,
                id: 40,
                vocabulary: 40
            })
        ));
    }
}
