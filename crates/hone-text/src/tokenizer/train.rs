//! Training a byte-level BPE tokenizer.
//!
//! Source: Sennrich et al. 2016, on bytes as in GPT-2 (Radford et al. 2019); the pre-tokenizer is
//! GPT-4's expression, with digits one by one unless asked otherwise. The merging loop is our own:
//! the tokenizers crate's keeps several queue entries of one pair whose order depends on hash
//! seeds, and counts in 32 bits. Here the order is total (count, then the smaller pair of ids) and
//! no hash map is ever iterated, so the same text gives the same file, whatever the number of
//! threads.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use serde_json::json;
use tokenizers::utils::SysRegex;

use crate::chat::CHATML_TEMPLATE;
use crate::error::{Result, TextError};
use crate::tokenizer::bytes::char_of_byte;
use crate::tokenizer::file::AddedEntry;
use crate::tokenizer::load::{ByteLevelParts, byte_level};
use crate::tokenizer::{END_OF_TEXT, IM_END, IM_START, Tokenizer};

/// The control tokens of a tokenizer that hone trains; a token's place is its id.
const SPECIALS: [&str; 3] = [END_OF_TEXT, IM_START, IM_END];
/// Text gathered before it is counted, in bytes.
const BATCH_BYTES: usize = 8 << 20;
/// Different words counted at most.
const MAX_WORDS: usize = 16 << 20;
/// Longer words are cut for counting: merges across hundreds of bytes are of no use.
const MAX_WORD_BYTES: usize = 256;

/// How digits are cut before merging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digits {
    /// Each digit is a token: what arithmetic needs.
    #[default]
    Single,
    /// Groups of up to three digits, from the left, as in GPT-4.
    UpToThree,
}

/// Options of [`train_bpe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainOptions {
    /// The number of ids wanted: 3 control tokens, 256 bytes, the rest merges. A text too small
    /// for so many gives fewer.
    pub vocab_size: usize,
    /// How digits are cut.
    pub digits: Digits,
    /// A pair seen less often is not merged.
    pub min_frequency: u64,
    /// The longest token in bytes.
    pub max_token_bytes: usize,
    /// The most threads used for counting words; 0 for one a core. The result does not depend
    /// on it.
    pub threads: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            vocab_size: 8192,
            digits: Digits::Single,
            min_frequency: 2,
            max_token_bytes: 32,
            threads: 0,
        }
    }
}

/// Trains a byte-level BPE tokenizer on texts, of which each is a document.
///
/// Ids: 0 `<|endoftext|>` (between documents; bos and pad), 1 `<|im_start|>`, 2 `<|im_end|>` (ends
/// a turn; eos), then the 256 bytes, then merges. The chat template is ChatML. Every text can be
/// written, and decoding gives it back.
///
/// # Errors
/// [`TextError::Train`] for a vocabulary that cannot hold bytes and control tokens or that is
/// larger than sane, no text at all, or too many different words.
pub fn train_bpe(texts: impl Iterator<Item = String>, options: &TrainOptions) -> Result<Tokenizer> {
    let smallest = SPECIALS.len() + 256;
    if options.vocab_size < smallest || options.vocab_size > 1 << 20 {
        return Err(failed(format!(
            "vocab_size is {}, expected {smallest} ({} control tokens and 256 bytes) to {}",
            options.vocab_size,
            SPECIALS.len(),
            1 << 20
        )));
    }
    let words = count_words(texts, options)?;
    if words.is_empty() {
        return Err(failed("there is no text to train on".to_owned()));
    }
    let mut vocabulary = Vocabulary::of_bytes();
    let merges = Merger::new(words, &vocabulary).run(options, &mut vocabulary);
    let parts = ByteLevelParts {
        added: (0..).zip(SPECIALS).map(|(id, t)| AddedEntry::control(id, t)).collect(),
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [
            {
                "type": "Split", "pattern": {"Regex": pattern(options.digits)},
                "behavior": "Isolated", "invert": false
            },
            {
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false
            },
        ]}),
        merges: merges
            .into_iter()
            .map(|(a, b)| (vocabulary.token(a), vocabulary.token(b)))
            .collect(),
        vocab: vocabulary.ids,
    };
    let mut tokenizer = byte_level(parts).map_err(failed)?;
    let roles = &mut tokenizer.roles;
    (roles.bos, roles.pad, roles.eos) = (Some(0), Some(0), Some(2));
    roles.eos_ids = vec![2, 0];
    tokenizer.set_chat_template(CHATML_TEMPLATE);
    Ok(tokenizer)
}

