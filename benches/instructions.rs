//! Instructions that the decision core takes for one operation, on both nodes together, counted by callgrind: the same
//! on every run, however busy the machine is.
//!
//! ```text
//! cargo bench --no-default-features --bench instructions              shows them beside the accepted ones
//! cargo bench --no-default-features --bench instructions -- --check   and fails when one has grown by more than a tenth
//! cargo bench --no-default-features --bench instructions -- --accept  and accepts them
//! ```
//! Each case is run twice under valgrind, with few operations and with many; the difference is what they take, without
//! what setting up takes. The accepted counts belong to one compiler: with another one they are shown, and not held against
//! anything.

mod common;

use common::Pair;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

const ACCEPTED: &str = "benches/instructions.txt";
/// What a count may grow by, in parts of a hundred.
const GROWTH_MAX_PERCENT: f64 = 10.0;
const FEW: u64 = 200;
const MANY: u64 = 1200;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// Where writes go that find their intents durable.
const WARM_BYTES: u64 = 64 << 20;

/// Name and what is done so many times.
type Case = (&'static str, fn(u64));

const CASES: [Case; 8] = [
    ("write", |count| repeat(mirrored(GIB, false), count, |pair| pair.write(1, WARM_BYTES))),
    ("write-of-a-batch-of-32", |count| repeat(mirrored(GIB, false), count / 32, |pair| pair.write(32, WARM_BYTES))),
    ("write-gated-by-receipt", |count| repeat(mirrored(GIB, true), count, |pair| pair.write(1, WARM_BYTES))),
    ("write-at-16-tib", |count| repeat(mirrored(16 * TIB, false), count, |pair| pair.write(1, WARM_BYTES))),
    ("write-to-new-region-at-1-tib", |count| repeat(mirrored(TIB, false), count, |pair| pair.write(1, TIB))),
    ("write-alone-at-1-tib", |count| repeat(mirrored(TIB, false).alone(), count, |pair| pair.write(1, WARM_BYTES))),
    ("read", |count| repeat(mirrored(GIB, false), count, |pair| pair.read(1, WARM_BYTES))),
    ("flush", |count| repeat(mirrored(GIB, false), count, Pair::flush)),
];

fn mirrored(size_bytes: u64, gated: bool) -> Pair {
    let mut pair = Pair::in_sync(size_bytes, |settings| settings.receipt_gating = gated);
    // Every region there has its intent, and every table its size.
    (0..64).for_each(|_| pair.write(32, WARM_BYTES));
    pair
}

fn repeat(mut pair: Pair, count: u64, mut what: impl FnMut(&mut Pair)) {
    (0..count).for_each(|_| what(&mut pair));
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, name, count] = arguments.as_slice()
        && flag == "--run"
    {
        let (_, run) = CASES.iter().find(|case| case.0 == name).expect("a case of that name");
        run(count.parse().expect("a number of operations"));
        return ExitCode::SUCCESS;
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIPPED: instruction counts need valgrind");
        return ExitCode::SUCCESS;
    }
    let accepted = read_accepted();
    let counted: Vec<(&str, f64)> = CASES.iter().map(|(name, _)| (*name, count(name))).collect();
    println!("{:<32} {:>12} {:>12} {:>9}", "instructions for one", "accepted", "now", "change");
    let mut grown = Vec::new();
    for (name, now) in &counted {
        let Some(before) = accepted.get(*name) else {
            println!("{name:<32} {:>12} {now:>12.0}", "-");
            grown.push(format!("{name} has no accepted count"));
            continue;
        };
        let change = (now / before - 1.0) * 100.0;
        println!("{name:<32} {before:>12.0} {now:>12.0} {change:>+8.1}%");
        if change > GROWTH_MAX_PERCENT {
            grown.push(format!("{name} takes {change:.1} % more instructions than were accepted"));
        }
    }
    let compiler = compiler();
    if has("--accept") {
        let first = std::iter::once(format!("# {compiler}\n"));
        let lines = first.chain(counted.iter().map(|(name, now)| format!("{name} {now:.0}\n")));
        std::fs::write(ACCEPTED, lines.collect::<String>()).expect("the accepted counts can be written");
    } else if has("--check") && accepted_by() != compiler {
        println!("SKIPPED: the accepted instruction counts are those of {}, this is {compiler}", accepted_by());
    } else if has("--check") && !grown.is_empty() {
        println!(
            "\nFAILED: {}.\nMake it cheaper, or say in the commit why it must cost that, and --accept it.",
            grown.join("; ")
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The compiler, as it calls itself.
fn compiler() -> String {
    let said = Command::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// The compiler the accepted counts are of.
fn accepted_by() -> String {
    let text = std::fs::read_to_string(ACCEPTED).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or("no compiler").to_owned()
}

fn read_accepted() -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(Path::new(ACCEPTED)).unwrap_or_default();
    let pair = |line: &str| line.split_once(' ').and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
    text.lines().filter_map(pair).collect()
}

/// Instructions of one operation of a case.
fn count(name: &str) -> f64 {
    // Two at a time is what most machines can do.
    let (few, many) = std::thread::scope(|scope| {
        let few = scope.spawn(|| instructions(name, FEW));
        let many = instructions(name, MANY);
        (few.join().expect("valgrind ran"), many)
    });
    (many - few) as f64 / (MANY - FEW) as f64
}

/// Instructions of this program while it does a case so many times.
fn instructions(name: &str, count: u64) -> u64 {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = command.args(["--run", name, &count.to_string()]).output().expect("valgrind can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind failed on {name}: {said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.unwrap_or_else(|| panic!("valgrind told no count: {said}"));
    number.trim().parse().expect("callgrind's count is a number")
}
