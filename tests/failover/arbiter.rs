//! The simulated register, whose changes may take exactly so long, and which may be restored from a backup.

pub use crate::register::{Answer, Arbiter as Register};
use std::ops::{Deref, DerefMut};
use twinblock::base::arbiter::Versioned;
use twinblock::logic::failover::interface::ArbiterCall;

#[derive(Clone, Debug, Default)]
pub struct Arbiter {
    register: Register,
    /// Every change takes exactly so long.
    pub change_takes: Option<std::time::Duration>,
    /// Whoever asks may read, and change nothing.
    pub read_only: bool,
    /// What a backup would bring back.
    backup: Option<Versioned>,
}

impl Arbiter {
    /// Carries the call out, at the moment it arrives.
    pub fn carry_out(&mut self, call: ArbiterCall) -> Answer {
        if self.read_only && matches!(call, ArbiterCall::Cas { .. }) {
            return Register::silence(call, false);
        }
        let before = (self.revision, self.standing);
        let answer = self.register.carry_out(call);
        if self.revision != before.0 {
            self.backup = before.1;
        }
        answer
    }

    /// The store is restored from a backup: the last change never happened.
    pub fn restore(&mut self) {
        self.standing = self.backup;
    }
}

impl Deref for Arbiter {
    type Target = Register;

    fn deref(&self) -> &Register {
        &self.register
    }
}

impl DerefMut for Arbiter {
    fn deref_mut(&mut self) -> &mut Register {
        &mut self.register
    }
}
