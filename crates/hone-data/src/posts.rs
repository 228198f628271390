//! Stack Exchange dumps: `Posts.xml`, one `row` element a question or answer, of any size in bounded memory.
//!
//! A question and its answers lie far apart in the file. Records are collected up to a budget; beyond it they are
//! spilled to temporary files by the digits of the question's id, and each file is joined on its own, again spilled
//! where it is still too large. The order of the result depends on the file and the budget only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde_json::Map;

use crate::error::{BadRow, DataError};
use crate::html;
use crate::items::{Demonstration, Message, Ranking};
use crate::read::Meter;

/// Bytes of records held in memory before spilling.
const BUDGET: usize = 64 << 20;
const FAN_OUT: u64 = 64;
const MAX_DEPTH: u32 = 4;

/// What a dump held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostsReport {
    /// `row` elements read.
    pub rows: u64,
    /// Those that could not be used.
    pub bad: Vec<BadRow>,
    /// How many could not be used.
    pub bad_count: u64,
    /// Questions of which nothing could be made.
    pub unused: u64,
}

/// A dump, not yet read.
pub struct Posts {
    meter: Meter,
    budget: usize,
}

impl Posts {
    pub(crate) fn new(meter: Meter) -> Self {
        Self { meter, budget: BUDGET }
    }

    /// Hands over each question with its answers; `each` says whether it made something of it.
    ///
    /// # Errors
    /// XML that is damaged, failures of the file or of the temporary files, and whatever `each` returns.
    pub fn for_each(
        self,
        each: &mut dyn FnMut(&Thread<'_>) -> Result<bool, DataError>,
    ) -> Result<PostsReport, DataError> {
        let Self { meter, budget } = self;
        let (place, counters, cap) = (meter.place().clone(), meter.counters(), meter.row_cap());
        let path = place.path.clone();
        let mut report = PostsReport::default();
        let mut join = Join::new(path.clone(), budget, 0);
        let mut reader = Reader::from_reader(meter);
        reader.config_mut().check_end_names = false;
        let (mut buffer, mut ended) = (Vec::new(), false);
        loop {
            buffer.clear();
            counters.begin_row();
            let line = counters.line();
            match reader.read_event_into(&mut buffer) {
                Ok(Event::Empty(element) | Event::Start(element)) if element.name().as_ref() == b"row" => {
                    report.rows += 1;
                    match record(&element) {
                        Ok(Some(record)) => join.add(record)?,
                        Ok(None) => {}
                        Err(reason) => {
                            report.bad_count += 1;
                            if report.bad.len() < 10 {
                                report.bad.push(BadRow { line, reason });
                            }
                        }
                    }
                }
                Ok(Event::End(element)) if element.name().as_ref() == b"posts" => ended = true,
                Ok(Event::Eof) if !ended => {
                    return Err(DataError::Corrupt {
                        path,
                        line,
                        what: "Posts.xml",
                        detail: "it is cut short: `</posts>` is missing".into(),
                    });
                }
                Ok(Event::Eof) => break,
                Ok(_) => {}
                Err(quick_xml::Error::Io(error)) => {
                    let error = std::sync::Arc::try_unwrap(error).unwrap_or_else(|e| e.kind().into());
                    return Err(crate::read::explain(&place, cap, error, line));
                }
                Err(error) => {
                    return Err(DataError::Corrupt {
                        path,
                        line,
                        what: "Posts.xml",
                        detail: error.to_string(),
                    });
                }
            }
        }
        join.finish(&mut report.unused, each)?;
        Ok(report)
    }
}

/// A question or an answer, as joined and as spilled.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    question: u64,
    /// 0 for the question itself, else the answer's id.
    answer: u64,
    /// The accepted answer's id (of a question; 0 for none) or the score (of an answer).
    accepted_or_score: i64,
    text: String,
}

