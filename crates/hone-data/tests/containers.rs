//! Every container and compression gives the same rows; every bad file says what is wrong, and where.

use std::io::Write;
use std::path::{Path, PathBuf};

use hone_data::{
    Compression, Container, Contents, DataError, Demonstration, DocumentSplit, Format, Hints, Limits, Message, Row,
    Source, for_each_demonstration, for_each_unpaired, inspect, load_demonstrations, load_documents, load_prompts,
    load_rankings, open, take_documents,
};
use tempfile::TempDir;

/// A file whose name says nothing about its content.
fn file(dir: &TempDir, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir
        .path()
        .join(format!("data-{}", std::fs::read_dir(dir.path()).unwrap().count()));
    std::fs::write(&path, content).unwrap();
    path
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).unwrap()
}

fn parquet_bytes() -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    let schema = "message rows { required binary question (UTF8); optional binary answer (UTF8); }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema.into(), Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let columns: [&[&str]; 2] = [&["one?", "two\n, \"2\"?"], &["1", "2"]];
    for values in columns {
        let values: Vec<ByteArray> = values.iter().map(|v| ByteArray::from(*v)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let levels = [1, 1];
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

const LINES: &str =
    "{\"question\": \"one?\", \"answer\": \"1\"}\n\n{\"question\": \"two\\n, \\\"2\\\"?\", \"answer\": \"2\"}";
const ARRAY: &str = "[\n {\"question\": \"one?\", \"answer\": \"1\"},\n {\"question\": \"two\\n, \\\"2\\\"?\",\n  \"answer\": \"2\"}\n]\n";
const CSV: &str = "question,answer\none?,1\n\"two\n, \"\"2\"\"?\",2\n";
const TSV: &str = "question\tanswer\none?\t1\n\"two\n, \"\"2\"\"?\"\t2\n";

fn expected() -> [Vec<Message>; 2] {
    [
        vec![Message::user("one?"), Message::assistant("1")],
        vec![Message::user("two\n, \"2\"?"), Message::assistant("2")],
    ]
}

#[test]
fn every_container_in_every_compression() {
    let dir = TempDir::new().unwrap();
    let containers: [(Container, Vec<u8>); 6] = [
        (Container::JsonLines, LINES.into()),
        (
            Container::JsonLines,
            format!("\u{feff}{}", LINES.replace('\n', "\r\n")).into(),
        ),
        (Container::JsonArray, ARRAY.into()),
        (Container::Csv, CSV.into()),
        (Container::Tsv, TSV.into()),
        (Container::Parquet, parquet_bytes()),
    ];
    for (container, content) in containers {
        let half = content.len() / 2;
        let members = [gzip(&content[..half]), gzip(&content[half..])].concat();
        let frames = [zstd(&content[..half]), zstd(&content[half..])].concat();
        let compressed = [
            (Compression::None, content.clone()),
            (Compression::Gzip, gzip(&content)),
            (Compression::Gzip, members),
            (Compression::Zstd, zstd(&content)),
            (Compression::Zstd, frames),
        ];
        for (compression, bytes) in compressed {
            let loaded = load_demonstrations(&Source::new(file(&dir, bytes))).unwrap();
            let report = &loaded.report;
            assert_eq!((report.container, report.compression), (container, compression));
            assert_eq!(
                (report.rows, report.bad, report.items),
                (2, 0, 2),
                "{container:?} {compression:?}"
            );
            assert_eq!(report.format, Format::QuestionAnswer);
            let messages: Vec<Vec<Message>> = loaded.items.into_iter().map(|d| d.messages).collect();
            assert_eq!(messages, expected(), "{container:?} {compression:?}");
        }
    }
}

fn rows(path: &Path, limits: &Limits) -> Result<Vec<Row>, DataError> {
    match open(path, limits, &Hints::default())?.contents {
        Contents::Rows(rows) => rows.collect(),
        _ => panic!("not told as a table"),
    }
}

#[test]
fn rows_know_their_lines() {
    let dir = TempDir::new().unwrap();
    for (content, lines) in [(LINES, [1, 3]), (ARRAY, [2, 3]), (CSV, [2, 3]), (TSV, [2, 3])] {
        let found = rows(&file(&dir, content), &Limits::default()).unwrap();
        assert_eq!(found.iter().map(|r| r.line).collect::<Vec<_>>(), lines, "{content}");
    }
}

#[test]
fn text_is_told_from_tables() {
    let dir = TempDir::new().unwrap();
    let container = |content: &str| {
        let path = file(&dir, content);
        open(&path, &Limits::default(), &Hints::default()).unwrap().container
    };
    assert_eq!(
        container("Well, you see, it rains,\nand rains, and rains,\nday, night, day,\n"),
        Container::PlainText
    );
    assert_eq!(container("[Chorus]\nla la\n"), Container::PlainText);
    assert_eq!(container("{{Infobox}}\ntext\n"), Container::PlainText);
    assert_eq!(container("text\n"), Container::PlainText);
    assert_eq!(container("One line"), Container::PlainText);
    assert_eq!(container("text\nfirst\nsecond\n"), Container::Csv);
    assert_eq!(container("review,stars\ngood,5\nbad,1\n"), Container::Csv);
    assert_eq!(container("prompt\tlabel_b\n"), Container::Tsv);
    assert_eq!(
        container("<?xml version=\"1.0\"?>\n<posts>\n</posts>"),
        Container::PostsXml
    );
    assert_eq!(container("<html><body>hi</body></html>"), Container::PlainText);
    assert_eq!(container("[]"), Container::JsonArray);
}

#[test]
fn plain_text_splits_only_where_asked() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "one\ntwo\r\n\n \nthree\n\n");
    let texts = |split| {
        let loaded = load_documents(&Source {
            split,
            ..Source::new(&path)
        })
        .unwrap();
        loaded.items.into_iter().map(|d| d.text).collect::<Vec<_>>()
    };
    assert_eq!(texts(DocumentSplit::None), ["one\ntwo\r\n\n \nthree\n\n"]);
    assert_eq!(texts(DocumentSplit::BlankLines), ["one\ntwo", "three"]);
    assert_eq!(texts(DocumentSplit::Lines), ["one", "two", "three"]);
    let two = Source {
        split: DocumentSplit::Lines,
        max_rows: Some(2),
        ..Source::new(&path)
    };
    assert_eq!(load_documents(&two).unwrap().items.len(), 2);
    let zipped = file(&dir, gzip("déjà vu\n".as_bytes()));
    assert_eq!(load_documents(&Source::new(zipped)).unwrap().items[0].text, "déjà vu\n");
    let rows = file(&dir, "{\"text\": \"a\"}\n{\"text\": \"b\", \"url\": \"u\"}\n");
    assert_eq!(load_documents(&Source::new(rows)).unwrap().items.len(), 2);
}

