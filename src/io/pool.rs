//! The buffers of one shard: one arena, handed out in power-of-two blocks of 4 KiB to 1 MiB.
//!
//! ```text
//! arena   | chunk 0 (1 MiB) | chunk 1 | chunk 2 | ...      a chunk belongs to one class while anything in it is in use
//! class   |     Client      |  Link   |    -    |          each class is promised a minimum number of chunks
//! blocks  |4K|4K| 8K | ...  |   1M    |         |          buddies inside a chunk
//! ```
//!
//! Classes keep each other from starving: however many buffers clients hold, the peer's frames and the resync find
//! their promised chunks free, and since a chunk is never shared, small buffers of one class can't fragment the space
//! of another. Within a class a large buffer may wait for small ones to be released; all of them are, in bounded time.
//!
//! A buffer is owned once (`allocate` to `release`) and may be held besides by whoever still reads or writes its
//! memory (a send queue, the kernel); its memory is reused when the owner has released it and no hold is left. Names
//! carry a generation, so that using a buffer after its end is noticed, in release builds too.
//!
//! The arena asks for huge pages (a megabyte in 4 KiB pages exceeds many devices' segment limit and is split) and is
//! touched only as far as it is used: always the lowest free address.

use crate::base::ids::BufferId;
use crate::base::limits::{PIECE_BYTES_MAX, POOL_ARENA_BYTES, POOL_RESERVE_CHUNKS};
use crate::base::range::{BLOCK, BLOCK_SHIFT};
use std::io;
use std::ptr::NonNull;

/// log2 of the pages of a chunk, and largest order of a block.
const CHUNK_ORDER: u8 = (PIECE_BYTES_MAX.trailing_zeros() - BLOCK_SHIFT) as u8;
const CHUNK_PAGES: usize = 1 << CHUNK_ORDER;
/// A buffer's name is its first page and the generation of that page's slot.
const PAGE_BITS: u32 = 16;

/// Whose work a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Requests of clients.
    Client,
    /// Frames coming in from the peer.
    Link,
    /// Chunks read for a resync.
    Resync,
}

const CLASSES: usize = 3;

/// The buffer pool of one shard.
#[derive(Debug)]
pub struct Pool {
    arena: Arena,
    chunks: Vec<Chunk>,
    slots: Vec<Slot>,
    /// Chunks each class owns right now.
    owned: [usize; CLASSES],
    /// Chunks each class can always get.
    promised: [usize; CLASSES],
    /// Buffers in use.
    in_use: usize,
    /// How often memory became free, ever.
    frees: u64,
    /// All memory is at hand, and is kept.
    reserved: bool,
}

/// One 1 MiB piece of the arena: a buddy tree, kept as the largest free order under each node.
#[derive(Debug)]
struct Chunk {
    class: Option<Class>,
    /// Node 1 is the whole chunk, the children of `n` are `2n` and `2n + 1`. Holds order + 1; 0 is "nothing free".
    tree: Box<[u8]>,
}

/// What is known of the block that begins at one page.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    generation: u16,
    /// log2 of the block's pages.
    order: u8,
    owned: bool,
    /// Users of the memory besides the owner.
    holds: u16,
    /// Pages asked for; the block may be larger.
    pages: u16,
    /// A checksum of `crc_bytes` bytes from `crc_at` on, when `crc_bytes` is not zero.
    crc: u32,
    crc_at: u16,
    crc_bytes: u32,
}

impl Slot {
    fn is_live(&self) -> bool {
        self.owned || self.holds > 0
    }
}

impl Pool {
    /// A pool of the usual size.
    pub fn new() -> io::Result<Pool> {
        Pool::with_arena(POOL_ARENA_BYTES)
    }

