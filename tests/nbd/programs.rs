//! Other people's clients. One that is not installed is skipped, visibly.

use crate::server::Server;
use std::path::Path;
use std::process::{Command, Output};
use twinblock::base::range::ByteRange;
use twinblock::base::request::Action;

/// Longest time one run of a client may take, in seconds.
const SECONDS_MAX: u32 = 120;

/// Whether the program can be run; says so when it can't.
fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()));
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// Runs a program, bounded in time, and returns what it said; it must succeed.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = try_run(program, arguments, false)?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?} failed with {}:\n{said}", output.status);
    Some(said)
}

fn try_run(program: &str, arguments: &[&str], debug: bool) -> Option<Output> {
    if !installed(program) {
        return None;
    }
    let mut command = Command::new("timeout");
    command.arg(SECONDS_MAX.to_string()).arg(program).args(arguments);
    // Some leave files where they are run.
    command.current_dir(std::env::temp_dir());
    // Older clients show the server's own words only when they are asked to.
    command.env("LIBNBD_DEBUG", if debug { "1" } else { "0" });
    if program == "nbdsh" {
        // Another python in front would hide the distribution's module.
        command.env("PATH", "/usr/bin:/bin");
    }
    Some(command.output().expect("timeout is part of every system"))
}

#[test]
fn nbdinfo_sees_the_export() {
    let server = Server::start(64 << 20);
    for uri in [server.uri(), server.tcp_uri()] {
        let Some(said) = run("nbdinfo", &[&uri]) else { return };
        for line in [
            "export-size: 67108864",
            "is_read_only: false",
            "can_cache: true",
            "can_df: true",
            "can_fast_zero: true",
            "can_flush: true",
            "can_fua: true",
            "can_multi_conn: true",
            "can_trim: true",
            "can_zero: true",
            "block_size_minimum: 1",
            "block_size_preferred: 4096",
            "block_size_maximum: 33554432",
            "twinblock:dirty",
            "base:allocation",
        ] {
            assert!(said.contains(line), "nbdinfo does not say {line}:\n{said}");
        }
    }
}

