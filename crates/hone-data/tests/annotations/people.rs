//! Who judges, and how they sign in.

use hone_data::annotations::{Role, SignIn, Store};

use super::common::{Fixture, NOW};

#[test]
fn roles_change_and_one_owner_stays() {
    let fixture = Fixture::pairs(1, 1);
    let put = |name, role, token: &str| {
        let digest = Store::token_digest(token);
        fixture.store.put_annotator(name, role, &digest, NOW)
    };
    let owner = put(" annotator 0 ", Role::Owner, "a").unwrap();
    assert_eq!((owner.id, owner.role), (fixture.annotators[0].id, Role::Owner));
    let refused = put("annotator 0", Role::Annotator, "b").unwrap_err().to_string();
    assert!(refused.contains("the only owner"), "{refused}");
    put("eve", Role::Owner, "c").unwrap();
    put("annotator 0", Role::Annotator, "d").unwrap();
    let found: Vec<(String, Role, bool)> = fixture
        .store
        .annotators()
        .unwrap()
        .into_iter()
        .map(|a| (a.name, a.role, a.token_digest == Store::token_digest("d")))
        .collect();
    assert_eq!(
        found,
        [
            ("annotator 0".to_string(), Role::Annotator, true),
            ("eve".to_string(), Role::Owner, false)
        ]
    );
}

#[test]
fn an_invite_is_exchanged_once_and_a_session_ends() {
    let fixture = Fixture::pairs(1, 1);
    let store = &fixture.store;
    let join = |invite: &str, session: &str| {
        store.join(SignIn {
            invite: Store::token_digest(invite),
            session: Store::session_digest(session),
            now: NOW,
            expires: NOW + 100,
        })
    };
    let name = |session: &str, at: i64| {
        store
            .session(&Store::session_digest(session), at)
            .unwrap()
            .map(|a| a.name)
    };
    let invite = |token: &str| {
        store
            .put_annotator("eve", Role::Annotator, &Store::token_digest(token), NOW)
            .unwrap()
    };
    invite("a");
    let invited = |token: &str| store.invited(&Store::token_digest(token)).unwrap().map(|a| a.name);
    assert_eq!((invited("a").as_deref(), invited("b")), (Some("eve"), None));
    assert_eq!(join("b", "s").unwrap(), None);
    // The form may come twice; another one with the same invite is nobody's
    for _ in 0..2 {
        assert_eq!(join("a", "s").unwrap().unwrap().name, "eve");
    }
    assert_eq!(join("a", "t").unwrap(), None);
    assert_eq!((invited("a"), name("t", NOW)), (None, None));
    // An invite is no session, and a session no invite
    assert_eq!((name("a", NOW), join("s", "u").unwrap()), (None, None));
    assert_eq!(
        (name("s", NOW + 99).as_deref(), name("s", NOW + 100)),
        (Some("eve"), None)
    );
    // A new invite ends the session, and so does leaving
    invite("c");
    assert_eq!(name("s", NOW), None);
    join("c", "v").unwrap().unwrap();
    assert_eq!(name("v", NOW).as_deref(), Some("eve"));
    store.leave(&Store::session_digest("v")).unwrap();
    assert_eq!(name("v", NOW), None);
    // Two who have used theirs are two still
    store
        .put_annotator("annotator 0", Role::Owner, &Store::token_digest("d"), NOW)
        .unwrap();
    assert_eq!(join("d", "w").unwrap().unwrap().name, "annotator 0");
}

/// Stores that were made before there were sessions get their table.
#[test]
fn a_store_without_sessions_gets_them() {
    let fixture = Fixture::pairs(1, 1);
    let path = fixture.store.path().to_path_buf();
    let Fixture { folder, store, .. } = fixture;
    drop(store);
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("DROP TABLE sessions")
        .unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.session(&Store::session_digest("s"), NOW).unwrap(), None);
    drop((store, folder));
}