    /// A pool with an arena of `bytes`, a multiple of 1 MiB of at least four chunks.
    pub fn with_arena(bytes: usize) -> io::Result<Pool> {
        let chunk_bytes = PIECE_BYTES_MAX as usize;
        assert!(bytes.is_multiple_of(chunk_bytes), "an arena is made of whole chunks");
        let count = bytes / chunk_bytes;
        assert!(count > CLASSES && count * CHUNK_PAGES <= 1 << PAGE_BITS, "an arena is neither tiny nor huge");
        // A small arena (in tests) promises each class a quarter at most.
        let promised = POOL_RESERVE_CHUNKS.min(count / 4);
        Ok(Pool {
            arena: Arena::map(bytes)?,
            chunks: (0..count).map(|_| Chunk::empty()).collect(),
            slots: vec![Slot::default(); count * CHUNK_PAGES],
            owned: [0; CLASSES],
            promised: [promised; CLASSES],
            in_use: 0,
            frees: 0,
            reserved: false,
        })
    }

    /// A buffer of at least `bytes` (more than zero, at most 1 MiB; rounded up to whole 4 KiB blocks), with whatever
    /// content. `None` when the class has no room now: try again when [`Pool::frees`] has risen.
    pub fn allocate(&mut self, bytes: usize, class: Class) -> Option<BufferId> {
        assert!(bytes > 0 && bytes <= PIECE_BYTES_MAX as usize, "a buffer is at most one piece");
        let pages = bytes.div_ceil(BLOCK as usize);
        let order = pages.next_power_of_two().trailing_zeros() as u8;
        let chunk = self.chunk_with_room(order, class)?;
        if self.chunks[chunk].class.is_none() {
            self.chunks[chunk].class = Some(class);
            self.owned[class as usize] += 1;
        }
        let page = chunk * CHUNK_PAGES + self.chunks[chunk].take(order);
        let slot = &mut self.slots[page];
        assert!(!slot.is_live(), "a block is handed out only when it is free");
        slot.generation = slot.generation.wrapping_add(1);
        slot.order = order;
        slot.owned = true;
        slot.pages = pages as u16;
        slot.crc_bytes = 0;
        self.in_use += 1;
        Some(BufferId(u32::from(slot.generation) << PAGE_BITS | page as u32))
    }

    /// The lowest chunk of the class with a free block of the order, else the lowest free chunk it may take.
    fn chunk_with_room(&self, order: u8, class: Class) -> Option<usize> {
        let mut free = None;
        let mut free_count = 0;
        for (index, chunk) in self.chunks.iter().enumerate() {
            match chunk.class {
                Some(owner) if owner == class && chunk.tree[1] > order => return Some(index),
                Some(_) => {}
                None => {
                    free_count += 1;
                    free = free.or(Some(index));
                }
            }
        }
        let kept_for_others: usize = (0..CLASSES)
            .filter(|other| *other != class as usize)
            .map(|other| self.promised[other].saturating_sub(self.owned[other]))
            .sum();
        if free_count > kept_for_others { free } else { None }
    }

    /// The owner needs the buffer no longer. Its memory stays until the last hold ends.
    pub fn release(&mut self, buffer: BufferId) {
        let slot = self.live_slot_mut(buffer);
        assert!(slot.owned, "{buffer:?} was released twice");
        slot.owned = false;
        self.free_if_unused(buffer);
    }

    /// Keeps the buffer's memory from being reused until the matching [`Pool::unhold`], whatever its owner does.
    pub fn hold(&mut self, buffer: BufferId) {
        let slot = self.live_slot_mut(buffer);
        slot.holds = slot.holds.checked_add(1).expect("a buffer has few users");
    }

    /// Ends a hold.
    pub fn unhold(&mut self, buffer: BufferId) {
        let slot = self.live_slot_mut(buffer);
        slot.holds = slot.holds.checked_sub(1).expect("a hold ends once");
        self.free_if_unused(buffer);
    }

    fn free_if_unused(&mut self, buffer: BufferId) {
        let page = page_of(buffer);
        let slot = self.slots[page];
        if slot.is_live() {
            return;
        }
        if cfg!(debug_assertions) {
            self.arena.slice_mut(page, slot.pages as usize).fill(0xdb);
        }
        let index = page / CHUNK_PAGES;
        let chunk = &mut self.chunks[index];
        chunk.give_back(page % CHUNK_PAGES, slot.order);
        if chunk.tree[1] == CHUNK_ORDER + 1 {
            let class = chunk.class.take().expect("a chunk in use has a class");
            self.owned[class as usize] -= 1;
        }
        self.in_use -= 1;
        self.frees += 1;
    }

