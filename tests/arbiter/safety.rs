//! Answers that are missing, and requests that arrive late.

use crate::proxy::{Proxy, Way};
use crate::server::{self, Options, Server};
use crate::world::{PATIENCE, arbiter, arbiter_of, found, put, spec, takeover};
use std::time::Duration;
use twinblock::base::arbiter::{ArbiterErrorKind, CasOutcome, ReadOutcome, Settled, settle};
use twinblock::runtime::arbiter::memory::Memory;

/// Long enough for an answer, short enough to be waited for when there is none.
const SHORT: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn a_lost_answer_is_settled_by_the_nonce() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let proxy = Proxy::start(server.port());
    let far = arbiter_of(spec(&[proxy.url()]), SHORT, Memory::default());
    let near = arbiter(&[&server], PATIENCE);
    let first = put(&near, takeover(0, None)).await;
    assert_eq!(found(&far).await, Some(first));
    proxy.set(Way::Open, Way::Lost);
    let new = takeover(1, Some(&first));
    let outcome = far.compare_and_set(Some(&first), &new).await;
    let CasOutcome::Unknown(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind, ArbiterErrorKind::TimedOut, "{error}");
    proxy.set(Way::Open, Way::Open);
    let stands = found(&far).await;
    assert_eq!(stands.map(|stands| stands.record), Some(new), "it had been carried out");
    assert!(matches!(settle(Some(&first), &new, stands.as_ref()), Settled::Won(_)));
    // Asked again it says the same, and does nothing twice.
    assert_eq!(far.compare_and_set(Some(&first), &new).await, CasOutcome::Won(stands.unwrap().revision));
}

#[tokio::test]
async fn a_late_request_stays_open_and_can_be_outrun() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let proxy = Proxy::start(server.port());
    let far = arbiter_of(spec(&[proxy.url()]), SHORT, Memory::default());
    let near = arbiter(&[&server], PATIENCE);
    let first = put(&near, takeover(0, None)).await;
    assert_eq!(found(&far).await, Some(first));
    for outrun in [false, true] {
        let stands = found(&near).await.unwrap();
        assert_eq!(found(&far).await, Some(stands), "the connection is there");
        let late = takeover(1, Some(&stands));
        let waiting = proxy.waiting();
        proxy.set(Way::Held, Way::Open);
        let outcome = far.compare_and_set(Some(&stands), &late).await;
        assert!(matches!(outcome, CasOutcome::Unknown(_)), "{outcome:?}");
        assert!(proxy.waiting() > waiting, "it is on its way");
        assert_eq!(settle(Some(&stands), &late, found(&near).await.as_ref()), Settled::Open);
        if outrun {
            let other = put(&near, takeover(0, Some(&stands))).await;
            proxy.set(Way::Open, Way::Open);
            // The late request has passed when one sent after it on the same way has.
            assert_eq!(found(&far).await, Some(other));
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(found(&near).await, Some(other), "the late request had no effect");
            assert_eq!(settle(Some(&stands), &late, Some(&other)), Settled::Lost(Some(other)));
        } else {
            proxy.set(Way::Open, Way::Open);
            let until = tokio::time::Instant::now() + PATIENCE;
            while found(&near).await == Some(stands) {
                assert!(tokio::time::Instant::now() < until, "the late request never arrived");
            }
            assert_eq!(found(&near).await.map(|found| found.record), Some(late), "it was carried out late");
        }
    }
}

#[tokio::test]
async fn what_could_not_be_sent_is_refused_and_not_unknown() {
    if server::is_missing() {
        return;
    }
    let mut server = Server::start(Options::default());
    let arbiter = arbiter(&[&server], SHORT);
    let first = put(&arbiter, takeover(0, None)).await;
    server.kill();
    // The kept connection may be found broken only by the request itself.
    let _ = arbiter.read().await;
    let new = takeover(1, Some(&first));
    let outcome = arbiter.compare_and_set(Some(&first), &new).await;
    let CasOutcome::Refused(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind, ArbiterErrorKind::Unreachable);
    assert!(error.detail.contains(&server.url()) && error.detail.contains("refused"), "{error}");
    server.spawn();
    server.wait();
    assert_eq!(crate::world::found_at_last(&arbiter).await, Some(first));
    assert!(matches!(arbiter.compare_and_set(Some(&first), &new).await, CasOutcome::Won(_)));
}

#[tokio::test]
async fn a_silent_endpoint_costs_time_but_no_answer() {
    if server::is_missing() {
        return;
    }
    let server = Server::start(Options::default());
    let proxy = Proxy::start(server.port());
    let two = spec(&[proxy.url(), server.url()]);
    let arbiter = arbiter_of(two, SHORT, Memory::default());
    let first = put(&arbiter, takeover(0, None)).await;
    // The answer to the first try is lost; the second one, elsewhere, finds our own record.
    proxy.set(Way::Open, Way::Lost);
    let new = takeover(1, Some(&first));
    assert!(matches!(arbiter.compare_and_set(Some(&first), &new).await, CasOutcome::Won(_)));
    assert!(matches!(arbiter.read().await, ReadOutcome::Found(found) if found.record == new));
}
