//! What is accepted, and one clear message for everything that is not.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// The example of the README, without its comments so that lines can be replaced below.
const GOOD: &str = r#"cluster = "lab"
secret_file = "secret"

[[node]]
name = "alpha"
mirror = ["127.0.0.1:7101"]
heartbeat = ["127.0.0.1:7201"]
control = "alpha.sock"
state_dir = "alpha.d"

[[node]]
name = "beta"
mirror = ["127.0.0.1:7102"]
heartbeat = ["127.0.0.1:7202"]
control = "beta.sock"
state_dir = "beta.d"

[[volume]]
name = "vol0"
mode = "sync"

[volume.on.alpha]
disk = "alpha.img"
metadata = "internal"
nbd = ["unix:alpha-nbd.sock", "tcp:127.0.0.1:10811"]

[volume.on.beta]
disk = "beta.img"
metadata = "internal"
nbd = ["unix:beta-nbd.sock"]
"#;

fn parse_text(text: &str) -> Result<Config, Problems> {
    parse(Path::new("/etc/tb/pair.toml"), text, Some("alpha"), "", Depth::File)
}

#[test]
fn the_example_is_read() {
    let config = parse_text(GOOD).unwrap();
    assert_eq!(config.cluster, "lab");
    assert_eq!(config.secret_file, Path::new("/etc/tb/secret"));
    assert_eq!((config.node, config.this_node().name.as_str()), (NodeId(0), "alpha"));
    assert_eq!(config.peer_node().mirror, ["127.0.0.1:7102".parse().unwrap()]);
    let volume = config.volume("vol0").unwrap();
    assert_eq!(volume.settings, VolumeSettings::default());
    assert_eq!(volume.place(NodeId(0)).disk, Path::new("/etc/tb/alpha.img"));
    assert_eq!(volume.place(NodeId(0)).metadata, None);
    assert_eq!(volume.place(NodeId(0)).nbd[1], NbdAddress::Tcp("127.0.0.1:10811".parse().unwrap()));
    assert_eq!(volume.place(NodeId(1)).nbd, [NbdAddress::Unix("/etc/tb/beta-nbd.sock".into())]);
}

#[test]
fn the_readme_shows_this_example() {
    let readme = include_str!("../../../README.md");
    let shown = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let bare: String = shown.lines().map(|line| format!("{}\n", line.split('#').next().unwrap().trim_end())).collect();
    assert_eq!(bare, GOOD);
    assert!(parse_text(shown).is_ok(), "with its comments too");
}

#[test]
fn settings_are_read_with_their_units() {
    let text = GOOD.replace(
        "mode = \"sync\"",
        "mode = \"async\"\noverflow = \"shed\"\nasync_bytes_max = \"1GiB\"\nasync_age_max = \"500ms\"\n\
         receipt_gating = false\ndisk_timeout = 0\nresync_rate_max = \"200MiB/s\"\nlatency_allowance = 2",
    );
    let text = format!("{text}\n[daemon]\nhandshakes_max = 8\nlog = \"debug\"\n");
    let config = parse_text(&text).unwrap();
    let settings = config.core_settings(config.volume("vol0").unwrap());
    assert_eq!(settings.mode, crate::base::state::Mode::Async);
    assert_eq!(settings.overflow, crate::base::state::Overflow::Shed);
    assert_eq!(settings.async_bytes_max, 1 << 30);
    assert_eq!(settings.async_age_max, Duration::from_millis(500));
    assert!(!settings.receipt_gating);
    assert_eq!(settings.disk_timeout, Duration::ZERO);
    assert_eq!(settings.resync_rate_max, 200 << 20);
    assert_eq!(settings.latency_allowance, 2.0);
    assert_eq!((config.daemon.handshakes_max, config.daemon.log.as_str()), (8, "debug"));
}

#[test]
fn what_the_core_calls_usual_are_the_defaults_here() {
    let config = parse_text(GOOD).unwrap();
    let usual = Settings::usual(NodeId(0), config.volume_uuid("vol0"));
    assert_eq!(config.core_settings(config.volume("vol0").unwrap()), usual);
}

