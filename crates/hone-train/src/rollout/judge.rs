//! What judges a rollout: a reward model, a weighted sum of rewards, or the environment that is acted in.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hone_compute::Engine;
use hone_data::{Prompt, PromptInput};
use hone_generate::{row_to_judge, sample_to_judge};
use hone_model::Transformer;
use hone_run::Shutdown;
use hone_task::{Place, PromptRow, RewardEntry, RewardRule, RewardSetup, Rewards};
use hone_text::Tokenizer;
use serde_json::{Map, Value};

use super::acting::Acting;
use super::prompts::Prompts;
use super::score::{Reading, Response, Scores};
use super::sections::RolloutSettings;
use crate::error::{Result, TrainError};
use crate::job::Job;
use crate::scorer::Scorer;

/// Whose entries a sum is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    /// The stage's section, which stands in journals.
    section: &'static str,
    /// The entries' key.
    key: &'static str,
    /// Where programs that judge have their folders and journals, in a run's folder.
    folder: &'static str,
}

/// `[[rewards]]` of a stage.
pub(crate) const PRACTICE: Owner = Owner {
    section: "",
    key: "rewards",
    folder: "rewards",
};

/// `[[judge.rewards]]`.
pub(crate) const HELD_OUT: Owner = Owner {
    section: "judge",
    key: "judge.rewards",
    folder: "judge",
};

impl Owner {
    /// The same of this section.
    pub fn of(self, section: &'static str) -> Self {
        Self { section, ..self }
    }

    /// Refuses entries that make no sense.
    ///
    /// # Errors
    /// The first such, by its key.
    pub fn check(self, entries: &[RewardEntry]) -> Result<()> {
        Ok(Rewards::check_at(self.key, entries)?)
    }
}

/// What judges a rollout.
pub(crate) enum Judge {
    /// `[reward]`.
    Model(Box<Reader>),
    /// `[[rewards]]`.
    Sum(Box<Sum>),
    /// `[environment]`.
    Environment(Box<Acting>),
}

/// A reward model, and how responses of the policy reach it.
pub(crate) struct Reader {
    pub scorer: Scorer,
    pub reading: Reading,
    /// Its name in the configuration, and where it lies.
    name: String,
    path: PathBuf,
}

/// Entries of `[[rewards]]`.
pub(crate) struct Sum {
    owner: Owner,
    entries: Vec<RewardEntry>,
    names: Vec<String>,
    /// Those of kind `model`, in order.
    readers: Vec<Reader>,
    /// Journals are opened when the run's folder is there.
    open: RefCell<Option<Rewards>>,
}

/// Scores of responses.
pub(crate) struct Judged {
    /// One a response; none where a reward model cannot read it.
    pub scores: Vec<Option<f32>>,
    /// What each entry of `[[rewards]]` gave, `[responses][entries]`; nothing where there is one reward model or no score.
    pub parts: Vec<Vec<f64>>,
    /// Why the first that could not be scored could not be.
    pub first_refusal: Option<String>,
}

impl Reader {
    /// Loads the reward model that `key` names.
    pub fn load((job, engine): (&Job, &Engine), key: &str, name: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let path = job.model(key, name)?;
        let scorer = Scorer::load(engine, &path)?;
        Ok(Self {
            reading: Reading::of(&scorer, tokenizer)?,
            scorer,
            name: name.to_owned(),
            path,
        })
    }

    #[cfg(test)]
    pub fn new(scorer: Scorer, tokenizer: &Tokenizer) -> Result<Self> {
        Ok(Self {
            reading: Reading::of(&scorer, tokenizer)?,
            scorer,
            name: String::new(),
            path: PathBuf::new(),
        })
    }

    /// Whether a value network can start from it: it reads the policy's tokens, and sequences this long.
    fn reads_tokens(&self, longest: usize) -> bool {
        let context = self.scorer.model().architecture().context;
        matches!(self.reading, Reading::Tokens { .. }) && longest <= context
    }
}

