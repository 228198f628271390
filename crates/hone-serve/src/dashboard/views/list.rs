//! All runs, the one that was written last first.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::{Ask, Circumstances, Refusal, View, paging, summary};
use crate::dashboard::clock::{State, unix};
use crate::dashboard::record::Record;
use crate::dashboard::store::Store;

/// Runs on a page.
const PER_PAGE: usize = 100;

pub(in crate::dashboard) fn list(store: &Store, ask: &Ask, at: Circumstances<'_>) -> Result<View, Refusal> {
    ask.only(&["q", "state", "page"])?;
    let words: Vec<String> = ask
        .get("q")
        .unwrap_or_default()
        .to_lowercase()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let wanted = ask.get("state").map(state_of).transpose()?;
    // 1. Which
    let named = |record: &&Record| {
        let name = record.name.to_lowercase();
        words
            .iter()
            .all(|word| name.contains(word.as_str()) || record.stage() == word)
    };
    let mut found: Vec<(&Record, State)> = store
        .iter()
        .filter(named)
        .map(|record| (record, record.state(at.now)))
        .collect();
    let count_of = |state: State| found.iter().filter(|(_, other)| *other == state).count();
    let states: Vec<Value> = State::ALL
        .into_iter()
        .map(|state| {
            let other = if wanted == Some(state) { "" } else { state.name() };
            json!({"name": state.name(), "count": count_of(state), "current": wanted == Some(state), "href": ask.with("/", "state", other)})
        })
        .collect();
    found.retain(|(_, state)| wanted.is_none_or(|wanted| wanted == *state));
    found.sort_by_key(|(record, _)| (Reverse(record.written().map(unix)), record.name.as_str()));
    // 2. Those of this page
    let (page, pages) = (ask.page()?, found.len().div_ceil(PER_PAGE).max(1));
    let shown = found.iter().skip((page - 1).saturating_mul(PER_PAGE)).take(PER_PAGE);
    let rows: Vec<Value> = shown.map(|(record, _)| summary(record, at).2).collect();
    let value = json!({
        "runs": rows,
        "count": found.len(),
        "all": store.iter().count(),
        "states": states,
        "q": ask.get("q").unwrap_or_default(),
        "state": wanted.map(State::name),
        "paging": paging((ask, "/"), page, pages),
        "unread": store.unread(),
        "left_out": store.left_out,
    });
    Ok(View {
        template: "list.html",
        title: "Runs".to_owned(),
        value,
        charts: Vec::new(),
    })
}

fn state_of(name: &str) -> Result<State, Refusal> {
    State::ALL
        .into_iter()
        .find(|state| state.name() == name)
        .ok_or_else(|| {
            let shown: String = name.chars().take(100).collect();
            Refusal::bad(format!(
                "`state` is {shown:?}; expected running, quiet, stopped or finished"
            ))
        })
}
