//! A changed configuration in daemons that run: what changes, what waits, what is refused, and how the two compare.

use crate::pair::{ALPHA, BETA, Pair};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A group with a script and a service. The script writes down what it is told; `word` is what it is called.
fn sections(pair: &Pair, failover: &str, word: &str, service: &str) -> String {
    let told = pair.path("told");
    let (told, hook) = (told.display(), format!("echo {word} $TWINBLOCK_VERB >> \\\"$0\\\""));
    format!(
        "[failover]\nmode = \"arbiter\"\n{failover}\n[arbiter]\nkind = \"file\"\ndirectory = \"arbiter\"\n\
         [[group]]\nname = \"db\"\nhome = \"alpha\"\nvolumes = [\"vol0\"]\n\
         [[group.script]]\nname = \"hook\"\nstart = [\"/bin/sh\", \"-c\", \"{hook}\", \"{told}\"]\n\
         stop = [\"/bin/sh\", \"-c\", \"{hook}\", \"{told}\"]\n\
         [[group.service]]\nname = \"sleeper\"\ncommand = [\"/bin/sleep\", \"1000\"]\n{service}\n"
    )
}

fn group(pair: &Pair, node: usize) -> Value {
    let groups: Value = serde_json::from_str(&pair.done(node, &["group", "status", "--json"])).unwrap();
    groups[0]["group"].clone()
}

#[test]
fn what_can_change_in_running_daemons_changes_and_the_rest_is_said() {
    let mut pair = Pair::initialised("", "64MiB");
    std::fs::create_dir(pair.path("arbiter")).unwrap();
    pair.configure("", &sections(&pair, "", "old", ""));
    pair.start(ALPHA);
    pair.start(BETA);
    let owner = |pair: &mut Pair, node: usize| {
        pair.wait("the group to be up", |pair| {
            let group = group(pair, node);
            (group["role"] == "owner" && group["serving"] == true && group["peer"]["config_agrees"] == true)
                .then_some(group)
        })
    };
    let epoch = owner(&mut pair, ALPHA)["epoch"].as_u64().unwrap();
    pair.wait_in_sync(ALPHA);
    assert!(pair.done(ALPHA, &["reload"]).contains("the configuration is unchanged"));

    // A file with a problem changes nothing, whatever else is in it.
    pair.configure("resync_rate_max = \"70MiB/s\"\ncolour = 1", &sections(&pair, "", "new", ""));
    pair.fails(ALPHA, &["reload"], 2, "volume.vol0.colour");
    kill(Pid::from_raw(pair.pid(ALPHA) as i32), Signal::SIGHUP).unwrap();
    pair.wait("the refusal", |pair| pair.log(ALPHA).contains("Nothing was changed").then_some(()));
    pair.configure("", &sections(&pair, "", "old", ""));
    assert!(pair.done(ALPHA, &["reload"]).contains("the configuration is unchanged"));

    let slower = "heartbeat_interval = \"300ms\"\nsuspect_after = \"2s\"\ndead_after = \"4s\"";
    let changed = sections(&pair, slower, "new", "restarts_max = 9\nmonitor_interval = \"200ms\"");
    pair.configure("resync_rate_max = \"70MiB/s\"\nmode = \"async\"", &changed.replace("\"alpha\"", "\"beta\""));
    let said = pair.done(ALPHA, &["reload"]);
    let node = "needs a restart of the daemon on alpha: ";
    for line in [
        "changed: failover: dead_after: 1s, now 4s",
        "changed: group db: service sleeper: restarts_max: 3, now 9",
        "changed: volume vol0: resync_rate_max: none, now 70MiB/s",
        &format!("{node}volume vol0: mode: sync, now async"),
        &format!("{node}group db: home: alpha, now beta"),
    ] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    pair.configure("resync_rate_max = \"70MiB/s\"", &changed);
    assert!(pair.done(ALPHA, &["reload"]).contains("the configuration is unchanged"), "nothing waits any more");
    pair.wait("beta to be seen with other settings", |pair| {
        (group(pair, ALPHA)["peer"]["config_agrees"] == false).then_some(())
    });
    kill(Pid::from_raw(pair.pid(BETA) as i32), Signal::SIGHUP).unwrap();
    pair.wait("the reload on beta", |pair| pair.log(BETA).contains("dead_after: 1s, now 4s").then_some(()));
    owner(&mut pair, ALPHA);

    // The changed script is the one that is run from here on; the service was not touched.
    let text = std::fs::read_to_string(pair.path("told")).unwrap();
    assert!(!text.contains("new"), "{text}");
    pair.done(ALPHA, &["group", "move"]);
    owner(&mut pair, BETA);
    pair.wait("the changed script to take the group in", |pair| {
        let text = std::fs::read_to_string(pair.path("told")).unwrap();
        text.ends_with("new stop\nnew start\n").then_some(())
    });
    assert_eq!(group(&pair, BETA)["epoch"], epoch + 1, "no other change of role came of it");
}

#[test]
fn what_differs_between_the_servers_is_named_on_both() {
    let mut pair = Pair::initialised("", "64MiB");
    std::fs::create_dir(pair.path("arbiter")).unwrap();
    pair.configure("", &sections(&pair, "", "same", ""));
    pair.start(ALPHA);
    pair.fails(ALPHA, &["check", "--peer"], 4, "beta");
    pair.start(BETA);
    assert!(pair.done(ALPHA, &["check", "--peer"]).contains("the same settings, version"));

    // Beta gets a file of its own.
    let text = std::fs::read_to_string(pair.path("pair.toml")).unwrap();
    let other = text.replace("disk = \"alpha.img\"", "disk = \"elsewhere.img\"").replace("\"1000\"", "\"2000\"");
    let other = other.replace("name = \"sleeper\"", "name = \"sleeper\"\nrestarts_max = 9");
    pair.file("beta.toml", &format!("# a comment is no difference\n{other}"));
    pair.stop(BETA);
    pair.start(BETA);
    let node = |node: usize, there: &str, values: [&str; 3]| {
        let ran = pair.verb(node, &["check", "--peer"]);
        assert_eq!(ran.code, 7, "{}{}", ran.out, ran.err);
        let [disk, command, restarts] = values;
        for words in [
            format!("volume vol0 on alpha: disk {disk}"),
            format!("group db: service sleeper: command /bin/sleep, {command} on {there}"),
            format!("group db: service sleeper: restarts_max {restarts} on {there}"),
        ] {
            assert!(ran.out.contains(&words), "{words}: {}", ran.out);
        }
        assert_eq!(ran.out.lines().count(), 4, "{}", ran.out);
    };
    node(ALPHA, "beta", ["alpha.img here", "1000 here, /bin/sleep, 2000", "3 here, 9"]);
    node(BETA, "alpha", ["elsewhere.img here", "2000 here, /bin/sleep, 1000", "9 here, 3"]);
    pair.wait("the difference in the group's status", |pair| {
        let status = pair.done(ALPHA, &["group", "status"]);
        status.contains("group db: service sleeper: restarts_max 3 here, 9 on beta").then_some(())
    });

    // A reload brings what can be brought; the rest is still named.
    pair.file("beta.toml", &text);
    assert!(pair.done(BETA, &["reload"]).contains("needs a restart of the daemon on beta: volume vol0 on alpha: disk"));
    let ran = pair.verb(ALPHA, &["check", "--peer"]);
    assert!(!ran.out.contains("restarts_max") && ran.out.contains("disk"), "{}", ran.out);
    assert!(pair.verb(BETA, &["check", "--peer"]).out.contains("only used after a restart"));
    std::fs::remove_file(pair.path("beta.toml")).unwrap();
}
