//! What a request for a job asks: `POST /v1/fine_tuning/jobs`.

use serde_json::{Map, Value, json};

use crate::jobs::judging::Judging;
use crate::jobs::record::{FileRecord, Method};
use crate::jobs::{Jobs, NewJob, Settings};
use crate::openai::ApiError;
use crate::openai::fields::{Fields, wrong};
use crate::openai::graders;
use crate::shared::Shared;

/// Characters of a suffix.
const SUFFIX: usize = 64;
/// The seed where none is given, as in all of hone's configurations.
const SEED: u64 = 1;
/// Entries of `metadata`, and characters of a key and of a value.
const METADATA: (usize, usize, usize) = (16, 64, 512);

/// The method that is asked for.
struct Asked {
    method: Method,
    settings: Settings,
    judging: Option<Judging>,
    /// As the answer repeats it.
    wire: Value,
}

/// Reads the request, and looks up what it names.
///
/// # Errors
/// A field that is wrong, missing or unknown; a model or file that is not there or does not serve the method.
pub(super) fn read(shared: &Shared, jobs: &Jobs, mut fields: Fields) -> Result<NewJob, ApiError> {
    let Some(name) = fields.text("model")? else {
        return Err(ApiError::bad(
            "model",
            "`model` is missing; expected the name of a model that is served",
        ));
    };
    let (_, served) = shared.language_model(Some(&name))?;
    let start = source(shared, jobs, &name)?;
    let asked = method(shared, jobs, &mut fields)?;
    let training_file = file(jobs, &mut fields, "training_file", asked.method)?;
    let Some(training_file) = training_file else {
        let message = "`training_file` is missing; expected the id of a file that was uploaded to /v1/files";
        return Err(ApiError::bad("training_file", message));
    };
    let validation_file = file(jobs, &mut fields, "validation_file", asked.method)?;
    let suffix = fields.text("suffix")?.filter(|suffix| !suffix.is_empty());
    if let Some(text) = &suffix {
        let sound = text.len() <= SUFFIX && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !sound {
            let expected = format!("up to {SUFFIX} letters, digits, `-`, `_` and `.`");
            return Err(wrong("suffix", &Value::from(text.clone()), expected));
        }
    }
    let seed = fields.whole("seed", 0..=i64::MAX as u64)?.unwrap_or(SEED);
    let metadata = metadata(&mut fields)?;
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.only(
        "integrations",
        is_empty,
        "hone writes TensorBoard files into the run directory",
    )?;
    fields.finish()?;
    Ok(NewJob {
        model: name,
        served,
        start,
        method: asked.method,
        settings: asked.settings,
        judging: asked.judging,
        asked: asked.wire,
        suffix,
        seed,
        training_file: training_file.id,
        validation_file: validation_file.map(|file| file.id),
        metadata,
    })
}

/// The directory of a model that is served.
fn source(shared: &Shared, jobs: &Jobs, name: &str) -> Result<std::path::PathBuf, ApiError> {
    if let Some(directory) = jobs.options.sources.get(name) {
        return Ok(directory.clone());
    }
    // A result of an earlier job
    match jobs.maker(name).filter(|job| !job.deleted) {
        Some(job) => Ok(jobs.result(&job.id)),
        None => {
            let _ = shared.model(Some(name))?;
            Err(ApiError::bad(
                "model",
                format!("where `{name}` stands is not known, so it cannot be used by a job"),
            ))
        }
    }
}

fn file(jobs: &Jobs, fields: &mut Fields, name: &'static str, method: Method) -> Result<Option<FileRecord>, ApiError> {
    let Some(id) = fields.text(name)? else { return Ok(None) };
    let Some(file) = jobs.file(&id) else {
        let shown: String = id.chars().take(80).collect();
        return Err(ApiError {
            code: Some("file_not_found"),
            ..ApiError::bad(
                name,
                format!("there is no file `{shown}`; upload it to /v1/files first"),
            )
        });
    };
    match file.rows {
        Some((shape, _)) if shape == method.shape() => Ok(Some(file)),
        _ => {
            let expected = method.shape().example();
            let message = format!(
                "`{id}` does not hold what the {} method learns from; expected lines such as {expected}",
                method.name()
            );
            Err(ApiError {
                code: Some("invalid_file_format"),
                ..ApiError::bad(name, message)
            })
        }
    }
}

