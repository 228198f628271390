//! What owners see: progress, agreement, people, exports.

use std::sync::{Arc, PoisonError};

use axum::extract::{Path, State as Of};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use minijinja::context;

use hone_data::DataError;
use hone_data::annotations::{Annotator, Export, Project, Role};
use hone_eval::{AnnotationReport, Bootstrap, annotation_report};
use hone_math::Key;

use super::error::{AnnotateError, Failure};
use super::form::{self, Form};
use super::pages;
use super::session::Owner;
use super::state::{Shared, State, now, on_all, on_store};

/// Times that items are drawn again for an interval.
const RESAMPLES: u32 = 400;

/// What is computed of all records, and holds until somebody does something.
pub(super) struct Computed {
    newest: Option<i64>,
    report: AnnotationReport,
    /// Of each format its name, its rows and the judgements of which it says nothing.
    exports: Vec<(&'static str, usize, u64)>,
}

fn compute(state: &State, project: &Project) -> Result<Result<Arc<Computed>, hone_eval::Error>, DataError> {
    let mut known = state.computed.lock().unwrap_or_else(PoisonError::into_inner);
    let newest = state.store.newest_event(project)?;
    if let Some(computed) = known.as_ref().filter(|computed| computed.newest == newest) {
        return Ok(Ok(Arc::clone(computed)));
    }
    let records = state.store.records(project)?;
    let draws = Bootstrap {
        resamples: RESAMPLES,
        ..Bootstrap::new(Key::new(project.settings.seed, "annotation report", 0))
    };
    let report = match annotation_report(&records, &draws) {
        Ok(report) => report,
        Err(error) => return Ok(Err(error)),
    };
    let exports = Export::ALL.map(|export| {
        let exported = export.rows(&records);
        (export.name(), exported.rows.len(), exported.left_out)
    });
    let computed = Arc::new(Computed {
        // What came while it was computed is computed with the next
        newest,
        report,
        exports: exports.into(),
    });
    *known = Some(Arc::clone(&computed));
    Ok(Ok(computed))
}

/// `GET /agreement`
pub(super) async fn agreement(Of(state): Of<Shared>, Owner(owner): Owner) -> Result<Response, Failure> {
    let (project, progress, computed) = on_all(&state, move |state| {
        let project = state.store.project(&state.project.name)?;
        let progress = state.store.progress_at(&project, now())?;
        let computed = compute(state, &project)?;
        Ok((project, progress, computed))
    })
    .await?;
    let computed = computed.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(pages::page(
        StatusCode::OK,
        "agreement.html",
        context! {
            project => project.name,
            overlap => project.settings.overlap,
            user => owner.name,
            owner => true,
            progress => progress,
            report => computed.report,
            exports => computed.exports,
            on => true,
        },
    ))
}

/// `GET /people`
pub(super) async fn people(Of(state): Of<Shared>, Owner(owner): Owner) -> Result<Response, Failure> {
    people_page(&state, &owner, None).await
}

/// `POST /people`: invites somebody, or gives them a new link.
pub(super) async fn invite(
    Of(state): Of<Shared>,
    Owner(owner): Owner,
    Form(fields): Form,
) -> Result<Response, Failure> {
    let name = form::field(&fields, "name").unwrap_or_default().trim().to_string();
    let role = match form::field(&fields, "role") {
        Some("owner") => Role::Owner,
        _ => Role::Annotator,
    };
    if name == owner.name {
        return Err(Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "A new link of your own would sign you out here; start the program again for one.",
        ));
    }
    let invited = name.clone();
    let link = on_store(&state, move |state| {
        match super::invite(&state.store, &invited, role, now()) {
            Ok(link) => Ok(Ok(link)),
            Err(AnnotateError::Store(error)) => Err(error),
            Err(other) => Ok(Err(other)),
        }
    })
    .await??;
    people_page(&state, &owner, Some((name, link))).await
}

async fn people_page(
    state: &Shared,
    owner: &Annotator,
    invited: Option<(String, String)>,
) -> Result<Response, Failure> {
    let annotators = on_store(state, |state| state.store.annotators()).await?;
    let people: Vec<(String, &str)> = annotators.into_iter().map(|a| (a.name, a.role.name())).collect();
    Ok(pages::page(
        StatusCode::OK,
        "people.html",
        context! {
            project => state.project.name,
            user => owner.name,
            owner => true,
            people => people,
            invited => invited,
            on => true,
        },
    ))
}

