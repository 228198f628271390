//! Reading a rule by recursive descent.

use super::super::pattern::compiled;
use super::syntax::{FUNCTIONS, Kind, Node, Operator, Refusal, What};

/// Bytes of a rule, at most. It bounds the depth of sums, which are read in a loop.
const LONGEST: usize = 4096;

/// Brackets and signs inside one another, at most.
const DEEPEST: usize = 50;

/// Operators from the loosest to the tightest; longer spellings before shorter ones.
const LEVELS: &[&[(&str, Operator)]] = &[
    &[("||", Operator::Or), ("or", Operator::Or)],
    &[("&&", Operator::And), ("and", Operator::And)],
    &[
        ("==", Operator::Equal),
        ("!=", Operator::Unequal),
        ("<=", Operator::AtMost),
        (">=", Operator::AtLeast),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ],
    &[("+", Operator::Add), ("-", Operator::Subtract)],
    &[
        ("*", Operator::Multiply),
        ("/", Operator::Divide),
        ("%", Operator::Remainder),
    ],
];

/// The level of comparisons, of which only one may stand.
const COMPARISONS: usize = 2;

type Read<T> = Result<T, Refusal>;

pub(super) fn parse(source: &str) -> Read<Node> {
    if source.len() > LONGEST {
        return Err(Refusal::new(0, format!("at most {LONGEST} bytes")));
    }
    let mut parser = Parser {
        source,
        at: 0,
        depth: 0,
    };
    let root = parser.level(0)?;
    parser.space();
    if parser.at < source.len() {
        return Err(Refusal::new(parser.at, "an operator or the end"));
    }
    Ok(root)
}

struct Parser<'a> {
    source: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn space(&mut self) {
        self.at = self.source.len() - self.rest().trim_start().len();
    }

    /// Takes a symbol or a whole word, if it stands here.
    fn take(&mut self, symbol: &str) -> bool {
        self.space();
        let Some(after) = self.rest().strip_prefix(symbol) else {
            return false;
        };
        let is_word = symbol.starts_with(char::is_alphabetic);
        if is_word && after.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
            return false;
        }
        self.at += symbol.len();
        true
    }

    fn expect(&mut self, symbol: &str) -> Read<()> {
        if self.take(symbol) {
            Ok(())
        } else {
            Err(Refusal::new(self.at, format!("`{symbol}`")))
        }
    }

    fn level(&mut self, level: usize) -> Read<Node> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        // `not` binds more loosely than comparisons, so that `not a == b` means what it says
        if level == COMPARISONS && self.word_ahead("not") {
            return self.unary();
        }
        let mut left = self.level(level + 1)?;
        while let Some((_, operator)) = operators.iter().find(|(symbol, _)| self.take(symbol)) {
            let right = self.level(level + 1)?;
            let equality = matches!(operator, Operator::Equal | Operator::Unequal);
            if equality {
                let kinds = (left.kind(), right.kind());
                if let (Kind::Number, Kind::Text) | (Kind::Text, Kind::Number) = kinds {
                    return Err(Refusal::new(left.from, "two numbers or two texts"));
                }
            } else {
                is_a(Kind::Number, &left)?;
                is_a(Kind::Number, &right)?;
            }
            left = Node {
                from: left.from,
                to: self.at,
                what: What::Two(*operator, Box::new(left), Box::new(right)),
            };
            if level == COMPARISONS {
                break;
            }
        }
        Ok(left)
    }

    fn word_ahead(&mut self, word: &str) -> bool {
        let before = self.at;
        let found = self.take(word);
        self.at = before;
        found
    }

    fn unary(&mut self) -> Read<Node> {
        self.space();
        let from = self.at;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Refusal::new(
                from,
                format!("at most {DEEPEST} levels of brackets and signs"),
            ));
        }
        let node = if self.take("-") {
            let inside = self.unary()?;
            is_a(Kind::Number, &inside)?;
            self.node(from, What::Negative(Box::new(inside)))
        } else if self.take("not") {
            let inside = self.level(COMPARISONS)?;
            is_a(Kind::Number, &inside)?;
            self.node(from, What::Not(Box::new(inside)))
        } else if self.take("!") {
            let inside = self.unary()?;
            is_a(Kind::Number, &inside)?;
            self.node(from, What::Not(Box::new(inside)))
        } else {
            self.atom()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn node(&self, from: usize, what: What) -> Node {
        Node {
            from,
            to: self.at,
            what,
        }
    }

    fn atom(&mut self) -> Read<Node> {
        self.space();
        let from = self.at;
        let start = self.rest().chars().next();
        match start {
            Some('(') => {
                self.at += 1;
                let inside = self.level(0)?;
                self.expect(")")?;
                Ok(Node {
                    from,
                    to: self.at,
                    ..inside
                })
            }
            Some('"' | '\'') => {
                let text = self.quoted()?;
                Ok(self.node(from, What::Text(text)))
            }
            Some('0'..='9' | '.') => self.number(),
            Some(c) if c.is_alphabetic() || c == '_' => self.name(),
            _ => Err(Refusal::new(from, "a number, a text, a name or `(`")),
        }
    }

    fn number(&mut self) -> Read<Node> {
        let from = self.at;
        let bytes = self.rest().as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut end = digits(0);
        if bytes.get(end) == Some(&b'.') {
            end += 1 + digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits((end + 1 + sign).min(bytes.len()));
            if exponent > 0 {
                end += 1 + sign + exponent;
            }
        }
        match self.rest()[..end].parse::<f64>() {
            Ok(number) if number.is_finite() => {
                self.at += end;
                Ok(self.node(from, What::Number(number)))
            }
            _ => Err(Refusal::new(from, "a finite number")),
        }
    }

    /// A text in quotes of either kind, with `\n`, `\t`, `\\` and escaped quotes.
    fn quoted(&mut self) -> Read<String> {
        let from = self.at;
        let mut text = String::new();
        let mut characters = self.rest().char_indices();
        let quote = characters.next().map(|(_, quote)| quote);
        while let Some((at, c)) = characters.next() {
            if Some(c) == quote {
                self.at = from + at + c.len_utf8();
                return Ok(text);
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            match characters.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, c @ ('\\' | '"' | '\''))) => text.push(c),
                _ => return Err(Refusal::new(from + at, "\\n, \\t, \\\\ or an escaped quote")),
            }
        }
        Err(Refusal::new(from, "the quote that ends this text"))
    }

    fn name(&mut self) -> Read<Node> {
        let from = self.at;
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        let name = &rest[..end];
        self.at += end;
        if self.take("(") {
            return self.call(name, from);
        }
        self.at = from + end;
        let what = match name {
            "prompt" => What::Prompt,
            "response" => What::Response,
            "tokens" => What::Tokens,
            "and" | "or" | "not" => return Err(Refusal::new(from, "a number, a text, a name or `(`")),
            column => What::Column(column.to_owned()),
        };
        Ok(self.node(from, what))
    }

    fn call(&mut self, name: &str, from: usize) -> Read<Node> {
        let mut arguments = Vec::new();
        if !self.take(")") {
            loop {
                arguments.push(self.level(0)?);
                if !self.take(",") {
                    break;
                }
            }
            self.expect(")")?;
        }
        let what = match name {
            "column" => {
                count(name, &arguments, (1, 1), from)?;
                What::Column(literal(&arguments[0], "the column's name")?)
            }
            "matches" | "count_matches" => {
                count(name, &arguments, (2, 2), from)?;
                let pattern = literal(&arguments[1], "the pattern")?;
                let regex = compiled(&pattern).map_err(|bad| Refusal::new(arguments[1].from, bad.expected))?;
                let text = Box::new(arguments.swap_remove(0));
                is_a(Kind::Text, &text)?;
                if name == "matches" {
                    What::Matches(text, regex)
                } else {
                    What::CountMatches(text, regex)
                }
            }
            _ => {
                let Some((_, function, least, most, kinds)) = FUNCTIONS.iter().find(|(known, ..)| *known == name)
                else {
                    return Err(Refusal::new(
                        from,
                        format!("a function; `{name}` is none{}", nearest(name)),
                    ));
                };
                count(name, &arguments, (*least, *most), from)?;
                for (argument, kind) in arguments.iter().zip(*kinds) {
                    is_a(*kind, argument)?;
                }
                What::Call(*function, arguments)
            }
        };
        Ok(self.node(from, what))
    }
}