impl Sum {
    /// Loads the reward models among the entries, and checks all of them.
    pub fn load(
        (job, engine): (&Job, &Engine),
        (owner, entries): (Owner, &[RewardEntry]),
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        owner.check(entries)?;
        let (mut readers, mut names, mut resolved) = (Vec::new(), Vec::new(), Vec::new());
        for (i, entry) in entries.iter().enumerate() {
            let kind = entry.rule.kind();
            names.push(entry.name.clone().unwrap_or_else(|| kind.to_owned()));
            let mut entry = entry.clone();
            match &mut entry.rule {
                RewardRule::Model { path } => {
                    let key = format!("{}[{i}].path", owner.key);
                    readers.push(Reader::load((job, engine), &key, path, tokenizer)?);
                }
                RewardRule::Program { command, .. } => from_base(job, command),
                _ => {}
            }
            resolved.push(entry);
        }
        Ok(Self {
            owner,
            entries: resolved,
            names,
            readers,
            open: RefCell::new(None),
        })
    }

    /// Refuses prompts whose rows a rule cannot be applied to, whatever the response.
    fn check_rows(&self, prompts: &Prompts) -> Result<()> {
        let rules = Rewards::rules_at(self.owner.key, &self.entries)?;
        for (source, prompt) in prompts.all() {
            let row = PromptRow {
                prompt: prompt_text(&prompt.prompt.input),
                columns: prompt.prompt.extra.clone(),
            };
            if let Some((entry, problem)) = rules.unreadable(&row) {
                let reason = format!("{source}: {entry} cannot judge answers to {:?}: {problem}", row.prompt);
                return Err(TrainError::setting(prompts.key(), reason));
            }
        }
        Ok(())
    }

    fn scores(&self, engine: &Engine, asked: &Asked<'_>) -> Result<Option<Judged>> {
        let responses = asked.responses;
        let mut read = Vec::with_capacity(self.readers.len());
        let mut first_refusal = None;
        for reader in &self.readers {
            let scores = reader.reading.scores(engine, &reader.scorer, responses)?;
            first_refusal = first_refusal.or(scores.first_refusal);
            read.push(scores.scores);
        }
        let mut open = self.open.borrow_mut();
        let Some(rewards) = open.as_mut() else {
            let reason = "were not opened before the first rollout; this is a fault of hone";
            return Err(TrainError::setting(self.owner.key, reason));
        };
        let (mut scores, mut parts) = (Vec::with_capacity(responses.len()), Vec::with_capacity(responses.len()));
        for (i, response) in responses.iter().enumerate() {
            // One after another: a program may be slow, and a run that is asked to stop waits for no more than one answer
            if asked.shutdown.requested() {
                return Ok(None);
            }
            let given: Option<Vec<Vec<f64>>> = read.iter().map(|scores| Some(vec![f64::from(scores[i]?)])).collect();
            let Some(given) = given else {
                scores.push(None);
                parts.push(Vec::new());
                continue;
            };
            let Prompt { input, extra } = &response.prompt.prompt;
            let row = row_to_judge(asked.tokenizer, (input, &response.prompt.ids), extra)?;
            let sample = sample_to_judge(&row, (response.text, response.ids.len()));
            let place = Place {
                update: asked.update,
                index: response.index as u64,
            };
            let got = rewards.score(place, &[sample], &given)?;
            scores.push(Some(got.total[0] as f32));
            parts.push(got.parts.iter().map(|part| part[0]).collect());
        }
        Ok(Some(Judged {
            scores,
            parts,
            first_refusal,
        }))
    }
}

/// What is to be judged.
pub(crate) struct Asked<'a> {
    pub responses: &'a [Response<'a>],
    /// The policy's.
    pub tokenizer: &'a Tokenizer,
    /// Of which rollout they are, counted from 1.
    pub update: u64,
    pub shutdown: &'a Shutdown,
}

impl Judge {
    /// The reward models.
    pub fn readers(&self) -> &[Reader] {
        match self {
            Self::Model(reader) => std::slice::from_ref(&**reader),
            Self::Sum(sum) => &sum.readers,
            Self::Environment(_) => &[],
        }
    }

    /// The reward model from which a value network can start: the first that reads the policy's tokens, in sequences as long as
    /// may come.
    pub fn start_of_values(&self, longest: usize) -> Option<&Transformer> {
        let reader = self.readers().iter().find(|reader| reader.reads_tokens(longest))?;
        Some(reader.scorer.model())
    }

