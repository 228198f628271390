//! What owners see.

use hone_data::annotations::{Export, TaskKind};

use super::browser::{Server, item};

/// Both annotators judge everything: the answer shown first is better.
fn judged() -> Server {
    let server = Server::start((0..4).map(|i| item(TaskKind::Pair, i, 2)).collect());
    for name in ["ann", "bob"] {
        let browser = server.signed_in(name);
        for _ in 0..4 {
            let lease = browser.get("/task").hidden("lease");
            let fields = [
                ("lease", lease.as_str()),
                ("active", "3000"),
                ("choice", "left"),
                ("degree", "better"),
            ];
            assert_eq!(browser.post("/task/submit", &fields).status, 303);
        }
    }
    server
}

#[test]
fn http_progress_agreement_and_bias() {
    let server = judged();
    let page = server.signed_in("owner").get("/agreement");
    assert_eq!(page.status, 200);
    for part in [
        "8 of 8 judgements",
        "4 of 4 items have all 2",
        "<th scope=\"row\">preference</th>",
        "<th scope=\"row\">ann, bob</th>",
        "first wins: 1.00 (1.00 to 1.00, n = 8)",
        "<td>3.00</td>",
    ] {
        assert!(page.body.contains(part), "{part} in {}", page.body);
    }
    let empty = Server::start(vec![item(TaskKind::Pair, 0, 2)]);
    let page = empty.signed_in("owner").get("/agreement");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Nobody yet."), "{}", page.body);
}

#[test]
fn http_exports_are_downloads() {
    let server = judged();
    let owner = server.signed_in("owner");
    let records = server.store.records(&server.project).unwrap();
    for export in Export::ALL {
        let answer = owner.get(&format!("/export/{}", export.name()));
        assert_eq!(answer.status, 200);
        let mut expected = Vec::new();
        export.write(&export.rows(&records), &mut expected).unwrap();
        assert_eq!(answer.body, String::from_utf8(expected).unwrap());
        let name = format!("{}.{}", export.name(), export.ending());
        assert!(answer.header("content-disposition").unwrap().contains(&name));
    }
    let absent = owner.get("/export/other");
    assert!(
        absent.status == 404 && absent.body.contains("trl-preference"),
        "{}",
        absent.body
    );
}

#[test]
fn http_owners_invite_and_renew() {
    let server = judged();
    let owner = server.signed_in("owner");
    let answer = owner.post("/people", &[("name", "<eve>"), ("role", "annotator")]);
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("&lt;eve&gt;") && !answer.body.contains("<eve>"));
    let link = answer
        .body
        .split("<code class=\"link\">")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap();
    let link = link.replace("&#x2f;", "/").replace("&#x3D;", "=");
    assert_eq!(server.stranger().get(&link).status, 200, "{link}");
    // A new link ends the session of the one before
    let ann = server.signed_in("ann");
    assert_eq!(ann.get("/task").status, 200);
    assert_eq!(
        owner.post("/people", &[("name", "ann"), ("role", "annotator")]).status,
        200
    );
    assert_eq!(ann.get("/task").status, 401);
    assert_eq!(owner.post("/people", &[("name", "owner")]).status, 422);
    assert_eq!(owner.post("/people", &[("name", " ")]).status, 422);
}