fn count(name: &str, arguments: &[Node], (least, most): (usize, usize), at: usize) -> Read<()> {
    if (least..=most).contains(&arguments.len()) {
        return Ok(());
    }
    let expected = match (least, most) {
        (1, 1) => "1 argument".to_owned(),
        (least, most) if least == most => format!("{least} arguments"),
        _ => format!("{least} to {most} arguments"),
    };
    Err(Refusal::new(
        at,
        format!("{expected} of {name}, not {}", arguments.len()),
    ))
}

/// A text that must be written out, so that it can be checked before a row is seen.
fn literal(node: &Node, what: &str) -> Read<String> {
    match &node.what {
        What::Text(text) => Ok(text.clone()),
        _ => Err(Refusal::new(node.from, format!("{what} as a text in quotes"))),
    }
}

fn is_a(kind: Kind, node: &Node) -> Read<()> {
    match (kind, node.kind()) {
        (Kind::Number, Kind::Text) => Err(Refusal::new(node.from, "a number, not a text")),
        (Kind::Text, Kind::Number) => Err(Refusal::new(node.from, "a text, not a number")),
        _ => Ok(()),
    }
}

/// The nearest known name as a hint, or all of them.
fn nearest(name: &str) -> String {
    let special = ["column", "matches", "count_matches"];
    let known = FUNCTIONS.iter().map(|(known, ..)| *known).chain(special);
    let edits = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), other);
    match known.clone().map(|other| (edits(other), other)).min() {
        Some((edits, other)) if edits <= 2 && edits < name.len() => format!(", did you mean `{other}`?"),
        _ => format!("; known are {}", known.collect::<Vec<_>>().join(", ")),
    }
}
