//! The decision function for itself: every combination of what it looks at, and random ones of everything beside it.

use twinblock::base::generation::{Generation, Lineage, Relation};
use twinblock::base::ids::{BootId, Epoch, Incarnation, NodeId, Uuid};
use twinblock::base::state::{DiskState, Mode, ResyncKind, Role};
use twinblock::logic::mirror::handshake::{Decision, Plan, Rule, Side, decide};
use twinblock::wire::message::{
    Continuity, Descriptor, FEATURE_ARCHIVE_FAILED, FEATURE_DISCARD_LEAST, FEATURE_DISCARD_OLDER,
    FEATURE_DISCARD_YOUNGER, FEATURE_DISCARD_ZERO_CHANGES, PROTOCOL_VERSION,
};

const DISKS: [DiskState; 5] =
    [DiskState::Diskless, DiskState::New, DiskState::Inconsistent, DiskState::Outdated, DiskState::UpToDate];
const CONTINUITIES: [Continuity; 3] = [Continuity::Rebooted, Continuity::SameBoot, Continuity::SameProcess];
const RELATIONS: [Relation; 7] = [
    Relation::Equal,
    Relation::OursNewerMarks,
    Relation::TheirsNewerMarks,
    Relation::OursNewerHistory,
    Relation::TheirsNewerHistory,
    Relation::Fork,
    Relation::Unrelated,
];
const REQUESTS: [Option<ResyncKind>; 3] = [None, Some(ResyncKind::Compare), Some(ResyncKind::Full)];
/// Random combinations of everything.
const RANDOM_CASES: u64 = 1_000_000;

fn generation(number: u64) -> Generation {
    Generation { epoch: number, nonce: 100 + number }
}

fn lineage(current: u64, bases: &[u64], history: &[u64]) -> Lineage {
    let all = |numbers: &[u64]| numbers.iter().copied().map(generation).collect();
    Lineage { current: generation(current), bases: all(bases), history: all(history) }
}

/// Two lineages that relate like this.
fn related(relation: Relation) -> (Lineage, Lineage) {
    let old = || lineage(1, &[], &[]);
    let by_marks = || lineage(2, &[1], &[1]);
    let by_history = || lineage(3, &[2], &[2, 1]);
    match relation {
        Relation::Equal => (old(), old()),
        Relation::OursNewerMarks => (by_marks(), old()),
        Relation::TheirsNewerMarks => (old(), by_marks()),
        Relation::OursNewerHistory => (by_history(), old()),
        Relation::TheirsNewerHistory => (old(), by_history()),
        Relation::Fork => (by_marks(), lineage(9, &[1], &[1])),
        Relation::Unrelated => (old(), lineage(7, &[], &[])),
    }
}

fn node(index: u8) -> Descriptor {
    Descriptor {
        protocol: PROTOCOL_VERSION,
        features: 0,
        node: NodeId(index),
        volume: Uuid(1),
        device: Uuid(10 + index as u128),
        role: Role::Secondary,
        disk: DiskState::UpToDate,
        mode: Mode::Sync,
        capacity_bytes: 8192,
        committed_bytes: 8192,
        lineage: Lineage::default(),
        primary_epoch: Epoch(0),
        seen_epoch: Epoch(0),
        cache_epoch: 0,
        continuity: Continuity::SameProcess,
        marked: false,
        marked_bytes: 0,
        intents_marked: false,
        maps_readable: true,
        gated_since_join: false,
        exact: false,
        unfinished: None,
        discard: false,
        requested: None,
        incarnation: Incarnation(index as u64),
        boot: BootId(index as u128),
    }
}

/// A counter whose digits choose: the whole enumeration is one number counting up, a random case is a random number.
struct Digits(u64);

impl Digits {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let chosen = from[(self.0 % from.len() as u64) as usize];
        self.0 /= from.len() as u64;
        chosen
    }

    fn flag(&mut self) -> bool {
        self.pick(&[false, true])
    }
}

fn draw_main(node: &mut Descriptor, digits: &mut Digits) {
    node.disk = digits.pick(&DISKS);
    node.role = digits.pick(&[Role::Secondary, Role::Primary]);
    node.continuity = digits.pick(&CONTINUITIES);
    node.marked = digits.flag();
    node.intents_marked = digits.flag();
    node.maps_readable = digits.flag();
}

/// Choices of [`draw_main`] for one node.
const MAIN_CASES: u64 = 5 * 2 * 3 * 2 * 2 * 2;

fn draw_rest(node: &mut Descriptor, digits: &mut Digits) {
    node.capacity_bytes = digits.pick(&[8192, 8192, 8192, 4096]);
    node.discard = digits.pick(&[false, false, true]);
    node.requested = digits.pick(&REQUESTS);
    node.exact = digits.flag();
    node.gated_since_join = digits.flag();
}