#[test]
fn the_volume_identity_depends_on_cluster_and_name_only() {
    let here = parse_text(GOOD).unwrap();
    let there = parse(Path::new("x.toml"), GOOD, Some("beta"), "", Depth::File).unwrap();
    let other = parse_text(&GOOD.replace("\"lab\"", "\"prod\"")).unwrap();
    assert_eq!(here.volume_uuid("vol0"), there.volume_uuid("vol0"));
    assert_ne!(here.volume_uuid("vol0"), here.volume_uuid("vol1"));
    assert_ne!(here.volume_uuid("vol0"), other.volume_uuid("vol0"));
}

#[test]
fn the_host_name_stands_in_for_the_node() {
    let on = |host| parse(Path::new("x.toml"), GOOD, None, host, Depth::File).map(|config| config.node);
    assert_eq!(on("beta"), Ok(NodeId(1)));
    assert_eq!(on("alpha.example.org"), Ok(NodeId(0)));
    let refused = on("gamma").unwrap_err().to_string();
    assert!(refused.contains("this host is called \"gamma\"") && refused.contains("--node alpha or beta"), "{refused}");
}

#[test]
fn paths_relative_and_absolute() {
    let text = GOOD
        .replace("\"alpha.img\"", "\"/dev/vg0/vol0\"")
        .replace("metadata = \"internal\"\nnbd = [\"unix:beta", "metadata = \"./internal\"\nnbd = [\"unix:beta");
    let config = parse_text(&text).unwrap();
    assert_eq!(config.volumes[0].on[0].disk, Path::new("/dev/vg0/vol0"));
    assert_eq!(config.volumes[0].on[1].metadata.as_deref(), Some(Path::new("/etc/tb/internal")));
}