#[test]
fn markers_separate_the_documents_of_plain_text() {
    let dir = TempDir::new().unwrap();
    let stories = "<|endoftext|>\r\n\n  One day.\nIt rained. <|endoftext|> is no line here.\n\n<|endoftext|>\n \nTwo.\n\nThree.\n \
                   <|endoftext|> \n\n<|endoftext|>\nFour.\n\n";
    let texts = |content: &str, split| {
        let loaded = load_documents(&Source {
            split,
            ..Source::new(file(&dir, content))
        })
        .unwrap();
        loaded.items.into_iter().map(|d| d.text).collect::<Vec<_>>()
    };
    let first = "  One day.\nIt rained. <|endoftext|> is no line here.";
    assert_eq!(texts(stories, DocumentSplit::None), [first, "Two.\n\nThree.", "Four."]);
    assert_eq!(
        texts(stories, DocumentSplit::BlankLines),
        [first, "Two.", "Three.", "Four."]
    );
    assert_eq!(
        texts("one\ntwo\n<|endoftext|>\nthree", DocumentSplit::BlankLines),
        ["one\ntwo", "three"]
    );
    assert_eq!(
        texts("one\n<|endoftext|>\ntwo\n\nthree", DocumentSplit::Lines),
        ["one", "two", "three"]
    );
    // Each document has the limit to itself, and the last documents are held out
    let source = Source::new(file(&dir, "A story.\n<|endoftext|>\n".repeat(40)));
    let limits = Limits {
        document_bytes: 30,
        ..Limits::default()
    };
    assert_eq!(
        hone_data::for_each_document(&source, &limits, &mut |_| Ok(()))
            .unwrap()
            .items,
        40
    );
    let split = hone_data::hold_out_documents(load_documents(&source).unwrap().items, 0.05).unwrap();
    assert_eq!((split.train.len(), split.held_out.len()), (38, 2));
}