fn method(shared: &Shared, jobs: &Jobs, fields: &mut Fields) -> Result<Asked, ApiError> {
    let older = object(fields, "hyperparameters")?;
    let Some(mut given) = object(fields, "method")? else {
        let place = "hyperparameters";
        return with(Method::Supervised, older.unwrap_or_default(), None).map_err(|error| error.within(place));
    };
    if older.is_some() {
        let message = "`hyperparameters` is given beside `method`; expected them within it";
        return Err(ApiError::bad("hyperparameters", message));
    }
    let within = |error: ApiError| error.within("method");
    let kind = given.shift_remove("type").unwrap_or_default();
    let method = [Method::Supervised, Method::Dpo, Method::Reinforcement]
        .into_iter()
        .find(|method| kind == method.name());
    let Some(method) = method else {
        return Err(within(wrong("type", &kind, "supervised, dpo or reinforcement")));
    };
    let mut outer = Fields::of(given);
    let place = format!("method.{}", method.name());
    let mut own = Fields::of(object(&mut outer, method.name()).map_err(within)?.unwrap_or_default());
    outer.finish().map_err(within)?;
    let inside = |error: ApiError| error.within(&place);
    let hyperparameters = object(&mut own, "hyperparameters").map_err(inside)?.unwrap_or_default();
    let grader = match method {
        Method::Reinforcement => own.take("grader"),
        Method::Supervised | Method::Dpo => None,
    };
    own.finish().map_err(inside)?;
    let judging = match (method, &grader) {
        (Method::Reinforcement, Some(grader)) => {
            let find = |name: &str| judge(shared, jobs, name);
            Some(graders::judging(grader.clone(), &find).map_err(inside)?)
        }
        (Method::Reinforcement, None) => {
            return Err(inside(ApiError::bad(
                "grader",
                "`grader` is missing; expected what responses are judged by",
            )));
        }
        _ => None,
    };
    let mut asked = with(method, hyperparameters, judging).map_err(|error| inside(error.within("hyperparameters")))?;
    if let Some(grader) = grader {
        asked.wire[method.name()]["grader"] = grader;
    }
    Ok(asked)
}

/// The directory of a reward model.
fn judge(shared: &Shared, jobs: &Jobs, name: &str) -> Result<String, ApiError> {
    let (_, served) = shared.model(Some(name))?;
    if !served.is_reward() {
        return Err(ApiError::bad(
            "model",
            format!("`{name}` is no reward model; expected one that is served"),
        ));
    }
    source(shared, jobs, name).map(|path| path.display().to_string())
}

fn object(fields: &mut Fields, name: &'static str) -> Result<Option<Map<String, Value>>, ApiError> {
    match fields.take(name) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => Err(wrong(name, &other, "an object")),
    }
}

/// A method with its hyperparameters, each a number or `auto`, which is hone's own default.
fn with(method: Method, given: Map<String, Value>, judging: Option<Judging>) -> Result<Asked, ApiError> {
    let mut wire = Map::new();
    let mut repeat =
        |name: &str, value: Option<Value>| wire.insert(name.to_owned(), value.unwrap_or_else(|| "auto".into()));
    let mut fields = Fields::of(given.into_iter().filter(|(_, value)| value != "auto").collect());
    let epochs = fields.whole("n_epochs", 1..=1000)?;
    let batch = fields.whole("batch_size", 1..=4096)?;
    let rate = fields.number("learning_rate_multiplier", 1e-6..=1e6)?;
    repeat("n_epochs", epochs.map(Value::from));
    repeat("batch_size", batch.map(Value::from));
    repeat("learning_rate_multiplier", rate.map(Value::from));
    let mut settings = Settings {
        epochs: epochs.map(|epochs| epochs as f64),
        batch: batch.map(|batch| batch as usize),
        learning_rate_multiplier: rate,
        ..Settings::default()
    };
    match method {
        Method::Supervised => {}
        Method::Dpo => {
            settings.beta = fields.number("beta", 1e-6..=100.0)?;
            repeat("beta", settings.beta.map(Value::from));
        }
        Method::Reinforcement => {
            let most = fields.whole("max_tokens", 1..=65_536)?;
            settings.response_tokens = most.map(|most| most as usize);
            repeat("max_tokens", most.map(Value::from));
            for name in [
                "compute_multiplier",
                "eval_interval",
                "eval_samples",
                "reasoning_effort",
            ] {
                fields.only(name, |value| value == "default", "hone has nothing like it")?;
            }
        }
    }
    fields.finish()?;
    Ok(Asked {
        method,
        settings,
        judging,
        wire: json!({"type": method.name(), method.name(): {"hyperparameters": wire}}),
    })
}

