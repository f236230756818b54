//! Is the network there, seen from an address? ICMP echo from that address to a list of targets; any answer is success.

use super::packet::{ECHO_PAYLOAD_BYTES, echo_request, is_echo_reply};
use super::socket::EchoSocket;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Pause after a receive that failed.
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// How long and how often to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingPlan {
    /// Rounds of questions.
    pub tries: u32,
    /// Time answers to one round may take.
    pub wait: Duration,
    /// Questions to each target sent at once in each round.
    pub preload: u32,
}

/// Asks `targets` from the address `from` until one of them answers; that one, or `None` when nobody did. A broadcast or
/// multicast address among the targets asks everybody. Answers of `from` itself don't count; a target that can't be
/// reached counts as silent.
pub async fn ping(from: IpAddr, index: u32, targets: &[IpAddr], plan: PingPlan) -> io::Result<Option<IpAddr>> {
    let socket = EchoSocket::open(from, index)?;
    let mut cookie = [0; ECHO_PAYLOAD_BYTES];
    getrandom::fill(&mut cookie).map_err(|error| io::Error::other(error.to_string()))?;
    let identifier = u16::from_be_bytes([cookie[0], cookie[1]]);
    let mut sequence = 0;
    for _ in 0..plan.tries.max(1) {
        let until = Instant::now() + plan.wait;
        for _ in 0..plan.preload.max(1) {
            sequence += 1;
            for target in targets.iter().filter(|target| target.is_ipv4() == from.is_ipv4()) {
                let request = echo_request(*target, identifier, sequence, cookie);
                // No route, no carrier, no memory: all the same to the question whether anybody answers.
                let _ = socket.send(&request, *target, index).await;
            }
        }
        loop {
            let (bytes, answerer) = tokio::select! {
                received = socket.receive() => match received {
                    Ok(received) => received,
                    // An earlier packet's fate, told by ICMP; a pause, so that a broken socket does not spin.
                    Err(_) => {
                        tokio::time::sleep(ERROR_PAUSE).await;
                        continue;
                    }
                },
                () = sleep_until(until) => break,
            };
            if answerer != from && is_echo_reply(&bytes, from.is_ipv4(), &cookie) {
                return Ok(Some(answerer));
            }
        }
    }
    Ok(None)
}
