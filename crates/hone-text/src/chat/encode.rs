//! Conversations as token ids, with the spans a model is trained on.
//!
//! **Positions, not ids.** For an assistant turn i, let P be the template's text for the messages
//! before it with the generation prompt, and F the text up to and including it. P must be the
//! start of F; the rest of F is what the model writes. The trained span runs from the first token
//! of that rest through the end-of-turn token, which is always in it; the newline that ChatML puts
//! behind is context. No id decides what is trained on, so a padding token that equals the
//! end-of-turn token is harmless.
//!
//! **The prompt's tokens are the same in training and sampling.** The text is cut where P ends,
//! for each assistant turn, and the pieces are tokenized apart, in a prompt as in a training
//! example. So no token spans the place where sampling begins, and `prompt_ids` of the messages
//! before a turn is exactly the start of the ids trained on.
//!
//! **Messages cannot forge control tokens.** Where a message holds the text of a control token, a
//! marker (a Unicode noncharacter) is put inside that text before rendering. The control tokens
//! left in the rendered text are then the template's own; the marker is removed from the text
//! between them, which is encoded as ordinary text. Templates that trim or split messages are no
//! trouble, because the marker stands inside the text they handle. Without such messages the
//! pieces are tokenized as transformers would, unless that yields a control token which does not
//! stand in the rendered text: a tokenizer that normalises text before it looks for control tokens
//! finds `<|im_end|>` in `<|IM_END|>` or in full-width letters. Such a piece is encoded like one
//! with markers.
//!
//! Not covered: a template that itself turns message text into the text of a control token, with
//! `lower`, `upper`, `replace`, by joining pieces, or by putting characters of its own around them.
//! What it writes cannot be told from its own tokens.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::chat::{ChatTemplate, GenerationPrompt, Message, SpecialStrings};
use crate::error::{Result, TextError};
use crate::tokenizer::{AddSpecial, Tokenizer};

/// Which assistant turns are trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainedTurns {
    /// Every assistant turn; the template must preserve prefixes at each.
    All,
    /// The last assistant turn, as for templates that rewrite earlier turns (dropping their
    /// reasoning, for instance).
    Last,
}

/// The trained span of an assistant turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnSpan {
    /// The index of the message.
    pub message: usize,
    /// The place of the first token of the reply.
    pub start: usize,
    /// One past the end-of-turn token.
    pub end: usize,
    /// The end-of-turn token.
    pub end_of_turn: u32,
}

/// A conversation as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTokens {
    /// The whole conversation.
    pub ids: Vec<u32>,
    /// The trained spans, in order, without overlap.
    pub spans: Vec<TurnSpan>,
}

impl ChatTokens {
    /// True at the tokens that are trained on, of the length of `ids`.
    pub fn mask(&self) -> Vec<bool> {
        let mut mask = vec![false; self.ids.len()];
        for span in &self.spans {
            mask[span.start..span.end].fill(true);
        }
        mask
    }
}

/// A tokenizer with its chat template, ready to encode conversations. Cloning is cheap but for
/// the table of control tokens.
#[derive(Clone, Debug)]
pub struct Chat {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    special: SpecialStrings,
    control: ControlTokens,
}

/// Finds control tokens in text: the leftmost, of these the longest.
#[derive(Clone, Debug)]
struct ControlTokens {
    search: Option<AhoCorasick>,
    entries: Vec<ControlToken>,
}

#[derive(Clone, Debug)]
struct ControlToken {
    id: u32,
    lstrip: bool,
    rstrip: bool,
}

/// A control token in a text, by byte offsets.
struct Found<'a> {
    token: &'a ControlToken,
    start: usize,
    end: usize,
}

/// An end-of-turn token in a text, by byte offsets.
struct TurnEnd {
    start: usize,
    end: usize,
    id: u32,
}

/// Messages made safe: the text of control tokens in them is broken by a marker.
struct Marked {
    messages: Vec<Message>,
    marker: Option<char>,
}

/// The text of a conversation and where it is cut.
struct Layout {
    /// With markers.
    text: String,
    /// The ends of the prompts of assistant turns, ascending, each below `text.len()`.
    cuts: Vec<usize>,
    marker: Option<char>,
}

