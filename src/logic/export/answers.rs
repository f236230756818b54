//! Answers on their way from a session to its socket: small bytes, and payloads that wait in the pool's buffers.

use super::offer::Payload;
use crate::base::ids::BufferId;

/// A run of bytes to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// Bytes held here.
    Own(&'a [u8]),
    /// Bytes held by the pool; whoever takes the run takes the buffer.
    Pool(Payload),
}

/// The answers given since they were last taken, in order.
#[derive(Debug, Default)]
pub struct Answers {
    bytes: Vec<u8>,
    /// Payloads, each with the number of own bytes that go before it.
    payloads: Vec<(usize, Payload)>,
}

impl Answers {
    /// Whether nothing was answered.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.payloads.is_empty()
    }

    /// The vector own bytes are appended to.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends a payload and, with it, its buffer.
    pub(super) fn push_payload(&mut self, payload: Payload) {
        self.payloads.push((self.bytes.len(), payload));
    }

    /// Hands everything over, in order.
    pub fn take(&mut self, mut hand_over: impl FnMut(Run<'_>)) {
        let mut at = 0;
        for (before, payload) in self.payloads.drain(..) {
            if before > at {
                hand_over(Run::Own(&self.bytes[at..before]));
                at = before;
            }
            hand_over(Run::Pool(payload));
        }
        if at < self.bytes.len() {
            hand_over(Run::Own(&self.bytes[at..]));
        }
        self.bytes.clear();
    }

    /// Forgets everything; hands its buffers to `release`.
    pub(super) fn clear(&mut self, mut release: impl FnMut(BufferId)) {
        self.bytes.clear();
        self.payloads.drain(..).for_each(|(_, payload)| release(payload.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_in_order_and_once() {
        let payload = |buffer| Payload { buffer: BufferId(buffer), start: 100, length: 50 };
        let mut answers = Answers::default();
        answers.push_payload(payload(6));
        answers.bytes().extend_from_slice(b"ab");
        answers.bytes().extend_from_slice(b"cd");
        answers.push_payload(payload(7));
        answers.push_payload(payload(8));
        answers.bytes().extend_from_slice(b"ef");
        let mut taken = Vec::new();
        let text = |run: Run<'_>| match run {
            Run::Own(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Run::Pool(payload) => payload.buffer.to_string(),
        };
        answers.take(|run| taken.push(text(run)));
        assert_eq!(taken, ["6", "abcd", "7", "8", "ef"]);
        assert!(answers.is_empty());
        answers.take(|run| panic!("{run:?} a second time"));
    }
}