/// The record of a row, or `None` for posts that are neither question nor answer.
fn record(element: &BytesStart) -> Result<Option<Record>, String> {
    let mut fields: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for attribute in element.attributes().with_checks(false) {
        let attribute = attribute.map_err(|e| format!("not XML: {e}"))?;
        let name = attribute.key.as_ref();
        if matches!(
            name,
            b"Id" | b"PostTypeId" | b"ParentId" | b"AcceptedAnswerId" | b"Score" | b"Title" | b"Body"
        ) {
            let value = attribute.unescape_value().map_err(|e| format!("not XML: {e}"))?;
            fields.insert(name.to_vec(), value.into_owned());
        }
    }
    let number = |name: &str| -> Result<Option<i64>, String> {
        match fields.get(name.as_bytes()) {
            None => Ok(None),
            Some(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| format!("`{name}` is `{text}`, expected a number")),
        }
    };
    let id = |name: &str| -> Result<Option<u64>, String> {
        match number(name)? {
            Some(n) if n <= 0 => Err(format!("`{name}` is {n}, expected a positive number")),
            n => Ok(n.map(|n| n as u64)),
        }
    };
    let need = |name: &str| id(name)?.ok_or_else(|| format!("no `{name}`"));
    let body = || html::to_text(fields.get(b"Body".as_slice()).map_or("", String::as_str));
    let question = match number("PostTypeId")? {
        Some(1) => true,
        Some(2) => false,
        Some(_) => return Ok(None),
        None => return Err("no `PostTypeId`".into()),
    };
    if !question {
        return Ok(Some(Record {
            question: need("ParentId")?,
            answer: need("Id")?,
            accepted_or_score: number("Score")?.unwrap_or(0),
            text: body(),
        }));
    }
    let title = fields.get(b"Title".as_slice()).map_or("", |t| t.trim());
    let body = body();
    let text = match (title.is_empty(), body.is_empty()) {
        (true, true) => return Err("a question without title and text".into()),
        (true, false) => body,
        (false, true) => title.to_string(),
        (false, false) => format!("{title}\n\n{body}"),
    };
    Ok(Some(Record {
        question: need("Id")?,
        answer: 0,
        accepted_or_score: id("AcceptedAnswerId")?.unwrap_or(0) as i64,
        text,
    }))
}

struct Join {
    path: PathBuf,
    budget: usize,
    depth: u32,
    records: Vec<Record>,
    bytes: usize,
    spilled: Option<Vec<BufWriter<File>>>,
}

impl Join {
    fn new(path: PathBuf, budget: usize, depth: u32) -> Self {
        Self {
            path,
            budget,
            depth,
            records: Vec::new(),
            bytes: 0,
            spilled: None,
        }
    }

    fn failed(&self) -> impl Fn(std::io::Error) -> DataError + use<> {
        let path = self.path.clone();
        move |source| DataError::Read {
            path: path.clone(),
            line: 0,
            source: std::io::Error::new(source.kind(), format!("temporary file: {source}")),
        }
    }

    fn add(&mut self, record: Record) -> Result<(), DataError> {
        self.bytes += size_of::<Record>() + record.text.len();
        self.records.push(record);
        if self.bytes > self.budget && self.depth < MAX_DEPTH {
            self.spill().map_err(self.failed())?;
        }
        Ok(())
    }

    fn spill(&mut self) -> std::io::Result<()> {
        if self.spilled.is_none() {
            let files = (0..FAN_OUT).map(|_| Ok(BufWriter::with_capacity(16 << 10, tempfile::tempfile()?)));
            self.spilled = Some(files.collect::<std::io::Result<_>>()?);
        }
        let Some(files) = &mut self.spilled else {
            return Ok(());
        };
        for record in self.records.drain(..) {
            let bucket = record.question / FAN_OUT.pow(self.depth) % FAN_OUT;
            write_record(&mut files[bucket as usize], &record)?;
        }
        self.bytes = 0;
        Ok(())
    }