impl Chat {
    /// The tokenizer's own chat template.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`] for a base model's tokenizer; the errors of
    /// [`ChatTemplate::new`].
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let source = tokenizer.chat_template().ok_or(TextError::NoChatTemplate)?;
        Chat::with_template(tokenizer, ChatTemplate::new(source)?)
    }

    /// Another chat template.
    ///
    /// # Errors
    /// [`TextError::MalformedTokenizer`] if the control tokens cannot be searched for.
    pub fn with_template(tokenizer: &Tokenizer, template: ChatTemplate) -> Result<Self> {
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        Ok(Chat {
            special: SpecialStrings {
                bos: token(tokenizer.bos()),
                eos: token(tokenizer.eos()),
                pad: token(tokenizer.pad()),
                unk: token(tokenizer.unk()),
            },
            control: ControlTokens::new(tokenizer)?,
            tokenizer: tokenizer.clone(),
            template,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render(&self, messages: &[Message], prompt: GenerationPrompt) -> Result<String> {
        self.template.render(messages, prompt, &self.special)
    }

    /// The ids after which the assistant's reply is sampled.
    ///
    /// # Errors
    /// A template that fails, and text that cannot be encoded.
    pub fn prompt_ids(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let marked = self.mark(messages)?;
        let text = self.render(&marked.messages, GenerationPrompt::Add)?;
        self.check_marks(&text, messages, GenerationPrompt::Add, marked.marker)?;
        let mut cuts = Vec::new();
        for turn in assistant_turns(messages) {
            let prompt = self.render(&marked.messages[..turn], GenerationPrompt::Add)?;
            if prompt.len() < text.len() && text.starts_with(&prompt) {
                cuts.push(prompt.len());
            }
        }
        let layout = Layout {
            text,
            cuts,
            marker: marked.marker,
        };
        Ok(self.encode_layout(&layout)?.0)
    }

    /// The ids of a conversation and the spans to train on.
    ///
    /// # Errors
    /// [`TextError::NoAssistantTurn`], [`TextError::TemplateNotPrefixPreserving`],
    /// [`TextError::NoEndOfTurn`], [`TextError::ContentNotSeparable`], a template that fails, and
    /// text that cannot be encoded.
    pub fn encode(&self, messages: &[Message], turns: TrainedTurns) -> Result<ChatTokens> {
        let assistant: Vec<usize> = assistant_turns(messages).collect();
        let Some(&last) = assistant.last() else {
            return Err(TextError::NoAssistantTurn {
                messages: messages.len(),
            });
        };
        let marked = self.mark(messages)?;
        let text = self.render(&marked.messages, GenerationPrompt::Omit)?;
        self.check_marks(&text, messages, GenerationPrompt::Omit, marked.marker)?;

        let mut cuts = Vec::new();
        let mut replies = Vec::new();
        for turn in assistant {
            let prompt = self.render(&marked.messages[..turn], GenerationPrompt::Add)?;
            let trained = turns == TrainedTurns::All || turn == last;
            if trained {
                let until = if turn + 1 == messages.len() {
                    text.clone()
                } else {
                    self.render(&marked.messages[..=turn], GenerationPrompt::Omit)?
                };
                check_prefix(turn, &prompt, &until)?;
                check_prefix(turn, &until, &text)?;
                let end = self.end_of_turn(&until, prompt.len(), turn)?;
                replies.push((turn, prompt.len(), (end.end, end.id)));
            }
            if prompt.len() < text.len() && text.starts_with(&prompt) {
                cuts.push(prompt.len());
            }
        }
        let layout = Layout {
            text,
            cuts,
            marker: marked.marker,
        };
        let (ids, cut_ids) = self.encode_layout(&layout)?;
        let mut spans = Vec::with_capacity(replies.len());
        for (message, start, (end, end_of_turn)) in replies {
            // The end-of-turn token splits the text, so the ids up to it are a prefix of the
            // piece's; the check guards against a tokenizer for which that is not so.
            let reply = self.encode_piece(&layout.text[start..end], layout.marker)?;
            let first = match layout.cuts.iter().position(|&cut| cut == start) {
                Some(index) => cut_ids[index],
                None => return Err(TextError::NoEndOfTurn { turn: message }),
            };
            if !ids[first..].starts_with(&reply) || reply.last() != Some(&end_of_turn) {
                return Err(TextError::NoEndOfTurn { turn: message });
            }
            spans.push(TurnSpan {
                message,
                start: first,
                end: first + reply.len(),
                end_of_turn,
            });
        }
        Ok(ChatTokens { ids, spans })
    }

    /// The ids at which sampling of a reply stops: the tokenizer's, and the token with which the
    /// template ends an assistant turn if that is another.
    ///
    /// # Errors
    /// As [`Chat::encode`], for a conversation of two words.
    pub fn stop_ids(&self) -> Result<Vec<u32>> {
        let end_of_turn = self.end_of_turn_id()?;
        let mut ids = self.tokenizer.eos_ids().to_vec();
        if !ids.contains(&end_of_turn) {
            ids.push(end_of_turn);
        }
        Ok(ids)
    }

    /// The token with which the template ends an assistant turn.
    ///
    /// # Errors
    /// As [`Chat::encode`], for a conversation of two words.
    pub fn end_of_turn_id(&self) -> Result<u32> {
        let tokens = self.encode(&probe(), TrainedTurns::Last)?;
        let last = tokens.spans.last().map(|span| span.end_of_turn);
        last.ok_or(TextError::NoEndOfTurn { turn: 1 })
    }

    /// The ids that come between two replies: behind the end-of-turn token of one, the user's next
    /// turn and what comes before the other. So a conversation goes on behind the tokens that were
    /// sampled, and none of these is tokenized anew.
    ///
    /// They are those of a conversation of two words that goes on. A template that writes a turn
    /// in the same way wherever it stands gives the same ids as [`Chat::prompt_ids`] of the whole
    /// conversation.
    ///
    /// # Errors
    /// [`TextError::TemplateNotPrefixPreserving`] for a template that writes an earlier reply in
    /// another way, [`TextError::NoEndOfTurn`], [`TextError::ContentNotSeparable`], a template
    /// that fails, and text that cannot be encoded.
    pub fn continuation_ids(&self, user: &str) -> Result<Vec<u32>> {
        let mut messages = probe().to_vec();
        let turn = messages.len() - 1;
        messages.push(Message::user(user));
        let marked = self.mark(&messages)?;
        let text = self.render(&marked.messages, GenerationPrompt::Add)?;
        self.check_marks(&text, &messages, GenerationPrompt::Add, marked.marker)?;
        let prompt = self.render(&marked.messages[..turn], GenerationPrompt::Add)?;
        let answered = self.render(&marked.messages[..=turn], GenerationPrompt::Omit)?;
        check_prefix(turn, &prompt, &answered)?;
        let end = self.end_of_turn(&answered, prompt.len(), turn)?;
        check_prefix(turn, &answered[..end.end], &text)?;
        // With the end-of-turn token before them: it may take white space behind it away
        let mut ids = self.encode_piece(&text[end.start..], marked.marker)?;
        if ids.first() != Some(&end.id) {
            return Err(TextError::NoEndOfTurn { turn });
        }
        ids.remove(0);
        Ok(ids)
    }

    /// The end-of-turn token of a reply that begins at `start`: the first control token that ends
    /// generations, else the last control token.
    fn end_of_turn(&self, text: &str, start: usize, turn: usize) -> Result<TurnEnd> {
        let mut last = None;
        for found in self.control.find(&text[start..]) {
            last = Some(TurnEnd {
                start: start + found.start,
                end: start + found.end,
                id: found.token.id,
            });
            if self.tokenizer.eos_ids().contains(&found.token.id) {
                break;
            }
        }
        last.ok_or(TextError::NoEndOfTurn { turn })
    }

    /// Breaks the text of control tokens in messages.
    fn mark(&self, messages: &[Message]) -> Result<Marked> {
        let fields = || messages.iter().flat_map(|m| [&m.role, &m.content]);
        if !fields().any(|text| self.control.find(text).next().is_some()) {
            return Ok(Marked {
                messages: messages.to_vec(),
                marker: None,
            });
        }
        let used = |c: char| fields().any(|t| t.contains(c)) || self.template.source().contains(c);
        let marker = ('\u{FDD0}'..='\u{FDEF}').find(|&c| !used(c));
        let Some(marker) = marker else {
            return Err(self.not_separable(messages));
        };
        let safe = |text: &str| self.control.broken(text, marker);
        let safe: Vec<Message> = messages
            .iter()
            .map(|m| Message::new(safe(&m.role), safe(&m.content)))
            .collect();
        let whole = |text: &String| self.control.find(text).next().is_some();
        if safe.iter().any(|m| whole(&m.role) || whole(&m.content)) {
            return Err(self.not_separable(messages));
        }
        Ok(Marked {
            messages: safe,
            marker: Some(marker),
        })
    }

    /// Checks that the markers did not change what the template writes.
    fn check_marks(
        &self,
        marked_text: &str,
        messages: &[Message],
        prompt: GenerationPrompt,
        marker: Option<char>,
    ) -> Result<()> {
        let Some(marker) = marker else { return Ok(()) };
        let text = self.render(messages, prompt)?;
        if marked_text.replace(marker, "") == text {
            Ok(())
        } else {
            Err(self.not_separable(messages))
        }
    }

    fn not_separable(&self, messages: &[Message]) -> TextError {
        let mut tokens: Vec<String> = Vec::new();
        for message in messages {
            for found in self.control.find(&message.content) {
                let token = format!("{:?}", &message.content[found.start..found.end]);
                if !tokens.contains(&token) {
                    tokens.push(token);
                }
            }
        }
        TextError::ContentNotSeparable {
            tokens: tokens.join(", "),
        }
    }

    /// The ids of a text, and how many stand before each cut.
    fn encode_layout(&self, layout: &Layout) -> Result<(Vec<u32>, Vec<usize>)> {
        let mut ids = Vec::new();
        let mut before = Vec::with_capacity(layout.cuts.len());
        let mut start = 0;
        for &cut in &layout.cuts {
            ids.extend(self.encode_piece(&layout.text[start..cut], layout.marker)?);
            before.push(ids.len());
            start = cut;
        }
        ids.extend(self.encode_piece(&layout.text[start..], layout.marker)?);
        Ok((ids, before))
    }

    fn encode_piece(&self, piece: &str, marker: Option<char>) -> Result<Vec<u32>> {
        let marker = marker.filter(|&marker| piece.contains(marker));
        if marker.is_none() {
            let ids = self.tokenizer.encode(piece, AddSpecial::No)?;
            // Every control token has to be one that stands in the text, in the same order.
            let mut written = self.control.find(piece).map(|found| found.token.id);
            let control = self.tokenizer.control_ids(&ids);
            if control.into_iter().all(|id| written.any(|found| found == id)) {
                return Ok(ids);
            }
        }
        let mut ids = Vec::new();
        let mut start = 0;
        let mut strip_start = false;
        let run = |text: &str, strip_start: bool, strip_end: bool, ids: &mut Vec<u32>| {
            let mut text = text;
            if strip_start {
                text = text.trim_start();
            }
            if strip_end {
                text = text.trim_end();
            }
            if !text.is_empty() {
                let unmarked = marker.map(|marker| text.replace(marker, ""));
                ids.extend(self.tokenizer.encode_ordinary(unmarked.as_deref().unwrap_or(text))?);
            }
            Ok::<(), TextError>(())
        };
        for found in self.control.find(piece) {
            let text = &piece[start..found.start];
            run(text, strip_start, found.token.lstrip, &mut ids)?;
            ids.push(found.token.id);
            start = found.end;
            strip_start = found.token.rstrip;
        }
        run(&piece[start..], strip_start, false, &mut ids)?;
        Ok(ids)
    }
}

impl ControlTokens {
    fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let mut contents = Vec::new();
        let mut entries = Vec::new();
        for entry in tokenizer.special_entries() {
            contents.push(entry.content.to_owned());
            entries.push(ControlToken {
                id: entry.id,
                lstrip: entry.lstrip,
                rstrip: entry.rstrip,
            });
        }
        let search = if contents.is_empty() {
            None
        } else {
            let search = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&contents)
                .map_err(|error| TextError::MalformedTokenizer {
                    path: "tokenizer.json".into(),
                    reason: format!("added_tokens: {error}"),
                })?;
            Some(search)
        };
        Ok(ControlTokens { search, entries })
    }

    fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Found<'a>> {
        let matches = self.search.iter().flat_map(move |s| s.find_iter(text));
        matches.map(|found| Found {
            token: &self.entries[found.pattern().as_usize()],
            start: found.start(),
            end: found.end(),
        })
    }

    /// The text with a marker behind the first character of every control token, until none is
    /// left (breaking one can uncover another) but those of one character.
    fn broken(&self, text: &str, marker: char) -> String {
        let mut text = text.to_owned();
        loop {
            let mut out = String::with_capacity(text.len() + 16);
            let mut end = 0;
            for found in self.find(&text) {
                let first = text[found.start..].chars().next().map_or(0, char::len_utf8);
                if found.start + first == found.end {
                    // A control token of one character: nothing can stand inside it.
                    continue;
                }
                out.push_str(&text[end..found.start + first]);
                out.push(marker);
                end = found.start + first;
            }
            if end == 0 {
                return text;
            }
            out.push_str(&text[end..]);
            text = out;
        }
    }
}

/// A conversation of two words, to see what a template writes around them.
fn probe() -> [Message; 2] {
    [Message::user("a"), Message::assistant("b")]
}

fn assistant_turns(messages: &[Message]) -> impl Iterator<Item = usize> {
    let indexed = messages.iter().enumerate();
    indexed.filter(|(_, m)| m.is_assistant()).map(|(i, _)| i)
}

fn check_prefix(turn: usize, prefix: &str, text: &str) -> Result<()> {
    if text.starts_with(prefix) {
        return Ok(());
    }
    let same = prefix.bytes().zip(text.bytes()).take_while(|(a, b)| a == b);
    let mut offset = same.count();
    while !(prefix.is_char_boundary(offset) && text.is_char_boundary(offset)) {
        offset -= 1;
    }
    let excerpt = |text: &str| text[offset..].chars().take(40).collect();
    Err(TextError::TemplateNotPrefixPreserving {
        turn,
        offset,
        expected: excerpt(prefix),
        got: excerpt(text),
    })
}