#[test]
fn reading_ends_where_there_is_enough() {
    let dir = TempDir::new().unwrap();
    // What follows the second document would stop the reading
    let text = file(&dir, b"one\ntwo\nthree \xff\n");
    let lines = file(
        &dir,
        b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n{\"text\": \"\xff\"}\n",
    );
    let split = DocumentSplit::Lines;
    let text = Source {
        split,
        ..Source::new(text)
    };
    for source in [text, Source::new(lines)] {
        assert!(load_documents(&source).is_err());
        let mut seen = Vec::new();
        let report = take_documents(&source, &Limits::default(), &mut |document| {
            seen.push(document.text);
            Ok(if seen.len() == 2 {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            })
        })
        .unwrap();
        assert_eq!((seen, report.items), (vec!["one".to_string(), "two".into()], 2));
    }
}

fn refused(content: impl AsRef<[u8]>, parts: &[&str]) {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, content);
    let source = Source::new(&path);
    for error in [
        load_demonstrations(&source).map(|_| ()).unwrap_err(),
        load_documents(&source).map(|_| ()).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}\n{parts:?}");
    }
}

#[test]
fn unreadable_files_say_what_they_are() {
    refused("", &["is empty"]);
    refused(gzip(b""), &["is empty"]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 12345\n";
    refused(pointer, &["Git LFS pointer", "12345 bytes", "git lfs pull"]);
    refused(b"PK\x03\x04rest", &["a zip archive", "unpack"]);
    refused(b"7z\xbc\xaf\x27\x1c", &["a 7z archive", "Posts.xml"]);
    refused(b"\x80\x04\x95rest", &["pickle", "never read"]);
    refused(b"\xff\xfeh\0i\0", &["UTF-16"]);
    refused(b"PAR1 but no more", &["damaged Parquet file"]);
    let mut truncated = parquet_bytes();
    truncated.truncate(60);
    refused(truncated, &["damaged Parquet file"]);
}

#[test]
fn compressed_data_cut_short_or_damaged() {
    let many: String = (0..5000)
        .map(|i| {
            format!(
                "{{\"question\": \"q{i} {}\", \"answer\": \"{}\"}}\n",
                i * i % 977,
                i * 31 % 1009
            )
        })
        .collect();
    for (name, bytes) in [("gzip", gzip(many.as_bytes())), ("zstd", zstd(many.as_bytes()))] {
        let dir = TempDir::new().unwrap();
        let path = file(&dir, &bytes[..bytes.len() - bytes.len() / 4]);
        let error = load_demonstrations(&Source::new(&path)).unwrap_err();
        assert!(
            matches!(&error, DataError::CutShort { line, .. } if *line > 100 && *line < 5000),
            "{error:?}"
        );
        assert!(
            error.to_string().contains(&format!("the {name} data is cut short")),
            "{error}"
        );
        let mut damaged = bytes.clone();
        let middle = bytes.len() / 2;
        damaged[middle..middle + 64].fill(0x55);
        let error = load_demonstrations(&Source::new(file(&dir, damaged))).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::Corrupt { .. } | DataError::CutShort { .. } | DataError::TooManyBadRows { .. }
            ),
            "{error:?}"
        );
    }
}