    fn finish(
        mut self,
        unused: &mut u64,
        each: &mut dyn FnMut(&Thread<'_>) -> Result<bool, DataError>,
    ) -> Result<(), DataError> {
        let failed = self.failed();
        if self.spilled.is_some() {
            self.spill().map_err(&failed)?;
        }
        let Some(files) = self.spilled.take() else {
            return join(self.records, unused, each);
        };
        for file in files {
            let mut file = file.into_inner().map_err(|e| failed(e.into_error()))?;
            file.seek(SeekFrom::Start(0)).map_err(&failed)?;
            let mut reader = BufReader::new(file);
            let mut part = Join::new(self.path.clone(), self.budget, self.depth + 1);
            while let Some(record) = read_record(&mut reader).map_err(&failed)? {
                part.add(record)?;
            }
            part.finish(unused, each)?;
        }
        Ok(())
    }
}

fn write_record(out: &mut impl Write, record: &Record) -> std::io::Result<()> {
    out.write_all(&record.question.to_le_bytes())?;
    out.write_all(&record.answer.to_le_bytes())?;
    out.write_all(&record.accepted_or_score.to_le_bytes())?;
    out.write_all(&(record.text.len() as u64).to_le_bytes())?;
    out.write_all(record.text.as_bytes())
}

fn read_record(from: &mut impl Read) -> std::io::Result<Option<Record>> {
    let mut head = [0; 32];
    let mut filled = 0;
    while filled < head.len() {
        match from.read(&mut head[filled..])? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    let word = |i: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&head[i * 8..][..8]);
        u64::from_le_bytes(bytes)
    };
    let mut text = Vec::new();
    from.take(word(3)).read_to_end(&mut text)?;
    let text = String::from_utf8(text).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))?;
    Ok(Some(Record {
        question: word(0),
        answer: word(1),
        accepted_or_score: word(2) as i64,
        text,
    }))
}

fn join(
    mut records: Vec<Record>,
    unused: &mut u64,
    each: &mut dyn FnMut(&Thread<'_>) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    records.sort_by_key(|r| (r.question, r.answer));
    for group in records.chunk_by(|a, b| a.question == b.question) {
        let [question, answers @ ..] = group else {
            continue;
        };
        if question.answer != 0 {
            continue; // answers whose question is not in the dump
        }
        *unused += u64::from(!each(&Thread { question, answers })?);
    }
    Ok(())
}

/// A question with its answers.
#[derive(Clone, Copy, Debug)]
pub struct Thread<'a> {
    question: &'a Record,
    answers: &'a [Record],
}

impl Thread<'_> {
    /// Answers with a text, the earliest first, and whether each is the accepted one.
    fn usable(&self) -> impl Iterator<Item = (&Record, bool)> {
        let accepted = self.question.accepted_or_score as u64;
        let usable = self.answers.iter().filter(|r| !r.text.is_empty());
        usable.map(move |r| (r, r.answer == accepted))
    }

    /// The question's title and text, and the accepted answer, or where none was accepted the one with the most votes (at
    /// least 0; among equals the earliest). `extra` holds the question's `id`, the answer's `score` and whether it was
    /// `accepted`. None where no answer is worth imitating.
    pub fn demonstration(&self) -> Option<Demonstration> {
        let voted = || {
            let liked = self.usable().filter(|(r, _)| r.accepted_or_score >= 0);
            liked.max_by_key(|(r, _)| (r.accepted_or_score, std::cmp::Reverse(r.answer)))
        };
        let (answer, accepted) = self.usable().find(|(_, accepted)| *accepted).or_else(voted)?;
        let mut extra = Map::new();
        extra.insert("id".into(), self.question.question.into());
        extra.insert("score".into(), answer.accepted_or_score.into());
        extra.insert("accepted".into(), accepted.into());
        Some(Demonstration {
            messages: vec![
                Message::user(self.question.text.as_str()),
                Message::assistant(answer.text.as_str()),
            ],
            extra,
        })
    }

    /// The answers in order of [`level`]; equal levels are tied, and of equal texts there is one, at the best of their places.
    /// None where fewer than two levels are there.
    pub fn ranking(&self) -> Option<Ranking> {
        let mut answers: Vec<(&str, i64)> = Vec::new();
        for (answer, accepted) in self.usable() {
            let level = level(answer.accepted_or_score, accepted);
            match answers.iter_mut().find(|(text, _)| *text == answer.text) {
                Some((_, best)) => *best = level.max(*best),
                None => answers.push((&answer.text, level)),
            }
        }
        let mut levels: BTreeMap<std::cmp::Reverse<i64>, Vec<usize>> = BTreeMap::new();
        for (place, (_, level)) in answers.iter().enumerate() {
            levels.entry(std::cmp::Reverse(*level)).or_default().push(place);
        }
        (levels.len() > 1).then(|| Ranking {
            prompt: vec![Message::user(self.question.text.as_str())],
            responses: answers.into_iter().map(|(text, _)| text.to_owned()).collect(),
            groups: levels.into_values().collect(),
            margins: None,
        })
    }
}

