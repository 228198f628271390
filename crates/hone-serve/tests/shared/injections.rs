//! Strings that would run in a careless page, and what a browser would make of a page.

/// How many strings there are.
pub const COUNT: usize = 500;

/// What would run, or lead somewhere that does.
const CORES: [&str; 25] = [
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.example/x.js></sCrIpT>",
    "<script type=module>import('//evil.example')</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><a xlink:href=\"javascript:alert(1)\"><text y=9>x</text></a>",
    "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>x</details>",
    "<input autofocus onfocus=alert(1)>",
    "<iframe srcdoc=\"<script>alert(1)</script>\"></iframe>",
    "<object data=data:text/html,x></object>",
    "<a href=\"javascript:alert(1)\">x</a>",
    "<form action=javascript:alert(1)><button>x</button></form>",
    "<meta http-equiv=refresh content=\"0;url=javascript:alert(1)\">",
    "<base href=//evil.example/>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>@import'//evil.example'</style>",
    "<math><mtext></p><style><img src=x onerror=alert(1)></style>",
    "[x](javascript:alert(1))![y](x\" onerror=alert(1) \")",
    "{{ 7*7 }}${7*7}{% raw %}{{ self._TemplateReference__context }}",
    "&lt;script&gt;alert(1)&lt;/script&gt;&#60;b&#62;&#x3c;i&#x3e;&colon;",
    "\u{ff1c}script\u{ff1e}alert(1)\u{ff1c}/script\u{ff1e}\u{202e}\u{2066}\u{200b}\u{feff}\u{1f600}",
    " onmouseover=alert(1) autofocus=1 style=x ",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
];

/// What would lead out of the place in which a string stands: before it and after it.
const BREAKS: [(&str, &str); 20] = [
    ("", ""),
    ("\">", "<i a=\""),
    ("'>", "<i a='"),
    ("\" ", " x=\""),
    ("' ", " x='"),
    ("</textarea>", "<textarea>"),
    ("</title>", "<title>"),
    ("</script>", "<script>"),
    ("</style>", "<style>"),
    ("</pre>", "<pre>"),
    ("</option></select>", "<select>"),
    ("-->", "<!--"),
    ("<!--", "-->"),
    ("<![CDATA[", "]]>"),
    ("]]>", "<?x "),
    ("</td></tr></table>", "<table>"),
    ("\\\"", "\\'"),
    ("`", "`${1}"),
    ("%3Cb%3E", "%00"),
    ("\u{2028}", "\u{2029}"),
];

/// Each core in each break; every one says its number.
pub fn strings() -> Vec<String> {
    let cores = CORES.iter().enumerate();
    let all: Vec<String> = cores
        .flat_map(|(i, core)| {
            let within = BREAKS.iter().enumerate();
            within.map(move |(j, (before, after))| format!("{before}{core}{after} {}", i * BREAKS.len() + j))
        })
        .collect();
    let distinct: std::collections::HashSet<&String> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (COUNT, COUNT));
    all
}

/// As many strings without anything in them.
pub fn harmless() -> Vec<String> {
    (0..COUNT).map(|i| format!("a plain text {i}")).collect()
}

/// A tag as a browser sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// With `/` before it where it closes, `!` where it is a comment or a declaration.
    pub name: String,
    /// Names of attributes, in order.
    pub attributes: Vec<String>,
}

/// A page taken apart.
#[derive(Default)]
pub struct Page {
    pub tags: Vec<Tag>,
    /// Names and values of attributes, without entities.
    pub values: Vec<(String, String)>,
    /// What is not markup, without entities.
    pub text: String,
}

/// Elements whose content is text up to their own end.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// Takes a page apart by the rules of HTML (WHATWG, "Tokenization"), so far as the pages here need them: what begins a tag, a
/// comment or a declaration, quoted and unquoted attributes, and elements of raw text.
pub fn read(html: &str) -> Page {
    let mut page = Page::default();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        page.text.push_str(&unescaped(&rest[..at]));
        rest = &rest[at..];
        let next = rest[1..].chars().next();
        match next {
            Some('!' | '?') => {
                let end = if rest.starts_with("<!--") { "-->" } else { ">" };
                let length = rest.find(end).map_or(rest.len(), |found| found + end.len());
                page.tags.push(Tag {
                    name: "!".into(),
                    attributes: Vec::new(),
                });
                rest = &rest[length..];
            }
            Some(c) if c.is_ascii_alphabetic() || c == '/' => {
                let (tag, after) = tag(&rest[1..], &mut page.values);
                rest = after;
                let name = tag.name.clone();
                page.tags.push(tag);
                if RAW.contains(&name.as_str()) {
                    let lower = rest.to_ascii_lowercase();
                    let end = lower.find(&format!("</{name}")).unwrap_or(rest.len());
                    page.text.push_str(&unescaped(&rest[..end]));
                    rest = &rest[end..];
                }
            }
            _ => {
                page.text.push('<');
                rest = &rest[1..];
            }
        }
    }
    page.text.push_str(&unescaped(rest));
    page
}