fn check(a: &Descriptor, b: &Descriptor) -> Decision {
    let (here, there) = (decide(a, b), decide(b, a));
    assert_eq!((here.rule, here.plan), (there.rule, there.plan.mirrored()), "not mirror-symmetric:\n{a:?}\n{b:?}");
    assert_eq!(here.plan.code() == there.plan.code(), here.plan == there.plan, "codes are not faithful");
    if let Plan::Sync(_) = here.plan {
        check_sync(a, b, here);
    }
    if a.disk == DiskState::Diskless && b.disk == DiskState::Diskless {
        assert_eq!(here.plan, Plan::Refuse);
    }
    here
}

fn check_sync(a: &Descriptor, b: &Descriptor, decision: Decision) {
    let Plan::Sync(sync) = decision.plan else { unreachable!("asked only for syncs") };
    let (source, target) = if sync.source == Side::Ours { (a, b) } else { (b, a) };
    let case = || format!("{decision:?}\nsource {source:?}\ntarget {target:?}");
    let good = matches!(source.disk, DiskState::UpToDate | DiskState::Outdated);
    assert!(good, "a source must hold a consistent copy: {}", case());
    assert!(target.disk != DiskState::Diskless, "a target has a disk: {}", case());
    assert!(!source.discard, "what was given up is never the source: {}", case());
    assert!(target.role == Role::Secondary || sync.demote, "a primary never becomes the target undemoted: {}", case());
    let relation = source.lineage.relation(&target.lineage);
    let both_readable = source.maps_readable && target.maps_readable;
    let marked = source.marked || target.marked;
    let intents = source.intents_marked || target.intents_marked;
    match sync.kind {
        None => {
            assert_eq!(relation, Relation::Equal, "nothing to copy between different generations: {}", case());
            let clean = !marked && both_readable && target.disk != DiskState::Inconsistent;
            assert!(clean && (!intents || sync.skip_intents), "nothing to copy in spite of marks: {}", case());
        }
        Some(ResyncKind::Differential) => {
            assert!(both_readable, "a differential resync by unreadable marks: {}", case());
            let fits = matches!(relation, Relation::Equal | Relation::OursNewerMarks);
            assert!(fits && !source.discard && !target.discard, "marks relative to something else: {}", case());
        }
        Some(ResyncKind::Compare | ResyncKind::Full) => {}
    }
    if sync.skip_intents {
        let exact = source.exact && target.exact && source.gated_since_join && target.gated_since_join;
        let remembers = source.continuity == Continuity::SameProcess && relation == Relation::Equal;
        assert!(exact && remembers, "intents are skipped without a survivor's exact memory: {}", case());
    }
    let requested = source.requested.is_some() || target.requested.is_some();
    let everything = matches!(sync.kind, Some(ResyncKind::Compare | ResyncKind::Full));
    assert!(!requested || everything, "the operator's request is ignored: {}", case());
    if decision.rule == Rule::Survivor {
        assert!(source.continuity >= target.continuity, "rule R6: {}", case());
    }
    if target.discard || target.disk == DiskState::New {
        return;
    }
    let target_newer = matches!(relation, Relation::TheirsNewerMarks | Relation::TheirsNewerHistory);
    assert!(!target_newer, "newer data would be overwritten unasked: {}", case());
    let split = matches!(relation, Relation::Fork | Relation::Unrelated);
    assert!(!split, "diverged data would be overwritten unasked: {}", case());
}

#[test]
fn every_meeting_is_decided_soundly_and_alike_on_both_sides() {
    let mut refusals = 0;
    let mut syncs = 0;
    for relation in RELATIONS {
        let (ours, theirs) = related(relation);
        for last_primary in 0..2u64 {
            for number in 0..MAIN_CASES * MAIN_CASES {
                let mut digits = Digits(number);
                let (mut a, mut b) = (node(0), node(1));
                draw_main(&mut a, &mut digits);
                draw_main(&mut b, &mut digits);
                a.lineage.clone_from(&ours);
                b.lineage.clone_from(&theirs);
                a.primary_epoch = Epoch(1 - last_primary);
                b.primary_epoch = Epoch(last_primary);
                match check(&a, &b).plan {
                    Plan::Refuse => refusals += 1,
                    Plan::Sync(_) => syncs += 1,
                    Plan::Forward { .. } | Plan::Demote { .. } => {}
                }
            }
        }
    }
    assert!(refusals > 10_000 && syncs > 10_000, "{refusals} refusals and {syncs} syncs are too few to mean anything");
}

#[test]
fn requests_discards_sizes_and_exactness_keep_it_sound() {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 20
    };
    for _ in 0..RANDOM_CASES {
        let (mut a, mut b) = (node(0), node(1));
        let mut digits = Digits(random());
        (a.lineage, b.lineage) = related(digits.pick(&RELATIONS));
        draw_main(&mut a, &mut digits);
        draw_main(&mut b, &mut digits);
        let mut digits = Digits(random());
        draw_rest(&mut a, &mut digits);
        draw_rest(&mut b, &mut digits);
        a.primary_epoch = Epoch(digits.pick(&[0, 1, 2]));
        b.primary_epoch = Epoch(digits.pick(&[0, 1, 2]));
        if digits.pick(&[false, false, false, true]) && a.disk == DiskState::UpToDate {
            a.lineage = Lineage::starting_at(Generation::ZEROED);
        }
        let decision = check(&a, &b);
        let small = |n: &Descriptor| n.disk != DiskState::Diskless && n.capacity_bytes < 8192;
        if small(&a) || small(&b) {
            assert_eq!(decision.rule, Rule::Size, "a disk too small goes on");
        }
    }
}

