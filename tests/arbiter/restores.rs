//! An etcd that went back in time, or is another one.

use crate::server::{self, Options, Server};
use crate::world::{PATIENCE, arbiter, arbiter_of, failure, found, put, spec, takeover};
use twinblock::base::arbiter::{ArbiterErrorKind, CasOutcome};
use twinblock::base::ids::Epoch;
use twinblock::runtime::arbiter::Arbiter;
use twinblock::runtime::arbiter::memory::Memory;

/// A server whose record is older than `memory`, after a restore as a cluster of that token.
async fn restored(token: &str) -> (Server, Memory, twinblock::base::arbiter::Versioned) {
    let mut server = Server::start(Options::default());
    let arbiter = arbiter(&[&server], PATIENCE);
    let first = put(&arbiter, takeover(0, None)).await;
    let backup = server.folder().join("backup");
    server.control(&["snapshot", "save", backup.to_str().unwrap()]);
    put(&arbiter, takeover(1, Some(&first))).await;
    server.kill();
    server.restore(&backup, token);
    (server, arbiter.memory(), first)
}

fn remembering(server: &Server, memory: Memory) -> Arbiter {
    arbiter_of(spec(&[server.url()]), PATIENCE, memory)
}

#[tokio::test]
async fn a_restored_record_is_refused_until_an_operator_recovers() {
    if server::is_missing() {
        return;
    }
    for token in ["etcd-cluster", "another-token"] {
        let (server, memory, first) = restored(token).await;
        let arbiter = remembering(&server, memory.clone());
        let error = failure(&arbiter).await;
        assert_eq!(error.kind, ArbiterErrorKind::WentBack, "{error}");
        assert_eq!(error.found.map(|found| found.record), Some(first.record), "it says what is there");
        // Nor is anything put into such a store, not even by one who believes to know what stands there.
        let believed = error.found.unwrap();
        let fresh = remembering(&server, memory);
        let outcome = fresh.compare_and_set(Some(&believed), &takeover(1, Some(&believed))).await;
        assert!(
            matches!(&outcome, CasOutcome::Refused(error) if error.kind == ArbiterErrorKind::WentBack),
            "{outcome:?}"
        );
        // The operator has looked: what stands there is replaced by something newer than everything seen.
        arbiter.accept_store();
        let error = failure(&arbiter).await;
        assert_eq!(error.kind, ArbiterErrorKind::WentBack, "the epoch is still too low: {error}");
        let new = crate::world::record(3, 0, twinblock::base::arbiter::InSync::only(twinblock::base::ids::NodeId(0)));
        let outcome = arbiter.compare_and_set(error.found.as_ref(), &new).await;
        assert!(matches!(outcome, CasOutcome::Won(_)), "{outcome:?}");
        assert_eq!(found(&arbiter).await.map(|found| found.record), Some(new));
    }
}

#[tokio::test]
async fn a_restore_is_noticed_in_a_running_process_before_anything_is_put() {
    if server::is_missing() {
        return;
    }
    let mut server = Server::start(Options::default());
    let arbiter = arbiter(&[&server], PATIENCE);
    let first = put(&arbiter, takeover(0, None)).await;
    let backup = server.folder().join("backup");
    server.control(&["snapshot", "save", backup.to_str().unwrap()]);
    // The other node takes over, which this one never hears of: its own record looks untouched after the restore.
    let other = arbiter_of(spec(&[server.url()]), PATIENCE, Memory::default());
    put(&other, takeover(1, Some(&first))).await;
    server.kill();
    server.restore(&backup, "another-token");
    // Where the kept connection's end had not been noticed, the killed server might have taken the request.
    let outcome = arbiter.compare_and_set(Some(&first), &takeover(0, Some(&first))).await;
    let (CasOutcome::Refused(error) | CasOutcome::Unknown(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind, ArbiterErrorKind::WentBack, "{error}");
    assert_eq!(found(&crate::world::arbiter(&[&server], PATIENCE)).await.map(|found| found.record), Some(first.record));
}

#[tokio::test]
async fn a_deleted_key_is_no_new_cluster() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let arbiter = arbiter(&[&server], PATIENCE);
    assert_eq!(found(&arbiter).await, None);
    let first = put(&arbiter, takeover(0, None)).await;
    server.control(&["del", "/twinblock/lab/web"]);
    let error = failure(&arbiter).await;
    assert_eq!((error.kind, error.found), (ArbiterErrorKind::WentBack, None));
    assert!(error.detail.contains("gone"), "{error}");
    let outcome = arbiter.compare_and_set(Some(&first), &takeover(1, Some(&first))).await;
    assert!(matches!(&outcome, CasOutcome::Refused(error) if error.kind == ArbiterErrorKind::WentBack), "{outcome:?}");
    // A node that knows the epoch from its own metadata alone notices as well.
    let fresh = crate::world::arbiter(&[&server], PATIENCE);
    fresh.raise(Epoch(1));
    assert_eq!(failure(&fresh).await.kind, ArbiterErrorKind::WentBack);
}

#[tokio::test]
async fn what_is_not_ours_is_not_believed() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let arbiter = arbiter(&[&server], PATIENCE);
    server.control(&["put", "/twinblock/lab/web", "hello"]);
    let error = failure(&arbiter).await;
    assert_eq!(error.kind, ArbiterErrorKind::Foreign);
    assert!(error.detail.contains("/twinblock/lab/web") && error.detail.contains("hello"), "{error}");
    let outcome = arbiter.compare_and_set(None, &takeover(0, None)).await;
    assert!(matches!(&outcome, CasOutcome::Refused(error) if error.kind == ArbiterErrorKind::Foreign), "{outcome:?}");
}

#[tokio::test]
async fn a_record_edited_by_hand_can_still_be_replaced() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let arbiter = arbiter(&[&server], PATIENCE);
    put(&arbiter, takeover(0, None)).await;
    let text = server.control(&["get", "--print-value-only", "/twinblock/lab/web"]);
    server.control(&["put", "/twinblock/lab/web", &text.trim().replace("\"epoch\":1,", " \"epoch\": 4 ,")]);
    let edited = found(&arbiter).await.unwrap();
    assert_eq!(edited.record.epoch, Epoch(4));
    let outcome = arbiter.compare_and_set(Some(&edited), &takeover(1, Some(&edited))).await;
    assert!(matches!(outcome, CasOutcome::Won(_)), "{outcome:?}");
}

#[tokio::test]
async fn compaction_disturbs_nobody() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let arbiter = arbiter(&[&server], PATIENCE);
    let first = put(&arbiter, takeover(0, None)).await;
    for _ in 0..5 {
        server.control(&["put", "/elsewhere", "x"]);
    }
    server.control(&["compaction", "--physical=true", &(first.revision.0 + 5).to_string()]);
    server.control(&["defrag"]);
    assert_eq!(found(&arbiter).await, Some(first));
    assert!(matches!(arbiter.compare_and_set(Some(&first), &takeover(1, Some(&first))).await, CasOutcome::Won(_)));
}
