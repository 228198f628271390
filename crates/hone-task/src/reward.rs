//! The weighted sum that a configuration's `[[rewards]]` asks for.

use std::collections::BTreeMap;
use std::path::Path;

use crate::program::{Journal, Place, Program, ProgramSettings};
use crate::{BadSetting, Error, Problem, PromptRow, RewardEntry, RewardRule, Sample, Verifier};

/// What rewards need of the run they belong to.
#[derive(Clone, Copy, Debug)]
pub struct RewardSetup<'a> {
    /// The run's name, which stands in journals.
    pub run: &'a str,
    /// Where programs have their folders and journals: `NAME/` and `NAME.jsonl` for an entry NAME. It is made when it is needed.
    pub folder: &'a Path,
    /// What [`Rewards::offsets_before`] was when the checkpoint was saved from which the run goes on; empty for a start from nothing.
    pub offsets: &'a BTreeMap<String, u64>,
}

enum Scorer {
    Rule(Box<dyn Verifier>),
    Program(Box<Program>),
    /// Its scores are given from outside.
    Model(String),
}

struct Term {
    name: String,
    /// For messages, such as `rewards[1] (numeric)`.
    entry: String,
    weight: f64,
    scorer: Scorer,
}

/// The sum of verifiers, programs and reward models, each times its weight.
pub struct Rewards {
    terms: Vec<Term>,
}

/// Scores with the terms they are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The weighted sum, `[samples]`.
    pub total: Vec<f64>,
    /// Each entry's scores before weighting, `[entries][samples]`.
    pub parts: Vec<Vec<f64>>,
    /// What each rule says of each sample, `[entries][samples]`; of programs and models empty.
    pub details: Vec<Vec<String>>,
}

/// An entry that was found to make sense.
struct Checked {
    name: String,
    entry: String,
    rule: Option<Box<dyn Verifier>>,
    program: Option<ProgramSettings>,
}

/// The key of a configuration at whose top entries stand.
const KEY: &str = "rewards";

fn checked(key: &str, entries: &[RewardEntry]) -> Result<Vec<Checked>, Error> {
    let mut all: Vec<Checked> = Vec::new();
    if entries.is_empty() {
        return Err(Error::Setting {
            entry: "the configuration".to_owned(),
            source: BadSetting::new(KEY, "empty", "at least one entry, such as {kind = \"numeric\"}"),
        });
    }
    for (i, settings) in entries.iter().enumerate() {
        let kind = settings.rule.kind();
        let entry = format!("{key}[{i}] ({kind})");
        let refuse = |source| Error::Setting {
            entry: entry.clone(),
            source,
        };
        if !settings.weight.is_finite() {
            return Err(refuse(BadSetting::new("weight", settings.weight, "a finite number")));
        }
        let name = settings.name.clone().unwrap_or_else(|| kind.to_owned());
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            let expected = "letters, digits, `-` and `_`, since files and metrics bear it";
            return Err(refuse(BadSetting::new("name", format!("{name:?}"), expected)));
        }
        if let Some(other) = all.iter().find(|other| other.name == name) {
            let expected = format!("another name than that of {}", other.entry);
            return Err(refuse(BadSetting::new("name", format!("{name:?}"), expected)));
        }
        if let RewardRule::Model { path } = &settings.rule
            && path.is_empty()
        {
            return Err(refuse(BadSetting::new(
                "path",
                "\"\"",
                "a reward model's directory, or a hub id",
            )));
        }
        let rule = settings.rule.verifier().map_err(refuse)?;
        let program = ProgramSettings::of(&settings.rule).map_err(|source| Error::Setting {
            entry: entry.clone(),
            source,
        })?;
        all.push(Checked {
            name,
            entry,
            rule,
            program,
        });
    }
    Ok(all)
}

impl Rewards {
    /// Whether entries make sense. Nothing is opened or started.
    ///
    /// # Errors
    /// The first entry that does not, by its place, with the key, its value and what is expected.
    pub fn check(entries: &[RewardEntry]) -> Result<(), Error> {
        Self::check_at(KEY, entries)
    }

