//! Descriptors of a block status: a marked range, an unmarked one, and so on, as lengths that follow one another.

use crate::base::range::ByteRange;

/// One descriptor: bytes, and what holds for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Never zero.
    pub length: u64,
    /// Bits of the context.
    pub flags: u64,
}

/// What is known of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The marked parts, in order and apart from one another; they may begin before the range or end after it.
    pub parts: Vec<ByteRange>,
    /// Nothing is known from this byte of the volume on.
    pub known_to: u64,
}

impl Marks {
    /// What a search for at most `asked` marked parts of `range` tells: all of it, or the range up to the last part.
    pub fn found(range: ByteRange, parts: Vec<ByteRange>, asked: usize) -> Marks {
        let cut = parts.len() >= asked;
        let known_to = parts.last().filter(|_| cut).map_or(range.end(), ByteRange::end);
        Marks { parts, known_to }
    }

    /// Takes out of the marked parts whatever one of `busy` overlaps.
    pub fn remove(&mut self, busy: impl Iterator<Item = ByteRange>) {
        for hot in busy {
            if self.parts.iter().any(|part| part.overlaps(&hot)) {
                self.parts = self.parts.iter().flat_map(|part| outside(*part, hot)).flatten().collect();
            }
        }
    }
}

/// Describes `range` from its start: at least one descriptor, at most `most`, none past the end of the range; may end
/// short where nothing more is known. Marked parts get `marked`, the rest gets 0. Neighbours of one kind are one.
pub fn describe(range: ByteRange, marks: &Marks, marked: u64, most: usize, out: &mut Vec<Descriptor>) {
    out.clear();
    let mut at = range.offset;
    for part in marks.parts.iter().filter_map(|part| part.intersection(&range)) {
        if part.offset > at {
            push(out, part.offset - at, 0);
        }
        let start = part.offset.max(at);
        if part.end() > start {
            push(out, part.end() - start, marked);
            at = part.end();
        }
    }
    // Unmarked is always safe to say, and one descriptor must come even where nothing is known.
    let end = if out.is_empty() && marks.known_to <= at { range.end() } else { range.end().min(marks.known_to) };
    if end > at {
        push(out, end - at, 0);
    }
    out.truncate(most.max(1));
}

/// The parts of `part` before and after `hole`.
fn outside(part: ByteRange, hole: ByteRange) -> [Option<ByteRange>; 2] {
    if !part.overlaps(&hole) {
        return [Some(part), None];
    }
    let before = ByteRange::new(part.offset, hole.offset.saturating_sub(part.offset));
    let after_from = hole.end().min(part.end());
    let after = ByteRange::new(after_from, part.end() - after_from);
    [before, after].map(|side| (side.length > 0).then_some(side))
}

fn push(out: &mut Vec<Descriptor>, length: u64, flags: u64) {
    match out.last_mut() {
        Some(last) if last.flags == flags => last.length += length,
        _ => out.push(Descriptor { length, flags }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(range: ByteRange, parts: &[ByteRange], asked: usize, most: usize) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        describe(range, &Marks::found(range, parts.to_vec(), asked), 3, most, &mut out);
        out.into_iter().map(|descriptor| (descriptor.length, descriptor.flags)).collect()
    }

    #[test]
    fn marked_and_unmarked_parts_alternate() {
        let range = ByteRange::new(100, 100);
        let parts = [ByteRange::new(110, 10), ByteRange::new(150, 20)];
        assert_eq!(described(range, &parts, 8, 8), [(10, 0), (10, 3), (30, 0), (20, 3), (30, 0)]);
        assert_eq!(described(range, &parts, 8, 2), [(10, 0), (10, 3)]);
        assert_eq!(described(range, &[], 8, 8), [(100, 0)]);
    }

    #[test]
    fn parts_are_cut_to_the_range_and_neighbours_joined() {
        let range = ByteRange::new(100, 100);
        let parts = [ByteRange::new(0, 150), ByteRange::new(150, 500)];
        assert_eq!(described(range, &parts, 8, 8), [(100, 3)]);
        assert_eq!(described(range, &[ByteRange::new(0, 100)], 8, 8), [(100, 0)]);
    }

    #[test]
    fn nothing_is_claimed_after_the_last_part_when_the_search_was_cut() {
        let range = ByteRange::new(100, 100);
        let parts = [ByteRange::new(110, 10), ByteRange::new(150, 20)];
        assert_eq!(described(range, &parts, 2, 8), [(10, 0), (10, 3), (30, 0), (20, 3)]);
        // Nothing found inside the range, and yet one descriptor must come: unmarked is always safe.
        assert_eq!(described(range, &[ByteRange::new(0, 10)], 1, 8), [(100, 0)]);
    }

    #[test]
    fn busy_ranges_are_taken_out() {
        let parts = vec![ByteRange::new(0, 100), ByteRange::new(200, 100)];
        let mut marks = Marks { parts, known_to: 300 };
        marks.remove([ByteRange::new(40, 20), ByteRange::new(90, 150), ByteRange::new(290, 50)].into_iter());
        assert_eq!(marks.parts, [ByteRange::new(0, 40), ByteRange::new(60, 30), ByteRange::new(240, 50)]);
        marks.remove([ByteRange::new(0, 1000)].into_iter());
        assert_eq!(marks, Marks { parts: vec![], known_to: 300 });
    }
}
