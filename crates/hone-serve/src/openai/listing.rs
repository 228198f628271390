//! Lists that are read page by page: `after`, `limit` and `order` of a request's query.

use axum::http::Uri;
use serde_json::{Value, json};

use crate::openai::ApiError;
use crate::openai::tokenize::decoded;

/// What a request says behind its path.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(uri: &Uri) -> Self {
        let pairs = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        };
        Self(pairs.map(pair).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A page of what is given newest first, each with its `id`.
    ///
    /// # Errors
    /// A limit or an order that is none, or a place in the list that is not in it.
    pub fn page(&self, all: Vec<Value>, usual: usize) -> Result<Value, ApiError> {
        self.page_of(all, usual, (|item: &Value, id: &str| item["id"] == id, Some))
    }

    /// The same of what is made into values only where it is on the page: `is` tells whether something has this id. What has no
    /// value is left out.
    ///
    /// # Errors
    /// As [`Query::page`].
    pub fn page_of<T>(
        &self,
        mut all: Vec<T>,
        usual: usize,
        (is, value): (impl Fn(&T, &str) -> bool, impl Fn(T) -> Option<Value>),
    ) -> Result<Value, ApiError> {
        let limit = match self.get("limit") {
            None => usual,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=10_000).contains(limit))
                .ok_or_else(|| {
                    ApiError::bad(
                        "limit",
                        format!("`limit` is {text:?}; expected a whole number from 1 to 10000"),
                    )
                })?,
        };
        match self.get("order") {
            None | Some("desc") => {}
            Some("asc") => all.reverse(),
            Some(other) => {
                return Err(ApiError::bad(
                    "order",
                    format!("`order` is {other:?}; expected asc or desc"),
                ));
            }
        }
        let start = match self.get("after") {
            None => 0,
            Some(after) => {
                let place = all.iter().position(|item| is(item, after));
                let refuse = || ApiError::bad("after", format!("`after` is {after:?}, which is not in this list"));
                place.ok_or_else(refuse)? + 1
            }
        };
        let more = all.len() > start + limit;
        let data: Vec<Value> = all.into_iter().skip(start).take(limit).filter_map(value).collect();
        let id = |item: Option<&Value>| item.map(|item| item["id"].clone());
        Ok(json!({
            "object": "list",
            "first_id": id(data.first()),
            "last_id": id(data.last()),
            "data": data,
            "has_more": more,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<Value, String> {
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        let all = ["c", "b", "a"].map(|id| json!({"id": id})).to_vec();
        Query::of(&uri).page(all, 20).map_err(|error| error.message)
    }

    fn ids(value: &Value) -> String {
        value["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn pages_follow_each_other() {
        let all = page("").unwrap();
        assert_eq!((ids(&all).as_str(), &all["has_more"]), ("cba", &json!(false)));
        let first = page("limit=2").unwrap();
        assert_eq!(
            (ids(&first).as_str(), &first["has_more"], &first["last_id"]),
            ("cb", &json!(true), &json!("b"))
        );
        let next = page("limit=2&after=b").unwrap();
        assert_eq!((ids(&next).as_str(), &next["has_more"]), ("a", &json!(false)));
        assert_eq!(ids(&page("order=asc").unwrap()), "abc");
        assert_eq!(page("after=a").unwrap()["first_id"], Value::Null);
        for bad in ["limit=0", "limit=x", "order=up", "after=z"] {
            assert!(page(bad).unwrap_err().contains("expected") || bad == "after=z", "{bad}");
        }
    }
}