    /// As [`Rewards::check`], of entries that stand under another key than `rewards`.
    ///
    /// # Errors
    /// As [`Rewards::check`].
    pub fn check_at(key: &str, entries: &[RewardEntry]) -> Result<(), Error> {
        checked(key, entries).map(|_| ())
    }

    /// The rewards of a run. Journals are opened; programs start with their first sample.
    ///
    /// # Errors
    /// As [`Rewards::check`]; a journal or folder that cannot be opened, or a journal that does not belong to the run.
    pub fn open(entries: &[RewardEntry], setup: RewardSetup<'_>) -> Result<Self, Error> {
        Self::open_at(KEY, entries, setup)
    }

    /// As [`Rewards::open`], of entries that stand under another key than `rewards`.
    ///
    /// # Errors
    /// As [`Rewards::open`].
    pub fn open_at(key: &str, entries: &[RewardEntry], setup: RewardSetup<'_>) -> Result<Self, Error> {
        let mut terms = Vec::new();
        for (settings, checked) in entries.iter().zip(checked(key, entries)?) {
            let Checked {
                name,
                entry,
                rule,
                program,
            } = checked;
            let scorer = match (rule, program, &settings.rule) {
                (Some(rule), ..) => Scorer::Rule(rule),
                (None, Some(program), _) => {
                    let folder = setup.folder.join(&name);
                    // Made first, since the journal lies beside it
                    std::fs::create_dir_all(&folder).map_err(|source| Error::Io {
                        path: folder.clone(),
                        doing: "make the program's folder",
                        source,
                    })?;
                    let from = setup.offsets.get(&name).copied().unwrap_or(0);
                    let journal = Journal::open(&setup.folder.join(format!("{name}.jsonl")), setup.run, from)?;
                    Scorer::Program(Box::new(Program::new(entry.clone(), program, &folder, journal)?))
                }
                (None, None, RewardRule::Model { path }) => Scorer::Model(path.clone()),
                (None, None, _) => continue,
            };
            terms.push(Term {
                name,
                entry,
                weight: settings.weight,
                scorer,
            });
        }
        Ok(Self { terms })
    }

    /// The rules among entries, which need no file, no program and no model. Messages name each by its place among all entries.
    ///
    /// # Errors
    /// As [`Rewards::check_at`].
    pub fn rules_at(key: &str, entries: &[RewardEntry]) -> Result<Self, Error> {
        let rule = |(settings, checked): (&RewardEntry, Checked)| {
            Some(Term {
                name: checked.name,
                entry: checked.entry,
                weight: settings.weight,
                scorer: Scorer::Rule(checked.rule?),
            })
        };
        let terms = entries.iter().zip(checked(key, entries)?).filter_map(rule).collect();
        Ok(Self { terms })
    }

    /// Why a rule cannot be applied to a prompt's row, whatever the response: it lacks a column, or has one of another kind. The entry and
    /// the problem; none where every rule can be applied.
    pub fn unreadable(&self, row: &PromptRow) -> Option<(&str, Problem)> {
        let sample = Sample::new(row, "").with_tokens(0);
        self.terms.iter().find_map(|term| match &term.scorer {
            // What the empty response makes impossible is no fault of the row
            Scorer::Rule(rule) => match rule.verify(&sample) {
                Err(problem @ (Problem::MissingColumn { .. } | Problem::BadColumn { .. })) => {
                    Some((&*term.entry, problem))
                }
                _ => None,
            },
            _ => None,
        })
    }

