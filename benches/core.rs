//! What deciding costs in time: the core for each operation, its maps at the sizes of large volumes, codecs, checksums,
//! and what two nodes that meet have to do. `cargo bench --no-default-features --bench core`.

mod common;

use common::Pair;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use roaring::RoaringBitmap;
use std::hint::black_box;
use twinblock::base::ids::{BufferId, Epoch, Sequence, SessionId};
use twinblock::base::range::{BLOCK, ByteRange};
use twinblock::logic::mirror::marks::{Marks, Unstable, deserialise_part, serialise_in_parts};
use twinblock::wire::frame::{self, Frame};
use twinblock::wire::message::{self, Message};
use twinblock::wire::nbd::transmission::{self, HeaderStyle};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const WARM_BYTES: u64 = 64 << 20;
const SIZES: [(&str, u64); 2] = [("1 TiB", TIB), ("16 TiB", 16 * TIB)];

fn core(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core, both nodes");
    let mut operation = |name: &str, mut pair: Pair, operations: u64, what: &mut dyn FnMut(&mut Pair)| {
        (0..64).for_each(|_| pair.write(32, WARM_BYTES));
        group.throughput(Throughput::Elements(operations));
        group.bench_function(name, |bencher| bencher.iter(|| what(&mut pair)));
    };
    let pair = |size| Pair::in_sync(size, |_| {});
    operation("write", pair(GIB), 1, &mut |pair| pair.write(1, WARM_BYTES));
    operation("32 writes at once", pair(GIB), 32, &mut |pair| pair.write(32, WARM_BYTES));
    let gated = Pair::in_sync(GIB, |settings| settings.receipt_gating = true);
    operation("write gated by receipt", gated, 1, &mut |pair| pair.write(1, WARM_BYTES));
    operation("write at 16 TiB", pair(16 * TIB), 1, &mut |pair| pair.write(1, WARM_BYTES));
    operation("write alone at 1 TiB", pair(TIB).alone(), 1, &mut |pair| pair.write(1, TIB));
    operation("read", pair(GIB), 1, &mut |pair| pair.read(1, WARM_BYTES));
    operation("flush", pair(GIB), 1, &mut Pair::flush);
    group.finish();
}

/// Every so many blocks of a volume, one, at places that do not repeat.
fn scattered(size_bytes: u64, one_in: u64) -> RoaringBitmap {
    let blocks = size_bytes / BLOCK;
    RoaringBitmap::from_sorted_iter((0..blocks / one_in).map(|at| (at * one_in + at * 7919 % one_in) as u32))
        .expect("they are in order")
}

fn maps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dirty map");
    group.sample_size(20);
    for (name, size) in SIZES {
        let marks = Marks { dirty: scattered(size, 64), ..Marks::default() };
        let mut random = 1_u64;
        let mut place = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ByteRange::new((random >> 20) % (size / BLOCK) * BLOCK, BLOCK)
        };
        let mut changed = marks.clone();
        group.bench_function(BenchmarkId::new("mark and clear a block", name), |bencher| {
            bencher.iter(|| {
                let range = place();
                changed.mark(range);
                changed.clear(range);
            });
        });
        let mut from = 0;
        group.bench_function(BenchmarkId::new("find the next run", name), |bencher| {
            bencher.iter(|| from = marks.next_run(from, 256).map_or(0, |(run, _)| run.end));
        });
        group.bench_function(BenchmarkId::new("count marked bytes", name), |bencher| bencher.iter(|| marks.bytes()));
        let mut unstable = Unstable::default();
        let mut cycle = 0;
        group.bench_function(BenchmarkId::new("1000 unstable writes and their cycle", name), |bencher| {
            bencher.iter(|| {
                (0..1000).for_each(|_| unstable.add(place()));
                cycle += 1;
                unstable.close(cycle);
                unstable.stable(cycle);
            });
        });
    }
    group.finish();
}

fn handshake(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    group.sample_size(10);
    for (name, size) in SIZES {
        let (ours, theirs) = (scattered(size, 64), scattered(size, 96));
        group.bench_function(BenchmarkId::new("marks to messages", name), |bencher| {
            bencher.iter(|| serialise_in_parts(black_box(&theirs)));
        });
        let parts = serialise_in_parts(&theirs);
        group.bench_function(BenchmarkId::new("marks from messages, united with ours", name), |bencher| {
            bencher.iter_batched(
                || ours.clone(),
                |mut ours| {
                    for part in &parts {
                        ours |= deserialise_part(part).expect("a sound part");
                    }
                    ours
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let range = ByteRange::new(GIB, 4096);
    let data = Frame::Data { sequence: Sequence(5), range, fua: false, buffer: BufferId(1) };
    let bytes = frame::encode_header(&data, SessionId(1), Epoch(1), 4096, 7);
    group.bench_function("frame header out", |bencher| {
        bencher.iter(|| frame::encode_header(black_box(&data), SessionId(1), Epoch(1), 4096, 7));
    });
    group.bench_function("frame header in", |bencher| bencher.iter(|| frame::decode_header(black_box(&bytes))));
    let written = Message::Written { sequences: (0..32).map(Sequence).collect() };
    let encoded = message::encode(&written);
    group.bench_function("32 acknowledgements out", |bencher| bencher.iter(|| message::encode(black_box(&written))));
    group.bench_function("32 acknowledgements in", |bencher| bencher.iter(|| message::decode(black_box(&encoded))));
    let mut request = Vec::new();
    let header = transmission::RequestHeader { flags: 0, command: 1, cookie: 77, offset: GIB, length: 4096 };
    transmission::encode_request(&mut request, HeaderStyle::Simple, &header);
    group.bench_function("NBD request in", |bencher| {
        bencher.iter(|| transmission::decode_request(HeaderStyle::Simple, black_box(&request)));
    });
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [4 << 10, 128 << 10, 1 << 20] {
        let bytes: Vec<u8> = (0..length).map(|at: usize| (at * 31 % 251) as u8).collect();
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_with_input(BenchmarkId::new("CRC-32 of a frame", length), &bytes, |bencher, bytes| {
            bencher.iter(|| crc32fast::hash(bytes));
        });
        group.bench_with_input(BenchmarkId::new("XXH3-128 of a block", length), &bytes, |bencher, bytes| {
            bencher.iter(|| xxhash_rust::xxh3::xxh3_128(bytes));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for group in [core, maps, handshake, codecs, checksums] {
        group(&mut criterion);
    }
    criterion.final_summary();
}