/// A fork is settled unasked only by a policy that both have, in favour of whom it says, and only where the marks tell all
/// that was changed. A target that could not archive what only it has is never one.
#[test]
fn a_policy_settles_only_clear_forks() {
    const ZERO: u64 = FEATURE_DISCARD_ZERO_CHANGES;
    const LEAST: u64 = FEATURE_DISCARD_LEAST;
    let (ours, theirs) = related(Relation::Fork);
    const YOUNGER: u64 = FEATURE_DISCARD_YOUNGER;
    const OLDER: u64 = FEATURE_DISCARD_OLDER;
    let mut by_policy = 0;
    let mut by_age = 0;
    for number in (0..MAIN_CASES * MAIN_CASES * 900).step_by(331) {
        // Coprime to all the choices, so that each pair of them is met.
        let mut digits = Digits(number);
        let (mut a, mut b) = (node(0), node(1));
        for (node, lineage) in [(&mut a, &ours), (&mut b, &theirs)] {
            node.features = digits.pick(&[0, ZERO, LEAST, YOUNGER, OLDER]);
            let bytes = digits.pick(&[4096, 8192, 8192]);
            let epoch = Epoch(digits.pick(&[1, 2]));
            draw_main(node, &mut digits);
            node.primary_epoch = epoch;
            node.marked_bytes = if node.marked || node.intents_marked { bytes } else { 0 };
            node.lineage.clone_from(lineage);
        }
        let (here, there) = (decide(&a, &b), decide(&b, &a));
        assert_eq!((here.rule, here.plan), (there.rule, there.plan.mirrored()), "not mirror-symmetric:\n{a:?}\n{b:?}");
        if here.rule != Rule::SplitPolicy {
            continue;
        }
        by_policy += 1;
        let Plan::Sync(sync) = here.plan else { panic!("{here:?}") };
        let (winner, victim) = if sync.source == Side::Ours { (&a, &b) } else { (&b, &a) };
        assert!(a.features == b.features && a.features != 0, "a policy of one side:\n{a:?}\n{b:?}");
        assert!(a.maps_readable && b.maps_readable && a.disk == DiskState::UpToDate && b.disk == DiskState::UpToDate);
        let untouched = !victim.marked && !victim.intents_marked;
        let less = a.features == LEAST && victim.marked_bytes < winner.marked_bytes;
        let younger = a.features == YOUNGER && victim.primary_epoch > winner.primary_epoch;
        let older = a.features == OLDER && victim.primary_epoch < winner.primary_epoch;
        let chosen = (less || younger || older) && victim.role == Role::Secondary;
        assert!(untouched || chosen, "winner {winner:?}\nvictim {victim:?}");
        by_age += u32::from(!untouched && !less);
        let mut full = victim.clone();
        full.features |= FEATURE_ARCHIVE_FAILED;
        assert_eq!(decide(winner, &full).rule, Rule::Archive);
    }
    assert!(by_policy > 100 && by_age > 20, "{by_policy}, {by_age} of them by age, are too few to mean anything");
    // Marks that are not relative to what both had tell nothing.
    let (mut a, mut b) = (node(0), node(1));
    (a.lineage, b.lineage) = (lineage(5, &[4], &[4, 1]), lineage(9, &[8], &[8, 1]));
    (a.features, b.features, a.marked) = (ZERO, ZERO, true);
    assert_eq!(decide(&a, &b).rule, Rule::Fork);
}

#[test]
fn what_is_no_pair_is_refused() {
    let refused = |change: fn(&mut Descriptor)| {
        let (a, mut b) = (node(0), node(1));
        change(&mut b);
        let decision = check(&a, &b);
        assert_eq!(decision.plan, Plan::Refuse);
        decision.rule
    };
    assert_eq!(refused(|b| b.protocol += 1), Rule::Protocol);
    assert_eq!(refused(|b| b.volume = Uuid(2)), Rule::Volume);
    assert_eq!(refused(|b| b.node = NodeId(0)), Rule::SameNode);
    assert_eq!(refused(|b| b.device = Uuid(10)), Rule::Clone);
    assert_eq!(refused(|b| b.mode = Mode::Async), Rule::Mode);
}

#[test]
fn f044_nodes_of_different_protocols_move_no_data() {
    let (ours, mut theirs) = (node(0), node(1));
    for other in [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1] {
        theirs.protocol = other;
        for decision in [decide(&ours, &theirs), decide(&theirs, &ours)] {
            assert_eq!((decision.rule, decision.plan), (Rule::Protocol, Plan::Refuse));
        }
    }
}