    /// The entries' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| &*term.name)
    }

    /// The reward models whose scores [`Rewards::score`] is to be given, in order.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().filter_map(|term| match &term.scorer {
            Scorer::Model(path) => Some(&**path),
            _ => None,
        })
    }

    /// The journals' lengths by entry before the first reward of this update, for a checkpoint that holds all updates before it. Call
    /// [`Rewards::sync`] before the checkpoint is saved. What is asked for must not go back to an earlier update.
    pub fn offsets_before(&self, update: u64) -> BTreeMap<String, u64> {
        let programs = self.terms.iter().filter_map(|term| match &term.scorer {
            Scorer::Program(program) => Some((term.name.clone(), program.journal().bytes_before(update))),
            _ => None,
        });
        programs.collect()
    }

    /// Rewards that journals hold and that were not asked for: 0 once a resumed run has come to where it was stopped.
    pub fn ahead(&self) -> usize {
        let programs = self.terms.iter().map(|term| match &term.scorer {
            Scorer::Program(program) => program.journal().ahead(),
            _ => 0,
        });
        programs.sum()
    }

    /// Makes all journals durable.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sync(&self) -> Result<(), Error> {
        for term in &self.terms {
            if let Scorer::Program(program) = &term.scorer {
                program.journal().sync()?;
            }
        }
        Ok(())
    }

    /// Scores samples, the first of which stands at `first` in its update. `models` holds the scores of each of
    /// [`Rewards::models`], `[models][samples]`. Terms are added in order, in double precision.
    ///
    /// An update may be scored in several calls, so that a caller whose programs are slow can stop in between.
    ///
    /// # Errors
    /// The entry and the sample that cannot be scored. Rewards that programs gave before are in their journals.
    pub fn score(&mut self, first: Place, samples: &[Sample<'_>], models: &[Vec<f64>]) -> Result<Scores, Error> {
        let mut given = models.iter();
        let mut scores = Scores {
            total: vec![0.0; samples.len()],
            parts: Vec::with_capacity(self.terms.len()),
            details: Vec::with_capacity(self.terms.len()),
        };
        for term in &mut self.terms {
            let mut details = Vec::new();
            let part = match &mut term.scorer {
                Scorer::Model(_) => {
                    let part = given.next().map_or(&[][..], Vec::as_slice);
                    if part.len() != samples.len() {
                        return Err(Error::ScoreCount {
                            entry: term.entry.clone(),
                            expected: samples.len(),
                            got: part.len(),
                        });
                    }
                    part.to_vec()
                }
                Scorer::Rule(rule) => {
                    let mut part = Vec::with_capacity(samples.len());
                    for (i, sample) in samples.iter().enumerate() {
                        let verdict = rule.verify(sample).map_err(|source| Error::Sample {
                            entry: term.entry.clone(),
                            place: at(first, i).to_string(),
                            source,
                        })?;
                        part.push(verdict.score);
                        details.push(verdict.detail);
                    }
                    part
                }
                Scorer::Program(program) => {
                    let judged = samples
                        .iter()
                        .enumerate()
                        .map(|(i, sample)| program.judge(at(first, i), sample));
                    judged.collect::<Result<Vec<f64>, Error>>()?
                }
            };
            for (i, (sum, &got)) in scores.total.iter_mut().zip(&part).enumerate() {
                *sum += term.weight * got;
                // Stages keep scores in single precision
                if !(*sum as f32).is_finite() {
                    return Err(Error::Sample {
                        entry: term.entry.clone(),
                        place: at(first, i).to_string(),
                        source: Problem::NotFinite { got },
                    });
                }
            }
            scores.parts.push(part);
            scores.details.push(details);
        }
        Ok(scores)
    }
}

