//! Meta contexts: what `BLOCK_STATUS` can tell about a range.

/// A meta context this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// `base:allocation`: holes and zeroes.
    Allocation,
    /// `twinblock:dirty`: what differs or may differ from the peer's disk. Bit 0 of a descriptor: dirty.
    Dirty,
}

/// All contexts, in the order they are listed and answered.
pub const CONTEXTS: [Context; 2] = [Context::Allocation, Context::Dirty];

impl Context {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Context::Allocation => "base:allocation",
            Context::Dirty => "twinblock:dirty",
        }
    }

    /// Its number on the wire, once chosen.
    pub fn id(self) -> u32 {
        match self {
            Context::Allocation => 1,
            Context::Dirty => 2,
        }
    }

    fn namespace(self) -> &'static str {
        match self {
            Context::Allocation => "base:",
            Context::Dirty => "twinblock:",
        }
    }
}

/// A set of contexts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    allocation: bool,
    dirty: bool,
}

impl Selection {
    /// No context.
    pub const NONE: Selection = Selection { allocation: false, dirty: false };

    /// What `SET_META_CONTEXT` chooses: only whole names count; the rest is ignored, as the protocol demands.
    pub fn chosen(queries: &[&str]) -> Selection {
        Selection::matching(|context| queries.contains(&context.name()))
    }

    /// What `LIST_META_CONTEXT` lists: everything without a query, else whole names and whole namespaces.
    pub fn listed(queries: &[&str]) -> Selection {
        Selection::matching(|context| {
            queries.is_empty() || queries.iter().any(|query| *query == context.name() || *query == context.namespace())
        })
    }

    /// The contexts of these numbers. `None` when one is not in this set, or comes twice.
    pub fn narrowed(self, ids: &[u32]) -> Option<Selection> {
        let known = ids.iter().all(|id| self.iter().any(|context| context.id() == *id));
        let twice = ids.iter().enumerate().any(|(at, id)| ids[..at].contains(id));
        (known && !twice).then(|| Selection::matching(|context| ids.contains(&context.id())))
    }

    fn matching(wanted: impl Fn(Context) -> bool) -> Selection {
        Selection { allocation: wanted(Context::Allocation), dirty: wanted(Context::Dirty) }
    }

    /// Whether the context is in the set.
    pub fn contains(self, context: Context) -> bool {
        match context {
            Context::Allocation => self.allocation,
            Context::Dirty => self.dirty,
        }
    }

    /// Whether no context is in the set.
    pub fn is_empty(self) -> bool {
        self == Selection::NONE
    }

    /// The contexts of the set, in the order of [`CONTEXTS`].
    pub fn iter(self) -> impl Iterator<Item = Context> {
        CONTEXTS.into_iter().filter(move |context| self.contains(*context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(selection: Selection) -> Vec<&'static str> {
        selection.iter().map(Context::name).collect()
    }

    #[test]
    fn choosing_takes_whole_names_only() {
        assert_eq!(names(Selection::chosen(&["base:allocation", "base:allocation"])), ["base:allocation"]);
        assert_eq!(names(Selection::chosen(&["base:", "twinblock:", "base:other", "x:y", ""])), [""; 0]);
        assert!(Selection::chosen(&[]).is_empty());
        assert_eq!(
            names(Selection::chosen(&["twinblock:dirty", "base:allocation"])),
            ["base:allocation", "twinblock:dirty"]
        );
    }

    #[test]
    fn listing_takes_namespaces_and_nothing_means_all() {
        assert_eq!(names(Selection::listed(&[])), ["base:allocation", "twinblock:dirty"]);
        assert_eq!(names(Selection::listed(&["base:"])), ["base:allocation"]);
        assert_eq!(names(Selection::listed(&["twinblock:", "qemu:"])), ["twinblock:dirty"]);
        assert_eq!(names(Selection::listed(&["base"])), [""; 0]);
    }

    #[test]
    fn numbers_narrow_only_what_was_chosen() {
        let both = Selection::listed(&[]);
        assert_eq!(both.narrowed(&[2]).map(names), Some(vec!["twinblock:dirty"]));
        assert_eq!(both.narrowed(&[2, 2]), None);
        assert_eq!(both.narrowed(&[3]), None);
        assert_eq!(Selection::chosen(&["base:allocation"]).narrowed(&[2]), None);
        assert_eq!(both.narrowed(&[]), Some(Selection::NONE));
    }
}
