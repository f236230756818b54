//! The rules a core goes by, one of which can be broken on purpose, for the simulators to notice.

/// All rules, but for a mutant. `M` names the rules that can be broken.
#[derive(Clone, Copy, Debug)]
pub struct Rules<M> {
    #[cfg(feature = "mutants")]
    broken: Option<M>,
    #[cfg(not(feature = "mutants"))]
    broken: std::marker::PhantomData<M>,
}

impl<M> Default for Rules<M> {
    fn default() -> Rules<M> {
        Rules { broken: Default::default() }
    }
}

impl<M: Copy + PartialEq> Rules<M> {
    /// All but one.
    #[cfg(feature = "mutants")]
    pub fn without(mutation: M) -> Rules<M> {
        Rules { broken: Some(mutation) }
    }

    /// Whether this rule is broken on purpose.
    #[cfg(feature = "mutants")]
    pub fn broken(&self, mutation: M) -> bool {
        self.broken == Some(mutation)
    }

    /// Whether this rule is broken on purpose.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub fn broken(&self, _mutation: M) -> bool {
        false
    }
}
