//! The sandbox in which chat and prompt templates run.
//!
//! Bounds: the source's size, the number of instructions, the recursion depth and the size of
//! the output. The clock, files and other templates are out of a template's reach. A template
//! that doubles a string in a variable can still claim memory exponential in its instructions;
//! the engine offers no hook against that.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::Serialize;

use crate::error::{Result, TextError};

/// The longest source of a template, in bytes.
pub(crate) const MAX_SOURCE: usize = 1 << 20;
/// The longest text a template may write, in bytes.
pub(crate) const MAX_OUTPUT: usize = 16 << 20;
/// The most instructions of one rendering.
pub(crate) const FUEL: u64 = 5_000_000;

const NAME: &str = "template";
const RECURSION_LIMIT: usize = 64;

/// A parsed template with its sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    env: Environment<'static>,
    what: &'static str,
}

/// How a template is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// As transformers reads chat templates: blocks are trimmed, absent values print as nothing.
    Chat,
    /// As a user writes a prompt: text is kept as it is, absent values are errors.
    Prompt,
}

/// The message of a template's `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl Sandbox {
    /// Parses `source`; `what` names the template in errors.
    pub(crate) fn new(what: &'static str, source: &str, dialect: Dialect) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            return Err(TextError::TemplateTooLarge {
                template: what,
                bytes: source.len(),
                limit: MAX_SOURCE,
            });
        }
        let mut env = Environment::new();
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(RECURSION_LIMIT);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", tojson);
        match dialect {
            Dialect::Chat => {
                env.set_trim_blocks(true);
                env.set_lstrip_blocks(true);
                env.add_function("raise_exception", raise_exception);
            }
            Dialect::Prompt => {
                env.set_keep_trailing_newline(true);
                env.set_undefined_behavior(UndefinedBehavior::Strict);
            }
        }
        env.add_template_owned(NAME, source.to_owned())
            .map_err(|error| TextError::TemplateSyntax {
                template: what,
                line: error.line().unwrap_or(0),
                reason: describe(&error),
            })?;
        Ok(Sandbox { env, what })
    }

    /// Runs the template on `context`.
    pub(crate) fn render<C: Serialize>(&self, context: C) -> Result<String> {
        let template = self.env.get_template(NAME).map_err(|error| self.failure(&error))?;
        let mut output = CappedOutput::default();
        let outcome = template.render_captured_to(context, &mut output).map(drop);
        if output.overflowed {
            return Err(TextError::TemplateOutputTooLarge {
                template: self.what,
                limit: MAX_OUTPUT,
            });
        }
        outcome.map_err(|error| self.failure(&error))?;
        String::from_utf8(output.bytes).map_err(|error| TextError::TemplateFailed {
            template: self.what,
            line: 0,
            reason: error.to_string(),
        })
    }

    /// The names the template reads from its context, sorted.
    pub(crate) fn variables(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .env
            .get_template(NAME)
            .map(|template| template.undeclared_variables(false).into_iter().collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    fn failure(&self, error: &Error) -> TextError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(current) = cause {
            if let Some(Raised(message)) = current.downcast_ref::<Raised>() {
                return TextError::TemplateRaised {
                    message: message.clone(),
                };
            }
            if let Some(inner) = current.downcast_ref::<Error>() {
                if inner.kind() == ErrorKind::OutOfFuel {
                    return TextError::TemplateOutOfFuel {
                        template: self.what,
                        fuel: FUEL,
                    };
                }
                let unknown = inner.kind() == ErrorKind::UnknownFunction;
                if unknown && inner.detail().is_some_and(|d| d.contains("strftime_now")) {
                    return TextError::TemplateReadsClock { template: self.what };
                }
            }
            cause = current.source();
        }
        TextError::TemplateFailed {
            template: self.what,
            line: error.line().unwrap_or(0),
            reason: describe(error),
        }
    }
}

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn raise_exception(message: String) -> std::result::Result<Value, Error> {
    let raised = Raised(message);
    Err(Error::new(ErrorKind::InvalidOperation, raised.0.clone()).with_source(raised))
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False, indent=indent)` writes it, which is
/// what transformers gives to chat templates.
fn tojson(value: Value, options: Kwargs) -> std::result::Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut bytes = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
            value.serialize(&mut serializer).map_err(failed)?;
        }
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, PythonJson);
            value.serialize(&mut serializer).map_err(failed)?;
        }
    }
    let text = String::from_utf8(bytes).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(Value::from(text))
}

/// Python's default separators: `", "` and `": "`.
struct PythonJson;

impl serde_json::ser::Formatter for PythonJson {
    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

#[derive(Default)]
struct CappedOutput {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Write for CappedOutput {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > MAX_OUTPUT {
            self.overflowed = true;
            return Err(io::Error::other("output too large"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