#[test]
fn text_that_is_not_utf8() {
    let dir = TempDir::new().unwrap();
    let error = load_documents(&Source::new(file(&dir, b"first\nna\xefve\n"))).unwrap_err();
    assert!(
        matches!(error, DataError::NotUtf8 { line: 2, offset: 8, .. }),
        "{error:?}"
    );
    let row = b"{\"question\": \"na\xefve\", \"answer\": \"a\"}\n{\"question\": \"q\", \"answer\": \"a\"}\n";
    let error = load_demonstrations(&Source::new(file(&dir, row)))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("1 of 2 rows are bad") && error.contains("line 1: not UTF-8 at byte 16"),
        "{error}"
    );
    let cell = b"question,answer\nq,a\nna\xefve,a\n";
    let error = load_demonstrations(&Source::new(file(&dir, cell)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("line 3: not UTF-8 at byte 2"), "{error}");
}

/// An endless row, as a 10 GB line is for a reader with bounded memory.
#[test]
fn rows_longer_than_the_limit() {
    let dir = TempDir::new().unwrap();
    let limits = Limits {
        row_bytes: 200_000,
        document_bytes: 200_000,
        ..Limits::default()
    };
    let long = "x".repeat(1_000_000);
    let good = "{\"question\": \"q\", \"answer\": \"a\"}";
    let cases = [
        (format!("{good}\n{{\"question\": \"{long}\"}}\n"), 2),
        (format!("[{good},\n\n{{\"question\": \"{long}\"}}]"), 3),
        (format!("question,answer\nq,a\n\"{long}\",a\n"), 3),
    ];
    for (content, expected) in cases {
        for bytes in [content.clone().into_bytes(), gzip(content.as_bytes())] {
            let error = rows(&file(&dir, bytes), &limits).unwrap_err();
            assert!(
                matches!(error, DataError::RowTooLong { line, cap: 200_000, .. } if line == expected),
                "{error:?}"
            );
        }
    }
    let posts = file(
        &dir,
        format!("<posts>\n<row Id=\"1\" PostTypeId=\"1\" Body=\"{long}\" />\n</posts>"),
    );
    let error = for_each_demonstration(&Source::new(posts), &limits, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, DataError::RowTooLong { line: 2, .. }), "{error:?}");
    let text = file(&dir, &long);
    let error = hone_data::for_each_document(&Source::new(text), &limits, &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("split = \"blank-lines\""), "{error}");
}

#[test]
fn data_that_expands_too_far() {
    let dir = TempDir::new().unwrap();
    let limits = Limits {
        expansion_floor: 100_000,
        ..Limits::default()
    };
    let bomb = "{\"question\": \"q\", \"answer\": \"a\"}\n".repeat(100_000);
    let path = file(&dir, zstd(bomb.as_bytes()));
    let error = rows(&path, &limits).unwrap_err();
    assert!(matches!(error, DataError::ExpandsTooFar { .. }), "{error:?}");
    assert_eq!(rows(&path, &Limits::default()).unwrap().len(), 100_000);
    let limits = Limits {
        total_bytes: 1000,
        ..Limits::default()
    };
    let error = rows(&file(&dir, &bomb), &limits).unwrap_err();
    assert!(matches!(error, DataError::TooLarge { cap: 1000, .. }), "{error:?}");
}

#[test]
fn an_array_that_does_not_end() {
    let dir = TempDir::new().unwrap();
    let good = "{\"question\": \"q\", \"answer\": \"a\"}";
    for (content, detail) in [
        (format!("[\n{good},\n{good}\n"), "its `]` is missing"),
        (
            format!("[\n{good},\n{{\"question\": \"q"),
            "the row of line 3 does not end",
        ),
        (format!("[{good}]\nmore"), "expected the end of the file, got `m`"),
        (format!("[{good}] {good}"), "expected the end of the file"),
    ] {
        let error = load_demonstrations(&Source::new(file(&dir, content)))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("damaged JSON array") && error.contains(detail),
            "{error}"
        );
    }
}

