//! Chat templates as transformers runs them: Jinja with trimmed blocks, Python's string methods,
//! `raise_exception`, `tojson`, and the variables `messages`, `add_generation_prompt`, `tools`,
//! `documents` and the special tokens.
//!
//! Differences: `strftime_now` is not defined, so that a prompt never depends on the day
//! (templates that ask `strftime_now is defined` take their fixed date); `{% generation %}` marks
//! are read and have no effect, because spans come from positions.

use std::sync::Arc;

use serde::Serialize;

use crate::chat::Message;
use crate::error::Result;
use crate::jinja::{Dialect, Sandbox};

/// A parsed chat template. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: Arc<str>,
    sandbox: Arc<Sandbox>,
}

/// Whether the text ends where the assistant is to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// The text ends with what comes before a reply.
    Add,
    /// The text ends with the last message.
    Omit,
}

/// Special tokens as templates name them; an absent one is undefined in the template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpecialStrings {
    /// `bos_token`
    #[serde(rename = "bos_token", skip_serializing_if = "Option::is_none")]
    pub bos: Option<String>,
    /// `eos_token`
    #[serde(rename = "eos_token", skip_serializing_if = "Option::is_none")]
    pub eos: Option<String>,
    /// `pad_token`
    #[serde(rename = "pad_token", skip_serializing_if = "Option::is_none")]
    pub pad: Option<String>,
    /// `unk_token`
    #[serde(rename = "unk_token", skip_serializing_if = "Option::is_none")]
    pub unk: Option<String>,
}