    /// The buffer's bytes: what was asked for, rounded up to whole blocks.
    pub fn slice(&self, buffer: BufferId) -> &[u8] {
        let slot = self.live_slot(buffer);
        self.arena.slice(page_of(buffer), slot.pages as usize)
    }

    /// The buffer's bytes, to be changed. Forgets the cached checksum.
    pub fn slice_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        let slot = self.live_slot_mut(buffer);
        slot.crc_bytes = 0;
        let pages = slot.pages as usize;
        self.arena.slice_mut(page_of(buffer), pages)
    }

    /// Makes the bytes of `to` those of `from`, another buffer of the same size, or zeroes.
    pub fn copy(&mut self, from: Option<BufferId>, to: BufferId) {
        let Some(from) = from else { return self.slice_mut(to).fill(0) };
        assert!(from != to && self.bytes_of(from) == self.bytes_of(to), "buffers of the same size");
        self.slice_mut(to);
        self.arena.copy(page_of(from), page_of(to), self.live_slot(from).pages as usize);
    }

    /// Where the buffer's bytes are, for the kernel to read from or write to. Whoever gives this away holds the buffer
    /// for as long. Forgets the cached checksum when the kernel is to write (`fill`).
    pub fn pointer(&mut self, buffer: BufferId, fill: bool) -> *mut u8 {
        let slot = self.live_slot_mut(buffer);
        if fill {
            slot.crc_bytes = 0;
        }
        self.arena.pointer(page_of(buffer))
    }

    /// Bytes of the buffer.
    pub fn bytes_of(&self, buffer: BufferId) -> usize {
        usize::from(self.live_slot(buffer).pages) << BLOCK_SHIFT
    }

    /// CRC32 of `bytes` bytes of the buffer from `at` (below 4 KiB) on; computed once and kept until the bytes change.
    pub fn crc(&mut self, buffer: BufferId, at: usize, bytes: usize) -> u32 {
        assert!(at < BLOCK as usize, "a payload begins in its buffer's first block");
        let slot = *self.live_slot(buffer);
        if bytes > 0 && slot.crc_bytes as usize == bytes && usize::from(slot.crc_at) == at {
            return slot.crc;
        }
        let crc = crc32fast::hash(&self.slice(buffer)[at..at + bytes]);
        let slot = self.live_slot_mut(buffer);
        (slot.crc, slot.crc_at, slot.crc_bytes) = (crc, at as u16, bytes as u32);
        crc
    }

    /// Buffers in use, held ones included.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Rises whenever memory becomes free, so that one who was refused knows when trying again makes sense.
    pub fn frees(&self) -> u64 {
        self.frees
    }

    /// Has all of its memory at hand from now on, and keeps it.
    pub fn reserve(&mut self) {
        self.reserved = true;
        self.arena.touch();
    }

    /// Gives the memory of unused chunks back to the system; worth it when the shard has been idle for long. A pool that
    /// was reserved keeps it.
    pub fn trim(&mut self) {
        if self.reserved {
            return;
        }
        let free: Vec<usize> = (0..self.chunks.len()).filter(|index| self.chunks[*index].class.is_none()).collect();
        free.into_iter().for_each(|index| self.arena.discard(index * CHUNK_PAGES, CHUNK_PAGES));
    }

    fn live_slot(&self, buffer: BufferId) -> &Slot {
        let slot = self.slots.get(page_of(buffer)).expect("a buffer of this pool");
        assert!(slot.is_live() && slot.generation == generation_of(buffer), "{buffer:?} is used after its end");
        slot
    }

    fn live_slot_mut(&mut self, buffer: BufferId) -> &mut Slot {
        let slot = self.slots.get_mut(page_of(buffer)).expect("a buffer of this pool");
        assert!(slot.is_live() && slot.generation == generation_of(buffer), "{buffer:?} is used after its end");
        slot
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.slots.iter().any(|slot| slot.holds > 0) {
            // The kernel may still write there: the memory is leaked rather than given to someone else.
            self.arena.bytes = 0;
        }
    }
}

