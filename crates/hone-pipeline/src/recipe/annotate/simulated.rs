//! Annotators who are no people: the small world's labeler, several times over, on the queue that people use.

use std::collections::HashMap;

use hone_data::annotations::{Judgement, Project, Rewrite, Role, Store, Submission, Task, TaskKind};
use hone_data::identity_of;
use hone_math::Key;
use hone_run::Event;
use hone_world::{Labeler, Question, Style, World};

use super::config::{AnnotateConfig, Writing};
use crate::error::{PipelineError, Result};
use crate::recipe::Kitchen;

/// One of them.
struct Annotator {
    /// In the store.
    id: i64,
    /// Tasks done.
    judged: u64,
    /// There is nothing left for them.
    done: bool,
    labeler: Labeler,
    /// Who writes has a world of their own: it draws what they write.
    world: World,
    key: Key,
}

/// Works until every task is done. Who has done least, of equals the first, takes the next task; so what happens follows from what is in
/// the store, and a call that was stopped, or killed between taking a task and handing it in, is gone on with to the same judgements.
/// Each has a clock of their own, which begins with 0 and goes on by the assumed time of a task.
///
/// # Errors
/// [`PipelineError::Stopped`] when it was asked to stop.
pub(super) fn annotate(
    kitchen: &Kitchen,
    c: &AnnotateConfig,
    (store, project): (&Store, &Project),
    questions: &HashMap<String, Question>,
) -> Result<()> {
    let mut crowd = crowd(c, store, project)?;
    let progress = store.progress(project)?;
    let (mut step, total) = (progress.judged, progress.wanted);
    kitchen.observer.event(&Event::Started {
        stage: format!("{}: simulated annotators", project.name),
        step,
        total,
    });
    let duration = (c.simulated.seconds_of(c.task) * 1000.0) as i64;
    while let Some(next) = (0..crowd.len())
        .filter(|&i| !crowd[i].done)
        .min_by_key(|&i| (crowd[i].judged, i))
    {
        if kitchen.shutdown.requested() {
            kitchen.observer.event(&Event::Finished { step, stopped: true });
            let stage = project.name.clone();
            return Err(PipelineError::Stopped { stage, step });
        }
        let annotator = &mut crowd[next];
        let started = annotator.judged as i64 * duration;
        let Some(task) = store.claim(project, annotator.id, started)? else {
            annotator.done = true;
            continue;
        };
        let submission = Submission {
            lease: task.lease,
            annotator: annotator.id,
            judgement: annotator.judge(c, &task, questions)?,
            started,
            active: Some(duration),
        };
        store.submit(submission, started + duration)?;
        annotator.judged += 1;
        step += 1;
        kitchen.observer.event(&Event::Step {
            step,
            total,
            tokens: 0,
            headline: Vec::new(),
        });
    }
    kitchen.observer.event(&Event::Finished { step, stopped: false });
    Ok(())
}

/// All of them, with what they have done already.
fn crowd(c: &AnnotateConfig, store: &Store, project: &Project) -> Result<Vec<Annotator>> {
    let mut crowd = Vec::new();
    for i in 0..c.simulated.count {
        let name = format!("simulated-{}", i + 1);
        // No digest of any token, so nobody can sign in with one
        let id = store.put_annotator(&name, Role::Annotator, &name, 0)?.id;
        let key = Key::new(c.seed, "recipe/simulated annotators", 0).child(u64::from(i));
        let seed = key.bits(0);
        crowd.push(Annotator {
            id,
            judged: 0,
            done: false,
            labeler: Labeler::new(c.simulated.preferences.preferences(), seed),
            world: World::new(seed),
            key,
        });
    }
    let progress = store.progress(project)?;
    for (i, annotator) in crowd.iter_mut().enumerate() {
        let name = format!("simulated-{}", i + 1);
        let known = progress.annotators.iter().find(|known| known.name == name);
        annotator.judged = known.map_or(0, |known| known.judged);
    }
    Ok(crowd)
}

impl Annotator {
    /// What they find, which follows from who they are and from the task.
    fn judge(&self, c: &AnnotateConfig, task: &Task, questions: &HashMap<String, Question>) -> Result<Judgement> {
        let question = questions.get(&identity_of(&task.input.prompt)).ok_or_else(|| {
            let reason = format!(
                "item {} of the store is none of them; give the stage another name",
                task.item
            );
            PipelineError::setting("prompts", reason)
        })?;
        let item = task.item as u64;
        if task.kind == TaskKind::Write {
            let text = match c.simulated.writing {
                Writing::Experts => self.world.replies(question, 1, item).pop().unwrap_or_default(),
                Writing::Careful => Style::Asked.write(&question.answer, &mut self.key.child(item).stream()),
            };
            return Ok(Judgement {
                rewrite: Some(Rewrite { of: None, text }),
                ..Judgement::default()
            });
        }
        let texts: Vec<&str> = task.input.responses.iter().map(|r| r.text.as_str()).collect();
        let ranking = self.labeler.rank(question, &texts, item);
        Ok(Judgement {
            ranking: Some(ranking.groups().to_vec()),
            ..Judgement::default()
        })
    }
}