fn failed(reason: String) -> TextError {
    TextError::Train { reason }
}

/// GPT-4's (cl100k) expression; digits one by one as in Qwen's.
fn pattern(digits: Digits) -> String {
    let numbers = match digits {
        Digits::Single => r"\p{N}",
        Digits::UpToThree => r"\p{N}{1,3}",
    };
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// Words with their counts, sorted by word.
fn count_words(mut texts: impl Iterator<Item = String>, options: &TrainOptions) -> Result<Vec<(Vec<u8>, u64)>> {
    let pattern = pattern(options.digits);
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let mut total: HashMap<Vec<u8>, u64> = HashMap::new();
    loop {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let Some(text) = texts.next() else { break };
            bytes += text.len();
            batch.push(text);
        }
        if batch.is_empty() {
            break;
        }
        for (word, count) in count_batch(&batch, &pattern, threads)? {
            *total.entry(word).or_default() += count;
        }
        if total.len() > MAX_WORDS {
            return Err(failed(format!(
                "more than {MAX_WORDS} different words; train on a sample of the text"
            )));
        }
    }
    let mut words: Vec<(Vec<u8>, u64)> = total.into_iter().collect();
    words.sort_unstable();
    Ok(words)
}

fn count_batch(batch: &[String], pattern: &str, threads: usize) -> Result<HashMap<Vec<u8>, u64>> {
    let share = batch.len().div_ceil(threads).max(1);
    let counts = std::thread::scope(|scope| {
        let workers: Vec<_> = batch
            .chunks(share)
            .map(|texts| scope.spawn(move || count_share(texts, pattern)))
            .collect();
        workers
            .into_iter()
            .map(|worker| match worker.join() {
                Ok(counts) => counts,
                Err(_) => Err(failed("the pre-tokenizer failed on a text".to_owned())),
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let mut counts = counts.into_iter();
    let mut total = counts.next().unwrap_or_default();
    for (word, count) in counts.flatten() {
        *total.entry(word).or_default() += count;
    }
    Ok(total)
}

fn count_share(texts: &[String], pattern: &str) -> Result<HashMap<Vec<u8>, u64>> {
    let expression = SysRegex::new(pattern).map_err(|error| failed(error.to_string()))?;
    let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut count = |word: &[u8]| {
        for part in word.chunks(MAX_WORD_BYTES) {
            match counts.get_mut(part) {
                Some(n) => *n += 1,
                None => drop(counts.insert(part.to_vec(), 1)),
            }
        }
    };
    for text in texts {
        let mut end = 0;
        for (start, stop) in expression.find_iter(text) {
            count(&text.as_bytes()[end..start]);
            count(&text.as_bytes()[start..stop]);
            end = stop;
        }
        count(&text.as_bytes()[end..]);
    }
    Ok(counts)
}

type Pair = (u32, u32);

/// The tokens so far, in the characters of byte-level BPE.
struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
    id_of_byte: [u32; 256],
}

impl Vocabulary {
    /// The control tokens, then the bytes in the order of their characters.
    fn of_bytes() -> Self {
        let mut vocabulary = Vocabulary {
            tokens: Vec::new(),
            ids: HashMap::new(),
            id_of_byte: [0; 256],
        };
        for token in SPECIALS {
            vocabulary.add(token.to_owned());
        }
        let mut bytes: Vec<(char, u8)> = (0..=255).map(|b| (char_of_byte(b), b)).collect();
        bytes.sort_unstable();
        for (character, byte) in bytes {
            vocabulary.id_of_byte[usize::from(byte)] = vocabulary.add(character.to_string());
        }
        vocabulary
    }

    /// The id of a token, new or not.
    fn add(&mut self, token: String) -> u32 {
        let next = self.tokens.len() as u32;
        let id = *self.ids.entry(token.clone()).or_insert(next);
        if id == next {
            self.tokens.push(token);
        }
        id
    }

    fn token(&self, id: u32) -> String {
        self.tokens[id as usize].clone()
    }
}

/// A pair of neighbours: how often it stands in the text, and in which words it has stood.
#[derive(Default)]
struct PairPlaces {
    count: u64,
    words: Vec<u32>,
}

struct Merger {
    words: Vec<Vec<u32>>,
    counts: Vec<u64>,
    pairs: HashMap<Pair, PairPlaces>,
    /// The most frequent pair first, the smaller ids among equals; entries may be out of date.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Merger {
    fn new(counted: Vec<(Vec<u8>, u64)>, vocabulary: &Vocabulary) -> Self {
        let mut merger = Merger {
            words: Vec::with_capacity(counted.len()),
            counts: Vec::with_capacity(counted.len()),
            pairs: HashMap::new(),
            queue: BinaryHeap::new(),
        };
        let mut seen = Vec::new();
        for (index, (word, count)) in counted.into_iter().enumerate() {
            let ids: Vec<u32> = word
                .into_iter()
                .map(|byte| vocabulary.id_of_byte[usize::from(byte)])
                .collect();
            for pair in ids.windows(2) {
                merger.gain((pair[0], pair[1]), count, index as u32, &mut seen);
            }
            merger.words.push(ids);
            merger.counts.push(count);
        }
        merger.enqueue(seen);
        merger
    }

    /// Merges until the vocabulary is full or no pair is frequent enough.
    fn run(mut self, options: &TrainOptions, vocabulary: &mut Vocabulary) -> Vec<Pair> {
        let mut merges = Vec::new();
        while vocabulary.tokens.len() < options.vocab_size {
            let Some((count, Reverse(pair))) = self.queue.pop() else {
                break;
            };
            let current = self.pairs.get(&pair).map_or(0, |places| places.count);
            if current != count {
                if current > 0 {
                    self.queue.push((current, Reverse(pair)));
                }
                continue;
            }
            if count < options.min_frequency.max(1) {
                break;
            }
            let token = vocabulary.token(pair.0) + &vocabulary.token(pair.1);
            // One character stands for each byte.
            let too_long = token.chars().count() > options.max_token_bytes;
            let Some(places) = self.pairs.remove(&pair) else {
                continue;
            };
            if too_long || SPECIALS.contains(&token.as_str()) {
                continue;
            }
            let id = vocabulary.add(token);
            merges.push(pair);
            self.merge(pair, id, places.words);
        }
        merges
    }

    fn merge(&mut self, pair: Pair, id: u32, mut places: Vec<u32>) {
        places.sort_unstable();
        places.dedup();
        let mut seen = Vec::new();
        for index in places {
            let count = self.counts[index as usize];
            let old = std::mem::take(&mut self.words[index as usize]);
            let mut new = Vec::with_capacity(old.len());
            let mut at = 0;
            while at < old.len() {
                if at + 1 == old.len() || (old[at], old[at + 1]) != pair {
                    new.push(old[at]);
                    at += 1;
                    continue;
                }
                if let Some(&before) = new.last() {
                    self.lose((before, pair.0), count);
                    self.gain((before, id), count, index, &mut seen);
                }
                if let Some(&after) = old.get(at + 2) {
                    self.lose((pair.1, after), count);
                    self.gain((id, after), count, index, &mut seen);
                }
                new.push(id);
                at += 2;
            }
            self.words[index as usize] = new;
        }
        self.enqueue(seen);
    }

    fn gain(&mut self, pair: Pair, count: u64, word: u32, seen: &mut Vec<Pair>) {
        let places = self.pairs.entry(pair).or_default();
        places.count += count;
        if places.words.last() != Some(&word) {
            places.words.push(word);
        }
        seen.push(pair);
    }

    fn lose(&mut self, pair: Pair, count: u64) {
        if let Some(places) = self.pairs.get_mut(&pair) {
            places.count = places.count.saturating_sub(count);
        }
    }

    /// Queues the pairs that gained occurrences.
    fn enqueue(&mut self, mut seen: Vec<Pair>) {
        seen.sort_unstable();
        seen.dedup();
        for pair in seen {
            if let Some(places) = self.pairs.get(&pair).filter(|places| places.count > 0) {
                self.queue.push((places.count, Reverse(pair)));
            }
        }
    }
}
