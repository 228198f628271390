//! The parameters that `/v1/chat/completions` and `/v1/completions` share.

use std::collections::BTreeMap;
use std::sync::Arc;

use hone_compute::SamplingParameters;
use hone_generate::Extras;
use hone_math::Key;
use serde_json::{Map, Value};

use crate::bounds;
use crate::openai::ApiError;
use crate::openai::fields::{Fields, wrong};
use crate::shared::Shared;

/// How answers are sampled and told.
#[derive(Clone)]
pub(crate) struct Common {
    /// Answers to each prompt.
    pub n: usize,
    pub sampling: SamplingParameters,
    pub extras: Extras,
    /// The request's random numbers; answer i to any of its prompts takes child i.
    pub key: Key,
    pub stops: Arc<[String]>,
    pub stream: bool,
    pub include_usage: bool,
}

/// Reads them.
///
/// # Errors
/// The parameter that is out of its range.
pub(crate) fn common(fields: &mut Fields, shared: &Shared, vocabulary: usize) -> Result<Common, ApiError> {
    let n = fields.whole("n", 1..=bounds::CHOICES)?.unwrap_or(1) as usize;
    let sampling = SamplingParameters {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0) as f32,
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0) as f32,
        top_k: top_k(fields)?,
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0) as f32,
    };
    // What the ranges leave: a temperature of 1e-40, a top_p of 0
    sampling
        .validate()
        .map_err(|error| ApiError::bad("temperature", error.to_string()))?;
    let extras = Extras {
        alternatives: 0,
        bias: bias(fields, vocabulary)?,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0) as f32,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0) as f32,
        repetition_penalty: fields.number("repetition_penalty", 0.01..=100.0)?.unwrap_or(1.0) as f32,
    };
    let seed = match fields.take("seed") {
        None => shared.fresh_seed(),
        // Negative seeds are as good as others
        Some(value) => match (value.as_u64(), value.as_i64()) {
            (Some(seed), _) => seed,
            (None, Some(seed)) => seed as u64,
            (None, None) => return Err(wrong("seed", &value, "a whole number of 64 bits")),
        },
    };
    let stream = fields.flag("stream")?;
    let include_usage = stream_options(fields, stream)?;
    fields.pass_over(&[
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
    ]);
    Ok(Common {
        n,
        sampling,
        extras,
        key: Key::new(seed, "serve", 0),
        stops: stops(fields)?,
        stream,
        include_usage,
    })
}

/// -1 and 0 stand for none, as in other servers.
fn top_k(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let Some(value) = fields.take("top_k") else {
        return Ok(None);
    };
    match value.as_i64() {
        Some(-1 | 0) => Ok(None),
        Some(k) if k > 0 => Ok(Some(k as usize)),
        _ => Err(wrong("top_k", &value, "a whole number of at least 1, or -1 for none")),
    }
}

/// `{"id": bias}`, each from -100 to 100.
fn bias(fields: &mut Fields, vocabulary: usize) -> Result<Arc<[(u32, f32)]>, ApiError> {
    let Some(value) = fields.take("logit_bias") else {
        return Ok([].into());
    };
    let Value::Object(entries) = value else {
        return Err(wrong("logit_bias", &value, "an object of token ids and numbers"));
    };
    if entries.len() > bounds::BIASED {
        let message = format!(
            "`logit_bias` has {} tokens; expected at most {}",
            entries.len(),
            bounds::BIASED
        );
        return Err(ApiError::bad("logit_bias", message));
    }
    let mut biases = BTreeMap::new();
    for (id, bias) in &entries {
        let place = format!("logit_bias.{}", id.chars().take(20).collect::<String>());
        let token = id.parse::<u32>().ok().filter(|&token| (token as usize) < vocabulary);
        let Some(token) = token else {
            let message = format!(
                "`{place}` is no token id of this model; expected a number from 0 to {}",
                vocabulary - 1
            );
            return Err(ApiError::bad(place, message));
        };
        let number = bias.as_f64().filter(|number| (-100.0..=100.0).contains(number));
        let number = number.ok_or_else(|| wrong(&place, bias, "a number from -100 to 100"))?;
        biases.insert(token, number as f32);
    }
    Ok(biases.into_iter().collect())
}

fn stops(fields: &mut Fields) -> Result<Arc<[String]>, ApiError> {
    let list = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
    };
    if list.len() > bounds::STOPS {
        let message = format!("`stop` has {} texts; expected at most {}", list.len(), bounds::STOPS);
        return Err(ApiError::bad("stop", message));
    }
    let text = |(i, value): (usize, Value)| match value {
        Value::String(text) if !text.is_empty() && text.len() <= bounds::STOP_BYTES => Ok(text),
        other => {
            let expected = format!("text of 1 to {} bytes", bounds::STOP_BYTES);
            Err(wrong(format!("stop[{i}]"), &other, expected))
        }
    };
    list.into_iter().enumerate().map(text).collect()
}

fn stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(value) = fields.take("stream_options") else {
        return Ok(false);
    };
    let Value::Object(options) = value else {
        return Err(wrong("stream_options", &value, "an object"));
    };
    if !stream {
        return Err(ApiError::bad(
            "stream_options",
            "`stream_options` is given without `stream`; expected both or neither",
        ));
    }
    let mut options = Fields::of(options);
    let include_usage = options.flag("include_usage")?;
    // Padding against an observer of the network; there is none on one machine
    options.pass_over(&["include_obfuscation"]);
    options.finish()?;
    Ok(include_usage)
}

/// Refuses a `response_format` that would need constrained decoding.
pub(crate) fn response_format(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(value) = fields.take("response_format") else {
        return Ok(());
    };
    let kind = value
        .as_object()
        .and_then(|format: &Map<String, Value>| format.get("type"));
    match kind.and_then(Value::as_str) {
        Some("text") => Ok(()),
        Some("json_object" | "json_schema") => Err(ApiError::unsupported(
            "response_format",
            "hone does not constrain decoding to a grammar; ask for JSON in the prompt and check what comes",
        )),
        _ => Err(wrong("response_format", &value, "{\"type\": \"text\"}")),
    }
}