#[derive(Serialize)]
struct Context<'a> {
    messages: &'a [Message],
    add_generation_prompt: bool,
    tools: Option<()>,
    documents: Option<()>,
    #[serde(flatten)]
    special: &'a SpecialStrings,
}

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`crate::TextError::TemplateTooLarge`] and [`crate::TextError::TemplateSyntax`].
    pub fn new(source: &str) -> Result<Self> {
        let sandbox = Sandbox::new("chat template", &without_generation_marks(source), Dialect::Chat)?;
        Ok(ChatTemplate {
            source: source.into(),
            sandbox: Arc::new(sandbox),
        })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes a conversation as text.
    ///
    /// # Errors
    /// A template that fails, refuses the conversation, loops, writes too much or reads the clock.
    pub fn render(&self, messages: &[Message], prompt: GenerationPrompt, special: &SpecialStrings) -> Result<String> {
        self.sandbox.render(Context {
            messages,
            add_generation_prompt: prompt == GenerationPrompt::Add,
            tools: None,
            documents: None,
            special,
        })
    }
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which only transformers knows, by a
/// block that is always taken; the marks' white-space control stays.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        // Behind the opening: in `{%}` they overlap, and the tag goes on.
        let Some(length) = rest[2..].find("%}") else { break };
        let (tag, after) = rest.split_at(length + 4);
        let inner = &tag[2..tag.len() - 2];
        let name = inner.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        match name {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::TextError;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        let special = SpecialStrings {
            bos: Some("<s>".into()),
            ..SpecialStrings::default()
        };
        ChatTemplate::new(source)?.render(messages, GenerationPrompt::Add, &special)
    }

    #[test]
    fn blocks_are_trimmed_as_in_transformers() {
        let source = "{{ bos_token }}\n{% for m in messages %}\n    {% if m.role == 'user' %}\nU: {{ m.content | trim }}\n    {% endif %}\n{% endfor %}\n{{ eos_token }}\n";
        // Jinja2 3.1 with trim_blocks and lstrip_blocks: the lines of blocks leave nothing, one
        // last newline is dropped, and an undefined token prints as nothing.
        assert_eq!(
            render(source, &[Message::user(" hi "), Message::assistant("x")]).unwrap(),
            "<s>\nU: hi\n"
        );
    }

    #[test]
    fn pythons_methods_and_json_are_there() {
        let source = "{{ messages[0].content.strip().split(' ')[-1].upper() }}|{{ messages[0].get('name', 'none') }}|{{ {'a': [1, '<é>']} | tojson }}|{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}";
        let messages = [Message::user(" one two "), Message::assistant("x")];
        assert_eq!(render(source, &messages).unwrap(), "TWO|none|{\"a\": [1, \"<é>\"]}|au");
    }

    #[test]
    fn the_idioms_of_published_templates_run() {
        // A system message folded into the first turn, roles checked for alternation, a macro,
        // a namespace, tests for strings and for absent and null values.
        let source = "{%- if messages[0]['role'] == 'system' %}
    {%- set head = messages[0]['content'] | trim + '\\n' %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set head = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- set ns = namespace(turns=0) %}
{%- macro turn(role, text) -%}
    [{{ role }}]{{ text }}[/]
{%- endmacro %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message.tool_calls is defined or tools is not none or not message.content is string %}
        {{- 'unexpected' }}
    {%- endif %}
    {%- set ns.turns = ns.turns + 1 %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- turn(role, (head if loop.first else '') ~ message.content) }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[model]' }}{% endif %}#{{ ns.turns }}";
        let messages = [
            Message::system(" s "),
            Message::user("a"),
            Message::assistant("b"),
            Message::user("c"),
        ];
        assert_eq!(
            render(source, &messages).unwrap(),
            "[user]s\na[/][model]b[/][user]c[/][model]#3"
        );
        assert!(matches!(
            render(source, &messages[2..]).unwrap_err(),
            TextError::TemplateRaised { .. }
        ));
    }

    #[test]
    fn generation_marks_have_no_effect() {
        let source = "{% for m in messages %}[{%- generation -%} {{ m.content }} {%- endgeneration -%} ]{% endfor %}{{ '{% generation %}'|length }}";
        let text = render(source, &[Message::assistant("x")]).unwrap();
        assert!(text.starts_with("[x]"), "{text:?}");
    }

    #[test]
    fn a_template_can_refuse() {
        let source = "{{ raise_exception('roles must alternate') }}";
        match render(source, &[]).unwrap_err() {
            TextError::TemplateRaised { message } => assert_eq!(message, "roles must alternate"),
            other => panic!("unexpected error: {other}"),
        }
    }

    #[test]
    fn endless_and_verbose_templates_are_stopped() {
        let nested = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
        assert!(matches!(
            render(nested, &[]).unwrap_err(),
            TextError::TemplateOutOfFuel { .. }
        ));
        let recursive = "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}";
        assert!(matches!(
            render(recursive, &[]).unwrap_err(),
            TextError::TemplateFailed { .. }
        ));
        let verbose = "{% for a in range(90000) %}{{ messages[0].content }}{% endfor %}";
        assert!(matches!(
            render(verbose, &[Message::user("x".repeat(1000))]).unwrap_err(),
            TextError::TemplateOutputTooLarge { .. }
        ));
        assert!(matches!(
            ChatTemplate::new(&"x".repeat(2 << 20)).unwrap_err(),
            TextError::TemplateTooLarge { .. }
        ));
    }

    #[test]
    fn the_clock_is_out_of_reach() {
        let guarded = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26 Jul 2024{% endif %}";
        assert_eq!(render(guarded, &[]).unwrap(), "26 Jul 2024");
        assert!(matches!(
            render("{{ strftime_now('%d') }}", &[]).unwrap_err(),
            TextError::TemplateReadsClock { .. }
        ));
    }

    #[test]
    fn errors_name_the_line() {
        assert!(matches!(
            render("a\n{{ messages[0].content.nope() }}", &[Message::user("x")]).unwrap_err(),
            TextError::TemplateFailed { line: 2, .. }
        ));
        assert!(matches!(
            ChatTemplate::new("a\nb\n{% for %}").unwrap_err(),
            TextError::TemplateSyntax { line: 3, .. }
        ));
    }
}
