use super::*;
use crate::base::arbiter::InSync;
use crate::base::generation::Generation;
use crate::base::group::{GroupRole, NodeState, Reason, Wish};
use crate::base::heartbeat::{Answer, Ask, Heard, Promise, Question, VolumeWord};
use crate::base::ids::{BootId, Epoch};
use crate::base::state::{DiskState, Role};
use crate::base::time::Moment;
use proptest::prelude::*;
use std::time::Duration;

fn keys(node: u8) -> Keys {
    Keys::new(&[7; 32], "lab", NodeId(node))
}

fn envelope() -> Envelope {
    Envelope {
        group: "web".into(),
        node: NodeId(0),
        path: 1,
        incarnation: Incarnation(0x1122334455667788),
        sequence: 3,
        challenge: 4,
        echo: 5,
    }
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        node: NodeId(0),
        incarnation: Incarnation(0x1122334455667788),
        boot: BootId(9),
        sequence: 10,
        sent: Moment(11),
        epoch: Epoch(12),
        role: GroupRole::Owner,
        state: NodeState::Normal,
        reason: Reason::Normal,
        volume: VolumeWord {
            role: Role::Primary,
            disk: DiskState::UpToDate,
            in_sync: true,
            generation: Generation { epoch: 12, nonce: 13 },
            fit: true,
        },
        insync: InSync::BOTH,
        healthy: true,
        deactivated: false,
        wish: Wish { version: 14, stopped: false, disabled: false },
        config: 15,
        version: [0, 1, 2],
        turn_age: Duration::from_millis(16),
        heard: [None; HEARTBEAT_PATHS_MAX],
        wants_promise: true,
        promise: None,
        ask: None,
        answer: None,
    }
}

/// The longest of all.
fn fullest() -> Heartbeat {
    let (number, time) = (u64::MAX, Duration::new(u64::MAX, 999_999_999));
    Heartbeat {
        incarnation: Incarnation(number),
        boot: BootId(u128::MAX),
        sequence: number,
        sent: Moment(number),
        epoch: Epoch(number),
        config: number,
        version: [u16::MAX; 3],
        turn_age: time,
        heard: [Some(Heard { sequence: number, age: time }); HEARTBEAT_PATHS_MAX],
        volume: VolumeWord { generation: Generation { epoch: number, nonce: number }, ..heartbeat().volume },
        wish: Wish { version: number, stopped: true, disabled: true },
        promise: Some(Promise { to: Incarnation(number), epoch: Epoch(number), sent: Moment(number), span: time }),
        ask: Some(Ask {
            id: number,
            what: Question::Handover { epoch: Epoch(number), insync: InSync::BOTH, reason: Reason::Unknown },
        }),
        answer: Some(Answer { id: number, agreed: true, epoch: Epoch(number) }),
        ..heartbeat()
    }
}

#[test]
fn the_datagram_has_these_bytes() {
    let bytes = keys(0).seal(&envelope(), &heartbeat());
    let mut expected = b"TWINBEAT\x01\x03lab\x03web\x00\x01\x88\x77\x66\x55\x44\x33\x22\x11".to_vec();
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    let body = [
        0, 253, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 9, 10, 11, 12, // node to epoch
        3, 2, 0, // role, state, reason
        0, 4, 1, 12, 13, 1, // volume
        2, 0, 1, 1, 0, // in sync, healthy, deactivated
        14, 0, 0, 15, 0, 1, 2, // wish, config, version
        0, 252, 0, 36, 244, 0, // turn age
        0, 0, 0, 0, 0, 0, 0, 0, // heard
        1, 0, 0, 0, // wants a promise; promise, ask, answer
    ];
    expected.extend((body.len() as u16).to_le_bytes());
    expected.extend(body);
    // Computed with another implementation.
    expected.extend(0xe72d_6a50_1f04_b450_b7f9_2a22_5c7d_0871_u128.to_be_bytes());
    assert_eq!(bytes, expected);
    assert_eq!(keys(1).open(&bytes), Ok((envelope(), heartbeat())));
}

#[test]
fn the_key_is_hkdf() {
    // Test case 1 of RFC 5869, its first block.
    let salt: Vec<u8> = (0..=12).collect();
    let info: Vec<u8> = (0xf0..=0xf9).collect();
    let key = derive(&salt, &[0x0b; 22], &info);
    let hexadecimal: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hexadecimal, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
}

