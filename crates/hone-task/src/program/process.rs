//! A running program: lines in, lines out, each within a time limit.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::limits;

/// Bytes of one answer, at most.
const LONGEST_ANSWER: u64 = 1 << 20;

/// Bytes of standard error that are kept for messages.
const KEPT: usize = 2000;

/// How long a program may take to end by itself: one that closed its output, so that its exit status can be told, and one that is not
/// needed any more and whose input was closed.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it is looked whether a program that does not answer has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// It ended, or closed its output; the exit status in words.
    Ended(String),
    /// It did not answer in time.
    Slow,
    /// An answer longer than allowed.
    TooLong,
    /// An answer that is not UTF-8.
    NotText,
}

enum Line {
    Text(Vec<u8>),
    TooLong,
}

/// A program that was started. Dropping it closes its input, and ends it and all that it started in its group unless that is enough.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Nothing: it is to end at once.
    input: Option<Sender<Vec<u8>>>,
    /// Whether it was waited for already.
    ended: bool,
    output: Receiver<Line>,
    said: Arc<Mutex<VecDeque<u8>>>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Process {
    /// Starts a program in a folder.
    pub(super) fn start(words: &[String], folder: &Path, memory_mib: Option<u64>) -> std::io::Result<Self> {
        let mut child = limits::command(words, folder, memory_mib)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let (input, lines) = channel::<Vec<u8>>();
        // A program that writes without being asked fills this and then its pipe, and waits
        let (answers, output) = sync_channel(1);
        if let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        {
            // Each ends by itself: the first when `input` is dropped or the program ends, the others with the program's output
            std::thread::spawn(move || {
                for line in lines {
                    if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
                        break;
                    }
                }
            });
            std::thread::spawn(move || read_lines(stdout, &answers));
            let kept = Arc::clone(&said);
            std::thread::spawn(move || keep_end(stderr, &kept));
        }
        Ok(Self {
            child,
            input: Some(input),
            ended: false,
            output,
            said,
        })
    }

    /// Sends a line and waits for one.
    pub(super) fn ask(&mut self, mut line: String, limit: Duration) -> Result<String, Failure> {
        line.push('\n');
        // Where the writer has ended, so has the program; reading tells why
        let _ = self.input.as_ref().map(|input| input.send(line.into_bytes()));
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer = match self.output.recv_timeout(left.min(LOOK)) {
                // Something that it started may hold its output open; what it wrote itself may still be on the way
                Err(RecvTimeoutError::Timeout) if limits::has_ended(&mut self.child) => {
                    let last = self.output.recv_timeout(LOOK);
                    last.map_err(|_| RecvTimeoutError::Disconnected)
                }
                Err(RecvTimeoutError::Timeout) if left > LOOK => continue,
                answer => answer,
            };
            return match answer {
                Ok(Line::Text(bytes)) => String::from_utf8(bytes).map_err(|_| Failure::NotText),
                Ok(Line::TooLong) => Err(Failure::TooLong),
                Err(RecvTimeoutError::Timeout) => Err(Failure::Slow),
                Err(RecvTimeoutError::Disconnected) => Err(Failure::Ended(self.status())),
            };
        }
    }

    /// How it ended, in words; one that goes on without output is ended.
    fn status(&mut self) -> String {
        let by_itself = self.ends_by_itself();
        self.ended = true;
        match limits::end(&mut self.child) {
            Some(status) if by_itself => format!("ended with {status}"),
            _ => "closed its output".to_owned(),
        }
    }

    fn ends_by_itself(&mut self) -> bool {
        let since = Instant::now();
        while !limits::has_ended(&mut self.child) {
            if since.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Has it ended at once when it is dropped, since nothing good is expected of it any more.
    pub(super) fn give_up(&mut self) {
        self.input = None;
    }

    /// The end of what it wrote to standard error, on one line.
    pub(super) fn said(&self) -> String {
        // What it wrote before it ended may still be on the way
        std::thread::sleep(Duration::from_millis(20));
        let kept = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" | ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.input.take().is_some() {
            self.ends_by_itself();
        }
        limits::end(&mut self.child);
    }
}

fn read_lines(stdout: ChildStdout, answers: &SyncSender<Line>) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LONGEST_ANSWER + 1).read_until(b'\n', &mut line) {
            Ok(1..) if line.last() == Some(&b'\n') => {
                line.pop();
                if answers.send(Line::Text(line)).is_err() {
                    return;
                }
            }
            Ok(read) if read as u64 > LONGEST_ANSWER => {
                let _ = answers.send(Line::TooLong);
                return;
            }
            // The end, perhaps in the middle of a line, which is no answer then
            _ => return,
        }
    }
}

fn keep_end(mut stderr: ChildStderr, kept: &Mutex<VecDeque<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&buffer[..read]);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}