fn page_of(buffer: BufferId) -> usize {
    (buffer.0 & ((1 << PAGE_BITS) - 1)) as usize
}

fn generation_of(buffer: BufferId) -> u16 {
    (buffer.0 >> PAGE_BITS) as u16
}

impl Chunk {
    fn empty() -> Chunk {
        let mut tree = vec![0u8; 2 * CHUNK_PAGES].into_boxed_slice();
        for (node, free) in tree.iter_mut().enumerate().skip(1) {
            *free = CHUNK_ORDER - node.ilog2() as u8 + 1;
        }
        Chunk { class: None, tree }
    }

    /// Takes the lowest free block of the order and returns its first page. The root says that there is one.
    fn take(&mut self, order: u8) -> usize {
        assert!(self.tree[1] > order, "the chunk has room");
        let mut node = 1;
        for _ in order..CHUNK_ORDER {
            let left = 2 * node;
            // The lower half, unless only the upper has room; a partly used half is preferred by being lower.
            node = if self.tree[left] > order { left } else { left + 1 };
        }
        self.tree[node] = 0;
        let page = (node << order) - CHUNK_PAGES;
        self.update_above(node, order);
        page
    }

    fn give_back(&mut self, page: usize, order: u8) {
        let node = (page + CHUNK_PAGES) >> order;
        assert!(self.tree[node] == 0, "a block is given back once");
        self.tree[node] = order + 1;
        self.update_above(node, order);
    }

    fn update_above(&mut self, mut node: usize, mut order: u8) {
        while node > 1 {
            node /= 2;
            order += 1;
            let (left, right) = (self.tree[2 * node], self.tree[2 * node + 1]);
            let whole = left == order && right == order;
            self.tree[node] = if whole { order + 1 } else { left.max(right) };
        }
    }
}

/// The mapped memory. Pages are zero until they are first used.
#[derive(Debug)]
struct Arena {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the arena owns its mapping, which is not tied to a thread; sharing follows the borrow of the pool.
unsafe impl Send for Arena {}

/// Alignment of the mapping: a huge page.
const HUGE_PAGE: usize = 2 << 20;

impl Arena {
    fn map(bytes: usize) -> io::Result<Arena> {
        // One huge page more, to be cut off again so that what is left begins on a huge page's boundary.
        let wanted = bytes + HUGE_PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), wanted, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let head = address.align_offset(HUGE_PAGE);
        // SAFETY: both cut-off parts lie inside the mapping just made, outside the part that is kept; `base` is inside.
        let base = unsafe {
            if head > 0 {
                libc::munmap(address, head);
            }
            let base = address.add(head);
            libc::munmap(base.add(bytes), HUGE_PAGE - head);
            // Advice only: where huge pages are switched off the arena works in small ones.
            libc::madvise(base, bytes, libc::MADV_HUGEPAGE);
            // A forked child must not turn pages the kernel is reading into, into copies.
            libc::madvise(base, bytes, libc::MADV_DONTFORK);
            // A core dump of a daemon should not hold its clients' data.
            libc::madvise(base, bytes, libc::MADV_DONTDUMP);
            base
        };
        let base = NonNull::new(base.cast()).expect("a mapping is never at address zero");
        Ok(Arena { base, bytes })
    }

    fn pointer(&self, page: usize) -> *mut u8 {
        let at = page << BLOCK_SHIFT;
        assert!(at < self.bytes, "a page of the arena");
        // SAFETY: the offset lies inside the mapping.
        unsafe { self.base.as_ptr().add(at) }
    }

    fn slice(&self, page: usize, pages: usize) -> &[u8] {
        assert!((page + pages) << BLOCK_SHIFT <= self.bytes, "pages of the arena");
        // SAFETY: the range lies inside the mapping, is initialised (zero) memory, and the pool's borrow keeps safe
        // code from changing it meanwhile. The kernel writes only to buffers whose read is under way, which nobody
        // else looks at until it is done.
        unsafe { std::slice::from_raw_parts(self.pointer(page), pages << BLOCK_SHIFT) }
    }