#[test]
fn the_fullest_heartbeat_fits() {
    let keys = Keys::new(&[7; 32], &"c".repeat(CLUSTER_BYTES_MAX), NodeId(0));
    let envelope = Envelope { group: "g".repeat(GROUP_BYTES_MAX), incarnation: Incarnation(u64::MAX), ..envelope() };
    let bytes = keys.seal(&envelope, &fullest());
    let peer = Keys::new(&[7; 32], &"c".repeat(CLUSTER_BYTES_MAX), NodeId(1));
    assert_eq!(peer.open(&bytes), Ok((envelope, fullest())));
}

#[test]
fn what_is_wrong_is_named() {
    let bytes = keys(0).seal(&envelope(), &heartbeat());
    let open = |bytes: &[u8]| keys(1).open(bytes).unwrap_err();
    assert_eq!(open(b""), Refusal::NotOurs);
    assert_eq!(open(b"GET / HTTP/1.1\r\n\r\n"), Refusal::NotOurs);
    for length in MAGIC.len()..bytes.len() {
        assert_eq!(open(&bytes[..length]), Refusal::Truncated, "{length}");
    }
    assert_eq!(open(&[bytes.clone(), vec![0]].concat()), Refusal::Oversized);
    assert_eq!(open(&vec![0; HEARTBEAT_BYTES_MAX + 1]), Refusal::Oversized);
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(open(&newer), Refusal::OtherVersion(2));
    let other = Keys::new(&[7; 32], "prod", NodeId(0)).seal(&envelope(), &heartbeat());
    assert_eq!(open(&other), Refusal::OtherCluster("prod".into()));
    let wrong = Keys::new(&[8; 32], "lab", NodeId(0)).seal(&envelope(), &heartbeat());
    assert_eq!(open(&wrong), Refusal::WrongKey);
    assert_eq!(keys(0).open(&bytes), Err(Refusal::Reflected));
    assert_eq!(open(&keys(0).seal_body(&envelope(), b"no heartbeat")), Refusal::Malformed);
    let stranger = Heartbeat { incarnation: Incarnation(1), ..heartbeat() };
    assert_eq!(open(&keys(0).seal(&envelope(), &stranger)), Refusal::Malformed);
    let far = Envelope { path: HEARTBEAT_PATHS_MAX as u8, ..envelope() };
    assert_eq!(open(&keys(0).seal(&far, &heartbeat())), Refusal::Malformed);
}

#[test]
fn every_bit_counts() {
    let bytes = keys(0).seal(&envelope(), &heartbeat());
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(keys(1).open(&changed).is_err(), "bit {bit}");
    }
}

#[test]
fn a_clock_that_is_an_hour_off_means_nothing() {
    let late = Heartbeat { sent: Moment(3_600_000_000_000), ..heartbeat() };
    let early = Heartbeat { sent: Moment(0), ..heartbeat() };
    for heartbeat in [late, early] {
        assert_eq!(keys(1).open(&keys(0).seal(&envelope(), &heartbeat)), Ok((envelope(), heartbeat)));
    }
}

#[test]
fn kinds_have_names_of_their_own() {
    let all = [
        Refusal::NotOurs,
        Refusal::Truncated,
        Refusal::Oversized,
        Refusal::OtherVersion(2),
        Refusal::OtherCluster("x".into()),
        Refusal::WrongKey,
        Refusal::Reflected,
        Refusal::Malformed,
        Refusal::OtherGroup("x".into()),
        Refusal::OtherPath(1),
        Refusal::Unproven,
        Refusal::Replayed,
    ];
    for (index, refusal) in all.iter().enumerate() {
        assert_eq!(refusal.index(), index);
    }
    assert_eq!(all.len(), Refusal::KINDS.len());
    assert!(!format!("{:?}", keys(0)).contains('7'), "keys are not shown");
}

proptest! {
    #[test]
    fn nothing_from_outside_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
        let _ = keys(1).open(&bytes);
        let ours = [&MAGIC[..], &[VERSION, 3], b"lab", &bytes].concat();
        prop_assert!(keys(1).open(&ours).is_err());
        if let Some(heartbeat) = decode(&bytes) {
            let _ = encode(&heartbeat);
        }
    }
}