/// Bytes that repeat at no distance a mistake could hide in; every fourth megabyte is zeroes.
fn image(bytes: usize) -> Vec<u8> {
    let byte =
        |at: usize| if (at >> 20) % 4 == 3 { 0 } else { (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[1] };
    (0..bytes).map(byte).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

#[test]
fn nbdcopy_copies_in_and_out() {
    const SIZE: usize = 24 << 20;
    let server = Server::start(SIZE as u64);
    let (whole, copy) = (server.directory.path().join("whole"), server.directory.path().join("copy"));
    std::fs::write(&whole, image(SIZE)).unwrap();
    for uri in [server.uri(), server.tcp_uri()] {
        server.with(|state| state.reversed = !state.reversed);
        if run("nbdcopy", &[path(&whole), &uri]).is_none() {
            return;
        }
        assert!(server.with(|state| state.content(ByteRange::new(0, SIZE as u64))) == image(SIZE));
        let _ = std::fs::remove_file(&copy);
        run("nbdcopy", &["--connections=4", "--requests=64", &uri, path(&copy)]);
        assert!(std::fs::read(&copy).unwrap() == image(SIZE), "what came out is not what went in");
    }
}

#[test]
fn nbdinfo_maps_holes_and_dirt() {
    let server = Server::start(1 << 20);
    server.with(|state| state.dirty = vec![ByteRange::new(8192, 4096), ByteRange::new(65536, 65536)]);
    let write = "h.pwrite(b'x' * 100, 131072)";
    if run("nbdsh", &["-u", &server.uri(), "-c", write]).is_none() {
        return;
    }
    let numbers = |said: &str| -> Vec<Vec<u64>> {
        said.lines()
            .map(|line| line.split_whitespace().map_while(|word| word.parse().ok()).collect())
            .filter(|numbers: &Vec<u64>| numbers.len() == 3)
            .collect()
    };
    let Some(map) = run("nbdinfo", &["--map", &server.uri()]) else { return };
    assert_eq!(numbers(&map), [[0, 131072, 3], [131072, 4096, 0], [135168, 913408, 3]], "{map}");
    let Some(map) = run("nbdinfo", &["--map=twinblock:dirty", &server.uri()]) else { return };
    let expected = [[0, 8192, 0], [8192, 4096, 1], [12288, 53248, 0], [65536, 65536, 1], [131072, 917504, 0]];
    assert_eq!(numbers(&map), expected, "{map}");
}

#[test]
fn nbdinfo_lists_and_hears_why_a_secondary_refuses() {
    let server = Server::start(1 << 20);
    let list_uri = format!("nbd+unix:///?socket={}", server.socket().display());
    let Some(said) = run("nbdinfo", &["--list", &list_uri]) else { return };
    assert!(said.contains("export=\"vol0\"") && said.contains("description: twinblock volume vol0"), "{said}");
    server.with(|state| state.serving = None);
    let Some(output) = try_run("nbdinfo", &[&server.uri()], true) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("volume vol0 is secondary on beta; connect to alpha"), "{said}");
}

#[test]
fn nbdsh_uses_every_command() {
    let server = Server::start(64 << 20);
    let script = "
h.set_strict_mode(0)
h.pwrite(b'x' * 4096, 0)
h.pwrite(b'y' * 777, 123, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 0) == b'x' * 123 + b'y' * 777 + b'x' * (4096 - 900)
h.flush()
h.zero(65536, 100)
assert h.pread(200, 0) == b'x' * 100 + b'\\0' * 100
h.zero(65536, 1 << 20, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
h.trim(1 << 20, 4096)
h.cache(1 << 20, 0)
assert h.pread(1 << 20, 5, nbd.CMD_FLAG_DF)[:10] == b'x' * 10
h.pwrite(b'z' * (32 << 20), 1 << 20)
assert h.pread(32 << 20, 1 << 20) == b'z' * (32 << 20)
assert h.can_multi_conn()
def fails(error, act):
    try:
        act()
    except nbd.Error as failure:
        assert failure.errno == error, failure.errno
    else:
        assert False, 'it went well'
fails('EINVAL', lambda: h.pread(512, 64 << 20))
fails('ENOSPC', lambda: h.pwrite(b'x', 64 << 20))
fails('ENOTSUP', lambda: h.zero(100, 100, nbd.CMD_FLAG_FAST_ZERO))
fails('EOVERFLOW', lambda: h.pread(8 << 20, 0, nbd.CMD_FLAG_DF))
";
    for replies in ["", "h.set_request_structured_replies(False)"] {
        let connect = format!("h.connect_uri({:?})", server.uri());
        let script = if replies.is_empty() {
            script.to_owned()
        } else {
            script.lines().filter(|line| !line.contains("CMD_FLAG_DF")).collect::<Vec<_>>().join("\n")
        };
        if run("nbdsh", &["-c", replies, "-c", &connect, "-c", &script]).is_none() {
            return;
        }
    }
    let flushes = server.with(|state| state.taken.iter().filter(|action| **action == Action::Flush).count());
    assert_eq!(flushes, 2);
}

#[test]
fn qemu_io_reads_back_what_it_wrote() {
    let server = Server::start(16 << 20);
    for uri in [server.uri(), server.tcp_uri()] {
        let commands = [
            "write -P 0xa5 0 1M",
            "read -P 0xa5 0 1M",
            "write -z -u 64k 64k",
            "read -P 0 64k 64k",
            "write -z 200k 64k",
            "read -P 0 200k 64k",
            "write -f -P 1 123 777",
            "read -P 1 123 777",
            "write -P 7 3M 5M",
            "discard 4M 1M",
            "read -P 7 3M 1M",
            "read -P 7 5M 3M",
            "read -P 0 4M 1M",
            "flush",
        ];
        let mut arguments = vec!["-f", "raw", uri.as_str()];
        commands.iter().for_each(|command| arguments.extend(["-c", command]));
        let Some(said) = run("qemu-io", &arguments) else { return };
        assert!(!said.contains("failed") && !said.contains("Pattern"), "{said}");
    }
}

#[test]
fn qemu_img_converts_compares_and_measures() {
    const SIZE: usize = 16 << 20;
    let server = Server::start(SIZE as u64);
    let whole = server.directory.path().join("whole");
    std::fs::write(&whole, image(SIZE)).unwrap();
    let uri = server.uri();
    if run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", path(&whole), &uri]).is_none() {
        return;
    }
    let said = run("qemu-img", &["compare", "-f", "raw", "-F", "raw", path(&whole), &uri]).unwrap_or_default();
    assert!(said.contains("Images are identical"), "{said}");
    let said = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]).unwrap_or_default();
    assert!(said.contains("\"zero\": true") && said.contains("\"data\": true"), "holes are seen: {said}");
}

#[test]
fn fio_verifies_what_it_wrote() {
    let server = Server::start(64 << 20);
    for (uri, sizes) in [(server.uri(), "--bsrange=512-256k"), (server.tcp_uri(), "--bsrange=4k-2m")] {
        let arguments = [
            "--name=v".to_owned(),
            "--ioengine=nbd".to_owned(),
            format!("--uri={uri}"),
            "--rw=randrw".to_owned(),
            sizes.to_owned(),
            "--ba=512".to_owned(),
            "--iodepth=16".to_owned(),
            "--size=64m".to_owned(),
            "--verify=crc32c".to_owned(),
            "--verify_fatal=1".to_owned(),
            "--verify_backlog=128".to_owned(),
            "--randseed=1".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if run("fio", &arguments).is_none() {
            return;
        }
    }
}

/// The check of the check: a server that loses writes must not pass.
#[test]
fn fio_notices_a_server_that_loses_writes() {
    let server = Server::start(16 << 20);
    server.with(|state| state.losing = Some(ByteRange::new(8 << 20, 4096)));
    let uri = format!("--uri={}", server.uri());
    let arguments = ["--name=v", "--ioengine=nbd", &uri, "--rw=write", "--bs=64k", "--size=16m", "--verify=crc32c"];
    let Some(output) = try_run("fio", &arguments, false) else { return };
    assert!(!output.status.success(), "fio is content with lost writes");
}