#[test]
fn bad_rows_are_counted_up_to_a_share() {
    let dir = TempDir::new().unwrap();
    let mut lines = vec!["{\"question\": \"q\", \"answer\": \"a\"}"; 300];
    lines[9] = "[1, 2]";
    lines[19] = "{\"question\": \"q\"}";
    lines[29] = "{\"question\": \"q\", ";
    let source = Source::new(file(&dir, lines.join("\n")));
    let report = load_demonstrations(&source).unwrap().report;
    assert_eq!((report.rows, report.bad, report.items), (300, 3, 297));
    let samples: Vec<(u64, &str)> = report
        .samples_of_bad
        .iter()
        .map(|b| (b.line, b.reason.as_str()))
        .collect();
    assert_eq!(samples[0], (10, "expected a JSON object, got an array"));
    assert_eq!(samples[1], (20, "no `answer`"));
    assert!(samples[2].0 == 30 && samples[2].1.starts_with("not JSON"));
    let strict = Source {
        max_bad_share: 0.005,
        ..source
    };
    let error = load_demonstrations(&strict).unwrap_err().to_string();
    assert!(
        error.contains("3 of 300 rows are bad") && error.contains("line 10:"),
        "{error}"
    );
    // far beyond hope: not read to its end
    let broken = "{\"question\": 1, \"answer\": 2}\n".repeat(50_000);
    let error = load_demonstrations(&Source::new(file(&dir, broken))).unwrap_err();
    assert!(
        matches!(error, DataError::TooManyBadRows { rows: 1000, .. }),
        "{error:?}"
    );
}

#[test]
fn columns_and_format_override() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "q,a,note\nwhat?,that,n\nwho?,she,n\n");
    let error = load_demonstrations(&Source::new(&path)).unwrap_err().to_string();
    assert!(
        error.contains("Found: q, a, note") && error.contains("prompt-completion"),
        "{error}"
    );
    let mapped = |pairs: &[(&str, &str)]| Source {
        columns: pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        ..Source::new(&path)
    };
    let loaded = load_demonstrations(&mapped(&[("prompt", "q"), ("completion", "a")])).unwrap();
    let expected = Demonstration {
        messages: vec![Message::user("what?"), Message::assistant("that")],
        extra: [("note".to_string(), "n".into())].into_iter().collect(),
    };
    assert_eq!((loaded.items.len(), &loaded.items[0]), (2, &expected));
    let prompts = load_prompts(&mapped(&[("prompt", "q")])).unwrap();
    assert_eq!(prompts.items[0].extra["a"], "that");
    let error = load_prompts(&mapped(&[("prompt", "qq")])).unwrap_err().to_string();
    assert!(
        error.contains("no column `qq`") && error.contains("did you mean `q`?"),
        "{error}"
    );
    let forced = Source {
        format: Some(Format::Alpaca),
        ..Source::new(&path)
    };
    let error = load_demonstrations(&forced).unwrap_err().to_string();
    assert!(
        error.contains("no column `instruction`, which format `alpaca` needs"),
        "{error}"
    );
    let plain = Source {
        format: Some(Format::PlainText),
        ..Source::new(&path)
    };
    assert_eq!(
        load_documents(&plain).unwrap().items[0].text,
        "q,a,note\nwhat?,that,n\nwho?,she,n\n"
    );
}

#[test]
fn other_kinds_are_refused_with_a_hint() {
    let dir = TempDir::new().unwrap();
    let text = Source::new(file(&dir, "Just prose.\nMore prose.\n"));
    let error = load_demonstrations(&text).unwrap_err().to_string();
    assert!(
        error.contains("holds text documents (format `plain-text`), but conversations"),
        "{error}"
    );
    let judged = "{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true}\n";
    let judged = Source::new(file(&dir, judged));
    let error = load_rankings(&judged).unwrap_err().to_string();
    assert!(error.contains("comparisons are needed here"), "{error}");
    let mut labels = Vec::new();
    let mut keep = |row: hone_data::Unpaired| {
        labels.push(row.label);
        Ok(())
    };
    for_each_unpaired(&judged, &Limits::default(), &mut keep).unwrap();
    assert_eq!(labels, [true]);
    let pairs = "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}\n";
    let pairs = Source::new(file(&dir, pairs));
    assert!(for_each_unpaired(&pairs, &Limits::default(), &mut |_| Ok(())).is_err());
    assert_eq!(load_rankings(&pairs).unwrap().items[0].responses, ["c", "r"]);
    let directory = Source::new(dir.path());
    assert!(matches!(load_documents(&directory), Err(DataError::Directory { .. })));
    let absent = Source::new(dir.path().join("absent"));
    assert!(
        load_documents(&absent)
            .unwrap_err()
            .to_string()
            .contains("cannot be opened")
    );
    assert!(matches!(
        load_prompts(&Source::new(file(&dir, "[]"))),
        Err(DataError::NoRows { rows: 0, .. })
    ));
}

