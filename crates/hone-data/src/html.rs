//! HTML of posts to plain text: paragraphs, line breaks, lists, code. No scripts, no styles, no attributes.

/// The text of an HTML fragment. Paragraphs are separated by a blank line, list items begin with `- `, preformatted
/// blocks stand between lines of three backticks and keep their spaces, inline code stands between backticks.
pub fn to_text(html: &str) -> String {
    let mut out = Writer::default();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        out.text(&rest[..open]);
        rest = &rest[open..];
        if let Some(after) = rest.strip_prefix("<!--") {
            rest = after.find("-->").map_or("", |end| &after[end + 3..]);
            continue;
        }
        let is_tag = rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '!');
        let end = if is_tag { tag_end(rest) } else { None };
        let Some(end) = end else {
            out.text("<");
            rest = &rest[1..];
            continue;
        };
        let tag = rest[1..end].trim_end_matches('/');
        rest = &rest[end + 1..];
        let (closing, tag) = match tag.strip_prefix('/') {
            Some(tag) => (true, tag),
            None => (false, tag),
        };
        let name = tag
            .split(|c: char| c.is_ascii_whitespace())
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        if !closing && (name == "script" || name == "style") {
            rest = skip_element(rest, &name);
            continue;
        }
        out.tag(&name, closing);
    }
    out.text(rest);
    out.finish()
}

/// In characters; what is longer is text.
const LONGEST_TAG: usize = 8192;

/// The index of the `>` that ends the tag at the start of `html`, quoted attributes passed over.
fn tag_end(html: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in html.char_indices().take(LONGEST_TAG) {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '>') => return Some(i),
            _ => {}
        }
    }
    html.char_indices()
        .take(LONGEST_TAG)
        .find(|(_, c)| *c == '>')
        .map(|(i, _)| i)
}

fn skip_element<'a>(rest: &'a str, name: &str) -> &'a str {
    let close = rest.match_indices("</").find(|(i, _)| {
        let after = rest.as_bytes().get(i + 2..i + 2 + name.len());
        after.is_some_and(|a| a.eq_ignore_ascii_case(name.as_bytes()))
    });
    match close.and_then(|(i, _)| Some(i + rest[i..].find('>')? + 1)) {
        Some(end) => &rest[end..],
        None => "",
    }
}

#[derive(Default)]
struct Writer {
    out: String,
    preformatted: bool,
    /// Line ends owed before the next text.
    breaks: usize,
    /// Whether a space is owed before the next text.
    space: bool,
}

impl Writer {
    fn text(&mut self, raw: &str) {
        if raw.is_empty() {
            return;
        }
        let text = decode_entities(raw);
        if self.preformatted {
            self.settle();
            self.out.push_str(&text);
            return;
        }
        for (i, word) in text.split(|c: char| c.is_ascii_whitespace()).enumerate() {
            self.space |= i > 0;
            if !word.is_empty() {
                self.settle();
                self.out.push_str(word);
            }
        }
    }

    /// Writes the line ends or the space that are owed.
    fn settle(&mut self) {
        let at_start = self.out.is_empty() || self.out.ends_with('\n') || self.out.ends_with("- ");
        if self.out.is_empty() {
            self.breaks = 0;
        }
        if self.breaks > 0 {
            let have = self.out.len() - self.out.trim_end_matches('\n').len();
            self.out
                .extend(std::iter::repeat_n('\n', self.breaks.saturating_sub(have)));
        } else if self.space && !at_start {
            self.out.push(' ');
        }
        self.breaks = 0;
        self.space = false;
    }

    fn owe(&mut self, breaks: usize) {
        self.breaks = self.breaks.max(breaks);
    }

    fn tag(&mut self, name: &str, closing: bool) {
        match name {
            "p" | "div" | "blockquote" | "ul" | "ol" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "table" | "hr" => {
                self.owe(2);
            }
            "br" | "tr" => self.owe(self.breaks + 1),
            "td" | "th" => self.space = true,
            "li" if !closing => {
                self.owe(1);
                self.settle();
                self.out.push_str("- ");
            }
            "li" => self.owe(1),
            "pre" if !closing => {
                self.owe(2);
                self.settle();
                self.out.push_str("```\n");
                self.preformatted = true;
            }
            "pre" => {
                if !self.out.ends_with('\n') {
                    self.out.push('\n');
                }
                self.out.push_str("```");
                self.preformatted = false;
                self.owe(2);
            }
            "code" if !self.preformatted => {
                if !closing {
                    self.settle();
                }
                self.out.push('`');
            }
            _ => {}
        }
    }

    fn finish(mut self) -> String {
        if self.preformatted {
            self.tag("pre", true);
        }
        self.out.trim().to_string()
    }
}

fn decode_entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.bytes().take(12).position(|b| b == b';');
        match end.and_then(|end| Some((entity(&rest[1..end])?, end))) {
            Some((c, end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code).filter(|&c| c != '\0');
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "ndash" => '–',
        "mdash" => '—',
        "hellip" => '…',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "times" => '×',
        "deg" => '°',
        "copy" => '©',
        "rarr" => '→',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::to_text;

    #[test]
    fn paragraphs_lists_and_breaks() {
        assert_eq!(
            to_text("<p>One  \n two.</p>\n\n<p>Three<br/>four</p>"),
            "One two.\n\nThree\nfour"
        );
        assert_eq!(
            to_text("<p>Do:</p><ul>\n<li>this</li>\n<li><b>that</b> too</li></ul><p>End</p>"),
            "Do:\n\n- this\n- that too\n\nEnd"
        );
        assert_eq!(to_text("plain"), "plain");
        assert_eq!(to_text(""), "");
    }

    #[test]
    fn code_keeps_its_spaces() {
        assert_eq!(
            to_text("<p>Use <code>a &lt; b</code> here:</p><pre><code>if a:\n    b()\n</code></pre><p>ok</p>"),
            "Use `a < b` here:\n\n```\nif a:\n    b()\n```\n\nok"
        );
        assert_eq!(to_text("<pre>open"), "```\nopen\n```");
    }

    #[test]
    fn entities_and_stray_signs() {
        assert_eq!(
            to_text("1 < 2 &amp;&amp; 3 &gt; 2 &#39;q&#x27; &nope; & x"),
            "1 < 2 && 3 > 2 'q' &nope; & x"
        );
        assert_eq!(to_text("a<!-- no --><a href=\"x>y\">link</a>"), "alink");
        assert_eq!(to_text("x<script>var a = '<p>';</script>y<STYLE>b</STYLE>z"), "xyz");
        assert_eq!(to_text("cut <a href=\"x"), "cut <a href=\"x");
    }
}