    /// Refuses at the start what cannot be judged later.
    ///
    /// # Errors
    /// A setting's.
    pub fn check(&self, prompts: &Prompts, settings: &RolloutSettings) -> Result<()> {
        for reader in self.readers() {
            reader.reading.check(&reader.scorer, prompts, settings)?;
        }
        match self {
            Self::Sum(sum) => sum.check_rows(prompts),
            _ => Ok(()),
        }
    }

    /// Loads weights in the place of those of a rehearsal, and opens the journals from where the run goes on.
    ///
    /// # Errors
    /// If a file is at fault.
    pub fn begin(&mut self, job: &Job, engine: &Engine, offsets: &BTreeMap<String, u64>) -> Result<()> {
        let readers: &mut [Reader] = match self {
            Self::Model(reader) => std::slice::from_mut(&mut **reader),
            Self::Sum(sum) => &mut sum.readers,
            Self::Environment(_) => &mut [],
        };
        for reader in readers {
            job.keep_commit(&reader.name, &reader.path)?;
            reader.scorer = Scorer::load(engine, &reader.path)?;
        }
        if let Self::Sum(sum) = self {
            *sum.open.get_mut() = Some(open(
                (sum.owner, &sum.entries),
                &job.dir.join(sum.owner.folder),
                offsets,
            )?);
        }
        Ok(())
    }

    /// Where the journals stand before this rollout, once they are durable, for a checkpoint; nothing without programs.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn offsets_before(&self, update: u64) -> Result<Option<BTreeMap<String, u64>>> {
        let Self::Sum(sum) = self else { return Ok(None) };
        let open = sum.open.borrow();
        let Some(rewards) = open.as_ref() else { return Ok(None) };
        rewards.sync()?;
        Ok(Some(rewards.offsets_before(update)).filter(|offsets| !offsets.is_empty()))
    }

    /// The entries' names; none but of `[[rewards]]`.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Sum(sum) => &sum.names,
            _ => &[],
        }
    }

    /// Judges responses; none if the run is asked to stop on the way. What a program has answered is in its journal then.
    ///
    /// # Errors
    /// A response that cannot be judged; a program that does not do its part.
    pub fn scores(&self, engine: &Engine, asked: &Asked<'_>) -> Result<Option<Judged>> {
        match self {
            Self::Model(reader) => {
                let Scores { scores, first_refusal } =
                    reader.reading.scores(engine, &reader.scorer, asked.responses)?;
                Ok(Some(Judged {
                    parts: vec![Vec::new(); scores.len()],
                    scores,
                    first_refusal,
                }))
            }
            Self::Sum(sum) => sum.scores(engine, asked),
            // An environment gives its rewards while it is acted in
            Self::Environment(_) => Ok(Some(Judged {
                scores: vec![None; asked.responses.len()],
                parts: vec![Vec::new(); asked.responses.len()],
                first_refusal: None,
            })),
        }
    }
}

/// A part's name with its value, for a sample's line.
pub(crate) fn named(names: &[String], parts: &[f64]) -> Map<String, Value> {
    let both = names.iter().zip(parts);
    both.map(|(name, &part)| (name.clone(), part.into())).collect()
}

fn open((owner, entries): (Owner, &[RewardEntry]), folder: &Path, offsets: &BTreeMap<String, u64>) -> Result<Rewards> {
    let run = owner.section;
    let setup = RewardSetup { run, folder, offsets };
    Ok(Rewards::open_at(owner.key, entries, setup)?)
}

/// Words of a command that name files, taken from the folder of the configuration's paths.
fn from_base(job: &Job, command: &mut [String]) {
    for (i, word) in command.iter_mut().enumerate() {
        // A bare name of a program is looked for where programs are
        let bare = i == 0 && Path::new(word.as_str()).components().count() == 1;
        let full = job.path(word.as_str());
        if !bare
            && !word.is_empty()
            && full.exists()
            && let Some(full) = full.to_str()
        {
            *word = full.to_owned();
        }
    }
}

/// What was asked last, for people to read.
pub(crate) fn prompt_text(input: &PromptInput) -> String {
    input
        .to_messages()
        .pop()
        .map_or_else(String::new, |message| message.content)
}