#[test]
fn an_inspection_says_what_a_file_is() {
    let dir = TempDir::new().unwrap();
    let content =
        "{\"question\": \"ab\", \"answer\": \"abcd\", \"level\": 1}\n{\"question\": \"abcd\", \"answer\": \"é\"}\n[]\n";
    let found = inspect(&Source::new(file(&dir, gzip(content.as_bytes())))).unwrap();
    assert_eq!((found.rows, found.bad), (3, 1));
    assert_eq!(found.format, Some(Format::QuestionAnswer));
    assert_eq!(found.samples_of_bad[0].line, 3);
    let columns: Vec<(&str, u64, &str)> = found
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.present, c.holds))
        .collect();
    assert_eq!(
        columns,
        [
            ("question", 2, "string"),
            ("answer", 2, "string"),
            ("level", 1, "number")
        ]
    );
    let response = &found.lengths[1];
    assert_eq!(
        (response.part.as_str(), response.min, response.max, response.median),
        ("response", 1, 4, 1)
    );
    assert_eq!((found.lengths[0].mean, found.lengths[0].p95), (3.0, 4));
    assert_eq!(found.examples.len(), 2);
    let unknown = inspect(&Source::new(file(&dir, "{\"a\": 1}\n"))).unwrap();
    assert_eq!(unknown.format, None);
    assert!(unknown.notes[0].contains("fit no known format"), "{:?}", unknown.notes);
}

#[test]
fn conversations_without_replies_are_prompts() {
    let dir = TempDir::new().unwrap();
    let content = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"answer\": \"4\"}\n".repeat(3);
    let source = Source::new(file(&dir, content));
    let found = inspect(&source).unwrap();
    assert_eq!(
        (found.kind, found.bad, found.lengths.len()),
        (Some(hone_data::Kind::Prompts), 0, 1)
    );
    assert_eq!(load_prompts(&source).unwrap().items.len(), 3);
    let error = load_demonstrations(&source).unwrap_err().to_string();
    assert!(error.contains("a conversation without a reply"), "{error}");
}

/// Damaged files of every kind end in a result or an error, never in a panic or an endless loop.
#[test]
fn damaged_files_are_survived() {
    let dir = TempDir::new().unwrap();
    let posts = "<posts>\n<row Id=\"1\" PostTypeId=\"1\" Title=\"&lt;a&gt;\" Body=\"b\" />\n</posts>";
    let tree =
        r#"{"prompt": {"text": "t", "role": "prompter", "replies": [{"text": "a", "role": "assistant", "rank": 0}]}}"#;
    let ranking = r#"{"prompt": "p", "responses": ["a", "b"], "ranking": [[1], [0]]}"#;
    let mut contents: Vec<Vec<u8>> = [LINES, ARRAY, CSV, TSV, posts, tree, ranking].map(Into::into).into();
    contents.push(parquet_bytes());
    contents.push(gzip(LINES.as_bytes()));
    contents.push(zstd(ARRAY.as_bytes()));
    let path = dir.path().join("damaged");
    let mut results = [0, 0];
    for (i, content) in contents.iter().enumerate() {
        let mut random = hone_math::Key::new(1, "damage", i as u64).stream();
        for _ in 0..60 {
            let mut damaged = content.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(damaged.len());
                match random.below(3) {
                    0 => damaged[at] = random.below(256) as u8,
                    1 => damaged[at] ^= 1 << random.below(8),
                    _ => damaged.truncate(at.max(1)),
                }
            }
            std::fs::write(&path, &damaged).unwrap();
            let source = Source::new(&path);
            let ok = inspect(&source).is_ok();
            results[usize::from(ok)] += 1;
            let _ = (load_demonstrations(&source).is_ok(), load_rankings(&source).is_ok());
        }
    }
    assert!(results[0] > 50 && results[1] > 50, "{results:?}");
}
