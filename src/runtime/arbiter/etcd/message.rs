//! The few requests and answers of etcd's JSON gateway that are used, and what its errors mean.
//!
//! Source: etcd's `rpc.proto` as mapped to JSON: bytes are base64, 64-bit numbers are text, what is zero is left out.

use super::base64;
use crate::base::arbiter::{ArbiterErrorKind, Revision};
use crate::runtime::arbiter::register::{Entry, Seen};
use crate::wire::hello::printable;
use serde_json::{Value, json};

/// Codes of gRPC that etcd's errors come with.
mod code {
    pub const INVALID_ARGUMENT: u64 = 3;
    pub const DEADLINE_EXCEEDED: u64 = 4;
    pub const PERMISSION_DENIED: u64 = 7;
    pub const RESOURCE_EXHAUSTED: u64 = 8;
    pub const FAILED_PRECONDITION: u64 = 9;
    pub const OUT_OF_RANGE: u64 = 11;
    pub const UNIMPLEMENTED: u64 = 12;
    pub const UNAVAILABLE: u64 = 14;
    pub const UNAUTHENTICATED: u64 = 16;
}

/// Bytes of an answer that nobody understands shown in the message.
const SHOWN_BYTES_MAX: usize = 120;

/// The answer of a member to `/v3/maintenance/status`.
#[derive(Debug, PartialEq, Eq)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Whether it knows a leader.
    pub has_leader: bool,
    /// Alarms and errors it lists, such as `memberID:… alarm:NOSPACE`.
    pub errors: Vec<String>,
}

/// An error etcd answered with.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong.
    pub kind: ArbiterErrorKind,
    /// Its own words.
    pub words: String,
    /// Whether the request certainly had no effect.
    pub without_effect: bool,
    /// Whether a new token may help.
    pub token: bool,
    /// Whether it is that no passwords are asked for at all.
    pub no_auth: bool,
}

/// Asks for the key as a quorum has it.
pub fn range(key: &[u8]) -> Value {
    json!({ "key": base64::encode(key) })
}

/// Puts `new` at the key if `expected` stands there, else tells what does.
pub fn swap(key: &[u8], expected: Option<&Entry>, new: &[u8]) -> Value {
    let key = base64::encode(key);
    let revision = expected.map_or(0, |entry| entry.revision.0).to_string();
    let mut compare = vec![json!({ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision })];
    if let Some(entry) = expected {
        let value = base64::encode(&entry.bytes);
        compare.push(json!({ "key": key, "target": "VALUE", "result": "EQUAL", "value": value }));
    }
    json!({
        "compare": compare,
        "success": [{ "request_put": { "key": key, "value": base64::encode(new) } }],
        "failure": [{ "request_range": { "key": key } }],
    })
}

/// Asks to put something at the key if what stands there is older than anything can be: nothing is ever put, but etcd says
/// whether this user might.
pub fn rights(key: &[u8]) -> Value {
    let key = base64::encode(key);
    json!({
        "compare": [{ "key": key, "target": "CREATE", "result": "LESS", "create_revision": "0" }],
        "success": [{ "request_put": { "key": key, "value": "" } }],
    })
}

/// Asks for a token.
pub fn authenticate(user: &str, password: &str) -> Value {
    json!({ "name": user, "password": password })
}

/// The token of an answer to [`authenticate`].
pub fn token(answer: &Value) -> Option<String> {
    // It goes into a header: nothing but visible characters.
    let token = answer["token"].as_str()?;
    (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).then(|| token.to_string())
}

/// What an answer to [`range`] found.
pub fn seen(answer: &Value) -> Option<Seen> {
    let (store, store_revision) = header(answer)?;
    Some(Seen { store, store_revision, entry: first(&answer["kvs"])? })
}

/// What an answer to [`swap`] says: whether it was carried out, and what was found if not. `new` is what was put.
pub fn swapped(answer: &Value, new: &[u8]) -> Option<(bool, Seen)> {
    let (store, store_revision) = header(answer)?;
    match answer.get("succeeded").map_or(Some(false), Value::as_bool)? {
        true => {
            let entry = Entry { revision: Revision(store_revision), bytes: new.to_vec() };
            Some((true, Seen { store, store_revision, entry: Some(entry) }))
        }
        false => {
            let entry = first(&answer["responses"][0]["response_range"]["kvs"])?;
            Some((false, Seen { store, store_revision, entry }))
        }
    }
}

