//! Steps 1 and 2: the world as files, and a tokenizer of its text.

use std::path::{Path, PathBuf};

use hone_run::{Error as RunError, Event, publish_dir};
use hone_text::{TrainOptions, train_bpe};
use hone_world::{Question, Source as Corpus, Split, World, read_prompts, read_texts};

use super::Steps;
use super::config::{QuickstartConfig, folder};
use crate::error::{PipelineError, Result};
use crate::files::read_json;

/// Writes text, demonstrations and prompts, unless they are there.
pub(super) fn write(steps: &Steps) -> Result<()> {
    let dir = steps.shared(folder::WORLD);
    if dir.exists() {
        return Ok(());
    }
    let section = &steps.config.world;
    steps.event(&Event::Started {
        stage: folder::WORLD.into(),
        step: 0,
        total: 1,
    });
    let world = World::new(steps.config.seed);
    publish_dir(&dir, &mut |dir| {
        let files = world
            .write_corpus(dir, section.corpus_bytes)
            .map_err(RunError::caller)?;
        for file in files {
            steps.say(format!(
                "{}: {} documents, {} bytes",
                file.source.name(),
                file.documents,
                file.bytes
            ));
        }
        world
            .write_demonstrations(&dir.join("demonstrations.jsonl"), section.demonstrations)
            .map_err(RunError::caller)?;
        world
            .write_prompts(&dir.join("prompts.jsonl"), section.prompts, Split::Training)
            .map_err(RunError::caller)?;
        let held_out = dir.join("held-out.jsonl");
        world
            .write_prompts(&held_out, section.held_out_prompts, Split::HeldOut)
            .map_err(RunError::caller)
    })?;
    steps.event(&Event::Finished {
        step: 1,
        stopped: false,
    });
    Ok(())
}

/// Trains the tokenizer on the beginning of every corpus, in its share.
pub(super) fn train_tokenizer(steps: &Steps) -> Result<()> {
    let dir = steps.shared(folder::TOKENIZER);
    if dir.exists() {
        return Ok(());
    }
    let section = &steps.config.tokenizer;
    let mut texts = Vec::new();
    for source in Corpus::ALL {
        let mut left = (section.bytes as f64 * source.weight()) as usize;
        for row in read_texts(&steps.shared(folder::WORLD).join(format!("{}.jsonl", source.name())))? {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(row.text.len());
            texts.push(row.text);
        }
    }
    let options = TrainOptions {
        vocab_size: section.vocab_size,
        ..TrainOptions::default()
    };
    let tokenizer = train_bpe(texts.into_iter(), &options)?;
    steps.say(format!("tokenizer: {} tokens", tokenizer.vocab_size()));
    publish_dir(&dir, &mut |dir| tokenizer.save(dir).map(drop).map_err(RunError::caller))?;
    Ok(())
}

/// Prompts of a split, as questions that the labeler can read.
pub(super) fn questions(steps: &Steps, file: &str) -> Result<Vec<Question>> {
    let rows = read_prompts(&steps.shared(folder::WORLD).join(file))?;
    Ok(rows.iter().map(Question::from).collect())
}

/// The folder of a quickstart whose model was tuned, of the same seed.
pub(super) fn finished_quickstart(path: &Path, seed: u64) -> Result<PathBuf> {
    let key = "world.reuse";
    let refuse = |reason: String| Err(PipelineError::setting(key, format!("{}: {reason}", path.display())));
    if !path.join(folder::SFT).join("finished.json").is_file() {
        return refuse("no finished quickstart; run `hone quickstart --out` with this folder first".into());
    }
    let settings = hone_run::config::load::<QuickstartConfig>(&path.join("quickstart.toml"), &[])?.config;
    if settings.seed != seed {
        return refuse(format!(
            "its seed is {}, this one's {seed}; worlds of two seeds have different facts",
            settings.seed
        ));
    }
    std::path::absolute(path).map_err(|e| PipelineError::file(path, e.to_string()))
}

/// Points the settings at the files of another quickstart.
pub(super) fn use_files_of(from: &Path, config: &mut QuickstartConfig) {
    let theirs = |path: &Path| {
        let shared = [folder::WORLD, folder::TOKENIZER, folder::PRETRAIN, folder::SFT];
        let first = path
            .components()
            .next()
            .map(|c| c.as_os_str().to_string_lossy().into_owned());
        if first.is_some_and(|first| shared.contains(&first.as_str())) {
            from.join(path)
        } else {
            path.to_path_buf()
        }
    };
    for model in [&mut config.reward.model, &mut config.ppo.model] {
        model.path = model
            .path
            .take()
            .map(|path| theirs(Path::new(&path)).to_string_lossy().into_owned());
    }
    let sources = [
        &mut config.reward.data.train,
        &mut config.ppo.data.prompts,
        &mut config.ptx.train,
    ];
    let centre = config.reward.reward.centre_on.iter_mut().flatten();
    for source in sources.into_iter().flatten().chain(centre) {
        source.path = theirs(&source.path);
    }
}

/// What a stage's run came to, as it wrote it.
pub(super) fn summary(dir: &Path) -> Result<serde_json::Value> {
    read_json(&dir.join("finished.json"))
}