fn metadata(fields: &mut Fields) -> Result<Value, ApiError> {
    let (most, key, value) = METADATA;
    let Some(given) = object(fields, "metadata")? else {
        return Ok(Value::Null);
    };
    let fits = |(name, text): (&String, &Value)| {
        name.chars().count() <= key && text.as_str().is_some_and(|text| text.chars().count() <= value)
    };
    match given.len() <= most && given.iter().all(fits) {
        true => Ok(Value::Object(given)),
        false => {
            let message = format!(
                "`metadata` is too long, or holds more than texts; expected up to {most} texts of up to {value} characters"
            );
            Err(ApiError::bad("metadata", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, given: Value) -> Result<(Settings, Value), String> {
        let asked = with(method, given.as_object().unwrap().clone(), None).map_err(|error| error.message)?;
        Ok((asked.settings, asked.wire))
    }

    #[test]
    fn hyperparameters_are_numbers_or_auto() {
        let (settings, wire) = read(Method::Supervised, json!({"n_epochs": "auto", "batch_size": 4})).unwrap();
        assert_eq!((settings.epochs, settings.batch), (None, Some(4)));
        let all = json!({"n_epochs": "auto", "batch_size": 4, "learning_rate_multiplier": "auto"});
        assert_eq!(
            wire,
            json!({"type": "supervised", "supervised": {"hyperparameters": all}})
        );
        let (settings, wire) = read(Method::Dpo, json!({"beta": 0.2, "n_epochs": 2})).unwrap();
        assert_eq!((settings.beta, settings.epochs), (Some(0.2), Some(2.0)));
        assert_eq!(wire["dpo"]["hyperparameters"]["beta"], 0.2);
        let (settings, _) = read(
            Method::Reinforcement,
            json!({"max_tokens": 9, "reasoning_effort": "default"}),
        )
        .unwrap();
        assert_eq!(settings.response_tokens, Some(9));
    }

    #[test]
    fn others_are_refused_by_name() {
        for (method, given, said) in [
            (Method::Supervised, json!({"n_epochs": 0}), "`n_epochs` is 0"),
            (
                Method::Supervised,
                json!({"n_epochs": "many"}),
                "`n_epochs` is \"many\"",
            ),
            (Method::Supervised, json!({"beta": 0.1}), "`beta` is no parameter"),
            (Method::Dpo, json!({"bta": 0.1}), "did you mean `beta`?"),
            (
                Method::Dpo,
                json!({"learning_rate_multiplier": -1}),
                "`learning_rate_multiplier` is -1",
            ),
            (
                Method::Reinforcement,
                json!({"eval_samples": 3}),
                "`eval_samples` is not supported",
            ),
        ] {
            let error = read(method, given).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn metadata_is_texts() {
        let read = |value: Value| metadata(&mut Fields::of(json!({"metadata": value}).as_object().unwrap().clone()));
        assert_eq!(read(json!({"who": "me"})).unwrap(), json!({"who": "me"}));
        assert_eq!(read(Value::Null).unwrap(), Value::Null);
        for bad in [json!({"n": 1}), json!({"k": "x".repeat(513)}), json!([1])] {
            assert!(read(bad).is_err());
        }
    }
}