/// What is replaced by what in the good file, and what the one message must say: line, key, reason, next step.
const WRONG: &[(&str, &str, &str)] = &[
    ("cluster = \"lab\"", "", ":1: cluster: this setting is missing; add `cluster = \"lab\"`"),
    ("cluster = \"lab\"", "cluster = 5", ":1: cluster: the value is a number, not a text in quotes"),
    ("cluster = \"lab\"", "cluster = \"\"", ":1: cluster: the name is empty"),
    ("\"lab\"", "\"la b\"", ":1: cluster: the name \"la b\" has characters that are not allowed; use 1 to 64 letters"),
    ("secret_file = \"secret\"", "", "secret_file: this setting is missing"),
    ("secret_file =", "secret_fil =", ":2: secret_fil: there is no such setting; did you mean `secret_file`?"),
    (
        "name = \"vol0\"",
        "name = \"vol0\"\ncolour = 1",
        ":20: volume.vol0.colour: there is no such setting; remove it (known",
    ),
    (
        "mirror = [\"127.0.0.1:7101\"]",
        "miror = [\"127.0.0.1:7101\"]",
        ":6: node.alpha.miror: there is no such setting; did",
    ),
    (
        "nbd = [\"unix:beta",
        "nbds = [\"unix:beta",
        "volume.vol0.on.beta.nbds: there is no such setting; did you mean `nbd`?",
    ),
    ("name = \"beta\"", "name = \"alpha\"", ": node.name: the node \"alpha\" is described twice, first in line 4"),
    ("name = \"beta\"", "name = \"-beta\"", ":12: node[2].name: the name \"-beta\" would look like an option"),
    (
        "127.0.0.1:7102",
        "127.0.0.1:7101",
        ":13: node.beta.mirror: the address 127.0.0.1:7101 is also in node.alpha.mirror (line 6)",
    ),
    (
        "127.0.0.1:7202",
        "127.0.0.1:7101",
        ":14: node.beta.heartbeat: the address 127.0.0.1:7101 is also in node.alpha.mirror",
    ),
    (
        "127.0.0.1:7101\"]",
        "127.0.0.1:7101\", \"127.0.0.1:7101\"]",
        ":6: node.alpha.mirror: the address 127.0.0.1:7101 is also",
    ),
    (
        "127.0.0.1:10811",
        "127.0.0.1:7101",
        "on.alpha.nbd: the address 127.0.0.1:7101 is also in node.alpha.mirror (line 6)",
    ),
    (
        "127.0.0.1:7101",
        "localhost:7101",
        ":6: node.alpha.mirror: \"localhost:7101\" is no address with a port; write a numeric",
    ),
    ("127.0.0.1:7101", "127.0.0.1", ":6: node.alpha.mirror: \"127.0.0.1\" is no address with a port"),
    ("127.0.0.1:7101", "127.0.0.1:0", ":6: node.alpha.mirror: \"127.0.0.1:0\" has port 0"),
    (
        "127.0.0.1:7101",
        "0.0.0.0:7101",
        ":6: node.alpha.mirror: \"0.0.0.0:7101\" stands for every address of this server",
    ),
    ("[\"127.0.0.1:7101\"]", "[]", ":6: node.alpha.mirror: the list is empty"),
    ("[\"127.0.0.1:7101\"]", "[7101]", ":6: node.alpha.mirror: the value is a number, not a text"),
    ("unix:alpha-nbd.sock", "alpha-nbd.sock", "volume.vol0.on.alpha.nbd: \"alpha-nbd.sock\" is no NBD address; write"),
    ("unix:alpha-nbd.sock", "unix:alpha.sock", "on.alpha.nbd: /etc/tb/alpha.sock is also used by node.alpha.control"),
    (
        "mode = \"sync\"",
        "mode = \"fast\"",
        ":20: volume.vol0.mode: \"fast\" is not understood; expected one of sync, memory",
    ),
    ("mode = \"sync\"", "link_timeout = 5", ":20: volume.vol0.link_timeout: the value is a number, not time (ms, s"),
    (
        "mode = \"sync\"",
        "link_timeout = \"5\"",
        ":20: volume.vol0.link_timeout: \"5\" is not understood; expected a time",
    ),
    (
        "mode = \"sync\"",
        "link_timeout = \"1ms\"",
        ":20: volume.vol0.link_timeout: 1ms is out of bounds; choose from 1s to",
    ),
    (
        "mode = \"sync\"",
        "exact_recovery = true\nreceipt_gating = false",
        "exact_recovery: it needs `receipt_gating = true`",
    ),
    ("mode = \"sync\"", "resync_rate_max = \"1MiB/s\"", "resync_rate_min: it is more than `resync_rate_max`"),
    (
        "mode = \"sync\"",
        "ping_interval = \"500ms\"\nlink_timeout = \"1s\"",
        "volume.vol0.link_timeout: it is less than 4 times `ping_interval`: a late ping would end the link; make it at \
         least 2 s",
    ),
    ("mode = \"sync\"", "ping_interval = \"2s\"", "ping_interval: 2s is out of bounds; choose from 100ms to 500ms"),
    (
        "mode = \"sync\"",
        "nbd_stall_timeout = \"2min\"",
        "volume.vol0.nbd_stall_timeout: it is longer than `nbd_send_timeout`; shorten it",
    ),
    ("[volume.on.beta]", "[volume.on.gamma]", "volume.vol0.on.beta: this setting is missing; add `[volume.on.beta]`"),
    ("disk = \"beta.img\"", "", "volume.vol0.on.beta.disk: this setting is missing"),
    ("disk = \"beta.img\"", "disk = \"\"", "volume.vol0.on.beta.disk: this is no path"),
    ("cluster = \"lab\"", "cluster = \"lab", ":1: "),
    ("cluster = \"lab\"", "cluster = \"lab\"\ncluster = \"lab\"", ":2: "),
    (
        "[[volume]]",
        "[daemon]\nreconnect_min = \"1min\"\n[[volume]]",
        "daemon.reconnect_min: it is longer than `reconnect_max`",
    ),
];

#[test]
fn each_mistake_has_its_message() {
    for (from, to, expected) in WRONG {
        assert!(GOOD.contains(from), "{from:?} is in the good file");
        let text = GOOD.replacen(from, to, 1);
        let problems = match parse_text(&text) {
            Err(problems) => problems.to_string(),
            Ok(_) => panic!("accepted: {to:?}"),
        };
        assert!(problems.contains(expected), "{to:?} gave\n{problems}\nexpected\n{expected}");
        assert!(problems.starts_with("/etc/tb/pair.toml"), "the file is named: {problems}");
    }
}

#[test]
fn several_mistakes_are_told_at_once() {
    let text = GOOD.replace("mode =", "mood =").replace("127.0.0.1:7102", "nowhere").replace("[daemon]", "");
    let problems = parse_text(&text).unwrap_err();
    assert_eq!(problems.list.len(), 2, "{problems}");
    assert_eq!(problems.list[0].line, Some(13));
    assert_eq!(problems.list[1].line, Some(20));
}

