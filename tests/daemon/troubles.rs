//! Scripts of a group that are missing, may not be run, hang, or fail at their stop: each with a reason and a next step in
//! the group's status, and mended without a restart.

use crate::pair::{ALPHA, BETA, Pair};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

fn status(pair: &Pair, node: usize) -> Value {
    let groups: Value = serde_json::from_str(&pair.done(node, &["group", "status", "--json"])).unwrap();
    groups[0].clone()
}

/// Waits until a server says this of the script, with a next step, for people too.
fn wait_said(pair: &mut Pair, words: &str, next: &str) {
    let node = pair.wait(&format!("somebody to say {words:?}"), |pair| {
        [ALPHA, BETA].into_iter().find(|node| {
            let hook = &status(pair, *node)["resources"][0];
            let says = |key: &str, words: &str| hook[key].as_str().is_some_and(|text| text.contains(words));
            says("reason", words) && says("next", next)
        })
    });
    let report = status(pair, node);
    assert!(!report["action"].as_str().unwrap().is_empty(), "{report}");
    assert!(pair.done(node, &["group", "status"]).contains(words));
}

fn wait_running(pair: &mut Pair) -> usize {
    pair.wait("the group to run", |pair| {
        [ALPHA, BETA].into_iter().find(|node| {
            let status = status(pair, *node);
            status["group"]["role"] == "owner" && status["resources"][0]["state"] == "running"
        })
    })
}

fn recover(pair: &mut Pair) {
    pair.wait("a recovery", |pair| {
        [ALPHA, BETA].into_iter().any(|node| pair.verb(node, &["group", "recover"]).code == 0).then_some(())
    });
}

#[test]
fn a_script_that_can_not_do_its_work_is_told_and_mended() {
    let mut pair = Pair::initialised("", "32MiB");
    std::fs::create_dir(pair.path("arbiter")).unwrap();
    let hook = pair.path("hook");
    let shown = hook.display();
    pair.configure(
        "",
        &format!(
            "[failover]\nmode = \"arbiter\"\nflap_guard = 0\n[arbiter]\nkind = \"file\"\ndirectory = \"arbiter\"\n\
             [[group]]\nname = \"db\"\nhome = \"alpha\"\nvolumes = [\"vol0\"]\n\
             [[group.script]]\nname = \"hook\"\nstart = [\"{shown}\", \"start\"]\nstop = [\"{shown}\", \"stop\"]\n\
             start_timeout = \"500ms\"\nstop_timeout = \"5s\"\n"
        ),
    );
    let write = |text: &str, mode: u32| {
        let new = pair_path(&hook, "new");
        std::fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(mode)).unwrap();
        std::fs::rename(&new, &hook).unwrap();
    };
    pair.start(ALPHA);
    pair.start(BETA);
    wait_said(&mut pair, "does not exist", "install it");
    write("exit 0", 0o644);
    recover(&mut pair);
    wait_said(&mut pair, "is not executable", "chmod +x");
    write("[ $1 = start ] && exec sleep 1000; exit 0", 0o755);
    recover(&mut pair);
    wait_said(&mut pair, "did not end within", "longer time");
    write("exit 0", 0o755);
    recover(&mut pair);
    let owner = wait_running(&mut pair);

    // A stop that fails keeps the group from the other server until somebody has looked.
    write("[ $1 = stop ] && echo the lock stays && exit 3; exit 0", 0o755);
    let refused = pair.verb(owner, &["group", "move"]);
    assert_ne!(refused.code, 0, "{}", refused.out);
    wait_said(&mut pair, "the lock stays", "mend what it complains about");
    assert_ne!(status(&pair, 1 - owner)["group"]["role"], "owner");
    write("exit 0", 0o755);
    recover(&mut pair);
    wait_running(&mut pair);
}

fn pair_path(file: &std::path::Path, ending: &str) -> std::path::PathBuf {
    file.with_extension(ending)
}
