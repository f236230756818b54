//! Datagrams on the heartbeat's port, and heartbeats of a peer that has the secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinblock::base::ids::NodeId;
use twinblock::wire::heartbeat::guard::Guard;
use twinblock::wire::heartbeat::{self, Envelope, Keys, Refusal};

fuzz_target!(|bytes: &[u8]| {
    let (ours, peers) = (Keys::new(&[7; 32], "lab", NodeId(1)), Keys::new(&[7; 32], "lab", NodeId(0)));
    match ours.open(bytes) {
        Ok((envelope, heartbeat)) => {
            let _ = Guard::new(1).admit(&envelope);
            assert_eq!(peers.seal(&envelope, &heartbeat).len(), bytes.len());
        }
        Err(refusal) => assert!(refusal.index() < Refusal::KINDS.len() && !refusal.to_string().is_empty()),
    }
    if let Some(heartbeat) = heartbeat::decode(bytes)
        && heartbeat.node == NodeId(0)
    {
        let (incarnation, path) = (heartbeat.incarnation, 0);
        let envelope =
            Envelope { group: "web".into(), node: NodeId(0), path, incarnation, sequence: 1, challenge: 2, echo: 1 };
        let opened = ours.open(&peers.seal(&envelope, &heartbeat));
        assert_eq!(opened, Ok((envelope, heartbeat)));
    }
});