/// `GET /export/{format}`
pub(super) async fn export(
    Of(state): Of<Shared>,
    Owner(_): Owner,
    Path(format): Path<String>,
) -> Result<Response, Failure> {
    let Some(export) = Export::of_name(&format) else {
        let known: Vec<&str> = Export::ALL.iter().map(|export| export.name()).collect();
        let message = format!("There is no export of this name; there are {}.", known.join(", "));
        return Err(Failure::new(StatusCode::NOT_FOUND, message));
    };
    let (text, left_out) = on_all(&state, move |state| {
        let exported = export.rows(&state.store.records(&state.project)?);
        let mut text = Vec::new();
        // Writing into memory does not fail
        let _ = export.write(&exported, &mut text);
        Ok((text, exported.left_out))
    })
    .await?;
    let name = format!("attachment; filename=\"{}.{}\"", export.name(), export.ending());
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_string()),
        (header::CONTENT_DISPOSITION, name),
        (header::HeaderName::from_static("x-left-out"), left_out.to_string()),
    ];
    Ok((headers, text).into_response())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use hone_data::Message;
    use hone_data::annotations::{Input, NewItem, Response as Given, Settings, Store, TaskKind};

    use super::super::session::User;
    use super::super::{Patience, WAITERS, task};
    use super::*;
    use crate::security::Gate;

    fn state(folder: &std::path::Path) -> Shared {
        let store = Store::open(&folder.join("annotations.db")).unwrap();
        let project = store.put_project("helpful", &Settings::default(), 0).unwrap();
        let items = (0..4).map(|i| NewItem {
            kind: TaskKind::Pair,
            input: Input {
                prompt: vec![Message::user(format!("question {i}"))],
                responses: vec![Given::new("one"), Given::new("other")],
            },
            gold: None,
        });
        store.add_items(&project, items.collect()).unwrap();
        Arc::new(State {
            gate: Gate::new("127.0.0.1", [127, 0, 0, 1].into(), &[], &[]),
            store,
            project,
            cookie: "c".into(),
            patience: Patience::default(),
            desk: super::super::state::desk(),
            computed: std::sync::Mutex::default(),
        })
    }

    #[test]
    fn while_agreement_is_computed_tasks_are_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path());
        let person = |name: &str, role| {
            let token = Store::token_digest(name);
            state.store.put_annotator(name, role, &token, 0).unwrap()
        };
        let (owner, ann) = (person("owner", Role::Owner), person("ann", Role::Annotator));
        // It ends after what holds its threads up, also where this test fails
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(WAITERS)
            .build()
            .unwrap();
        // A computation that takes as long as this test wants
        let (held, holds) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let holder = {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                let _computing = state.computed.lock().unwrap();
                held.send(()).unwrap();
                let _ = gone.recv();
            })
        };
        holds.recv().unwrap();
        runtime.block_on(async {
            let pages: Vec<_> = (0..2 * WAITERS)
                .map(|_| tokio::spawn(agreement(Of(Arc::clone(&state)), Owner(owner.clone()))))
                .collect();
            tokio::time::sleep(Duration::from_millis(50)).await;
            let claim = task::show(Of(Arc::clone(&state)), User(ann));
            let claimed = tokio::time::timeout(Duration::from_secs(20), claim).await;
            assert_eq!(claimed.expect("no thread was left").unwrap().status(), StatusCode::OK);
            assert!(pages.iter().all(|page| !page.is_finished()));
            go.send(()).unwrap();
            for page in pages {
                assert_eq!(page.await.unwrap().unwrap().status(), StatusCode::OK);
            }
        });
        holder.join().unwrap();
    }

    #[test]
    fn what_was_computed_holds_until_somebody_does_something() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path());
        let again = || compute(&state, &state.project).unwrap().unwrap();
        let first = again();
        assert!(Arc::ptr_eq(&first, &again()));
        let token = Store::token_digest("ann");
        let ann = state.store.put_annotator("ann", Role::Annotator, &token, 0).unwrap();
        let lease = state.store.claim(&state.project, ann.id, 1).unwrap().unwrap().lease;
        assert!(Arc::ptr_eq(&first, &again()));
        state.store.skip(lease, ann.id, "unclear", 2).unwrap();
        assert!(!Arc::ptr_eq(&first, &again()));
    }
}
