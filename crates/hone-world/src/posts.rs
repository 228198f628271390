//! The world as a question-and-answer site: a dump in the format of Stack Exchange's `Posts.xml`, of any size in constant memory.
//!
//! Title: a question. Text: a document of the corpus, as HTML. Answers: 0 to 4 replies such as experts write, whose votes follow
//! from what they are worth to the labeler and from chance; of two questions with a liked answer one has accepted its best.
//! Answers stand in the file where they came in, which is some hundred posts after their question.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use crate::files::write_whole;
use crate::{Error, Labeler, Question, Source, Split, World};

/// How many distinct titles there are; they come again and again with other texts.
const TITLES: usize = 2000;
/// Questions between a question and its answers.
const LATER: u64 = 100;
/// Posts in the file for each question at most, itself among them.
const PLACES: u64 = 5;

struct Answer {
    text: String,
    score: i64,
}

/// What belongs to question `index`.
struct Thread<'a> {
    question: &'a Question,
    answers: Vec<Answer>,
    /// Which answer is accepted.
    accepted: Option<usize>,
}

/// A post's id. Ids rise along the file.
fn question_id(index: u64) -> u64 {
    index * PLACES + 1
}

fn answer_id(index: u64, place: usize) -> u64 {
    question_id(index + LATER) + 1 + place as u64
}

fn thread<'a>(world: &World, labeler: &Labeler, titles: &'a [Question], index: u64) -> Thread<'a> {
    let mut stream = world.stream("world/posts", index);
    let question = &titles[stream.below(titles.len())];
    let count = stream.below(PLACES as usize);
    let answers: Vec<Answer> = world
        .replies(question, count, index)
        .into_iter()
        .map(|text| Answer {
            score: (4.0 * labeler.utility(question, &text)).floor() as i64 + stream.below(6) as i64,
            text,
        })
        .collect();
    let best = (0..count).rev().max_by_key(|&i| answers[i].score);
    let accepted = best.filter(|&i| answers[i].score > 0 && stream.below(2) == 0);
    Thread {
        question,
        answers,
        accepted,
    }
}

/// Text as HTML: a paragraph a line, `<`, `>` and `&` escaped.
fn paragraphs(text: &str) -> String {
    let mut html = String::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        html.push_str("<p>");
        escape(line, &mut html);
        html.push_str("</p>\n\n");
    }
    html
}

/// Appends a text with the characters escaped that neither XML nor HTML lets stand.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#xA;"),
            c => out.push(c),
        }
    }
}

/// An attribute, its value escaped.
fn attribute(row: &mut String, name: &str, value: &str) {
    let _ = write!(row, " {name}=\"");
    escape(value, row);
    row.push('"');
}

fn question_row(thread: &Thread<'_>, index: u64, body: &str) -> String {
    let mut row = format!("  <row Id=\"{}\" PostTypeId=\"1\"", question_id(index));
    if let Some(place) = thread.accepted {
        attribute(&mut row, "AcceptedAnswerId", &answer_id(index, place).to_string());
    }
    attribute(&mut row, "Score", &(index % 17).to_string());
    attribute(&mut row, "ViewCount", &(index % 1009).to_string());
    attribute(&mut row, "Body", &paragraphs(body));
    attribute(&mut row, "Title", &thread.question.text);
    attribute(&mut row, "Tags", &format!("<{}>", thread.question.kind.name()));
    attribute(&mut row, "AnswerCount", &thread.answers.len().to_string());
    row + " ContentLicense=\"CC BY-SA 4.0\" />\r\n"
}

fn answer_row(answer: &Answer, index: u64, place: usize) -> String {
    let id = answer_id(index, place);
    let mut row = format!(
        "  <row Id=\"{id}\" PostTypeId=\"2\" ParentId=\"{}\"",
        question_id(index)
    );
    attribute(&mut row, "Score", &answer.score.to_string());
    attribute(&mut row, "Body", &paragraphs(&answer.text));
    row + " ContentLicense=\"CC BY-SA 4.0\" />\r\n"
}

