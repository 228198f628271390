//! Scores of a rollout's responses by the reward model.

use hone_compute::Engine;
use hone_data::PromptInput;
use hone_text::Tokenizer;

use super::prompts::{PreparedPrompt, Prompts};
use super::sections::{MissingEos, RolloutSettings};
use crate::error::{Result, TrainError};
use crate::scorer::Scorer;

/// How the responses of the policy reach the reward model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Both share tokenizer and template: the tokens that were sampled are scored, the end of a response after them as
    /// the reward stage has it.
    Tokens {
        /// The token that ends a response there.
        end: Option<u32>,
    },
    /// The reward model encodes prompt and response anew from their text. Special tokens of the policy inside a response
    /// are text like any other.
    Text,
}

/// A response as it was sampled.
pub(crate) struct Response<'a> {
    /// Which of its rollout.
    pub index: usize,
    pub prompt: &'a PreparedPrompt,
    /// Without the stop token.
    pub ids: &'a [u32],
    /// The text of these tokens, special ones included.
    pub text: &'a str,
}

/// Scores, and what could not be scored.
pub(crate) struct Scores {
    /// One a response; none where the reward model cannot read it.
    pub scores: Vec<Option<f32>>,
    /// Why the first that could not be scored could not be.
    pub first_refusal: Option<String>,
}

impl Reading {
    /// How this reward model reads responses of a policy with this tokenizer.
    ///
    /// # Errors
    /// If its template has no token that ends a reply.
    pub fn of(scorer: &Scorer, tokenizer: &Tokenizer) -> Result<Self> {
        if scorer.shares_tokenizer_with(tokenizer) {
            Ok(Self::Tokens {
                end: scorer.end_token()?,
            })
        } else {
            Ok(Self::Text)
        }
    }

    /// Refuses at the start what cannot be scored later: own tokens beyond the reward model's context, or prompts that
    /// its template cannot take. How long a text becomes under another tokenizer is not known before it is there.
    ///
    /// # Errors
    /// A setting's, with the numbers.
    pub fn check(self, scorer: &Scorer, prompts: &Prompts, settings: &RolloutSettings) -> Result<()> {
        let max_new_tokens = settings.max_new_tokens;
        let context = scorer.model().architecture().context;
        match self {
            Self::Tokens { .. } => {
                let behind = self.behind_cut(settings);
                let longest = prompts.longest() + max_new_tokens + behind;
                if longest <= context {
                    return Ok(());
                }
                let end = if behind > 0 { " and an end token" } else { "" };
                let reason = format!(
                    "is {max_new_tokens}, which with the longest prompt's {} tokens{end} makes {longest}; the reward \
                     model's context is {context}. Lower it, or data.max_prompt_length",
                    prompts.longest()
                );
                Err(TrainError::setting(
                    format!("{}.max_new_tokens", settings.section),
                    reason,
                ))
            }
            Self::Text => {
                for prompt in prompts.first_of_each_source() {
                    scorer.encode(&prompt.prompt.input, "a")?;
                }
                Ok(())
            }
        }
    }

    /// Tokens that are scored behind those of a response as long as it may be, which was cut: one that ended has its end
    /// among its tokens.
    pub fn behind_cut(self, settings: &RolloutSettings) -> usize {
        let ends = matches!(self, Self::Tokens { end: Some(_) });
        usize::from(ends && settings.missing_eos == MissingEos::Keep)
    }

    /// Scores responses. What the reward model cannot read (too long, a token that it lacks, a text that its template
    /// cannot take) has no score.
    ///
    /// # Errors
    /// If scoring fails for another reason.
    pub fn scores(self, engine: &Engine, scorer: &Scorer, responses: &[Response<'_>]) -> Result<Scores> {
        let (mut scores, mut first_refusal) = (vec![None; responses.len()], None);
        let (mut readable, mut sequences) = (Vec::new(), Vec::new());
        for (i, response) in responses.iter().enumerate() {
            let refusal = match self.sequence(scorer, response) {
                Ok(ids) => match scorer.refusal(&ids) {
                    None => {
                        readable.push(i);
                        sequences.push(ids);
                        continue;
                    }
                    Some(reason) => reason,
                },
                Err(reason) => reason,
            };
            first_refusal.get_or_insert(refusal);
        }
        let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        for (i, score) in readable.into_iter().zip(scorer.score_tokens(engine, &slices)?) {
            scores[i] = Some(score);
        }
        Ok(Scores { scores, first_refusal })
    }

    fn sequence(self, scorer: &Scorer, response: &Response<'_>) -> Result<Vec<u32>, String> {
        match self {
            Self::Tokens { end } => {
                let ids = response.prompt.ids.iter().chain(response.ids).copied();
                Ok(ids.chain(end).collect())
            }
            Self::Text => {
                let input: &PromptInput = &response.prompt.prompt.input;
                scorer.encode(input, response.text).map_err(|error| error.to_string())
            }
        }
    }
}