/// What an answer to `/v3/maintenance/status` says.
pub fn status(answer: &Value) -> Option<Status> {
    header(answer)?;
    let lines = answer["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Some(Status {
        version: printable(answer["version"].as_str()?.as_bytes()),
        has_leader: number(&answer["leader"])? != 0,
        errors: lines.map(|line| printable(line.as_bytes())).collect(),
    })
}

/// What an answer other than 200 means.
pub fn refused(http: u16, body: &[u8]) -> Refused {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let words = ["message", "error"].iter().find_map(|key| answer[key].as_str());
    let number = answer["code"].as_u64();
    let (Some(words), Some(number)) = (words, number) else {
        let shown = printable(&body[..body.len().min(SHOWN_BYTES_MAX)]);
        return Refused {
            kind: ArbiterErrorKind::Protocol,
            words: format!("HTTP {http}: {}", shown.trim()),
            without_effect: false,
            token: false,
            no_auth: false,
        };
    };
    let says = |part: &str| words.contains(part);
    let token = number == code::UNAUTHENTICATED || says("invalid auth token") || says("revision of auth store is old");
    let no_auth = says("authentication is not enabled");
    let kind = match number {
        _ if token => ArbiterErrorKind::Credentials,
        code::INVALID_ARGUMENT if says("authentication failed") || says("user name") => ArbiterErrorKind::Credentials,
        code::FAILED_PRECONDITION if no_auth => ArbiterErrorKind::Credentials,
        code::PERMISSION_DENIED => ArbiterErrorKind::Permission,
        code::RESOURCE_EXHAUSTED if says("space exceeded") => ArbiterErrorKind::ReadOnly,
        code::RESOURCE_EXHAUSTED => ArbiterErrorKind::TimedOut,
        code::OUT_OF_RANGE if says("compacted") => ArbiterErrorKind::Compacted,
        code::DEADLINE_EXCEEDED => ArbiterErrorKind::TimedOut,
        code::UNAVAILABLE => ArbiterErrorKind::ReadOnly,
        _ => ArbiterErrorKind::Protocol,
    };
    // These are said before a request is proposed to the others, or when it is applied and refused by all of them.
    let early = [
        code::INVALID_ARGUMENT,
        code::PERMISSION_DENIED,
        code::RESOURCE_EXHAUSTED,
        code::FAILED_PRECONDITION,
        code::OUT_OF_RANGE,
        code::UNIMPLEMENTED,
        code::UNAUTHENTICATED,
    ];
    let without_effect = token || early.contains(&number);
    Refused { kind, words: printable(words.as_bytes()), without_effect, token, no_auth }
}

/// Cluster id and revision of an answer.
fn header(answer: &Value) -> Option<(String, u64)> {
    let header = answer.get("header")?;
    let cluster = number(&header["cluster_id"]).filter(|cluster| *cluster != 0)?;
    Some((format!("{cluster:016x}"), number(&header["revision"])?))
}

/// The one key of a list that may be missing. The outer `None`: the list is none.
fn first(list: &Value) -> Option<Option<Entry>> {
    let Some(list) = list.as_array() else { return list.is_null().then_some(None) };
    let Some(found) = list.first() else { return Some(None) };
    let revision = Revision(number(&found["mod_revision"]).filter(|revision| *revision != 0)?);
    let bytes = base64::decode(found["value"].as_str().unwrap_or(""))?;
    Some(Some(Entry { revision, bytes }))
}