fn at(first: Place, i: usize) -> Place {
    Place {
        index: first.index + i as u64,
        ..first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Stage {
        rewards: Vec<RewardEntry>,
    }

    fn entries(text: &str) -> Result<Vec<RewardEntry>, toml::de::Error> {
        toml::from_str(&format!("rewards = [{text}]")).map(|stage: Stage| stage.rewards)
    }

    fn open(text: &str) -> Result<Rewards, Error> {
        Rewards::open(
            &entries(text).unwrap(),
            RewardSetup {
                run: "test",
                folder: Path::new("/nonexistent"),
                offsets: &BTreeMap::new(),
            },
        )
    }

    const START: Place = Place { update: 3, index: 10 };

    #[test]
    fn a_weighted_sum_by_hand() {
        let mut rewards = open(
            "{kind = 'exact', weight = 2}, {kind = 'length', min = 1, max = 2, weight = 0.5}, {kind = 'model', path = 'm', weight = -1}",
        )
        .unwrap();
        let row = PromptRow::new("?").with("answer", "yes");
        let samples = ["yes", "yes yes yes", "no"].map(|response| Sample::new(&row, response));
        assert_eq!(rewards.names().collect::<Vec<_>>(), ["exact", "length", "model"]);
        assert_eq!(rewards.models().collect::<Vec<_>>(), ["m"]);
        let scores = rewards.score(START, &samples, &[vec![0.0, 0.25, 3.0]]).unwrap();
        assert_eq!(
            scores.parts,
            [vec![1.0, 0.0, 0.0], vec![1.0, 0.0, 1.0], vec![0.0, 0.25, 3.0]]
        );
        assert_eq!(scores.total, [2.5, -0.25, -2.5]);
        assert_eq!(
            scores.details[1],
            [
                "1 words, expected 1 to 2",
                "3 words, expected 1 to 2",
                "1 words, expected 1 to 2"
            ]
        );
        assert!(rewards.score(START, &[], &[vec![]]).unwrap().total.is_empty());
        assert!(rewards.offsets_before(9).is_empty());
        let message = rewards.score(START, &samples, &[vec![1.0]]).unwrap_err().to_string();
        assert!(
            message.starts_with("rewards[2] (model): 1 scores for 3 samples"),
            "{message}"
        );
        let message = rewards
            .score(START, &samples, &[vec![1.0, f64::NAN, 0.0]])
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "rewards[2] (model), update 3, sample 11: the score is NaN; expected a finite number"
        );
    }

    #[test]
    fn every_kind_is_read_from_a_configuration_and_scores() {
        let mut rewards = open(
            r#"{kind = "numeric", column = "answer", weight = 1.0, fallback = true},
               {kind = "regex", pattern = "^[a-z0-9 ]+$"},
               {kind = "format", sections = ["think"], weight = 0.1},
               {kind = "json-schema", schema = {type = "string"}},
               {kind = "json-schema", schema = '{"type": "number"}', name = "json"},
               {kind = "expression", expression = "words(response)"},
               {kind = "expression", expression = "tokens * 2", name = "tokens"},
               {kind = "exact", column = "text", normalization = "case-insensitive"}"#,
        )
        .unwrap();
        let row = PromptRow::new("?").with("answer", "#### 7").with("text", "It Is 7");
        let samples = [Sample::new(&row, "it is 7").with_tokens(4)];
        let scores = rewards.score(START, &samples, &[]).unwrap();
        let parts: Vec<f64> = scores.parts.iter().map(|part| part[0]).collect();
        assert_eq!(parts, [1.0, 1.0, 0.0, 0.0, 0.0, 3.0, 8.0, 1.0]);
    }

    #[test]
    fn entries_come_back_as_they_were_written() {
        let all = entries(
            r#"{kind = "program", command = ["judge"], weight = 2.0, name = "j"}, {kind = "length", max = 3},
               {kind = "json-schema", schema = {type = "object", properties = {a = {minimum = 1}}}}"#,
        )
        .unwrap();
        let written = serde_json::to_string(&all).unwrap();
        assert!(written.contains("\"time_limit\":10.0"), "{written}");
        assert_eq!(serde_json::from_str::<Vec<RewardEntry>>(&written).unwrap(), all);
    }

    #[test]
    fn unknown_kinds_and_keys_are_refused() {
        for (text, expected) in [
            ("{kind = 'magic'}", "unknown variant `magic`"),
            ("{kind = 'exact', colum = 'a'}", "unknown field `colum`"),
            ("{kind = 'exact', pattern = 'a'}", "unknown field `pattern`"),
            ("{weight = 1}", "missing field `kind`"),
        ] {
            let message = entries(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn every_refusal_names_its_entry() {
        let good = "{kind = 'exact'}";
        for (text, expected) in [
            (
                "{kind = 'regex', pattern = '('}",
                "rewards[1] (regex): `pattern` is \"(\"; expected a regular expression",
            ),
            (
                "{kind = 'regex'}",
                "rewards[1] (regex): `pattern` is \"\"; expected a regular expression",
            ),
            (
                "{kind = 'json-schema'}",
                "rewards[1] (json-schema): `schema` is null; expected an object",
            ),
            (
                "{kind = 'exact'}",
                "rewards[1] (exact): `name` is \"exact\"; expected another name than that of rewards[0] (exact)",
            ),
            (
                "{kind = 'numeric', name = 'a/b'}",
                "rewards[1] (numeric): `name` is \"a/b\"; expected letters",
            ),
            (
                "{kind = 'numeric', marker = ''}",
                "rewards[1] (numeric): `marker` is \"\"; expected a text, or `fallback",
            ),
            (
                "{kind = 'numeric', weight = nan}",
                "rewards[1] (numeric): `weight` is NaN; expected a finite number",
            ),
            (
                "{kind = 'length', min = 3, max = 2}",
                "rewards[1] (length): `min` is 3; expected at most `max`, which is 2",
            ),
            (
                "{kind = 'format', sections = []}",
                "rewards[1] (format): `sections` is []; expected one or more",
            ),
            (
                "{kind = 'json-schema', schema = {type = 'x'}}",
                "rewards[1] (json-schema): `schema` is \"x\"; expected one or more of",
            ),
            (
                "{kind = 'expression', expression = '1 +'}",
                "rewards[1] (expression): `expression` is \"1 +\"; expected a number",
            ),
            (
                "{kind = 'program', command = []}",
                "rewards[1] (program): `command` is []; expected a program",
            ),
            (
                "{kind = 'program', command = ['a'], time_limit = -1.0}",
                "rewards[1] (program): `time_limit` is -1; expected seconds",
            ),
            (
                "{kind = 'program', command = ['a'], memory_limit_mib = 0}",
                "rewards[1] (program): `memory_limit_mib` is 0; expected",
            ),
            (
                "{kind = 'model', path = ''}",
                "rewards[1] (model): `path` is \"\"; expected a reward model's directory",
            ),
        ] {
            let error = Rewards::check(&entries(&format!("{good}, {text}")).unwrap()).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{text}: {error}");
            assert!(error.is_configuration());
        }
        let message = Rewards::check(&[]).unwrap_err().to_string();
        assert!(
            message.contains("`rewards` is empty; expected at least one entry"),
            "{message}"
        );
    }

    #[test]
    fn a_row_that_a_rule_cannot_be_applied_to_is_named_by_the_place_among_all_entries() {
        let all = entries(
            "{kind = 'model', path = 'm'}, {kind = 'program', command = ['judge']}, {kind = 'length'}, {kind = 'exact', column = 'a'}",
        )
        .unwrap();
        let rules = Rewards::rules_at("judge.rewards", &all).unwrap();
        assert_eq!(rules.names().collect::<Vec<_>>(), ["length", "exact"]);
        assert!(rules.unreadable(&PromptRow::new("?").with("a", "b")).is_none());
        let row = PromptRow::new("?").with("b", 1);
        let (entry, problem) = rules.unreadable(&row).unwrap();
        assert_eq!(entry, "judge.rewards[3] (exact)");
        assert!(
            problem.to_string().starts_with("the prompt's row has no column `a`"),
            "{problem}"
        );
        // Entries that make no sense are refused as ever
        let twice = entries("{kind = 'exact'}, {kind = 'model', path = ''}").unwrap();
        let message = Rewards::rules_at("rewards", &twice).err().unwrap().to_string();
        assert!(message.starts_with("rewards[1] (model): `path`"), "{message}");
    }

    #[test]
    fn a_sample_that_cannot_be_judged_is_named() {
        let mut rewards = open("{kind = 'length'}, {kind = 'exact'}").unwrap();
        let rows = [PromptRow::new("?").with("answer", 1), PromptRow::new("?")];
        let samples = rows.each_ref().map(|row| Sample::new(row, "1"));
        let error = rewards.score(START, &samples, &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("rewards[1] (exact), update 3, sample 11: the prompt's row has no column `answer`"),
            "{error}"
        );
        assert!(!error.is_configuration());
    }
}