/// The tag that begins here, and what comes after it.
fn tag<'a>(text: &'a str, values: &mut Vec<(String, String)>) -> (Tag, &'a str) {
    let is_end = |c: char| c.is_ascii_whitespace() || c == '>' || (c == '/');
    let closes = text.starts_with('/');
    let body = if closes { &text[1..] } else { text };
    let end = body.find(is_end).unwrap_or(body.len());
    let name = format!("{}{}", if closes { "/" } else { "" }, body[..end].to_ascii_lowercase());
    let (mut rest, mut attributes) = (&body[end..], Vec::new());
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        if rest.is_empty() {
            break;
        }
        if let Some(after) = rest.strip_prefix('>') {
            rest = after;
            break;
        }
        let end = rest.find(|c: char| is_end(c) || c == '=').unwrap_or(rest.len()).max(1);
        let key = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        let mut value = "";
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
            (value, rest) = match quote {
                Some(quote) => after[1..].split_once(quote).unwrap_or((&after[1..], "")),
                None => after.split_at(
                    after
                        .find(|c: char| c.is_ascii_whitespace() || c == '>')
                        .unwrap_or(after.len()),
                ),
            };
        }
        values.push((key.clone(), unescaped(value)));
        attributes.push(key);
    }
    (Tag { name, attributes }, rest)
}

/// A text without the entities that the pages write.
fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = rest.find(';').filter(|&end| end < 10).and_then(|end| {
            let name = &rest[1..end];
            let code = match name.strip_prefix("#x").or(name.strip_prefix("#X")) {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => name.strip_prefix('#').and_then(|number| number.parse().ok()),
            };
            let character = match name {
                "lt" => Some('<'),
                "gt" => Some('>'),
                "amp" => Some('&'),
                "quot" => Some('"'),
                _ => code.and_then(char::from_u32),
            };
            character.map(|character| (character, end + 1))
        });
        let (character, length) = known.unwrap_or(('&', 1));
        out.push(character);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// Asserts that a page with hostile text has the markup of one with harmless text: not an element, an attribute or an address
/// comes from the text. Returns the page's text.
#[track_caller]
pub fn same_markup(what: &str, hostile: &str, plain: &str) -> String {
    let (found, expected) = (read(hostile), read(plain));
    if found.tags != expected.tags {
        let at = found.tags.iter().zip(&expected.tags).position(|(a, b)| a != b);
        let at = at.unwrap_or(found.tags.len().min(expected.tags.len()));
        panic!(
            "{what}: {} tags, expected {}; from tag {at} on {:?}, expected {:?} in {hostile}",
            found.tags.len(),
            expected.tags.len(),
            found.tags.iter().skip(at).take(3).collect::<Vec<_>>(),
            expected.tags.iter().skip(at).take(3).collect::<Vec<_>>(),
        );
    }
    for (name, value) in &found.values {
        assert!(
            !name.starts_with("on") && name != "style" && name != "srcdoc",
            "{what}: {name}={value}"
        );
        if ["href", "src", "action", "formaction", "data", "xlink:href"].contains(&name.as_str()) {
            let own = value.starts_with(['/', '#', '?']) && !value.starts_with("//");
            assert!(own, "{what}: {name}={value}");
        }
    }
    found.text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_as_browsers_read_them() {
        let page = read(
            "<!doctype html><p class=a title='x>y' hidden>1 < 2 &lt;b&gt;</p><!-- <i> --><textarea><b></textarea><br/>",
        );
        let tags: Vec<String> = page
            .tags
            .iter()
            .map(|tag| format!("{} {}", tag.name, tag.attributes.join(",")))
            .collect();
        let expected = [
            "! ",
            "p class,title,hidden",
            "/p ",
            "! ",
            "textarea ",
            "/textarea ",
            "br ",
        ];
        assert_eq!(tags, expected);
        assert_eq!(page.text, "1 < 2 <b><b>");
        assert_eq!(page.values[1], ("title".to_owned(), "x>y".to_owned()));
        // Each of the strings that is markup is seen, where it stands as it is
        let plain = read("<p>x</p>").tags;
        let seen = strings()
            .iter()
            .filter(|text| read(&format!("<p>{text}</p>")).tags != plain)
            .count();
        assert!(seen > 400, "{seen}");
    }
}