/// A 64-bit number, which is written as text; left out when it is zero.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Null => Some(0),
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(revision: u64) -> Value {
        json!({ "cluster_id": "14841639068965178418", "member_id": "1", "revision": revision.to_string(), "raft_term": "2" })
    }

    #[test]
    fn a_swap_compares_revision_and_value() {
        let expected = Entry { revision: Revision(5), bytes: b"old".to_vec() };
        let body = swap(b"k", Some(&expected), b"new");
        assert_eq!(body["compare"].as_array().unwrap().len(), 2);
        assert_eq!(body["compare"][0]["mod_revision"], "5");
        assert_eq!(body["compare"][1]["value"], "b2xk");
        assert_eq!(body["success"][0]["request_put"], json!({ "key": "aw==", "value": "bmV3" }));
        let absent = swap(b"k", None, b"new");
        assert_eq!(
            absent["compare"],
            json!([{ "key": "aw==", "target": "MOD", "result": "EQUAL", "mod_revision": "0" }])
        );
    }

    #[test]
    fn answers_are_read() {
        let store = "cdf818194e3a8c32".to_string();
        let nothing = json!({ "header": header_of(9) });
        assert_eq!(seen(&nothing), Some(Seen { store: store.clone(), store_revision: 9, entry: None }));
        let kvs =
            json!([{ "key": "aw==", "create_revision": "2", "mod_revision": "7", "version": "3", "value": "b2xk" }]);
        let entry = Some(Entry { revision: Revision(7), bytes: b"old".to_vec() });
        let found = Seen { store: store.clone(), store_revision: 9, entry };
        assert_eq!(seen(&json!({ "header": header_of(9), "kvs": kvs, "count": "1" })), Some(found.clone()));
        let lost = json!({ "header": header_of(9), "responses": [{ "response_range": { "kvs": kvs } }] });
        assert_eq!(swapped(&lost, b"new"), Some((false, found)));
        let won = json!({ "header": header_of(10), "succeeded": true, "responses": [{ "response_put": {} }] });
        let entry = Some(Entry { revision: Revision(10), bytes: b"new".to_vec() });
        assert_eq!(swapped(&won, b"new"), Some((true, Seen { store, store_revision: 10, entry })));
        for bad in [
            json!(null),
            json!([]),
            json!({}),
            json!({ "header": {} }),
            json!({ "header": header_of(1), "kvs": 3 }),
            json!({ "header": header_of(1), "kvs": [{ "mod_revision": "-1" }] }),
            json!({ "header": header_of(1), "kvs": [{ "mod_revision": "3", "value": "?" }] }),
            json!({ "header": header_of(1), "succeeded": "yes" }),
        ] {
            assert_eq!(seen(&bad).filter(|_| bad.get("succeeded").is_none()), None, "{bad}");
            assert_eq!(swapped(&bad, b"new").filter(|_| bad.get("kvs").is_none()), None, "{bad}");
        }
    }

    #[test]
    fn errors_are_told_apart() {
        use ArbiterErrorKind as Kind;
        for (code, words, kind, without_effect, token) in [
            (16, "etcdserver: invalid auth token", Kind::Credentials, true, true),
            (3, "etcdserver: revision of auth store is old", Kind::Credentials, true, true),
            (3, "etcdserver: authentication failed, invalid user ID or password", Kind::Credentials, true, false),
            (3, "etcdserver: user name is empty", Kind::Credentials, true, false),
            (7, "etcdserver: permission denied", Kind::Permission, true, false),
            (8, "etcdserver: mvcc: database space exceeded", Kind::ReadOnly, true, false),
            (11, "etcdserver: mvcc: required revision has been compacted", Kind::Compacted, true, false),
            (14, "etcdserver: request timed out", Kind::ReadOnly, false, false),
            (14, "etcdserver: leader changed", Kind::ReadOnly, false, false),
            (2, "context canceled", Kind::Protocol, false, false),
        ] {
            let body = json!({ "error": words, "message": words, "code": code }).to_string();
            let refused = refused(500, body.as_bytes());
            assert_eq!((refused.kind, refused.without_effect, refused.token), (kind, without_effect, token), "{words}");
            assert_eq!(refused.words, words);
        }
        let other = refused(400, b"Client sent an HTTP request to an HTTPS server.\n");
        assert_eq!(other.kind, Kind::Protocol);
        assert!(other.words.contains("HTTPS server") && !other.without_effect);
        assert!(refused(400, br#"{"code":9,"message":"etcdserver: authentication is not enabled"}"#).no_auth);
    }
}