impl World {
    /// Writes a dump of at least `bytes`; returns its questions and answers.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn write_posts(&self, path: &Path, bytes: u64, labeler: &Labeler) -> Result<(u64, u64), Error> {
        let titles = self.questions(TITLES, Split::Training)?;
        let (mut questions, mut answers) = (0, 0);
        write_whole(path, |out| {
            out.write_all("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<posts>\r\n".as_bytes())?;
            let (mut written, mut index) = (0, 0_u64);
            let mut asked = None;
            loop {
                // Questions until there are enough bytes, then the answers that are still to come
                if asked.is_none() {
                    let body = self.document(Source::ALL[(index % Source::ALL.len() as u64) as usize], index);
                    let row = question_row(&thread(self, labeler, &titles, index), index, &body);
                    written += row.len() as u64;
                    out.write_all(row.as_bytes())?;
                    questions += 1;
                }
                if let Some(earlier) = index.checked_sub(LATER) {
                    let thread = thread(self, labeler, &titles, earlier);
                    for (place, answer) in thread.answers.iter().enumerate() {
                        let row = answer_row(answer, earlier, place);
                        written += row.len() as u64;
                        out.write_all(row.as_bytes())?;
                        answers += 1;
                    }
                }
                index += 1;
                if asked.is_none() && written >= bytes {
                    asked = Some(index);
                }
                if asked.is_some_and(|asked| index == asked + LATER) {
                    break;
                }
            }
            out.write_all(b"</posts>\r\n")
        })?;
        Ok((questions, answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preferences;

    #[test]
    fn a_dump_has_rising_ids_and_every_answer_of_its_questions() {
        let (world, labeler) = (World::new(3), Labeler::new(Preferences::standard(), 3));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Posts.xml");
        let (questions, answers) = world.write_posts(&path, 200_000, &labeler).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() > 200_000 && text.len() < 300_000, "{}", text.len());
        assert!(text.starts_with("\u{feff}<?xml") && text.ends_with("</posts>\r\n"));
        let value = |row: &str, name: &str| -> Option<u64> {
            let (_, rest) = row.split_once(&format!(" {name}=\""))?;
            rest.split_once('"')?.0.parse().ok()
        };
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("<row ")).collect();
        let ids: Vec<u64> = rows.iter().filter_map(|row| value(row, "Id")).collect();
        assert_eq!(ids.len() as u64, questions + answers);
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        let parents: Vec<u64> = rows.iter().filter_map(|row| value(row, "ParentId")).collect();
        assert_eq!(parents.len() as u64, answers);
        assert!(answers > questions && answers < 3 * questions);
        for row in rows.iter().filter(|row| row.contains("PostTypeId=\"1\"")) {
            let id = value(row, "Id").unwrap();
            let count = parents.iter().filter(|&&parent| parent == id).count() as u64;
            assert_eq!(value(row, "AnswerCount"), Some(count));
            if let Some(accepted) = value(row, "AcceptedAnswerId") {
                let answer = rows.iter().find(|row| value(row, "Id") == Some(accepted)).unwrap();
                assert_eq!(value(answer, "ParentId"), Some(id));
            }
        }
        let again = folder.path().join("again.xml");
        world.write_posts(&again, 200_000, &labeler).unwrap();
        assert!(std::fs::read_to_string(again).unwrap() == text);
    }

    #[test]
    fn markup_is_escaped_twice() {
        let mut row = String::new();
        attribute(&mut row, "Body", &paragraphs("1 < 2 & \"3\"\n\nend"));
        assert_eq!(
            row,
            " Body=\"&lt;p&gt;1 &amp;lt; 2 &amp;amp; &amp;quot;3&amp;quot;&lt;/p&gt;&#xA;&#xA;&lt;p&gt;end&lt;/p&gt;&#xA;&#xA;\""
        );
    }
}
