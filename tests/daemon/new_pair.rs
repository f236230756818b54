//! A pair with a group whose disks hold something that nobody vouches for: what it says, how it begins, and where it is then.

use crate::pair::{ALPHA, BETA, NODES, Pair, assert_holds};
use serde_json::Value;

const MIB: usize = 1 << 20;

fn report(pair: &Pair, node: usize) -> Value {
    let groups: Value = serde_json::from_str(&pair.done(node, &["group", "status", "--json"])).unwrap();
    groups[0].clone()
}

fn says(report: &Value, words: &str) -> bool {
    report["notices"].to_string().contains(words)
}

#[test]
fn a_pair_without_data_says_how_to_begin_and_where_its_group_is_then() {
    let mut pair = Pair::new("");
    std::fs::create_dir(pair.path("arbiter")).unwrap();
    let sections = "[failover]\nmode = \"arbiter\"\n[arbiter]\nkind = \"file\"\ndirectory = \"arbiter\"\n\
                    [[group]]\nname = \"db\"\nhome = \"alpha\"\nvolumes = [\"vol0\"]\n";
    pair.configure("", sections);
    let text = std::fs::read_to_string(pair.path("pair.toml")).unwrap();
    pair.file("beta.toml", &text);
    for (node, byte) in [(ALPHA, 0x11), (BETA, 0x22)] {
        std::fs::write(pair.path(&format!("{}.img", NODES[node])), vec![byte; 40 * MIB]).unwrap();
        pair.done(node, &["init-disk", "vol0", "--overwrite", "--yes"]);
        pair.start(node);
    }
    for node in [ALPHA, BETA] {
        let shown = pair.wait("both to know that neither has data", |pair| {
            Some(report(pair, node)).filter(|report| report["nodes"].to_string().matches("\"no-data\"").count() == 2)
        });
        assert!(shown["meaning"].as_str().unwrap().contains("both disks are new"), "{shown}");
        assert!(shown["action"].as_str().unwrap().contains("resync VOLUME --source NODE"), "{shown}");
        assert_eq!(
            (&shown["nodes"][0]["state"], &shown["nodes"][0]["role"]),
            (&"initializing".into(), &"standby".into())
        );
    }

    // The group begins where its data is, which is not its home, and says so until it has returned.
    let words = pair.fails(ALPHA, &["resync", "vol0", "--source", "beta", "--yes"], 3, "refused (both-new)");
    assert!(words.contains("Give the same command on beta"), "{words}");
    pair.done(BETA, &["resync", "vol0", "--source", "beta", "--yes"]);
    let shown = pair.wait("beta to own the group, and to say where it is", |pair| {
        Some(report(pair, BETA))
            .filter(|report| says(report, "away from its home alpha: it started where its data was"))
    });
    assert_eq!(shown["nodes"][0]["state"], "running-in-backup-mode", "{shown}");
    pair.wait_in_sync(BETA);
    pair.wait("the way back to be told", |pair| says(&report(pair, BETA), "run `group fallback db`").then_some(()));

    // The settings of one server are changed: what differs is named wherever it stands in the way.
    let other = text.replace("mode = \"arbiter\"\n", "mode = \"arbiter\"\nflap_guard = \"7min\"\n");
    pair.file("beta.toml", &other);
    pair.done(BETA, &["reload"]);
    pair.done(ALPHA, &["group", "disable"]);
    let refused = pair.wait("alpha to hear of the other settings", |pair| {
        Some(pair.verb(ALPHA, &["group", "enable"])).filter(|ran| ran.err.contains("refused (config)"))
    });
    assert_eq!(refused.code, 3);
    assert!(refused.err.contains("flap_guard") && refused.err.contains("7min on beta"), "{}", refused.err);
    pair.file("beta.toml", &text);
    pair.done(BETA, &["reload"]);
    pair.wait("enable", |pair| (pair.verb(ALPHA, &["group", "enable"]).code == 0).then_some(()));

    pair.wait("home", |pair| (pair.verb(ALPHA, &["group", "fallback"]).code == 0).then_some(()));
    let shown = pair.wait("alpha to own the group", |pair| {
        Some(report(pair, ALPHA)).filter(|report| report["nodes"][0]["state"] == "normal")
    });
    assert!(!says(&shown, "away from its home"), "{shown}");
    assert_holds(&mut pair.client(ALPHA), 0, 16 * MIB, 0x22);
}
