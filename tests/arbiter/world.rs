//! Arbiters of both nodes, and records to propose.

use crate::server::Server;
use std::time::Duration;
use twinblock::base::arbiter::{CasOutcome, InSync, ReadOutcome, Record, Settled, Versioned, settle};
use twinblock::base::generation::Generation;
use twinblock::base::ids::{Epoch, NodeId};
use twinblock::runtime::arbiter::etcd::EtcdSpec;
use twinblock::runtime::arbiter::etcd::endpoint::Endpoint;
use twinblock::runtime::arbiter::memory::Memory;
use twinblock::runtime::arbiter::stored::Owner;
use twinblock::runtime::arbiter::{Arbiter, ArbiterSpec};

/// Time for one request: a machine that is busy with other tests must not make an answer late.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn owner() -> Owner {
    Owner { cluster: "lab".into(), group: "web".into(), nodes: ["alpha".into(), "beta".into()] }
}

pub fn spec(urls: &[String]) -> EtcdSpec {
    let endpoints = urls.iter().map(|url| Endpoint::parse(url).unwrap()).collect();
    EtcdSpec { endpoints, tls: None, user: None, prefix: "/twinblock".into() }
}

pub fn arbiter_of(spec: EtcdSpec, timeout: Duration, memory: Memory) -> Arbiter {
    Arbiter::new(&ArbiterSpec::Etcd(spec), owner(), timeout, memory).unwrap()
}

/// An arbiter that has seen nothing.
pub fn arbiter(servers: &[&Server], timeout: Duration) -> Arbiter {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    arbiter_of(spec(&urls), timeout, Memory::default())
}

/// A record with a nonce of its own.
pub fn record(epoch: u64, primary: u8, insync: InSync) -> Record {
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).unwrap();
    Record {
        epoch: Epoch(epoch),
        primary: NodeId(primary),
        insync,
        gen_hint: Generation { epoch, nonce: 1 },
        cache_epoch: 0,
        nonce: u64::from_le_bytes(nonce),
    }
}

/// The record that takes the group over from the one that was found.
pub fn takeover(by: u8, found: Option<&Versioned>) -> Record {
    record(found.map_or(1, |found| found.record.epoch.0 + 1), by, InSync::only(NodeId(by)))
}

/// What stands there, in a world where asking works.
pub async fn found(arbiter: &Arbiter) -> Option<Versioned> {
    match arbiter.read().await {
        ReadOutcome::Found(found) => Some(found),
        ReadOutcome::Absent => None,
        ReadOutcome::Failed(error) => panic!("{error}"),
    }
}

/// Puts `new` over what stands there, in a world where that works.
pub async fn put(arbiter: &Arbiter, new: Record) -> Versioned {
    let expected = found(arbiter).await;
    match arbiter.compare_and_set(expected.as_ref(), &new).await {
        CasOutcome::Won(revision) => Versioned { record: new, revision },
        other => panic!("{other:?}"),
    }
}

/// Asks until there is an answer.
pub async fn found_at_last(arbiter: &Arbiter) -> Option<Versioned> {
    let until = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        match arbiter.read().await {
            ReadOutcome::Found(found) => return Some(found),
            ReadOutcome::Absent => return None,
            ReadOutcome::Failed(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Carries a proposal to its end as the protocol says: what is unknown is read, what is open is proposed again.
pub async fn decide(arbiter: &Arbiter, expected: Option<&Versioned>, new: &Record) -> Settled {
    loop {
        match arbiter.compare_and_set(expected, new).await {
            CasOutcome::Won(revision) => return Settled::Won(revision),
            CasOutcome::Lost(found) => return Settled::Lost(found),
            CasOutcome::Refused(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            CasOutcome::Unknown(_) => match settle(expected, new, found_at_last(arbiter).await.as_ref()) {
                Settled::Open => {}
                settled => return settled,
            },
        }
    }
}

/// The kind of a failed read.
pub async fn failure(arbiter: &Arbiter) -> twinblock::base::arbiter::ArbiterError {
    match arbiter.read().await {
        ReadOutcome::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}