    fn slice_mut(&mut self, page: usize, pages: usize) -> &mut [u8] {
        assert!((page + pages) << BLOCK_SHIFT <= self.bytes, "pages of the arena");
        // SAFETY: as in `slice`, and the pool is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(page), pages << BLOCK_SHIFT) }
    }

    fn copy(&mut self, from: usize, to: usize, pages: usize) {
        assert!((from.max(to) + pages) << BLOCK_SHIFT <= self.bytes, "pages of the arena");
        assert!(from + pages <= to || to + pages <= from, "buffers don't overlap");
        // SAFETY: both ranges lie inside the mapping and don't overlap, and the pool is borrowed exclusively.
        unsafe { std::ptr::copy_nonoverlapping(self.pointer(from), self.pointer(to), pages << BLOCK_SHIFT) };
    }

    /// Has the kernel put memory behind every page.
    fn touch(&mut self) {
        // SAFETY: the whole mapping is ours and writable; writing the byte that is there changes nothing.
        (0..self.bytes).step_by(BLOCK as usize).for_each(|at| unsafe {
            let byte = self.base.as_ptr().add(at);
            byte.write_volatile(byte.read_volatile());
        });
    }

    fn discard(&mut self, page: usize, pages: usize) {
        assert!((page + pages) << BLOCK_SHIFT <= self.bytes, "pages of the arena");
        // SAFETY: the range lies inside the mapping and no buffer in it is in use; it reads as zeroes afterwards.
        unsafe { libc::madvise(self.pointer(page).cast(), pages << BLOCK_SHIFT, libc::MADV_DONTNEED) };
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` and no slice of it outlives the pool. Unmapping nothing (of an arena
        // that is to be leaked) is refused by the kernel.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const MIB: usize = 1 << 20;

    fn fill(pool: &mut Pool, class: Class, bytes: usize) -> Vec<BufferId> {
        std::iter::from_fn(|| pool.allocate(bytes, class)).collect()
    }

    #[test]
    fn clients_that_take_all_they_can_leave_the_others_their_share() {
        let mut pool = Pool::with_arena(8 * MIB).unwrap();
        // Even with one small buffer in every chunk they can get.
        let clients = fill(&mut pool, Class::Client, MIB);
        assert_eq!(clients.len(), 4, "two of eight chunks are promised to each of the other classes");
        for class in [Class::Link, Class::Resync] {
            assert_eq!(fill(&mut pool, class, MIB).len(), 2);
        }
        assert_eq!(pool.allocate(1, Class::Client), None);
        let frees = pool.frees();
        pool.release(clients[0]);
        assert!(pool.frees() > frees);
        assert!(pool.allocate(1, Class::Client).is_some());
    }

    #[test]
    fn a_class_without_promises_left_cannot_take_the_last_promised_chunk() {
        let mut pool = Pool::with_arena(4 * MIB).unwrap();
        let link = fill(&mut pool, Class::Link, MIB);
        assert_eq!(link.len(), 2);
        assert_eq!(fill(&mut pool, Class::Client, MIB).len(), 1);
        assert_eq!(fill(&mut pool, Class::Resync, MIB).len(), 1);
    }

    #[test]
    fn held_memory_outlives_its_owner() {
        let mut pool = Pool::with_arena(4 * MIB).unwrap();
        let buffer = pool.allocate(4096, Class::Client).unwrap();
        pool.slice_mut(buffer).fill(7);
        pool.hold(buffer);
        pool.release(buffer);
        let other = pool.allocate(4096, Class::Client).unwrap();
        pool.slice_mut(other).fill(8);
        assert!(pool.slice(buffer).iter().all(|byte| *byte == 7));
        pool.unhold(buffer);
        assert_eq!(pool.in_use(), 1);
    }

    #[test]
    fn the_checksum_follows_the_bytes() {
        let mut pool = Pool::with_arena(4 * MIB).unwrap();
        let buffer = pool.allocate(8192, Class::Client).unwrap();
        pool.slice_mut(buffer).fill(1);
        assert_eq!(pool.crc(buffer, 0, 8192), crc32fast::hash(&[1; 8192]));
        assert_eq!(pool.crc(buffer, 0, 8192), crc32fast::hash(&[1; 8192]));
        assert_eq!(pool.crc(buffer, 10, 100), crc32fast::hash(&[1; 100]));
        pool.slice_mut(buffer)[10] = 2;
        assert_eq!(pool.crc(buffer, 10, 100), crc32fast::hash(&pool.slice(buffer)[10..110]));
    }

    #[test]
    fn a_copy_has_its_own_checksum() {
        let mut pool = Pool::with_arena(4 * MIB).unwrap();
        let from = pool.allocate(12_288, Class::Client).unwrap();
        let to = pool.allocate(12_288, Class::Link).unwrap();
        pool.slice_mut(from).fill(1);
        pool.slice_mut(to).fill(2);
        let before = pool.crc(to, 0, 12_288);
        pool.copy(Some(from), to);
        assert!(pool.slice(to) == pool.slice(from) && pool.crc(to, 0, 12_288) != before);
        pool.copy(None, to);
        assert!(pool.slice(to).iter().all(|byte| *byte == 0) && pool.slice(from).iter().all(|byte| *byte == 1));
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_second_release_is_noticed_although_the_memory_is_still_held() {
        let mut pool = Pool::with_arena(4 * MIB).unwrap();
        let buffer = pool.allocate(1, Class::Link).unwrap();
        pool.hold(buffer);
        pool.release(buffer);
        pool.release(buffer);
    }

    #[test]
    #[should_panic(expected = "used after its end")]
    fn a_name_does_not_reach_the_next_buffer_at_the_same_place() {
        let mut pool = Pool::with_arena(4 * MIB).unwrap();
        let buffer = pool.allocate(1, Class::Link).unwrap();
        pool.release(buffer);
        let next = pool.allocate(1, Class::Link).unwrap();
        assert_eq!(page_of(buffer), page_of(next));
        pool.slice(buffer);
    }

    #[test]
    fn trimming_takes_only_what_nobody_uses() {
        let mut pool = Pool::with_arena(4 * MIB).unwrap();
        let kept = pool.allocate(4096, Class::Client).unwrap();
        let gone = pool.allocate(4096, Class::Link).unwrap();
        pool.slice_mut(kept).fill(1);
        pool.slice_mut(gone).fill(1);
        let address = pool.pointer(gone, false);
        pool.release(gone);
        pool.trim();
        assert!(pool.slice(kept).iter().all(|byte| *byte == 1));
        let again = pool.allocate(4096, Class::Link).unwrap();
        assert_eq!(pool.pointer(again, false), address);
        assert!(pool.slice(again).iter().all(|byte| *byte == 0), "the system gave new memory");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate { bytes: usize, class: Class },
        Release(usize),
        Hold(usize),
        Unhold(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let class = prop_oneof![Just(Class::Client), Just(Class::Link), Just(Class::Resync)];
        let bytes = prop_oneof![1..20_000usize, 1..=MIB, Just(MIB)];
        let step = prop_oneof![
            4 => (bytes, class).prop_map(|(bytes, class)| Step::Allocate { bytes, class }),
            3 => any::<usize>().prop_map(Step::Release),
            1 => any::<usize>().prop_map(Step::Hold),
            1 => any::<usize>().prop_map(Step::Unhold),
        ];
        prop::collection::vec(step, 1..400)
    }

    /// The slow, obvious account of who uses which bytes of an arena.
    struct Oracle {
        /// Per chunk and page: whether it is in use; per chunk: the class of what is in it.
        used: Vec<[bool; CHUNK_PAGES]>,
        live: Vec<Live>,
    }

    struct Live {
        buffer: BufferId,
        page: usize,
        block_pages: usize,
        pages: usize,
        class: Class,
        owned: bool,
        holds: usize,
        stamp: u8,
    }

    impl Oracle {
        fn chunk_class(&self, chunk: usize) -> Option<Class> {
            self.live.iter().find(|live| live.page / CHUNK_PAGES == chunk).map(|live| live.class)
        }

        /// Whether a naturally aligned free block exists in a chunk the class may use.
        fn has_room(&self, pages: usize, class: Class, promised: usize) -> bool {
            let block = pages.next_power_of_two();
            let mut owned = HashMap::new();
            let mut free = 0usize;
            for chunk in 0..self.used.len() {
                match self.chunk_class(chunk) {
                    None => free += 1,
                    Some(owner) => {
                        *owned.entry(owner as usize).or_insert(0usize) += 1;
                        let roomy = (0..CHUNK_PAGES / block)
                            .any(|at| self.used[chunk][at * block..(at + 1) * block].iter().all(|used| !used));
                        if owner == class && roomy {
                            return true;
                        }
                    }
                }
            }
            let kept: usize = (0..CLASSES)
                .filter(|other| *other != class as usize)
                .map(|other| promised.saturating_sub(owned.get(&other).copied().unwrap_or(0)))
                .sum();
            free > kept
        }

        fn remove_if_unused(&mut self, index: usize) {
            let live = &self.live[index];
            if live.owned || live.holds > 0 {
                return;
            }
            for page in live.page..live.page + live.block_pages {
                self.used[page / CHUNK_PAGES][page % CHUNK_PAGES] = false;
            }
            self.live.swap_remove(index);
        }
    }

    fn check(pool: &Pool, oracle: &Oracle) {
        assert_eq!(pool.in_use(), oracle.live.len());
        for live in &oracle.live {
            let bytes = pool.slice(live.buffer);
            assert_eq!(bytes.len(), live.pages << BLOCK_SHIFT);
            assert!(bytes[0] == live.stamp && bytes[bytes.len() - 1] == live.stamp, "bytes of a live buffer changed");
        }
    }

    proptest! {
        #[test]
        fn the_pool_agrees_with_a_slow_account(steps in steps()) {
            let mut pool = Pool::with_arena(8 * MIB).unwrap();
            let mut oracle = Oracle { used: vec![[false; CHUNK_PAGES]; 8], live: Vec::new() };
            for (number, step) in steps.into_iter().enumerate() {
                let count = oracle.live.len();
                match step {
                    Step::Allocate { bytes, class } => {
                        let pages = bytes.div_ceil(4096);
                        let expected = oracle.has_room(pages, class, 2);
                        let got = pool.allocate(bytes, class);
                        prop_assert_eq!(got.is_some(), expected);
                        let Some(buffer) = got else { continue };
                        let (page, block_pages) = (page_of(buffer), pages.next_power_of_two());
                        let chunk_class = oracle.chunk_class(page / CHUNK_PAGES);
                        prop_assert!(chunk_class.is_none() || chunk_class == Some(class), "a chunk has one class");
                        for page in page..page + block_pages {
                            let used = &mut oracle.used[page / CHUNK_PAGES][page % CHUNK_PAGES];
                            prop_assert!(!*used, "memory was handed out twice");
                            *used = true;
                        }
                        let stamp = number as u8;
                        pool.slice_mut(buffer).fill(stamp);
                        oracle.live.push(Live { buffer, page, block_pages, pages, class, owned: true, holds: 0, stamp });
                    }
                    Step::Release(at) if count > 0 && oracle.live[at % count].owned => {
                        pool.release(oracle.live[at % count].buffer);
                        oracle.live[at % count].owned = false;
                        oracle.remove_if_unused(at % count);
                    }
                    Step::Hold(at) if count > 0 => {
                        pool.hold(oracle.live[at % count].buffer);
                        oracle.live[at % count].holds += 1;
                    }
                    Step::Unhold(at) if count > 0 && oracle.live[at % count].holds > 0 => {
                        pool.unhold(oracle.live[at % count].buffer);
                        oracle.live[at % count].holds -= 1;
                        oracle.remove_if_unused(at % count);
                    }
                    _ => {}
                }
                check(&pool, &oracle);
            }
        }
    }
}