#[test]
fn exactly_two_nodes() {
    let third = "\n[[node]]\nname = \"gamma\"\nmirror = [\"127.0.0.1:7103\"]\n";
    let problems = parse_text(&format!("{GOOD}{third}")).unwrap_err().to_string();
    assert!(problems.contains(": node: there are 3 nodes; describe exactly two"), "{problems}");
    let (start, rest) = GOOD.split_once("[[node]]\nname = \"beta\"").unwrap();
    let one = format!("{start}{}", &rest[rest.find("[[volume]]").unwrap()..]);
    let problems = parse_text(&one).unwrap_err().to_string();
    assert!(problems.contains(": node: there are 1 nodes; describe exactly two"), "{problems}");
    let problems = parse(Path::new("x"), GOOD, Some("gamma"), "", Depth::File).unwrap_err().to_string();
    assert!(problems.contains("there is no node \"gamma\"; name alpha or beta with --node"), "{problems}");
}

#[test]
fn a_volume_twice_and_a_disk_twice() {
    let second = GOOD.split_once("[[volume]]").unwrap().1;
    let problems = parse_text(&format!("{GOOD}[[volume]]{second}")).unwrap_err().to_string();
    assert!(problems.contains("the volume \"vol0\" is described twice, first in line 18"), "{problems}");
    assert!(problems.contains("/etc/tb/alpha.img is also used by volume.vol0.on.alpha.disk"), "{problems}");
    assert!(problems.contains("the address 127.0.0.1:10811 is also in volume.vol0.on.alpha.nbd"), "{problems}");
}

#[test]
fn loopback_may_serve_on_both_servers_and_a_real_address_only_on_one() {
    let both = |address: &str| {
        GOOD.replace("tcp:127.0.0.1:10811", address)
            .replace("\"unix:beta-nbd.sock\"", &format!("\"unix:beta-nbd.sock\", \"{address}\""))
    };
    assert!(parse_text(&both("tcp:127.0.0.1:10809")).is_ok());
    assert!(parse_text(&both("tcp:[::]:10809")).is_ok());
    let problems = parse_text(&both("tcp:10.0.0.1:10809")).unwrap_err().to_string();
    assert!(
        problems.contains("on.beta.nbd: the address 10.0.0.1:10809 is also in volume.vol0.on.alpha.nbd"),
        "{problems}"
    );
}

#[test]
fn nonsense_never_panics() {
    for text in
        ["", "\0", "[[node]]", "node = 1\nvolume = 2", "[[volume]]\non = 3", "[volume.on]\n", "x = [[[[[[", "😀 = 1"]
    {
        assert!(parse_text(text).is_err(), "{text:?}");
    }
    for cut in 0..GOOD.len() {
        let _ = parse_text(&GOOD[..cut]);
    }
}

#[test]
fn secrets_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pair.toml");
    let secret = folder.path().join("secret");
    std::fs::write(&file, GOOD).unwrap();
    let load = || load(&file, Some("alpha"), Depth::Secret);
    let refused = |expected: &str| {
        let problems = load().unwrap_err().to_string();
        assert!(problems.contains(":2: secret_file: the secret"), "{problems}");
        assert!(problems.contains(expected), "{problems}");
    };
    refused("does not exist; make one with");
    std::fs::create_dir(&secret).unwrap();
    refused("is not a regular file");
    std::fs::remove_dir(&secret).unwrap();
    std::fs::write(&secret, "a secret of sixteen bytes and more\n").unwrap();
    for mode in [0o640, 0o604, 0o666, 0o620] {
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(mode)).unwrap();
        refused(&format!("(mode {mode:04o}); run `chmod 600"));
    }
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let config = load().unwrap();
    assert_eq!(config.secret, Some(Secret::of(b"a secret of sixteen bytes and more")));
    assert!(config.warnings.is_empty());
    std::fs::write(&secret, "short\n").unwrap();
    assert!(load().unwrap().warnings[0].contains("has only 5 bytes"));
    std::fs::write(&secret, " \n").unwrap();
    refused("is empty");
}

#[test]
fn a_file_that_cannot_be_read() {
    let missing = load(Path::new("/nonexistent/tb.toml"), None, Depth::File).unwrap_err().to_string();
    assert_eq!(
        missing,
        "/nonexistent/tb.toml: the configuration file does not exist; name another with -c FILE, or write it"
    );
    let folder = tempfile::tempdir().unwrap();
    assert!(load(folder.path(), None, Depth::File).unwrap_err().to_string().contains("can't be read"));
    let binary = folder.path().join("binary");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    assert!(load(&binary, None, Depth::File).unwrap_err().to_string().contains("is not UTF-8 text"));
}