/// What votes say of an answer: the rounded logarithm to the base 2 of one more than its score, one more where it was accepted;
/// -1 where its score is negative.
///
/// Source: Askell et al., "A General Language Assistant as a Laboratory for Alignment", 2021, appendix C.
fn level(score: i64, accepted: bool) -> i64 {
    let Ok(score) = u64::try_from(score) else {
        return -1;
    };
    let n = u128::from(score) + 1;
    let floor = n.ilog2();
    // log2 n is at least floor + 1/2 where n squared is at least 2 to the power 2 floor + 1
    let rounded = floor + u32::from((n * n) >> (2 * floor + 1) > 0);
    i64::from(rounded) + i64::from(accepted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{Contents, Hints, Limits, open};

    fn dump(rows: &str) -> String {
        format!("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<posts>\r\n{rows}</posts>\r\n")
    }

    fn read(text: &str, budget: usize) -> Result<(Vec<Demonstration>, PostsReport), DataError> {
        read_as(text, budget, |thread| thread.demonstration())
    }

    fn read_as<T>(
        text: &str,
        budget: usize,
        of: impl Fn(&Thread<'_>) -> Option<T>,
    ) -> Result<(Vec<T>, PostsReport), DataError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let opened = open(file.path(), &Limits::default(), &Hints::default())?;
        let Contents::Posts(mut posts) = opened.contents else {
            panic!("not told as posts")
        };
        posts.budget = budget;
        let mut found = Vec::new();
        let report = posts.for_each(&mut |thread| {
            let made = of(thread);
            let some = made.is_some();
            found.extend(made);
            Ok(some)
        })?;
        Ok((found, report))
    }

    const ROWS: &str = r#"
  <row Id="1" PostTypeId="1" AcceptedAnswerId="4" Score="3" Title="How &amp; why?" Body="&lt;p&gt;Tell me.&lt;/p&gt;" />
  <row Id="2" PostTypeId="1" Score="1" Title="Second" Body="&lt;p&gt;Text&lt;/p&gt;" />
  <row Id="3" PostTypeId="2" ParentId="1" Score="9" Body="&lt;p&gt;Popular.&lt;/p&gt;" />
  <row Id="4" PostTypeId="2" ParentId="1" Score="1" Body="&lt;p&gt;Accepted &lt;code&gt;x&lt;/code&gt;.&lt;/p&gt;" />
  <row Id="5" PostTypeId="2" ParentId="2" Score="2" Body="early" />
  <row Id="6" PostTypeId="2" ParentId="2" Score="2" Body="late" />
  <row Id="7" PostTypeId="1" Title="Lonely" Body="nobody" />
  <row Id="8" PostTypeId="1" Title="Disliked" Body="q" />
  <row Id="9" PostTypeId="2" ParentId="8" Score="-3" Body="wrong" />
  <row Id="10" PostTypeId="4" Body="a tag wiki" />
  <row Id="11" PostTypeId="2" ParentId="99" Score="5" Body="orphan" />
  <row Id="12" PostTypeId="2" Score="5" Body="no parent" />
"#;

    #[test]
    fn the_accepted_answer_else_the_best_voted() {
        let (found, report) = read(&dump(ROWS), BUDGET).unwrap();
        let turns: Vec<(&str, &str)> = found
            .iter()
            .map(|d| (d.messages[0].content.as_str(), d.messages[1].content.as_str()))
            .collect();
        assert_eq!(
            turns,
            [("How & why?\n\nTell me.", "Accepted `x`."), ("Second\n\nText", "early")]
        );
        assert_eq!(found[0].extra["accepted"], true);
        assert_eq!(found[1].extra["score"], 2);
        assert_eq!((report.rows, report.unused, report.bad_count), (12, 2, 1));
        assert!(report.bad[0].reason.contains("ParentId"), "{:?}", report.bad);
    }

    #[test]
    fn answers_in_the_order_of_their_votes() {
        let rows = ROWS.replace("</posts>", "")
            + r#"<row Id="20" PostTypeId="2" ParentId="1" Score="6" Body="also liked" />
                 <row Id="21" PostTypeId="2" ParentId="1" Score="-1" Body="wrong" />
                 <row Id="22" PostTypeId="2" ParentId="1" Score="50" Body="" />
                 <row Id="23" PostTypeId="2" ParentId="1" Score="0" Body="wrong" />"#;
        let (found, report) = read_as(&dump(&rows), BUDGET, |thread| thread.ranking()).unwrap();
        // The second question's answers have equal votes; the others have one or none
        assert_eq!((found.len(), report.unused), (1, 3));
        assert_eq!(found[0].prompt[0].content, "How & why?\n\nTell me.");
        assert_eq!(found[0].responses, ["Popular.", "Accepted `x`.", "also liked", "wrong"]);
        // Levels 3, 1 + 1, 3, and -1 or 0
        assert_eq!(found[0].groups, [vec![0, 2], vec![1], vec![3]]);
    }

    #[test]
    fn levels_are_rounded_logarithms() {
        let levels: Vec<i64> = [-7, -1, 0, 1, 2, 4, 5, 10, 11, 1000]
            .iter()
            .map(|&s| level(s, false))
            .collect();
        // log2 of 1, 2, 3 (1.58), 5 (2.32), 6 (2.58), 11 (3.46), 12 (3.58), 1001 (9.97)
        assert_eq!(levels, [-1, -1, 0, 1, 2, 2, 3, 3, 4, 10]);
        assert_eq!((level(0, true), level(-5, true), level(i64::MAX, false)), (1, -1, 63));
    }

    #[test]
    fn spilling_finds_the_same_conversations() {
        let mut rows = String::new();
        for id in 1..=5000 {
            rows.push_str(&format!(
                "<row Id=\"{id}\" PostTypeId=\"1\" Title=\"q{id}\" Body=\"b\" />\n"
            ));
        }
        for id in 1..=5000 {
            let answer = 10_000 + id;
            rows.push_str(&format!(
                "<row Id=\"{answer}\" PostTypeId=\"2\" ParentId=\"{id}\" Score=\"1\" Body=\"a{id}\" />\n"
            ));
        }
        let (mut whole, _) = read(&dump(&rows), BUDGET).unwrap();
        // so small a budget that parts are spilled again
        let (mut spilled, _) = read(&dump(&rows), 2_000).unwrap();
        assert_eq!(whole.len(), 5000);
        let key = |d: &Demonstration| d.extra["id"].as_u64();
        whole.sort_by_key(key);
        spilled.sort_by_key(key);
        assert_eq!(whole, spilled);
    }

    #[test]
    fn a_dump_cut_short_is_an_error() {
        let text = dump(ROWS);
        let error = read(&text[..text.len() - 10], BUDGET).unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
        let error = read(&text[..text.len() - 40], BUDGET).unwrap_err().to_string();
        assert!(error.contains("Posts.xml"), "{error}");
    }
}
